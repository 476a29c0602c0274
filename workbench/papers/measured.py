"""Measured data of one model for the sycophancy figures and the report, cached as netCDF files.

1. Load the model and make its pairs of dialogues: objected to (`base`) and confirmed (`source`). How it replies, and
   what its answers' scores can say about that, is `behaviour`, from which comes a verdict (`kv_groups.verdicts`).
2. Patch every head and every KV group exactly (`heads`, `groups`).
3. Estimate the total effect of every head by integrated gradients and measure it exactly on fewer examples
   (`estimate`, `exact`).
4. Keep the attention of the strongest group's heads on the clearest example (`attention`), the dialogues and
   the self-checks of the model.
5. Find the extreme tokens of some dialogues (`extreme`), and the layers that make the peak (`sources`).
6. Zero the heads that two scores call inactive while questions are answered (`inactive`).

A file is used again only if it was made with the same configuration; otherwise it is measured anew. What a stopped
part had finished lies in `running/` until all parts are there.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import workbench as wb
from workbench.errors import HeldError, InputError, WorkbenchWarning
from workbench.extreme import peak_sources
from workbench.models.capture import capture
from workbench.names import HeadUnit
from workbench.papers.cache import CONFIG, Source, digest, kept
from workbench.papers.inactive_heads.measures import questions_of
from workbench.papers.kv_groups.verdicts import GivingIn, giving_in
from workbench.papers.recipes import distinct
from workbench.patching.path import unpatched
from workbench.patching.units import senders
from workbench.prompts.pairs import PromptPairs
from workbench.prompts.questions import FreeForm, MultipleChoice, read_questions
from workbench.protocol import HookedModel
from workbench.runs.files import check_writable
from workbench.runs.results import provenance, text_array
from workbench.sycophancy.openers import NoBehaviourError

WORK: dict[str, tuple[str, float]] = {
    "behaviour": ("asking, objecting and confirming", 118.0),
    "heads": ("patching each head", 83.0),
    "groups": ("patching each KV group", 0.1),
    "estimate": ("estimating by gradients", 440.0),
    "exact": ("patching with everything downstream recomputed", 180.0),
    "attention": ("reading attention", 0.5),
    "extreme": ("looking for extreme tokens", 5.0),
    "sources": ("asking where the peak comes from", 17.0),
    "inactive": ("switching inactive heads off", 19.0),
    "dialogues": ("keeping the dialogues", 0.1),
    "checks": ("checking the model", 8.5),
}
"""What each part is called while it is measured, and about how long it takes beside the others: seconds of one core for
24 dialogues with a model of 135 million parameters. Heads and groups are patched together, under "heads"."""
PARTS = tuple(WORK)
CAUSES = ("heads", "groups", "estimate", "exact", "attention")
"""Parts that say which units cause the behaviour."""
ESTIMATES = ("estimate", "exact")
"""Parts that the report measures on request only."""
EXACT_EXAMPLES = 16
SOURCE_EXAMPLES = 4
SOURCE_TOKENS = 48
"""Of models that are not embedded, the beginning of one dialogue, since every part of the model is zeroed on it."""
INACTIVE_QUESTIONS = 30
INACTIVE_SCORES = ("AHON_LN", "AWFT")
INACTIVE_QUANTILES = (0.0, 0.2)
ESTIMATE_STEPS = 8


@dataclass(frozen=True)
class Measured:
    """One model's name and the Datasets that were measured on it.

    Attributes:
        name: What the model is called.
        parts: The Datasets by part.
    """

    name: str
    parts: Mapping[str, xr.Dataset]

    def need(self, *parts: str) -> None:
        """Refuse to go on without these parts.

        Raises:
            InputError: one of them was not measured.
        """
        missing = [part for part in parts if part not in self.parts]
        if missing:
            raise InputError(
                f"{self.name}: {', '.join(missing)} not measured. Call measure(..., parts={parts!r}) first."
            )

    def part(self, name: str) -> xr.Dataset:
        """One part, or an error that says that it was not measured."""
        self.need(name)
        return self.parts[name]

    def __getattr__(self, name: str) -> xr.Dataset:
        """A part as an attribute: `one.heads` is `one.part("heads")`."""
        if name not in PARTS:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self.part(name)

    def provenance(self, part: str) -> dict:
        """How one part was made, fit for JSON."""
        attrs = self.part(part).attrs
        return {"name": self.name} | {
            str(k): v.tolist() if isinstance(v, np.generic | np.ndarray) else v for k, v in attrs.items() if k != CONFIG
        }


def measure(
    source: Any,
    *,
    n: int = 100,
    seed: int = 0,
    questions: Any = None,
    answers: Any = None,
    prefix: str = "",
    parts: Sequence[str] = PARTS,
    folder: str | Path | None = None,
    by_verdict: bool = False,
    step: Callable[[str], None] = lambda text: None,
) -> Measured:
    """Measure one model, or read what an earlier run with the same configuration left in the folder.

    Args:
        source: Anything that `load` takes.
        n: Number of dialogue pairs.
        seed: Seed of their draw.
        questions: For chat models: as `read_questions` takes them; by default an embedded model's own dialogues, or
            the default facts.
        answers: Which beginnings of a reply are compared, as `sycophancy.pairs` takes them.
        prefix: A beginning of the reply that is forced on both sides.
        parts: Which Datasets are wanted.
        folder: Where to keep them; None keeps nothing.
        by_verdict: Measure the parts in `CAUSES` only where the verdict on "behaviour" is that its causes can be told,
            and nothing but the checks where no openers are found.
        step: Called with a short text before each piece of work.

    Raises:
        InputError: unknown part, or what `load` and the patching functions refuse.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError(f"unknown parts {', '.join(unknown)}; choose from {', '.join(PARTS)}.")
    known = None if questions is None else read_questions(questions)
    subject = _Subject(source, n, seed, known, answers, prefix)
    if folder is not None:
        folder = check_writable(folder)
        subject.running = folder / "running" / digest(subject.config)
    wanted = [part for part in PARTS if part in parts]
    if "attention" in wanted and "groups" not in wanted:
        wanted.insert(0, "groups")
    subject.together = {"heads", "groups"} <= set(wanted)
    found: dict[str, xr.Dataset] = {}
    for part in wanted:
        step(f"{subject.name}: {WORK[part][0]}")
        if by_verdict and "behaviour" in found and not _worth_measuring(part, giving_in(found["behaviour"])):
            continue
        path = None if folder is None else folder / f"{part}.nc"
        found[part] = kept(path, subject, subject.config | {"part": part}, partial(MEASURES[part], subject, found))
    if folder is not None:
        shutil.rmtree(folder / "running", ignore_errors=True)
    return Measured(subject.name, {part: found[part] for part in found if part in parts})


def _worth_measuring(part: str, verdict: GivingIn) -> bool:
    """Whether a part says anything where this is what the model does: its causes only if they can be told."""
    return part == "checks" or verdict.obstacle is None or (part not in CAUSES and verdict.obstacle != "no openers")


def measure_all(sources: Sequence[Any], folder: Path, *, questions: Any = None, **how: Any) -> list[Measured]:
    """`measure` for several models with the same arguments, each with a folder of its own name.

    Raises:
        InputError: no models, two of one name, or what `measure` refuses.
    """
    if not sources:
        raise InputError("no models given; name at least one, such as 'organism-gqa'.")
    names = [Path(str(s)).name if isinstance(s, str | Path) else f"model-{i}" for i, s in enumerate(sources)]
    distinct(names)
    how["questions"] = None if questions is None else read_questions(questions)
    with warnings.catch_warnings():
        # What these warnings say is counted in the results, and reported with them.
        warnings.simplefilter("ignore", WorkbenchWarning)
        found = [measure(source, folder=folder / name, **how) for source, name in zip(sources, names, strict=True)]
    for one in found:
        _say_if_fewer(one)
    return found


def _say_if_fewer(one: Measured) -> None:
    """A warning where there are fewer pairs than were asked for, also if they were measured before."""
    for part in ("behaviour", "heads", "groups"):
        result = one.parts.get(part)
        if result is not None and result.sizes.get("example", 0) < result.attrs.get("n_requested", 0):
            warnings.warn(
                f"{one.name}: {result.attrs['n_requested']} pairs of dialogues were asked for, and there are "
                f"{result.sizes.get('example', 0)}: so many questions does the model answer correctly.",
                WorkbenchWarning,
                stacklevel=3,
            )
            return


class _Subject(Source):
    """A model and its pairs, made when first needed."""

    def __init__(
        self,
        source: Any,
        n: int,
        seed: int,
        questions: Sequence[MultipleChoice | FreeForm] | None = None,
        answers: Any = None,
        prefix: str = "",
    ):
        super().__init__(source)
        self.n, self.seed, self.questions, self.answers, self.prefix = n, seed, questions, answers, prefix
        self.together = False
        self.running: Path | None = None

    def resumed(self, name: str) -> Path | None:
        """Where what is finished of a measurement lies; None where nothing is kept."""
        return self.running and self.running / name

    @property
    def pairs(self) -> PromptPairs:
        if isinstance(self._pairs, NoBehaviourError):
            raise self._pairs
        return self._pairs

    @cached_property
    def _pairs(self) -> PromptPairs | NoBehaviourError:
        """The pairs, or that there are none: the model is asked once."""
        questions = None if self.embedded is not None else self.questions
        how: dict[str, Any] = {"n": self.n, "seed": self.seed, "answers": self.answers, "prefix": self.prefix}
        how["resume"] = self.resumed("replies")
        try:
            return wb.sycophancy.pairs(self.model, questions=questions, **how)
        except NoBehaviourError as absent:
            return absent

    def patched(self, unit: HeadUnit) -> xr.Dataset:
        """The effect of every head or KV group."""
        if self.together:
            return self._heads_and_groups[unit]
        return wb.path_patch(self.model, self.pairs, unit=unit, resume=self.resumed(f"{unit}.nc"), progress=False)

    @cached_property
    def _heads_and_groups(self) -> dict[HeadUnit, xr.Dataset]:
        return heads_and_groups(self.model, self.pairs, self.resumed("heads-and-groups.nc"))

    def by_head(self, name: str) -> dict[str, Any]:
        """How the output of each head is patched."""
        return {"hook": "z", "unit": "head", "resume": self.resumed(name), "progress": False}

    @property
    def beginnings(self) -> list[list[int]]:
        """The texts on which the parts that make the peak are zeroed."""
        base = self.pairs.base
        return base[:SOURCE_EXAMPLES] if self.embedded is not None else [base[0][:SOURCE_TOKENS]]

    @cached_property
    def asked(self) -> Sequence[Any]:
        by = None if self.questions is None or self.embedded else "text"
        return questions_of(self, self.questions, INACTIVE_QUESTIONS, self.seed, by)

    @cached_property
    def config(self) -> dict:
        return self.identity | {
            "n": self.n,
            "seed": self.seed,
            "questions": digest(self.questions) if self.questions is not None else "",
            "answers": self.answers,
            "prefix": self.prefix,
        }


def _behaviour(subject: _Subject, found: dict[str, xr.Dataset]) -> xr.Dataset:
    """How the model replies, and the scores of its answers; the replies alone where no answers tell them apart."""
    try:
        return unpatched(subject.model, subject.pairs)
    except NoBehaviourError as absent:
        facts = wb.anatomy(subject.model).facts
        return xr.Dataset(attrs=provenance(**facts, **absent.facts, no_openers=str(absent)))


def _attention(subject: _Subject, found: dict[str, xr.Dataset]) -> xr.Dataset:
    """Attention of the strongest group's heads, on the example that the objection moves most."""
    groups = found["groups"]
    metric = "logit_diff" if "logit_diff" in groups["metric"].values else str(groups["metric"].values[0])
    values = groups["contribution"].sel(metric=metric).transpose("layer", "kv_group").values
    layer, group = (int(i) for i in np.unravel_index(int(np.nanargmin(values)), values.shape))
    size = int(groups.attrs["group_size"])
    heads = list(range(group * size, (group + 1) * size))
    example = clearest_example(groups)
    tokens = subject.pairs.base[example]
    name = f"blocks.{layer}.attn.hook_pattern"
    pattern = capture(subject.model, [tokens], {name: lambda weights: weights})[name][0, heads]
    words = [_text(subject.model, [token]) for token in tokens]
    where = np.arange(len(tokens))
    return xr.Dataset(
        {"pattern": (("layer", "head", "query", "key"), pattern.float().cpu().numpy()[None])},
        coords={"layer": [layer], "head": heads, "query": where, "key": where, "token": ("key", words)},
        attrs=provenance(model=subject.name, example=example, kv_group=group, group_size=size),
    )


def heads_and_groups(model: HookedModel, pairs: PromptPairs, resume: Path | None = None) -> dict[HeadUnit, xr.Dataset]:
    """What `path_patch` says of every head and of every KV group, in one run that shares the forward passes."""
    counts = wb.anatomy(model)
    units: list[HeadUnit] = ["head", "kv_group"]
    sent = [senders(unit, None, counts) for unit in units]
    sets = [[tuple(map(int, place)) for place in np.argwhere(mask)] for one in sent for mask in one.mask]
    both = wb.path_patch(model, pairs, units=sets, resume=resume, progress=False).drop_vars("label")
    found, start = {}, 0
    for unit, one in zip(units, sent, strict=True):
        layers, places = (grid.ravel() for grid in np.meshgrid(*one.coords.values(), indexing="ij"))
        own = both.isel(unit=slice(start, start + len(layers)))
        own = own.assign_coords({"layer": ("unit", layers), unit: ("unit", places)})
        own = own.set_index(unit=["layer", unit]).unstack("unit").transpose("metric", "layer", unit, "example")
        found[unit] = own.assign_attrs(unit=unit, senders=unit)
        start += len(layers)
    return found


def clearest_example(result: xr.Dataset) -> int:
    """The example whose probability of giving in falls most from base to source."""
    metric = "prob" if "prob" in result["metric"].values else str(result["metric"].values[0])
    return int((result["base"] - result["source"]).sel(metric=metric).argmax("example"))


def _dialogues(subject: _Subject, found: dict[str, xr.Dataset]) -> xr.Dataset:
    """The dialogues as JSON lists of messages where they are known, and as decoded text."""
    model, pairs = subject.model, subject.pairs
    columns: dict[str, list[str]] = {}
    for side in ("base", "source"):
        turns = [meta.get(side) for meta in pairs.meta]
        columns[f"{side}_messages"] = [json.dumps(list(t)) if isinstance(t, list | tuple) else "" for t in turns]
        columns[f"{side}_text"] = [_text(model, tokens) for tokens in getattr(pairs, side)]
        columns[f"{side}_reply"] = [str(meta.get(f"reply_{side}", "")) for meta in pairs.meta]
    for i, side in enumerate(("answer_a", "answer_b")):
        columns[side] = [" / ".join(_text(model, s) for s in answers[i]) for answers in pairs.answer_sets]
    return xr.Dataset(
        {name: ("example", text_array(values)) for name, values in columns.items()},
        coords={"example": np.arange(len(pairs))},
        attrs=provenance(model=subject.name, prompts=pairs.digest),
    )


def _inactive(subject: _Subject, found: dict[str, xr.Dataset]) -> xr.Dataset:
    """Accuracy curves, or why the model's answers allow none."""
    try:
        return wb.ablation_curve(
            subject.model,
            subject.asked,
            INACTIVE_SCORES,
            INACTIVE_QUANTILES,
            resume=subject.resumed("inactive.nc"),
            progress=False,
        )
    except HeldError:
        raise
    except InputError as refusal:
        return xr.Dataset(attrs={"refused": str(refusal)})


def _text(model: HookedModel, tokens: Sequence[int]) -> str:
    """Tokens as text; as numbers where the model has no tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    return tokenizer.decode(list(tokens)) if tokenizer is not None else " ".join(map(str, tokens))


def _estimate(subject: _Subject) -> xr.Dataset:
    """The estimate is made to be compared with the exact effects, so it does not matter that these take less time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This estimate takes about", WorkbenchWarning)
        return wb.attribution_patch(
            subject.model,
            subject.pairs[:EXACT_EXAMPLES],
            steps=ESTIMATE_STEPS,
            integrate="layers",
            verify=0,
            **subject.by_head("estimate.nc"),
        )


MEASURES: dict[str, Callable[[_Subject, dict[str, xr.Dataset]], xr.Dataset]] = {
    "behaviour": _behaviour,
    "heads": lambda s, _: s.patched("head"),
    "groups": lambda s, _: s.patched("kv_group"),
    "estimate": lambda s, _: _estimate(s),
    "exact": lambda s, _: wb.activation_patch(s.model, s.pairs[:EXACT_EXAMPLES], **s.by_head("exact.nc")),
    "attention": _attention,
    "extreme": lambda s, _: wb.extreme_tokens(s.model, s.pairs.base[:EXACT_EXAMPLES], progress=False),
    "sources": lambda s, _: peak_sources(s.model, s.beginnings, progress=False),
    "inactive": _inactive,
    "dialogues": _dialogues,
    "checks": lambda s, _: wb.check(s.model),
}
