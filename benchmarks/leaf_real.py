"""Which spans mislead a real model? SmolLM2-135M-Instruct on CommonsenseQA and GSM8K, beside random spans.

    python benchmarks/leaf_real.py run DATA OUT                    # all parts, a process each; minutes on one GPU
    python benchmarks/leaf_real.py part DATA FOLDER --name gsm8k   # one part
    python benchmarks/leaf_record.py FOLDER RECORD.nc              # FOLDER/FORM/…, unpacked, as the package's record

DATA holds commonsenseqa/{train,dev}_rand_split.jsonl and gsm8k/{train,test}.jsonl. `run` keeps an archive of each part
in OUT, packed again as soon as the part has written something, so a run that is killed leaves what it had.

1. The same questions are asked in several forms (`FORMS`). The model is tuned on the answers of each form's training
   questions, and both answer all questions held out.
2. Pairs of student and teacher: the model and the tuned one; a model and itself with noise on its weights, of the level
   that, on training questions kept apart, leaves about half of what it is above chance.
3. Of each pair: the confounding spans beside random ones (`workbench.leaf.confounders`), all scores of the misled
   questions, and the span that each score ranks first beside random ones (`workbench.leaf.causal_check`).
"""

import functools
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
import xarray as xr
from torch.nn.functional import cross_entropy
from tyro.conf import Positional

import workbench as wb
from workbench import leaf
from workbench.evaluation.local import interval
from workbench.leaf.asking import read, wanted
from workbench.leaf.distillation_pairs import Plan, lessons_of
from workbench.leaf.distilling import Settings, _trainable
from workbench.leaf.selection import CUT
from workbench.leaf.teaching import observed
from workbench.plot.confounders import summary
from workbench.prompts.questions import read_choices
from workbench.runs.files import write_atomic, write_text
from workbench.runs.results import save_result

MODEL = "smollm2-135m-instruct"
THRESHOLDS = (0.05, 0.10, 0.15)
LEVELS = (0.05, 0.1, 0.2, 0.3)
"""Noise, in standard deviations of each weight matrix."""
APART = 256
"""Training questions that are not tuned on; the level of noise is chosen on them."""
COMPARED = (
    "gradient_difference",
    "student_gradient",
    "occlusion",
    "attention_difference",
    "perplexity",
    "random",
)
FEWEST = 5
"""Misled questions below which a pair is only counted."""


@dataclass(frozen=True)
class Form:
    """How a set's questions are asked and replies read, and how many run at a time."""

    folder: str
    train: str
    held_out: str
    match: Any
    choices: Any
    options: int
    max_new_tokens: int
    epochs: float
    at_once: int


CSQA = ("commonsenseqa", "train_rand_split.jsonl", "dev_rand_split.jsonl")
FORMS = {
    "letter": Form(*CSQA, "letter", "letter", 5, 32, 2, 128),
    "listed": Form(*CSQA, "text", "listed", 5, 32, 2, 128),
    "gsm8k": Form("gsm8k", "train.jsonl", "test.jsonl", "number", "letter", 0, 256, 3, 512),
    "unlisted": Form(*CSQA, "text", "text", 0, 32, 2, 128),
}
"""CommonsenseQA by the letter of a listed option, the words of a listed one, the words alone; and GSM8K."""


def examples(model: Any, form: Form, file: Path) -> list[leaf.Example]:
    """The questions of a file in a form."""
    if form.choices != "listed":
        return leaf.read_examples(model, file, choices=form.choices)
    made = []
    for one in read_choices(file):
        right = one.choices[one.answer]
        asked: dict[str, Any] = dict(suffix="\nAnswer with the words of the right option only.", protect=("options",))
        made.append(replace(leaf.example(model, one.listed(), right, right, **asked), options=one.choices))
    return made


def tuned(model: Any, taught: Sequence[leaf.Example], form: Form, batch: int, steps: int | None, rate: float) -> Any:
    """A copy of the model, all of whose weights are tuned on the gold responses."""
    plan = Plan(lessons_of(taught), [], batch=batch, steps=steps, epochs=form.epochs)
    own, settings, losses = _trainable(model, "float32"), Settings(rate, warm_up=20), []
    optimizer = torch.optim.AdamW(own.parameters(), rate, weight_decay=0.0)
    for step in range(plan.steps):
        some = [lesson.student for share in plan[step] for lesson in share.lessons]
        logits, _ = observed(own, some, int(model.cfg.d_vocab))
        gold = torch.tensor([token for one in some for token in one.target], device=logits.device)
        loss = cross_entropy(logits.float(), gold)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own.parameters(), settings.clip)
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step, plan.steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 0 or step + 1 == plan.steps:
            say(f"  update {step + 1} of {plan.steps}: loss {np.mean(losses[-20:]):.3f}")
    return _named(own, model, f"{model.workbench_name}, tuned")


def noised(model: Any, level: float) -> Any:
    """A copy of the model with Gaussian noise on the matrices of its blocks."""
    own, generator = _trainable(model, "float32"), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for where, weight in own.named_parameters():
            if weight.ndim == 2 and ".layers." in where:
                drawn = torch.randn(weight.shape, generator=generator).to(weight.device)
                weight.add_(drawn * weight.std() * level)
    return _named(own, model, f"{model.workbench_name}, noise {level:g}")


def _named(own: Any, original: Any, name: str) -> Any:
    made = wb.load(own.requires_grad_(False).eval(), tokenizer=original.tokenizer)
    object.__setattr__(made, "workbench_name", name)
    return made


def accuracy(said: xr.Dataset, asked: Sequence[leaf.Example], form: Form) -> dict[str, Any]:
    """Right replies, with a 95 % interval, what was cut or not read, and how often replies suit another question."""
    right = said["correct"].values == 1
    share, low, high = interval(right)
    n, replies = len(asked), [str(reply) for reply in said["reply"].values]
    shifts = [7 * k for k in range(1, 11) if 7 * k % n]
    suits = [
        read(form.match, replies[i], asked[(i + k) % n]) == wanted(form.match, asked[(i + k) % n])
        for k in shifts
        for i in range(n)
    ]
    return {
        "n": n,
        "right": int(right.sum()),
        "share": share,
        "low": low,
        "high": high,
        "cut": int(said["ending"].isin(CUT).sum()),
        "unread": int((said["answer"] == "").sum()),
        "chance_of_options": 1 / form.options if form.options else None,
        "right_for_another_question": float(np.mean(suits)),
    }


def misled(asked: Sequence[leaf.Example], student: xr.Dataset, teacher: xr.Dataset) -> leaf.ExampleSelection:
    """The selection of `workbench.leaf.select_examples`, of replies that are there already."""
    names = ["reply", "answer", "ending", "correct"]
    answers = xr.concat([student[names], teacher[names]], "model").assign_coords(model=["student", "teacher"])
    right, cut = answers["correct"].values, answers["ending"].isin(CUT).values
    index = np.flatnonzero((right[0] == 0) & (right[1] == 1)).tolist()
    counts = {"examples": len(asked), "student_wrong": int((right[0] == 0).sum()), "misled": len(index)}
    counts |= {"student_cut": int(cut[0].sum()), "teacher_cut": int((cut[1] & (right[0] == 0)).sum())}
    return leaf.ExampleSelection([asked[i] for i in index], index, answers, counts)


def cases(found: xr.Dataset, asked: Sequence[leaf.Example]) -> list[dict[str, Any]]:
    """Every misled question with its spans, replies before and after, and what random spans do."""
    made = []
    for i in found["example"].values.tolist():
        one, words = found.sel(example=i), found["word"].sel(example=i).values
        spans = []
        for row in np.flatnonzero(found["origin"].values == i):
            span = found.isel(span=row)
            drawn = [_words(words, removed) for removed in span["control_removed"].values]
            spans.append(
                {
                    "threshold": float(span["span_threshold"]),
                    "removed": _words(words, span["removed"].values),
                    "accepted": bool(span["accepted"]),
                    **_replies(span, "after"),
                    "random": list(zip(drawn, span["control_accepted"].values.tolist(), strict=True)),
                }
            )
        text, gold = str(asked[i].text), str(one["gold"].item())
        before = _replies(one, "before")
        made.append({"example": i, "text": text, "gold": gold, "options": asked[i].options, **before, "spans": spans})
    return made


def _words(words: np.ndarray, removed: np.ndarray) -> str:
    return "".join(str(word) for word in words[removed.astype(bool)])


def _replies(one: xr.Dataset, when: str) -> dict[str, Any]:
    told = {}
    for row, name in enumerate(("student", "teacher")):
        values = {what: one[f"{what}_{when}"].values[row] for what in ("reply", "answer", "ending", "correct")}
        right = float(values.pop("correct"))
        told[f"{name}_{when}"] = {k: str(v) for k, v in values.items()} | {
            "right": None if np.isnan(right) else bool(right)
        }
    return told


def pair(
    out: Path, name: str, models: dict[str, Any], said: dict[str, xr.Dataset], asked: list[leaf.Example], form: Form
) -> dict[str, Any]:
    """What misleads the first of two models and not the second; files whose names begin with `name`."""
    (_, student), (_, teacher) = models.items()
    selection = misled(asked, *said.values())
    say(f"{name}: {selection.counts}")
    if len(selection.index) < FEWEST:
        return selection.counts
    asking: dict[str, Any] = dict(
        match=form.match, max_new_tokens=form.max_new_tokens, batch_size=form.at_once, progress=False
    )
    found = leaf.confounders(student, teacher, asked, selection=selection, threshold=THRESHOLDS, **asking)
    save_result(found, out / f"{name}.nc", compressed=True)
    lines = [json.dumps(case, ensure_ascii=False) for case in cases(found, asked)]
    write_text(out / f"{name}.jsonl", "\n".join(lines) + "\n")
    told = summary(found)
    say(told)
    measured = ("rescued_share", "chance_share", "excess", "excess_low", "excess_high", "n_spans", "n_accepted")
    rows = {name: found[name].values.tolist() for name in measured}
    few: dict[str, Any] = dict(batch_size=min(form.at_once, 64), progress=False)
    scored = leaf.sensitivity(student, teacher, selection.examples, scores="all", **few)
    save_result(scored, out / f"{name}-scores.nc", compressed=True)
    some = scored.sel(score=list(COMPARED))
    checked = leaf.causal_check(student, teacher, selection.examples, some, **asking)
    save_result(checked.assign_coords(example=selection.index), out / f"{name}-first.nc", compressed=True)
    say(f"{name}, first spans, accepted and by chance: " + _first(checked))
    return selection.counts | {"thresholds": found["tried"].values.tolist(), **rows, "summary": told}


def _first(checked: xr.Dataset) -> str:
    rows = []
    for score in checked["score"].values:
        one = checked.sel(score=score)
        rows.append(f"{score} {float(one['accepted_share']):.2f} {float(one['chance_share']):.2f}")
    return ", ".join(rows)


def part(
    data: Positional[Path],
    out: Positional[Path],
    name: str,
    n: int | None = None,
    steps: int | None = None,
    batch: int = 64,
    rate: float = 1e-4,
    at_once: int = 512,
    levels: tuple[float, ...] = LEVELS,
    model: str = MODEL,
) -> None:
    """One form: tune, let all models answer, and find what misleads in every pair.

    Args:
        n: held-out questions; by default all.
        steps: updates; by default the form's epochs.
    """
    form = FORMS[name]
    base = wb.load(model, dtype="float32")
    taught = examples(base, form, data / form.folder / form.train)
    asked = examples(base, form, data / form.folder / form.held_out)[:n]
    kept, taught = taught[: min(APART, n or APART)], taught[APART:]
    facts: dict[str, Any] = {"form": name, **asdict(form), "batch": batch, "rate": rate, "taught": len(taught)}
    say(f"{name}: {len(taught)} questions to tune on, {len(asked)} held out, on {base.cfg.device}")

    def ask(model: Any, those: list[leaf.Example], limit: int = form.max_new_tokens) -> xr.Dataset:
        return leaf.ask(model, those, match=form.match, max_new_tokens=limit, batch_size=at_once, progress=False)

    def answered(who: str, model: Any) -> xr.Dataset:
        said = ask(model, asked)
        save_result(said, out / f"{name}-{who}-replies.nc", compressed=True)
        facts[who] = accuracy(said, asked, form)
        say(f"{who}: {facts[who]}")
        keep()
        return said

    def keep() -> None:
        write_text(out / f"{name}.json", json.dumps(facts, indent=1))

    def spoiled(who: str, model: Any) -> Any:
        chance = 1 / form.options if form.options else 0.0
        tries = {0.0: ask(model, kept)} | {level: ask(noised(model, level), kept) for level in levels}
        shares = {level: float((said["correct"] == 1).mean()) for level, said in tries.items()}
        half = (shares[0.0] + chance) / 2
        level = min(levels, key=lambda one: (abs(shares[one] - half), one))
        facts[f"{who}, training questions kept apart, by noise"] = shares
        say(f"{who}, by noise: {shares}; {level} is taken")
        return noised(model, level)

    def compare(student: str, teacher: str, models: dict[str, Any], said: dict[str, xr.Dataset]) -> None:
        both = {who: models[who] for who in (student, teacher)}
        replies = {who: said[who] for who in both}
        key = f"{name}-{student}-{teacher}".replace(" ", "_")
        facts[key] = pair(out, key, both, replies, asked, form)
        keep()

    models, said = {"base": base}, {"base": answered("base", base)}
    models["tuned"] = tuned(base, taught, form, batch, steps, rate)
    said["tuned"] = answered("tuned", models["tuned"])
    compare("base", "tuned", models, said)
    for who in ("tuned", "base"):
        chance = facts[who]["chance_of_options"] or facts[who]["right_for_another_question"]
        if facts[who]["low"] > chance:
            noisy = f"{who} with noise"
            models[noisy] = spoiled(who, models[who])
            said[noisy] = answered(noisy, models[noisy])
            compare(noisy, who, models, said)
            del models[noisy]
    say(f"{name} is done")


BEGAN = time.perf_counter()


def say(text: str) -> None:
    """A line of the log."""
    print(f"[{time.perf_counter() - BEGAN:5.0f} s] {text}", flush=True)


def run(data: Positional[Path], out: Positional[Path], scratch: Path = Path("leaf-real"), seconds: int = 530) -> None:
    """All forms at once, a process each; what each writes is packed into OUT/leaf-real-FORM.tar.gz every few seconds.

    Args:
        scratch: the folder that they write to.
        seconds: after so many, what still runs is ended.
    """
    wb.load(MODEL)
    threads = str(max(1, (os.cpu_count() or 1) // len(FORMS)))
    surroundings = os.environ | {"OMP_NUM_THREADS": threads, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    running, packed = {}, dict.fromkeys(FORMS, 0.0)
    for name in FORMS:
        folder = scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "part", str(data), str(folder), "--name", name]
        log = (folder / "log.txt").open("w")
        running[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=surroundings)
    while True:
        late = time.perf_counter() - BEGAN > seconds
        ended = all(process.poll() is not None for process in running.values())
        for name, before in packed.items():
            packed[name] = max(file.stat().st_mtime for file in (scratch / name).glob("*.*[!p]"))
            if packed[name] > before:
                write_atomic(out / f"leaf-real-{name}.tar.gz", functools.partial(_pack, scratch / name))
        if ended or late:
            break
        time.sleep(5)
    for name, process in running.items():
        process.terminate()
        last = (scratch / name / "log.txt").read_text().splitlines()[-1:]
        say(f"{name}: {process.poll()}, {''.join(last)}")


def _pack(folder: Path, file: Path) -> None:
    with tarfile.open(file, "w:gz") as archive:
        for one in sorted(folder.glob("*.*[!p]")):
            archive.add(one, arcname=f"{folder.name}/{one.name}")


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {"run": run, "part": part}
    sys.exit(tyro.extras.subcommand_cli_from_dict(commands))
