"""Measured data of one model for the sycophancy figures and the report, cached as netCDF files.

1. Load the model and make its pairs of dialogues: objected to (`base`) and confirmed (`source`).
2. Patch every head and every KV group exactly (`heads`, `groups`).
3. Estimate the total effect of every head by integrated gradients and measure it exactly on fewer examples
   (`estimate`, `exact`).
4. Keep the attention of the strongest group's heads on the clearest example (`attention`), the dialogues and
   the self-checks of the model.
5. Find the extreme tokens of some dialogues (`extreme`), and the layers that make the peak (`sources`).
6. Zero the heads that two scores call inactive while questions are answered (`inactive`).

A file is used again only if it was made with the same configuration; otherwise it is measured anew.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import workbench as wb
from workbench.errors import InputError, WorkbenchWarning
from workbench.extreme import peak_sources
from workbench.models.capture import capture
from workbench.papers.cache import CONFIG, Source, digest, kept
from workbench.papers.inactive_heads.measures import questions_of
from workbench.papers.recipes import distinct
from workbench.prompts.pairs import PromptPairs
from workbench.prompts.questions import FreeForm, MultipleChoice, read_questions
from workbench.protocol import HookedModel
from workbench.runs.files import check_writable
from workbench.runs.results import provenance, text_array

PARTS = ("heads", "groups", "estimate", "exact", "attention", "extreme", "sources", "inactive", "dialogues", "checks")
ESTIMATES = ("estimate", "exact")
"""Parts that the report measures on request only."""
EXACT_EXAMPLES = 16
SOURCE_EXAMPLES = 4
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
    parts: Sequence[str] = PARTS,
    folder: str | Path | None = None,
    step: Callable[[str], None] = lambda text: None,
) -> Measured:
    """Measure one model, or read what an earlier run with the same configuration left in the folder.

    Args:
        source: Anything that `load` takes.
        n: Number of dialogue pairs.
        seed: Seed of their draw.
        questions: For chat models: as `read_questions` takes them; by default an embedded model's own dialogues, or
            the default facts.
        parts: Which Datasets are wanted.
        folder: Where to keep them; None keeps nothing.
        step: Called with a short text before each piece of work.

    Raises:
        InputError: unknown part, or what `load` and the patching functions refuse.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError(f"unknown parts {', '.join(unknown)}; choose from {', '.join(PARTS)}.")
    subject = _Subject(source, n, seed, None if questions is None else read_questions(questions))
    if folder is not None:
        folder = check_writable(folder)
    wanted = [part for part in PARTS if part in parts]
    if "attention" in wanted and "groups" not in wanted:
        wanted.insert(0, "groups")
    found: dict[str, xr.Dataset] = {}
    for part in wanted:
        step(f"{subject.name}: {LABELS[part]}")
        path = None if folder is None else folder / f"{part}.nc"
        found[part] = kept(path, subject, subject.config | {"part": part}, partial(MEASURES[part], subject, found))
    return Measured(subject.name, {part: found[part] for part in wanted if part in parts})


def measure_all(
    sources: Sequence[Any],
    folder: Path,
    *,
    n: int,
    seed: int,
    questions: Any = None,
    parts: Sequence[str] = PARTS,
    step: Callable[[str], None] = lambda text: None,
) -> list[Measured]:
    """`measure` for several models, each with a folder of its own name.

    Args:
        sources: Anything that `load` takes.
        folder: Where the models' folders lie.
        n: Number of dialogue pairs per model.
        seed: Seed of their draw.
        questions: As for `measure`.
        parts: As for `measure`.
        step: As for `measure`.

    Raises:
        InputError: no models, two of one name, or what `measure` refuses.
    """
    if not sources:
        raise InputError("no models given; name at least one, such as 'organism-gqa'.")
    names = [Path(str(s)).name if isinstance(s, str | Path) else f"model-{i}" for i, s in enumerate(sources)]
    distinct(names)
    known = None if questions is None else read_questions(questions)
    with warnings.catch_warnings():
        # What these warnings say is counted in the results, and reported with them.
        warnings.simplefilter("ignore", WorkbenchWarning)
        return [
            measure(source, n=n, seed=seed, questions=known, parts=parts, folder=folder / name, step=step)
            for source, name in zip(sources, names, strict=True)
        ]


class _Subject(Source):
    """A model and its pairs, made when first needed."""

    def __init__(self, source: Any, n: int, seed: int, questions: Sequence[MultipleChoice | FreeForm] | None = None):
        super().__init__(source)
        self.n, self.seed, self.questions = n, seed, questions

    @cached_property
    def pairs(self) -> PromptPairs:
        own = self.embedded is not None
        return wb.sycophancy.pairs(self.model, n=self.n, seed=self.seed, questions=None if own else self.questions)

    @cached_property
    def asked(self) -> Sequence[Any]:
        return questions_of(self, self.questions, INACTIVE_QUESTIONS, self.seed)

    @cached_property
    def config(self) -> dict:
        return self.identity | {
            "n": self.n,
            "seed": self.seed,
            "questions": digest(self.questions) if self.questions is not None else "",
        }


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


def _text(model: HookedModel, tokens: Sequence[int]) -> str:
    """Tokens as text; as numbers where the model has no tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    return tokenizer.decode(list(tokens)) if tokenizer is not None else " ".join(map(str, tokens))


MEASURES: dict[str, Callable[[_Subject, dict[str, xr.Dataset]], xr.Dataset]] = {
    "heads": lambda s, _: wb.path_patch(s.model, s.pairs, unit="head", progress=False),
    "groups": lambda s, _: wb.path_patch(s.model, s.pairs, unit="kv_group", progress=False),
    "estimate": lambda s, _: wb.attribution_patch(
        s.model, s.pairs[:EXACT_EXAMPLES], hook="z", unit="head", steps=ESTIMATE_STEPS, verify=0, progress=False
    ),
    "exact": lambda s, _: wb.activation_patch(s.model, s.pairs[:EXACT_EXAMPLES], hook="z", unit="head", progress=False),
    "attention": _attention,
    "extreme": lambda s, _: wb.extreme_tokens(s.model, s.pairs.base[:EXACT_EXAMPLES], progress=False),
    "sources": lambda s, _: peak_sources(s.model, s.pairs.base[:SOURCE_EXAMPLES], progress=False),
    "inactive": lambda s, _: wb.ablation_curve(s.model, s.asked, INACTIVE_SCORES, INACTIVE_QUANTILES, progress=False),
    "dialogues": _dialogues,
    "checks": lambda s, _: wb.check(s.model),
}
LABELS = {
    "heads": "patching each head",
    "groups": "patching each KV group",
    "estimate": "estimating by gradients",
    "exact": "patching with everything downstream recomputed",
    "attention": "reading attention",
    "extreme": "looking for extreme tokens",
    "sources": "asking where the peak comes from",
    "inactive": "switching inactive heads off",
    "dialogues": "keeping the dialogues",
    "checks": "checking the model",
}
