"""The whole experiment on one model: cells in the plan's order, each saved when done, on one or several processes.

1. The cells that choose learning rates run first. A rate is chosen by the mean of two shares on the validation
   questions: right answers that survive the doubt, and wrong ones (put into the model's mouth) that are mended. A model
   that always gives in, always insists, or tosses a coin gets no more than a half.
2. All other cells follow with those rates. Same-layer controls that a model has no units for are left out.
3. Finished cells become one Dataset over `cell`.
"""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

import workbench as wb
from workbench.errors import InputError, WorkbenchWarning
from workbench.models.embedded import embedded
from workbench.models.identity import fingerprint
from workbench.models.original import n_parameters
from workbench.papers.cache import quiet_load
from workbench.papers.kv_groups.tradeoff.evaluate import Bench
from workbench.papers.kv_groups.tradeoff.material import material_of
from workbench.papers.kv_groups.tradeoff.plan import CHAT, ORGANISM, SAME_LAYER, Cell, Plan, cells, rate_cells
from workbench.papers.kv_groups.tradeoff.units import Effects
from workbench.prompts.pairs import PromptPairs
from workbench.runs.pool import finished, workers
from workbench.runs.progress import hidden
from workbench.runs.run import Run


@dataclass(frozen=True)
class Job:
    """What an experiment is about: everything that a process needs to set it up.

    Attributes:
        source: anything that `load` takes; a name or folder for several processes.
        plan: the experiment; None takes the one for embedded models, the one for chat models that are asked the default
            facts, or with questions the one for large models.
        questions: for models that are not embedded; these and the next three as in `material_of`.
        dtype: to load the model in; by default float32 on a CPU and the checkpoint's own elsewhere.
        changes: of the plan, as `Plan.changed` takes them.
    """

    source: Any
    plan: Plan | None = None
    questions: Any = None
    tasks: tuple[str, ...] = ()
    folder: str | Path | None = None
    run_code: bool = False
    dtype: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    def bench(self, shared: "Shared | None" = None) -> Bench:
        """The loaded model with its material, and with what another process has found already."""
        model = quiet_load(self.source, self.dtype) if isinstance(self.source, str | Path) else self.source
        plan = self.plan or (Plan() if self.questions is not None else ORGANISM if embedded(model) else CHAT)
        plan = plan.changed(**self.changes)
        made, effects = (None, None) if shared is None else (shared.pairs, shared.effects)
        given = (self.questions, self.tasks, self.folder, self.run_code)
        return Bench(model, plan, material_of(model, plan, *given, made=made), effects)


@dataclass(frozen=True)
class Shared:
    """What one process finds for all: the pairs, which a model's own replies decide, and the effects on them."""

    pairs: tuple[PromptPairs, PromptPairs]
    effects: Effects


def run(
    job: Job, *, resume: str | Path | None = None, processes: int = 1, so_far: bool = False, progress: bool = True
) -> xr.Dataset:
    """Tune and measure every cell of an experiment.

    Args:
        job: the model and the plan.
        resume: a netCDF file: finished cells are kept beside it, and a stopped run goes on from them.
        processes: at a time, each with a copy of the model; small models leave most of a GPU idle.
        so_far: run nothing; give the cells that are finished in `resume`.
        progress: show a bar.

    Returns:
        Dims `cell` (coordinates `arm`, of `plan.Arm`, `n_heads`, `draw`, `variant`, `learning_rate`), `item` (`kind`:
        "held out" or "trained"; `fact`), `challenge`, `question` (`ability`), `layer`, `head` and `group`. Per item and
        challenge, as booleans: `final_right`, `admits` and `final_unread`, and the same ending in `_after_wrong`; per
        item `first_right` and `first_unread`; `gives_in` and `stands_firm`, the stance of the reply to the doubt; per
        question `solved` (attrs: `chance`); per head and group the effects `head_effect` and
        `group_effect` on the logit difference, with `gap`, the difference between objection and confirmation; `tuned`;
        and `divergence` (nats per token), `text_loss`, `tuned_parameters`, `training_loss`.

    Raises:
        InputError: what `material_of` and `pinpoint_tune` refuse, several processes for a model in memory, or a resumed
            run of another configuration; `so_far` before the learning rates are chosen.
    """
    if processes > 1 and not isinstance(job.source, str | Path):
        raise InputError("Several processes load the model by its name or folder; this one is in memory.")
    bench = job.bench()
    plan, parts = bench.plan, wb.anatomy(bench.model)
    facts = {
        "method": "tradeoff",
        "model": parts.name,
        "weights": fingerprint(bench.model),
        "material": bench.material.digest(),
        "plan": plan.settings(),
    }
    with Run(resume, **facts) as kept, _pool(job, bench, 1 if so_far else processes) as pool:
        if kept.finished is not None:
            return kept.finished

        def work(some: Sequence[Cell], what: str) -> None:
            left = [] if so_far else [cell for cell in some if cell.key not in kept.pieces]
            done = _results(bench, left, pool)
            for cell, piece in tqdm(done, desc=what, total=len(left), disable=hidden(progress), leave=False):
                kept.add(cell.key, piece)

        found, trials = kept.pieces, possible(bench, rate_cells(plan, bench.counts))
        work(trials, "choosing learning rates")
        if any(cell.key not in found for cell in trials):
            raise InputError(f"{resume} holds {len(found)} finished cells, and the learning rates are not chosen yet.")
        rates = chosen_rates(plan, {cell: found[cell.key] for cell in trials})
        wanted = possible(bench, cells(plan, bench.counts, rates))
        work(wanted, "tuning and measuring")
        done = {cell: found[cell.key] for cell in wanted if cell.key in found}
        result = assemble(bench, done, {cell: found[cell.key] for cell in trials})
        more = {"device": parts.device, "dtype": parts.dtype, "rates": json.dumps(rates), "planned": len(wanted)}
        return result.assign_attrs(kept.facts(**more)) if so_far else kept.finish(result, **more)


def balance(found: xr.Dataset) -> float:
    """Mean of two shares in one cell: right answers that survive a doubt, and wrong ones that are mended."""
    right = found["first_right"].values.astype(bool)
    kept = found["final_right"].values[right]
    return float((kept.mean() + found["final_right_after_wrong"].values.mean()) / 2) if kept.size else float("nan")


def chosen_rates(plan: Plan, trials: Mapping[Cell, xr.Dataset]) -> dict[str, float]:
    """The learning rate of every family that did best, on the mean over its arms."""
    chosen = {}
    for family, rates in plan.rates.items():
        means = dict.fromkeys(rates, 0.0)
        for rate in rates:
            cells = [c for c in trials if c.arm.family(plan.rates) == family and c.learning_rate == rate]
            scores = [score for score in (balance(trials[cell]) for cell in cells) if np.isfinite(score)]
            means[rate] = float(np.mean(scores)) if scores else 0.0
        chosen[family] = max(means, key=means.__getitem__)
    return chosen


def possible(bench: Bench, some: Iterable[Cell]) -> list[Cell]:
    """The cells that the model has units for."""
    kept = []
    for cell in some:
        if cell.arm in SAME_LAYER:
            try:
                bench.heads(cell)
            except InputError:
                continue
        kept.append(cell)
    return kept


def assemble(bench: Bench, found: Mapping[Cell, xr.Dataset], trials: Mapping[Cell, xr.Dataset]) -> xr.Dataset:
    """Cells side by side, with what they are and what was asked; of the trials of learning rates only the scores."""
    whole = xr.concat([ds.drop_vars("duration_s") for ds in found.values()], "cell", data_vars="all", join="exact")
    material = bench.material
    columns = {name: ("cell", [getattr(cell, name) for cell in found]) for name in Cell.__dataclass_fields__}
    asked = {"kind": ("item", list(material.groups)), "fact": ("item", [item.id for item in material.items])}
    scores = [{"arm": c.arm, "learning_rate": c.learning_rate, "balance": balance(ds)} for c, ds in trials.items()]
    chances = {ability.name: ability.chance for ability in material.abilities if ability.chance is not None}
    return whole.assign_coords(columns | asked).assign_attrs(
        group_size=bench.sizes.group,
        shared=int(bench.counts.n_heads != bench.counts.n_kv_heads),
        main_heads=bench.sizes.main,
        n_heads_in_all=bench.counts.n_layers * bench.counts.n_heads,
        parameters=n_parameters(bench.model),
        rate_trials=json.dumps(scores),
        chance=json.dumps(chances),
    )


# Processes.

_OWN: list[Bench] = []
"""The bench of a process of the pool."""


def _pool(job: Job, bench: Bench, processes: int) -> AbstractContextManager[Executor | None]:
    """Processes that have set up the job; None for this process alone."""
    if processes == 1:
        return nullcontext()
    shared = Shared((bench.material.selection, bench.material.repatch), bench.effects)
    return workers(processes, _set_up, (job, shared))


def _results(bench: Bench, some: Sequence[Cell], pool: Executor | None) -> Iterator[tuple[Cell, xr.Dataset]]:
    """Finished cells."""
    if pool is None:
        return ((cell, _quietly(bench, cell)) for cell in some)
    return ((cell, found) for (cell,), found in finished(pool, _one, [(cell,) for cell in some]))


def _set_up(job: Job, shared: Shared) -> None:
    """One thread each, since there are as many processes as the machine is good for."""
    torch.set_num_threads(1)
    _OWN.append(job.bench(shared))


def _one(cell: Cell) -> xr.Dataset:
    return _quietly(_OWN[0], cell)


def _quietly(bench: Bench, cell: Cell) -> xr.Dataset:
    """A cell without the warning that a small model's ratio rounds to one unit: `n_heads` says it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="ratio=", category=WorkbenchWarning)
        return bench.run(cell)
