"""Stage 2 of LeaF: distil a teacher's next-token distributions into a student on originals and counterfactuals.

1. The student's Hugging Face model is copied, in float32 at least; the given student stays as it is.
2. Every update takes a batch of lessons. Its loss is the forward KL, teacher to student, on the target
   tokens: each is predicted by the logits before it, so the first counts and nothing after the last does.
3. A batch is cut into passes of rows of similar length, whose losses are divided by the whole batch's weights: the cut
   changes nothing, and a smaller last batch is averaged over what it holds.
4. The teacher reads in the loop or once beforehand (`teaching.py`).
5. Every few updates the state is kept, and a run that finds one goes on with the very curve it would have had.

The released code differs where it is wrong: its mask is one position late, a teacher's probability of zero drops the
position, and weights and AdamW are pure bf16.
"""

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import xarray as xr
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError
from workbench.leaf.distillation_pairs import Lesson, Mix, Plan, Share, lessons_of
from workbench.leaf.examples import digest
from workbench.leaf.teaching import FromDisk, InTheLoop, cached, observed
from workbench.leaf.vocabularies import check_lengths, check_shared, identities
from workbench.models.anatomy import anatomy
from workbench.models.attention import require_no_hooks
from workbench.models.load import load
from workbench.models.original import fused_attention, fuses_attention, thaw, unwrapped
from workbench.models.state import measures
from workbench.models.weights import require_changeable
from workbench.protocol import HookedModel
from workbench.runs.processes import Processes, gathered
from workbench.runs.progress import hidden
from workbench.runs.run import Run
from workbench.runs.state import Curves, StateFile

Reduction = Literal["token", "example"]


class Distilled(NamedTuple):
    """A distilled copy of the student and its record over `step`: `loss`, `learning_rate` and `gradient_norm`."""

    model: HookedModel
    record: xr.Dataset


@dataclass(frozen=True)
class Settings:
    """The settings of a distillation run besides models, lessons and their order, as `distill` explains them."""

    learning_rate: float = 1e-5
    warm_up: int = 5
    weight_decay: float = 0.0
    clip: float | int = 1.0
    temperature: float | int = 1.0
    reduction: Reduction = "token"
    attention: float | int = 0.0

    def __post_init__(self):
        if not (self.learning_rate > 0 and self.temperature > 0 and self.clip > 0):
            raise InputError(
                f"learning_rate={self.learning_rate}, temperature={self.temperature} and clip={self.clip} must be "
                "positive."
            )
        if not (self.weight_decay >= 0 and self.attention >= 0):
            raise InputError(f"weight_decay={self.weight_decay} and attention={self.attention} must not be negative.")
        if self.reduction not in ("token", "example"):
            raise InputError(f"reduction={self.reduction!r} is unknown; it is 'token' or 'example'.")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of the update after `step` others."""
        rising = min(1.0, (step + 1) / (self.warm_up + 1))
        return self.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * step / steps))


@measures
def distill(
    student: HookedModel,
    teacher: HookedModel,
    examples: Sequence[Any],
    counterfactuals: Sequence[Any] | None = None,
    *,
    mix: Mix = "concat",
    temperature: float | int = 1.0,
    reduction: Reduction = "token",
    attention: float | int = 0.0,
    top_k: int | None = None,
    cache: Any = None,
    steps: int | None = None,
    epochs: float | int = 3,
    learning_rate: float = 1e-5,
    warm_up: int = 5,
    weight_decay: float = 0.0,
    clip: float | int = 1.0,
    batch_size: int = 32,
    micro_batch: int = 8,
    seed: int = 0,
    every: int = 100,
    resume: Any = None,
    progress: bool = True,
) -> Distilled:
    """Distil a copy of the student on originals and counterfactuals (arXiv 2506.07851, stage 2).

    Without counterfactuals this is plain distillation. What is given as counterfactuals makes the difference: pruned
    prompts (`workbench.leaf.counterfactuals`), those of a baseline (`workbench.leaf.baselines`), or lessons in which
    student and teacher read different prompts. Under `accelerate launch` every process takes its share of each batch.

    Args:
        student: a bridge from `workbench.load`.
        teacher: a bridge that reads the same token ids.
        examples: `Example`s, or `Lesson`s.
        counterfactuals: `Pruned`, `Example`s or `Lesson`s.
        mix: "concat", or lambda, the weight of the originals' loss; the counterfactuals' is 1 - lambda.
        temperature: both distributions' T; the loss is multiplied by its square.
        reduction: "token" averages over all target tokens of a batch, so long responses count more; "example" over
            each example's tokens first.
        attention: ours: the loss has this times the student's mean attention on the ignored positions of its lessons
            (`workbench.leaf.attention_penalised`), from all later tokens of all heads and layers. Attention is then
            computed unfused. 0 leaves it alone.
        top_k: keep the teacher's k likeliest tokens of each position on disk, read once before the first update; the
            remaining mass counts as one more outcome. None runs the teacher in the loop.
        cache: the folder for that.
        steps: updates; None makes `epochs`.
        epochs: passes over originals and counterfactuals (with a lambda, over the originals).
        learning_rate: the highest.
        warm_up: updates until it is reached; then it falls to zero along a cosine.
        weight_decay: of AdamW.
        clip: largest norm of the gradient; infinity cuts nothing.
        batch_size: lessons per update.
        micro_batch: lessons per pass.
        seed: of the order.
        every: updates between two states on disk.
        resume: a file that keeps the run's state, so that the same call goes on after a kill.
        progress: show bars.

    Returns:
        The copy, in the student's dtype, and the record.

    Raises:
        InputError: nothing to learn from, vocabularies that differ, a prompt longer than a context, two BOS tokens, an
            active intervention, top-k without a folder, or a loss that is not finite.
    """
    settings = Settings(learning_rate, warm_up, weight_decay, clip, temperature, reduction, attention)
    originals, others = lessons_of(examples), lessons_of(counterfactuals or (), "counterfactuals")
    plan = Plan(originals, others, mix=mix, batch=batch_size, steps=steps, epochs=epochs, seed=seed)
    _refuse(student, teacher, plan.lessons, top_k, cache, micro_batch, every)
    parts, vocabulary = anatomy(student), min(int(student.cfg.d_vocab), int(teacher.cfg.d_vocab))
    facts = {
        "method": "leaf distill",
        **identities(student, teacher),
        "originals": len(originals),
        "counterfactuals": len(others),
        "lessons": _digest(plan.lessons),
        "mix": mix,
        "top_k": top_k or "all",
        "steps": plan.steps,
        "batch_size": batch_size,
        "seed": seed,
        **asdict(settings),
    }
    timed = Run(**facts)
    own = _trainable(student, parts.dtype, fused=attention == 0)
    with unwrapped(teacher) as hf, fused_attention(hf):
        said: Any = InTheLoop(hf, vocabulary, temperature)
        if top_k is not None:
            read, identity = [lesson.teacher for lesson in plan.lessons], str(facts["teacher_weights"])
            how: dict[str, Any] = {"temperature": temperature, "micro_batch": micro_batch, "progress": progress}
            said = cached(hf, read, cache, identity=identity, k=top_k, vocabulary=vocabulary, **how)
        with nullcontext() if resume is None else StateFile(resume, facts, "distillation") as file:
            run = _Run(own, said, plan, settings, vocabulary, micro_batch, every, file)
            curves = run.train(progress)
    own = own if run.shared.count == 1 else run.whole(_trainable(student, parts.dtype))
    attrs = timed.facts(device=parts.device, dtype=parts.dtype)
    made = load(
        own.requires_grad_(False).to(getattr(torch, parts.dtype)), tokenizer=getattr(student, "tokenizer", None)
    )
    object.__setattr__(made, "workbench_name", f"{parts.name}, distilled")
    columns = {name: ("step", values) for name, values in curves.items()}
    return Distilled(made, xr.Dataset(columns, {"step": np.arange(1, plan.steps + 1)}, attrs))


@dataclass
class _Run:
    """One run: the loop and what it needs."""

    own: Any
    said: InTheLoop | FromDisk
    plan: Plan
    settings: Settings
    vocabulary: int
    micro_batch: int
    every: int
    file: StateFile | None

    def __post_init__(self):
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        self.shared = Processes(self.own, torch.optim.AdamW(self.own.parameters(), rate, weight_decay=decay))
        self.parameters = dict(self.own.named_parameters())

    def train(self, progress: bool) -> Curves:
        """Make all updates that are left."""
        steps = self.plan.steps
        curves: Curves = {name: np.full(steps, np.nan) for name in ("loss", "learning_rate", "gradient_norm")}
        begin = self.file.restore(self.shared, self.parameters, curves) if self.file else 0
        shown = progress and self.shared.first
        for step in tqdm(range(begin, steps), desc="distillation", disable=hidden(shown), leave=False):
            rate = self.settings.rate(step, steps)
            loss = self._accumulate(self.plan[step])
            norm = self.shared.clip(list(self.parameters.values()), self.settings.clip)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                if self.file:
                    self.file.keep(self.shared, step, self.parameters, curves)
                raise self._diverged(step, loss, norm)
            for group in self.shared.optimizer.param_groups:
                group["lr"] = rate
            self.shared.optimizer.step()
            self.shared.optimizer.zero_grad()
            curves["loss"][step], curves["learning_rate"][step], curves["gradient_norm"][step] = loss, rate, norm
            if self.file and ((step + 1) % self.every == 0 or step + 1 == steps):
                self.file.keep(self.shared, step + 1, self.parameters, curves)
        self.shared.release()
        return curves

    @torch.no_grad()
    def whole(self, fresh: Any) -> Any:
        """A fresh copy of the student with what was learnt, put together from all processes."""
        learnt = gathered(self.parameters)
        for name, parameter in fresh.named_parameters():
            parameter.copy_(learnt[name])
        return fresh

    def _accumulate(self, shares: list[Share]) -> float:
        """Add up the gradients of a batch's loss, and return that loss."""
        weighed = [pair for share in shares for pair in weights(share, self.settings.reduction)]
        weighed.sort(key=lambda pair: len(pair[0].student.tokens))
        cuts = [weighed[i : i + self.micro_batch] for i in range(0, len(weighed), self.micro_batch)]
        total = 0.0
        for cut in self.shared.passes(cuts, [(weighed[0][0], 0.0)]):
            with torch.enable_grad():
                loss = self._loss(cut)
                self.shared.backward(loss)
            total += loss.item()
        return self.shared.summed(total)

    def _loss(self, cut: list[tuple[Lesson, float]]) -> Tensor:
        reading = [lesson.student for lesson, _ in cut]
        looking = self.settings.attention > 0 and any(lesson.ignored for lesson, _ in cut)
        logits, patterns = observed(self.shared.model, reading, self.vocabulary, looking)
        apart = self.said.divergence([lesson.teacher for lesson, _ in cut], logits)
        each = torch.tensor([weight for _, weight in cut], dtype=apart.dtype, device=apart.device)
        counts = torch.tensor([lesson.scored for lesson, _ in cut], device=apart.device)
        loss = (each.repeat_interleave(counts) * apart).sum()
        if looking:
            mass = ignored_attention(patterns, [lesson for lesson, _ in cut])
            loss = loss + self.settings.attention * (each * counts * mass.to(each)).sum()
        return loss

    def _diverged(self, step: int, loss: float, norm: float) -> InputError:
        kept = f"The last good state is in {self.file.path}. " if self.file else ""
        return InputError(
            f"Distillation stopped at update {step}: loss {loss:.3g}, gradient norm {norm:.3g}. {kept}Give a smaller "
            "learning_rate, or models in a wider dtype than float16."
        )


def ignored_attention(
    patterns: Sequence[Float[Tensor, "batch head query key"]], lessons: Sequence[Lesson]
) -> Float[Tensor, " batch"]:
    """Attention on the ignored positions of each lesson: mean over layers, heads and later tokens; 0 without any."""
    keys, queries = torch.zeros(2, len(lessons), patterns[0].shape[-1], device=patterns[0].device)
    for row, lesson in enumerate(lessons):
        if lesson.ignored:
            keys[row, list(lesson.ignored)] = 1
            queries[row, max(lesson.ignored) + 1 : len(lesson.student.tokens)] = 1
    queries = queries / queries.sum(-1, keepdim=True).clamp(min=1)
    axes = "batch head query key, batch query, batch key -> batch head"
    each = [einsum(p, queries.to(p), keys.to(p), axes).mean(-1) for p in patterns]
    return torch.stack(each).mean(0)


def weights(share: Share, reduction: Reduction) -> list[tuple[Lesson, float]]:
    """What each scored token of a lesson counts in the batch's loss; lessons that all have weight 0 are refused."""
    sizes = [lesson.scored if reduction == "token" else 1 for lesson in share.lessons]
    whole = sum(lesson.weight * size for lesson, size in zip(share.lessons, sizes, strict=True))
    if not whole:
        raise InputError("All lessons of a batch have weight 0, so there is nothing to learn from.")
    per_token = [1.0 if reduction == "token" else 1 / lesson.scored for lesson in share.lessons]
    return [
        (lesson, share.share * lesson.weight * one / whole)
        for lesson, one in zip(share.lessons, per_token, strict=True)
    ]


def _trainable(student: HookedModel, dtype: str, fused: bool = True) -> Any:
    """The student's Hugging Face model once more, in float32 at least, all of it trainable."""
    with unwrapped(student) as hf:
        own = copy.deepcopy(hf)
    own = own.to(torch.promote_types(getattr(torch, dtype), torch.float32))
    if fused and fuses_attention(own):
        own.set_attn_implementation("sdpa")
    thaw(own)
    return own


def _digest(lessons: Sequence[Lesson]) -> str:
    sides = ([lesson.student for lesson in lessons], [lesson.teacher for lesson in lessons])
    rest = hash(tuple((lesson.weight, lesson.ignored) for lesson in lessons)) % 2**32
    return "-".join([*(digest(side)[:12] for side in sides), format(rest, "x")])


def _refuse(
    student: HookedModel,
    teacher: HookedModel,
    lessons: Sequence[Lesson],
    top_k: int | None,
    cache: Any,
    micro_batch: int,
    every: int,
) -> None:
    for name, model in (("student", student), ("teacher", teacher)):
        if anatomy(model).kind != "bridge":
            raise InputError(
                f"The {name} is a HookedTransformer, and distillation works on the Hugging Face model inside a "
                "TransformerBridge. Load the same weights with backend='bridge'."
            )
        require_no_hooks(model, "not be distilled", f"the {name}")
    require_changeable(student, "distillation")
    if top_k is not None and cache is None:
        raise InputError(f"top_k={top_k} keeps the teacher's logits on disk; give cache= a folder for them.")
    if micro_batch < 1 or every < 1:
        raise InputError(f"micro_batch={micro_batch} and every={every} must be at least 1.")
    read = {"student": [one.student for one in lessons], "teacher": [one.teacher for one in lessons]}
    check_shared(student, teacher, [*read["student"], *read["teacher"]])
    for name, model in (("student", student), ("teacher", teacher)):
        check_lengths(model, read[name], name)
        bos = model.original_model.config.bos_token_id
        twice = next((e for e in read[name] if bos is not None and e.tokens[:2] == (bos, bos)), None)
        if twice is not None:
            raise InputError(
                f"Example {twice.identifier!r} begins with BOS twice: a chat template wrote one and the tokenizer "
                "another. Make examples with workbench.leaf.example, which adds one only."
            )
