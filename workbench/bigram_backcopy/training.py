"""Train toy models, many seeds in one batched run, and record every measure during training.

1. Every seed begins with its own weights and reads its own stream of fresh sequences; seed 1 trained alone is seed 1
   trained beside others.
2. The loss is the mean cross-entropy of the next token over all positions; AdamW (betas 0.9 and 0.99) or SGD
   (momentum 0.9), weight decay 1e-4, constant rate, no warm-up, no clipping.
3. At log-spaced steps `measures.measure` looks at each seed on fixed sequences. Weights are not kept on the way.
4. With `resume`, a state file is renewed at those steps; the same call goes on from it, bit for bit on one device.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, get_args

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from workbench.bigram_backcopy import stacked
from workbench.bigram_backcopy.engine import Engine
from workbench.bigram_backcopy.measures import DIMS, PER_TOKEN, measure
from workbench.bigram_backcopy.model import Toy
from workbench.bigram_backcopy.structures import Architecture, architecture
from workbench.bigram_backcopy.task import Task
from workbench.errors import InputError, check_known
from workbench.names import Optimizer, Precision
from workbench.runs.progress import hidden
from workbench.runs.results import provenance
from workbench.runs.state import State, StateFile

RATES = {"adamw": 3e-3, "sgd": 0.03}
PAPER: dict[str, Any] = {"batch": 512, "length": 256, "steps": 10_000, "lr": 3e-4}
"""The paper's setting for AdamW; SGD takes lr=0.03. It goes with `architecture(name, d_model=256, n_ctx=256)`."""
EVALUATION_SEED = 1 << 40
TOKENS_AHEAD = {"cpu": 1 << 17, "cuda": 1 << 23}


@dataclass(frozen=True)
class Trained:
    """Models after training and the record of it.

    Attributes:
        task: the language.
        models: one per seed.
        record: Dataset with dims step, seed, layer, head (and token, for the last step).
    """

    task: Task
    models: tuple[Toy, ...]
    record: xr.Dataset


class DivergedError(InputError):
    """Training left the finite numbers; `record` holds everything measured before."""

    record: xr.Dataset


@dataclass(frozen=True)
class _Plan:
    """Everything that a run depends on, checked."""

    task: Task
    architecture: Architecture
    optimizer: Optimizer
    lr: float
    steps: int
    batch: int
    length: int
    seeds: tuple[int, ...]
    evaluate: int
    device: torch.device
    precision: Precision
    compiled: bool

    def __post_init__(self) -> None:
        if self.optimizer not in RATES:
            raise InputError(f"There is no optimizer {self.optimizer!r}; take 'adamw' or 'sgd'.")
        check_known("precision", self.precision, get_args(Precision))
        if self.architecture.n_ctx < self.length:
            raise InputError(
                f"Sequences of {self.length} positions do not fit an architecture with {self.architecture.n_ctx}: pass "
                f"n_ctx={self.length}."
            )
        self.task.draws(self.length)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds={self.seeds}: give at least one, and each once; every seed becomes a model.")
        if self.steps < 1 or self.batch < 1 or self.evaluate < 1:
            raise InputError(
                f"steps={self.steps}, batch={self.batch}, evaluate={self.evaluate}: each must be at least 1."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What must be equal for a stopped run to go on; the number of steps may grow."""
        return {
            "task": self.task.settings,
            "architecture": self.architecture.settings,
            **{name: getattr(self, name) for name in ("optimizer", "lr", "batch", "length", "evaluate", "precision")},
            "seeds": list(self.seeds),
        }

    @property
    def ahead(self) -> int:
        """For how many steps sequences are drawn at once."""
        per_step = self.batch * self.length * len(self.seeds)
        return max(1, min(256, TOKENS_AHEAD.get(self.device.type, 1 << 17) // per_step))


def train(
    task: Task,
    structure: str | Architecture = "1xTF",
    *,
    optimizer: Optimizer = "adamw",
    lr: float | None = None,
    steps: int = 1200,
    batch: int = 32,
    length: int = 64,
    seeds: Sequence[int] = (0,),
    measured_at: Iterable[int] | None = None,
    evaluate: int = 128,
    precision: Precision = "float32",
    compile: bool = False,
    device: str | torch.device | None = None,
    resume: str | Path | None = None,
    progress: bool = True,
) -> Trained:
    """Train one model per seed, all in one run.

    Args:
        task: the language.
        structure: a name such as "3xTF" (64 wide), or what `architecture(...)` returns.
        optimizer: "adamw" or "sgd".
        lr: learning rate; None takes 3e-3 for AdamW and 0.03 for SGD.
        steps: optimizer steps.
        batch: fresh sequences per step and seed.
        length: positions per sequence; one token more is drawn as the last target.
        seeds: one model each.
        measured_at: steps at which to measure; None takes about forty, log-spaced, with the first and the last.
        evaluate: how many fixed sequences to measure on.
        precision: of the factors in matrix products ("tf32" is a GPU's 10-bit mantissa); weights, stream, norms,
            softmax, unembedding and losses are float32 in any case.
        compile: let torch.compile fuse the forward and backward pass (worth its minute in large runs).
        device: where to train; None takes a GPU if there is one.
        resume: a file to which the state is written at each measurement, and from which the same call goes on.
        progress: show a bar.

    Raises:
        InputError: sizes that do not fit each other, or a state file of another run.
        DivergedError: a loss that is not finite any more, or has grown far beyond that of guessing.
    """
    plan = _Plan(
        task=task,
        architecture=structure if isinstance(structure, Architecture) else architecture(structure, n_ctx=length),
        optimizer=optimizer,
        lr=RATES.get(optimizer, math.nan) if lr is None else float(lr),
        steps=steps,
        batch=batch,
        length=length,
        seeds=tuple(int(seed) for seed in seeds),
        evaluate=evaluate,
        device=torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")),
        precision=precision,
        compiled=compile,
    )
    run = _Run(plan)
    looks = sorted(set(log_spaced(steps) if measured_at is None else measured_at) | {steps})
    with nullcontext() if resume is None else StateFile(resume, plan.settings, "training") as kept:
        if kept is not None:
            run.restore(kept)
        bar = tqdm(total=steps, initial=run.step, disable=hidden(progress), unit="step", desc=plan.architecture.name)
        for look in looks:
            if not run.step <= look <= steps or look in run.rows:
                continue
            bar.update(run.advance(look))
            run.look()
            bar.set_postfix_str(f"loss {run.mean_loss:.3f}")
            if kept is not None:
                run.keep(kept)
        bar.close()
    return Trained(task, tuple(run.models()), run.record())


def log_spaced(steps: int) -> list[int]:
    """0, then about 40 steps that grow by a constant factor."""
    return [0, *np.unique(np.geomspace(min(10, steps), steps, 40).round().astype(int)).tolist()]


class _Run:
    """Weights, optimizer, place in the data and rows of the record of one run."""

    def __init__(self, plan: _Plan):
        self.plan = plan
        fresh = [Toy(plan.architecture, plan.task.d_vocab, seed) for seed in plan.seeds]
        self.engine = Engine(fresh, plan.optimizer, plan.lr, plan.precision, plan.compiled, plan.device)
        self.reader = fresh[0].to(plan.device)
        self.step = 0
        self.seconds = 0.0
        self.rows: dict[int, dict[str, np.ndarray]] = {}
        self.since: list[Tensor] = []
        self.mean_loss = math.nan
        self.guess = math.log(plan.task.d_vocab)
        self.fixed = plan.task.sample(plan.evaluate, plan.length, seed=EVALUATION_SEED, device="cpu").to(plan.device)
        self._chunk: tuple[int, Tensor] | None = None

    def advance(self, until: int) -> int:
        """Train up to a step, and say how many that were."""
        began, first = perf_counter(), self.step
        while self.step < until:
            self.since.append(self.engine.step(self._tokens(self.step)))
            self.step += 1
            if len(self.since) >= 200:
                self._check()
        self._check()
        self.seconds += perf_counter() - began
        return self.step - first

    def _check(self) -> None:
        """Stop at the first step whose loss is not finite or far beyond guessing."""
        if not self.since:
            return
        losses = torch.stack(self.since).cpu()
        self.since = []
        self.mean_loss = float(losses[-20:].mean())
        bad = ~torch.isfinite(losses) | (losses > 20 * self.guess)
        if bool(bad.any()):
            row, place = (int(i) for i in bad.nonzero()[0])
            step = self.step - len(losses) + row
            error = DivergedError(
                f"Training diverged at step {step}, seed {self.plan.seeds[place]} (loss "
                f"{float(losses[row, place]):.3g}; guessing has {self.guess:.2f}): {self.plan.optimizer} with "
                f"lr={self.plan.lr:g} is too fast here. Take a smaller lr; what was measured until then is in "
                "this error's `record`."
            )
            error.record = self.record().assign_attrs(diverged_at=step, diverged_seed=self.plan.seeds[place])
            raise error

    def _tokens(self, step: int) -> Tensor:
        """This step's sequences `[seed, batch, pos + 1]`, drawn for many steps at once."""
        plan, number = self.plan, step // self.plan.ahead
        if self._chunk is None or self._chunk[0] != number:
            draws = plan.task.draws(plan.length + 1)
            uniform = torch.empty(draws, plan.ahead, len(plan.seeds), plan.batch, device=plan.device)
            for place, seed in enumerate(plan.seeds):
                for ahead in range(plan.ahead):
                    generator = torch.Generator(plan.device).manual_seed((seed << 32) + number * plan.ahead + ahead)
                    uniform[:, ahead, place] = torch.rand(draws, plan.batch, generator=generator, device=plan.device)
            tokens = plan.task.walk(uniform.flatten(1)).view(plan.ahead, len(plan.seeds), plan.batch, -1)
            self._chunk = (number, tokens)
        return self._chunk[1][step % plan.ahead]

    def look(self) -> None:
        """Measure every seed at this step."""
        last = self.step == self.plan.steps
        seen = [measure(model, self.plan.task, self.fixed, by_token=last) for model in self.models(self.reader)]
        self.rows[self.step] = {name: torch.stack([one[name] for one in seen]).numpy() for name in seen[0]}

    def models(self, into: Toy | None = None) -> Iterable[Toy]:
        """The models of the seeds, each written into the given one or into a new one."""
        for place, seed in enumerate(self.plan.seeds):
            target = into or Toy(self.plan.architecture, self.plan.task.d_vocab, seed).to(self.plan.device)
            yield stacked.unstack(self.engine.weights, place, target)

    def record(self) -> xr.Dataset:
        """All rows as a Dataset."""
        plan, steps = self.plan, sorted(self.rows)
        found = {
            name: (("step", "seed", *axes), np.stack([self.rows[step][name] for step in steps]))
            for name, axes in DIMS.items()
            if steps
        }
        for name in PER_TOKEN:
            if steps and name in self.rows[steps[-1]]:
                found[name] = (("seed", "layer", "head", "token"), self.rows[steps[-1]][name])
        facts = {name: value for name, value in plan.settings.items() if name != "seeds"}
        return xr.Dataset(
            found,
            coords={
                "step": steps,
                "seed": list(plan.seeds),
                "layer": np.arange(plan.architecture.n_layers),
                "head": np.arange(plan.architecture.n_heads),
                "token": list(plan.task.symbols),
            },
            attrs=provenance(
                **facts,
                steps=self.step,
                device=plan.device.type if plan.device.type == "cpu" else torch.cuda.get_device_name(plan.device),
                duration_s=round(self.seconds, 2),
                tokens_per_second=round(self.step * plan.batch * plan.length * len(plan.seeds) / self.seconds)
                if self.seconds
                else 0,
            ),
        )

    def keep(self, file: StateFile) -> None:
        """Write the state file."""
        weights = {name: value.detach() for name, value in self.engine.weights.items()}
        rows = {f"{step}/{name}": values for step, row in self.rows.items() for name, values in row.items()}
        moments = self.engine.optimizer.state_dict()["state"]
        file.save(State(self.step, weights, moments, rows | {"seconds": np.array(self.seconds)}))

    @torch.no_grad()
    def restore(self, file: StateFile) -> None:
        """Go on from a state file, if there is one."""
        kept = file.load()
        if kept is None:
            return
        if kept.step > self.plan.steps:
            raise InputError(
                f"{file.path} has already reached step {kept.step}, beyond steps={self.plan.steps}. Ask for at least "
                "as many, or delete it."
            )
        for name, value in self.engine.weights.items():
            value.copy_(kept.parameters[name])
        self.engine.optimizer.load_state_dict(self.engine.optimizer.state_dict() | {"state": kept.moments})
        self.step, self.seconds = kept.step, float(kept.curves.pop("seconds"))
        for key, values in kept.curves.items():
            step, name = key.split("/")
            if int(step) < self.step:
                self.rows.setdefault(int(step), {})[name] = values
        self.look()
