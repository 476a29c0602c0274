"""The package's record of `leaf_real.py`: counts of each pair, every misled question's outcomes, two with gradients.

python benchmarks/leaf_record.py FOLDER RECORD.nc    # FOLDER/FORM/… as `leaf_real.py part` leaves them; seconds
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import tyro
import xarray as xr
from scipy.stats import spearmanr
from tyro.conf import Positional

from workbench.runs.results import open_result, save_result

FORMS = ("letter", "listed", "unlisted", "gsm8k")
SHOWN = {"listed, noise": 634, "listed": 805}
"""The questions whose gradients the record holds, by pair."""
COUNTED = ("right", "cut", "unread")
LOOKS = {
    "student's gradient": "student_gradient",
    "teacher's gradient": "teacher_gradient",
    "student, not teacher": None,
}


def pack(folder: Positional[Path], file: Positional[Path]) -> None:
    """Pack the folders of `leaf_real.py part` into one file."""
    packed, shown = [], []
    for form in FORMS:
        facts = json.loads((folder / form / f"{form}.json").read_text())
        for key in (key for key, value in facts.items() if isinstance(value, dict) and "excess" in value):
            student, teacher = (who.replace("_", " ") for who in key.removeprefix(f"{form}-").split("-"))
            name = f"{form}, noise" if student.endswith("noise") else form
            read = {what: open_result(folder / form / f"{key}{what}.nc") for what in ("", "-first", "-scores")}
            packed.append(_packed(len(packed), name, form, student, teacher, facts, *read.values()))
            if name in SHOWN:
                shown.append(_shown(name, SHOWN[name], read[""], read["-scores"]))
            versions = {k: v for k, v in read[""].attrs.items() if k.endswith("_version") and v}
    wide = max(one.sizes["token"] for one in shown)
    cases = xr.concat([one.pad(token=(0, wide - one.sizes["token"])) for one in shown], "case")
    pairs = xr.concat([one.drop_dims("question") for one in packed], "pair")
    questions = xr.concat([one.drop_dims("pair") for one in packed], "question")
    record = xr.merge([pairs, questions, cases], join="exact", compat="no_conflicts")
    save_result(record.assign_attrs(model="smollm2-135m-instruct", draws=5, **versions), file, compressed=True)


def _packed(
    place: int,
    name: str,
    form: str,
    student: str,
    teacher: str,
    facts: dict[str, Any],
    found: xr.Dataset,
    first: xr.Dataset,
    scored: xr.Dataset,
) -> xr.Dataset:
    draws = found.sizes["draw"]
    right = {who: facts[model] for who, model in (("student", student), ("teacher", teacher))}
    inside = found["origin"].values == found["example"].values[:, None]
    drawn = inside[:, None] & found["control_accepted"].values.astype(bool)
    return xr.Dataset(
        {
            "replies": (("pair", "model", "count"), [[[one[what] for what in COUNTED] for one in right.values()]]),
            "n": ("pair", [right["student"]["n"]]),
            "options": ("pair", [facts["options"]]),
            "n_spans": (("pair", "tried"), [found["n_spans"].values]),
            "n_accepted": (("pair", "tried"), [found["n_accepted"].values]),
            "wordless": (("pair", "spans"), [_wordless(found)]),
            "rescued_by_some_draw": ("pair", [float(drawn.any((1, 2)).mean())]),
            "different_random_spans": ("pair", [_different(found, inside)]),
            "tokens": ("pair", [float(np.isfinite(found["sensitivity"].values).sum(-1).mean())]),
            "rescued": (("question", "tried"), found["rescued"].values.T.astype("int8")),
            "draws_rescued": (
                ("question", "tried"),
                np.rint(draws * found["rescued_by_chance"].values.T).astype("int8"),
            ),
            "first_rescued": (("question", "score"), first["accepted"].values.T.astype("int8")),
            "agreement": ("pair", [_agreement(scored)]),
            "first_chance": (("pair", "score"), [first["chance_share"].values]),
            "first_excess": (("pair", "score", "end"), [np.stack([first["excess_low"], first["excess_high"]], -1)]),
        },
        coords={
            "pair": [name],
            "form": ("pair", [form]),
            "student": ("pair", [student]),
            "teacher": ("pair", [teacher]),
            "model": list(right),
            "count": list(COUNTED),
            "spans": ["found", "found and accepted", "random", "random and accepted"],
            "tried": found["tried"].values,
            "score": first["score"].values,
            "place": ("question", np.full(found.sizes["example"], place, dtype="int8")),
            "index": ("question", found["example"].values.astype("int16")),
        },
    )


def _wordless(found: xr.Dataset) -> list[float]:
    """What share of the spans is punctuation alone: found, those of them accepted, random, those of them accepted."""
    words = found["word"].sel(example=found["origin"]).values

    def alone(removed: np.ndarray) -> np.ndarray:
        return np.array(
            [not re.search(r"\w", "".join(row[0][row[1].astype(bool)])) for row in zip(words, removed, strict=True)]
        )

    own, drawn = alone(found["removed"].values), np.stack([alone(one) for one in found["control_removed"].values])
    chosen, turned = found["accepted"].values.astype(bool), found["control_accepted"].values.astype(bool)
    return [float(some.mean()) for some in (own, own[chosen], drawn, drawn[turned])]


def _agreement(scored: xr.Dataset) -> float:
    """The mean rank correlation of both models' gradients over a question's tokens."""
    both = scored["sensitivity"].sel(score=["student_gradient", "teacher_gradient"]).transpose("example", "score", ...)
    kept = [one[:, np.isfinite(one).all(0)] for one in both.values]
    return float(np.mean([spearmanr(*one).statistic for one in kept]))


def _different(found: xr.Dataset, inside: np.ndarray) -> float:
    removed = found["control_removed"].values
    counts = [len(np.unique(removed[:, row].reshape(-1, removed.shape[-1]), axis=0)) for row in inside]
    return float(np.mean(counts))


def _shown(name: str, index: int, found: xr.Dataset, scored: xr.Dataset) -> xr.Dataset:
    one = found.sel(example=index)
    row = int(np.flatnonzero(found["example"].values == index)[0])
    kept = np.isfinite(one["sensitivity"].values).ravel()
    span = found.isel(span=np.flatnonzero((found["origin"] == index) & found["accepted"])[0])
    values = scored["sensitivity"].isel(example=row)
    looks = [1 - one["sensitivity"].values.ravel() if s is None else values.sel(score=s).values for s in LOOKS.values()]
    told = {
        "case_gold": one["gold"].item(),
        "case_said": one["answer_before"].values[0],
        "case_without": one["word"].values[span["removed"].values.astype(bool)].item().strip(),
        "case_draws": int(span["control_accepted"].sum()),
    }
    levels = np.array([(look[kept] - look[kept].min()) / np.ptp(look[kept]) for look in looks])
    return xr.Dataset(
        {what: ("case", [value]) for what, value in told.items()}
        | {
            "case_word": (("case", "token"), [one["word"].values[kept]]),
            "case_level": (("case", "look", "token"), [levels.astype("float32")]),
        },
        coords={"case": [f"{name}, {index}"], "look": list(LOOKS)},
    )


if __name__ == "__main__":
    tyro.cli(pack)
