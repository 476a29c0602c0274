"""Measures of one student of one regime: detection, pruning, distillation, attention.

The hypotheses, and when each was written, stand in `assets/README.md`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import InputError, suggest
from workbench.leaf.baselines import Arm, compare, matched, verified
from workbench.leaf.examples import Example
from workbench.leaf.pruning import Pruned
from workbench.leaf.scoring import sensitivity
from workbench.leaf.selection import select_examples
from workbench.leaf.toy.arms import OTHER_THRESHOLDS, WAYS, ToyMaterial, arms
from workbench.leaf.toy.detection import DETECTION_SCORES, detected, on_own_output, planted_positions
from workbench.leaf.toy.models import right
from workbench.leaf.toy.regimes import model, regime
from workbench.leaf.toy.task import WORDS, Problems, examples, problems
from workbench.protocol import HookedModel

THRESHOLD = {"instruction": 0.10, "response": 0.34}
"""Of three tokens in a prefix the paper's thresholds would select one, and half a clause distracts as well."""
LOOKED_AT = ("KD", "LeaF", "misled, half", "released")
"""Arms whose models' attention is measured."""
SELECTORS = ("gradient_difference", "student_gradient", "perplexity", "random")
ASKED = ("A", "B", "C")


@dataclass(frozen=True)
class Size:
    """Sizes of the experiment.

    Attributes:
        steps: updates of every arm.
        batch: lessons per update.
        learning_rate: the highest.
        detect: misled examples, at most, that scores are compared on.
        test: problems of each test set.
        seed: of the order of the lessons.
        arms: which of `arms.WAYS` are distilled.
    """

    steps: int = 200
    batch: int = 32
    learning_rate: float = 5e-4
    detect: int = 150
    test: int = 1000
    seed: int = 0
    arms: tuple[str, ...] = tuple(WAYS)

    def __post_init__(self) -> None:
        for name in self.arms:
            if name not in WAYS:
                raise InputError(f"There is no way to distil {name!r}; {suggest(name, WAYS)}")
        if "KD" not in self.arms:
            raise InputError(f"arms={self.arms}: 'KD', with which the others are compared, must be among them.")


def measure_run(name: str, seed: int, folder: str | Path, size: Size | None = None) -> xr.Dataset:
    """All measures of the student of a regime and seed, whose models lie in a folder.

    Returns:
        Per score and level: `hit`, `auroc` and `own_output_*`; per selector: what pruning does; per arm: `value`, the
        accuracies on the test sets; per reader: the shares of attention and gradient on planted and asked tokens.
    """
    size = size or Size()
    student, teacher = model(name, seed, folder), model("teacher", seed, folder)
    corpus = regime(name).problems(seed)
    whole = examples(corpus)
    chosen = select_examples(student, teacher, whole, progress=False)
    level = np.array([one.prefix > 0 for one in chosen.examples])
    parts, sides = [], {}
    for late, title in ((False, "instruction"), (True, "response")):
        index = np.array(chosen.index)[level == late]
        some = [whole[i] for i in index]
        if len(some) < 2:
            continue
        found = sensitivity(student, teacher, some, scores=SELECTORS, batch_size=64, progress=False)
        sides[title] = _Side(some, index, found, corpus.take(index))
        parts.append(_detection(student, teacher, sides[title], size).expand_dims(level=[title]))
    kept, pruning = _pruned(student, teacher, sides)
    parts = [xr.concat(parts, "level"), pruning] if parts else []
    misled = sides["instruction"].index.tolist() if "instruction" in sides else []
    material = ToyMaterial(student, teacher, whole, misled, kept)
    tests = test_sets(size.test, seed)
    distilled, models = _distilled(student, teacher, whole, arms(material, size.arms), tests, size)
    readers = {"student": student, "teacher": teacher, **models}
    found = xr.merge([*parts, distilled, _looks(readers, teacher, tests["conflict"], size)])
    counts = {"n_corpus": len(whole), **{f"n_{key}": value for key, value in chosen.counts.items()}}
    return found.assign({key: value for key, value in counts.items()})


@dataclass(frozen=True)
class _Side:
    """The misled examples of one level: what they are, where they stand in the corpus, their scores."""

    misled: list[Example]
    index: np.ndarray
    found: xr.Dataset
    drawn: Problems

    def in_corpus(self, pruned: Sequence[Pruned]) -> list[Pruned]:
        """Counterfactuals whose origins are counted in the corpus."""
        return [Pruned(one.example, int(self.index[one.origin]), one.removed) for one in pruned]


def test_sets(n: int, seed: int) -> dict[str, Problems]:
    """Problems that no model has learnt from, by what they ask for."""
    kinds: dict[str, dict[str, float]] = {
        "conflict": {"rho": 0, "distracted": 1},
        "clean": {"distracted": 0},
        "sister": {"rho": 0, "distracted": 1, "sister": 1},
        "response": {"rho": 0, "distracted": 1, "in_response": 1},
        "natural": {"rho": 0.9},
    }
    return {
        kind: problems(n, seed=9_000_000 + 10 * seed + i, **settings)
        for i, (kind, settings) in enumerate(kinds.items())
    }


def _detection(student: HookedModel, teacher: HookedModel, side: _Side, size: Size) -> xr.Dataset:
    """Hit and AUROC of every score where a distractor misleads, and of the paper's on the student's own output."""
    rows = np.flatnonzero(side.drawn.conflict)[: size.detect]
    some, truth = [side.misled[i] for i in rows], planted_positions(side.drawn.take(rows))
    if not some:
        return xr.Dataset()
    every = sensitivity(student, teacher, some, scores=DETECTION_SCORES, batch_size=64, progress=False)
    own = on_own_output(student, some)
    again = sensitivity(student, teacher, own, scores=["gradient_difference"], batch_size=64, progress=False)
    found = detected(every, truth).assign(n_detected=len(some))
    ablation = detected(again, truth).isel(score=0, drop=True)
    return found.assign({f"own_output_{name}": ablation[name] for name in ("hit", "auroc")})


def _pruned(
    student: HookedModel, teacher: HookedModel, sides: Mapping[str, _Side]
) -> tuple[dict[str, list[Pruned]], xr.Dataset]:
    """Accepted counterfactuals of every selector in the corpus's numbering, and what pruning did at the instruction."""
    kept: dict[str, list[Pruned]] = {}
    rows: dict[str, dict[str, float | int]] = {}
    for title, side in sides.items():
        truth = planted_positions(side.drawn)
        at = THRESHOLD[title]
        ways = {s: matched(side.misled, side.found, s, threshold=at) for s in SELECTORS}
        ways["collective"] = matched(side.misled, side.found, "gradient_difference", threshold=at, how="collective")
        ways["oracle"] = matched(side.misled, side.found, truth, how="collective")
        for other in OTHER_THRESHOLDS if title == "instruction" else ():
            key = f"gradient_difference at {other:.2f}"
            ways[key] = matched(side.misled, side.found, "gradient_difference", threshold=other)
        for way, pruned in ways.items():
            accepted, proved = verified(student, teacher, pruned, batch_size=64, progress=False)
            kept[f"{title} {way}"] = side.in_corpus(accepted)
            rows[f"{title} {way}"] = _effect(pruned, accepted, proved, truth, len(side.misled))
    table = {key: ("selector", [row[key] for row in rows.values()]) for key in next(iter(rows.values()), {})}
    return kept, xr.Dataset(table, {"selector": list(rows)} if rows else {})


def _effect(
    pruned: list[Pruned], accepted: list[Pruned], proved: xr.Dataset, truth: Sequence[Sequence[int]], n: int
) -> dict[str, float | int]:
    right_after = proved["correct_after"].sel(model="student").values == 1
    touching = [bool(set(one.removed) & set(truth[one.origin])) for one in accepted]
    teacher = proved["correct_after"].sel(model="teacher").values
    return {
        "n_spans": len(pruned),
        "student_after": float(right_after.mean()) if len(pruned) else np.nan,
        "teacher_breaks": float((teacher[right_after] == 0).mean()) if right_after.any() else np.nan,
        "accepted": len(accepted),
        "rescued": len({one.origin for one in accepted}) / n,
        "touching": float(np.mean(touching)) if touching else np.nan,
    }


def _distilled(
    student: HookedModel,
    teacher: HookedModel,
    whole: list[Example],
    compared: Mapping[str, Arm],
    tests: Mapping[str, Problems],
    size: Size,
) -> tuple[xr.Dataset, dict[str, Any]]:
    """Accuracies of every arm, and the models of a few."""
    models: dict[str, Any] = {}

    def measure(made: Any) -> dict[str, float]:
        order.append(made)
        return {kind: float(right(made.original_model, drawn).float().mean()) for kind, drawn in tests.items()}

    order: list[Any] = []
    options = {"batch_size": size.batch, "micro_batch": size.batch, "learning_rate": size.learning_rate}
    found = compare(
        student, teacher, whole, compared, measure, steps=size.steps, seeds=(size.seed,), progress=False, **options
    )
    for name, made in zip(["student", *compared], order, strict=True):
        if name in LOOKED_AT:
            models[name] = made
    said = measure(teacher)
    found["teacher"] = ("measure", [said[str(kind)] for kind in found["measure"].values])
    return found.isel(seed=0, drop=True), models


def _looks(readers: Mapping[str, Any], teacher: HookedModel, drawn: Problems, size: Size) -> xr.Dataset:
    """Where each model attends in conflicts: shares of attention and of gradient on planted and on asked tokens."""
    some = drawn.take(slice(0, size.detect))
    cases, truth = examples(some), planted_positions(some)
    asked = [_asked(case) for case in cases]
    made = []
    for reader in readers.values():
        found = sensitivity(
            reader, teacher, cases, scores=["student_attention", "student_gradient"], batch_size=64, progress=False
        )
        made.append([[_share(found["sensitivity"].values[row], which) for which in (truth, asked)] for row in (0, 1)])
    return xr.Dataset(
        {"share": (("reader", "look", "tokens"), np.array(made))},
        {"reader": list(readers), "look": ["attention", "gradient"], "tokens": ["planted", "asked"]},
    )


def _asked(case: Example) -> list[int]:
    letters = [WORDS.index(letter) for letter in ASKED]
    begins = [p for p in case.positions if case.tokens[p] in letters]
    return [p for begin in begins for p in (begin, begin + 1)]


def _share(values: np.ndarray, which: Sequence[Sequence[int]]) -> float:
    shares = [np.nansum(row[list(at)]) / np.nansum(row) for row, at in zip(values, which, strict=True) if len(at)]
    return float(np.mean(shares))
