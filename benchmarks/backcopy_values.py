"""The toy models' values: acceptance bounds, what became of the seeds that miss them, and the published numbers.

    python benchmarks/backcopy_values.py accept       # acceptance values, three seeds each
    python benchmarks/backcopy_values.py longer       # what one seed of three misses: eight seeds, three times as long
    python benchmarks/backcopy_values.py rounding     # what bfloat16 does to the gradient of the unembedding
    python benchmarks/backcopy_values.py published    # full-size runs beside the published numbers
    python benchmarks/backcopy_values.py late --run other-sequences --out FOLDER    # one cause of the late growth (GPU)
    python benchmarks/backcopy_values.py late --out FOLDER                          # the table of those that were run

`rounding` trains a small model and `late --run` one of full size; the others read the measured runs that come with the
package, which `workbench backcopy all` makes anew.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from common import print_table as table
from scipy import stats

from workbench import bigram_backcopy as toys
from workbench.bigram_backcopy import published
from workbench.bigram_backcopy.events import copying_layer
from workbench.bigram_backcopy.experiments import EXPERIMENTS, PAPER_STEPS
from workbench.errors import InputError
from workbench.runs.results import open_result, save_result

# Acceptance: the runs that come with the package.


def accept(arguments: argparse.Namespace) -> None:
    rows = []

    def check(code: str, what: str, values: np.ndarray, right: np.ndarray, bound: str) -> None:
        shown = ", ".join(f"{v:.3g}" for v in np.atleast_1d(values))
        good = np.atleast_1d(right)
        rows.append([code, what, shown, bound, "holds" if good.all() else f"fails in {(~good).sum()} of {good.size}"])

    def at(name: str, step: int | None = None):
        record = toys.measured(name).record
        last = record.isel(step=-1) if step is None else record.sel(step=step, method="nearest")
        return last, copying_layer(record)

    for code, name in (("G3-G6", "one-layer"), ("G19", "five-triggers"), ("G20", "synthetic")):
        last, _ = at(name, 1200 if name == "one-layer" else None)
        where = f"{name}, step {int(last['step'])}"
        one = last.isel(layer=0, head=0)
        check(code, f"{where}: backcopy", v := last["backcopy"].values, v < 0.05, "< 0.05")
        check(code, f"{where}: accuracy", v := last["accuracy"].values, v > 0.98, "> 0.98")
        check(code, f"{where}: bigram excess", v := last["bigram_excess"].values, v < 0.06, "< 0.06")
        check(code, f"{where}: sink", v := one["sink"].values, v > 0.6, "> 0.6")
        check(code, f"{where}: sink at triggers", v := one["sink_at_trigger"].values, v < 0.02, "< 0.02")
        check(code, f"{where}: previous token at triggers", v := one["previous"].values, v > 0.85, "> 0.85")
        check(code, f"{where}: drain", v := (one["value_bos"] / one["value_others"]).values, v < 0.4, "< 0.4")
        check(code, f"{where}: sink logit", v := one["sink_logit"].values, v > 5, "> 5")
    cuts = toys.measured("one-layer").interventions
    bare = cuts.sel(intervention="no attention 0")
    check("G7", "no attention: bigram excess", v := bare["bigram_excess"].values, v < 0.06, "< 0.06")
    check("G7", "no attention: backcopy", v := bare["backcopy"].values, v > 3, "> 3")
    dumb = cuts.sel(intervention="no MLP 0")
    check("G7", "no MLP: bigram excess", v := dumb["bigram_excess"].values, v > 1, "> 1")
    record = toys.measured("one-layer-sgd").record
    last, first = record.isel(step=-1), record.isel(step=0)
    check("G8", "SGD: sink", v := last["sink"].values.ravel(), v > 0.6, "> 0.6")
    grown = (last["residual_bos"] / first["residual_bos"]).values.ravel()
    check("G8", "SGD: residual norm over its start", grown, abs(grown - 1) < 0.2, "0.8 to 1.2")
    last, _ = at("one-layer-relu")
    check("G9", "ReLU: sink", v := last["sink"].values.ravel(), v < 0.05, "< 0.05")
    check("G9", "ReLU: backcopy", v := last["backcopy"].values, v < 0.05, "< 0.05")
    record = toys.measured("mlp-layer-mlp").record
    ratio = (record["residual_bos"] / record["residual_others"]).isel(layer=0)
    half = ratio.sel(step=1500, method="nearest").values
    check("G10", "MLP+TF+MLP: peak ratio, step 1500", half, half > 2, "> 2")
    check("G10", "MLP+TF+MLP: peak ratio, end", v := ratio.isel(step=-1).values, v > half, "growing")
    record = toys.measured("mlp-layer-mlp-sgd").record
    grown = (record["residual_bos"].isel(step=-1, layer=0) / record["residual_bos"].isel(step=0, layer=0)).values
    check("G11", "MLP+TF+MLP, SGD: residual over its start", grown, grown < 1.3, "< 1.3")
    check("G11", "MLP+TF+MLP, SGD: sink", v := record["sink"].isel(step=-1, layer=1).values.ravel(), v > 0.6, "> 0.6")
    record = toys.measured("three-layer-sgd").record
    grown = (record["residual_bos"].isel(step=-1, layer=0) / record["residual_bos"].isel(step=0, layer=0)).values
    check("G13", "3xTF, SGD: residual over its start", grown, grown < 1.4, "< 1.4")
    for name in ("three-layer", "two-layer", "two-layer-mlp", "mlp-layer-mlp", "attention-layer-mlp"):
        last, _ = at(name)
        ratio = (last["residual_bos"] / last["residual_others"]).isel(layer=0).values
        flat = name == "attention-layer-mlp"
        code, bound = ("G14", "< 1.4") if flat else ("G12, G14", "> 2")
        check(code, f"{name}: peak ratio behind layer 0", ratio, ratio < 1.4 if flat else ratio > 2, bound)
    cuts = toys.measured("mlp-layer-mlp").interventions.isel(layer=1, head=0)
    gone, whole = cuts.sel(intervention="no layer 0"), cuts.sel(intervention="none")
    rise = (gone["value_bos"] / whole["value_bos"]).values
    check("G15", "MLP+TF+MLP without layer 0: value norm, times", rise, rise > 3, "> 3")
    fall = (gone["sink_logit"] / whole["sink_logit"]).values
    check("G15", "MLP+TF+MLP without layer 0: sink logit, times", fall, fall < 1, "< 1")
    last, _ = at("markov")
    check("G16", "no triggers: sink", v := last["sink"].values.ravel(), v < 0.3, "< 0.3")
    last, _ = at("no-bos")
    check("G17", "no BOS: attention on the first token", v := last["sink"].values.ravel(), v < 0.2, "< 0.2")
    got = toys.measured("no-bos").record["attention_to"].isel(layer=0, head=0)
    check("G17", "no BOS: on triggers", v := got.sel(token=[" ", "e", "t"]).sum("token").values, v > 0.5, "> 0.5")
    last, _ = at("skip")
    check("G18", "skip: sink", v := last["sink"].values.ravel(), v > 0.6, "> 0.6")
    table(["", "what (seeds 0, 1, 2)", "measured", "bound", "verdict"], rows)


# What became of seeds that miss a bound: eight seeds, three times as many steps.

LOOKS = (1500, 3000, 6000, 12_000)


def longer(arguments: argparse.Namespace) -> None:
    rows = []

    def follow(code: str, what: str, curve: xr.DataArray, bound: float) -> None:
        for step in LOOKS:
            values = curve.sel(step=step, method="nearest")
            shown = ", ".join(f"{v:.2f}" for v in values.values)
            rows.append(
                (code, what, f"{int(values['step']):,}", shown, f"{int((values > bound).sum())} of {values.size}")
            )

    def ratio(name: str) -> xr.DataArray:
        record = toys.measured(name).record
        return (record["residual_bos"] / record["residual_others"]).isel(layer=0)

    follow("G10", "MLP+TF+MLP: peak ratio behind layer 0, > 2", ratio("mlp-layer-mlp-longer"), 2)
    follow("G14", "2xTF: peak ratio behind layer 0, > 2", ratio("two-layer-longer"), 2)
    synthetic = toys.measured("synthetic-longer").record
    follow("G20", "synthetic: sink, > 0.6", synthetic["sink"].isel(layer=0, head=0), 0.6)
    cuts = toys.measured("mlp-layer-mlp-longer").interventions.isel(layer=1, head=0)
    gone, whole = cuts.sel(intervention="no layer 0"), cuts.sel(intervention="none")
    for name, what, above in (
        ("value_bos", "value norm, times, > 3", 3),
        ("sink_logit", "sink logit, times, < 1", None),
    ):
        values = (gone[name] / whole[name]).values
        good = values > above if above else values < 1
        shown = ", ".join(f"{v:.2f}" for v in values)
        rows.append(("G15", f"MLP+TF+MLP without layer 0: {what}", "12,000", shown, f"{good.sum()} of {good.size}"))
    table(("", "what", "step", "seeds 0 to 7", "hold"), rows)
    print()
    rows = []
    for precision in ("float32", "bfloat16"):
        record = toys.measured(f"one-layer-late-{precision}").record.isel(layer=0, head=0)
        for step in (3000, 10_000, 30_000, 60_000):
            one = record.sel(step=step, method="nearest")
            shown = (
                f"{', '.join(f'{v:.3g}' for v in one[n].values)}"
                for n in ("sink", "sink_logit", "value_bos", "residual_bos")
            )
            rows.append((precision, f"{int(one['step']):,}", *shown))
    table(("products", "step", "sink (seeds 0, 1, 2)", "sink logit", "value norm", "residual norm"), rows)


# Why the unembedding is not computed in bfloat16.


def rounding(arguments: argparse.Namespace) -> None:
    """The gradient of an unembedding in bfloat16, against float32, on a trained model and six batches."""
    task = toys.Task()
    model = toys.train(task, "1xTF", steps=2500, measured_at=(2500,), device="cpu", progress=False).models[0]
    found: dict[str, list[torch.Tensor]] = {"float32": [], "bfloat16": []}
    for seed in range(6):
        tokens = task.sample(256, 65, seed=20_000 + seed)
        with torch.no_grad():
            y = model.ln_final(model(tokens[:, :-1], stop_at_layer=1)).flatten(0, 1)
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            low = y.to(dtype)
            wrong = (low @ model.unembed.W_U.detach().to(dtype)).float().softmax(-1)
            wrong[torch.arange(len(y)), tokens[:, 1:].flatten()] -= 1
            found[name].append((low.T @ (wrong / len(y)).to(dtype)).float())
    errors = [(rounded - exact).flatten() for rounded, exact in zip(found["bfloat16"], found["float32"], strict=True)]
    cosines = [float(torch.cosine_similarity(errors[i], errors[j], dim=0)) for i in range(6) for j in range(i)]
    sums = {name: float(torch.stack(parts).mean(0).sum(-1).norm()) for name, parts in found.items()}
    rows = [
        ("length of the gradient, mean of six batches", f"{float(torch.stack(found['float32']).mean(0).norm()):.1e}"),
        ("error of one batch", f"{np.mean([float(e.norm()) for e in errors]):.1e}"),
        ("error of the mean of six batches", f"{float(torch.stack(errors).mean(0).norm()):.1e}"),
        ("cosine between the errors of two batches", f"{np.mean(cosines):.2f}"),
        ("length of its sum over the vocabulary", f"{sums['bfloat16']:.1e}"),
        ("the same in float32", f"{sums['float32']:.1e}"),
    ]
    table(("gradient of an unembedding in bfloat16", "setting S, step 2,500"), rows)


# What makes the late growth from the published first weights: one run per possible cause.

PUBLISHED: dict[str, Any] = {"start": "authors", "seeds": (published.SEED,)}
CAUSES: dict[str, dict[str, Any]] = {
    "other-sequences": PUBLISHED | {"batch": 508},
    "twice-the-rate": PUBLISHED | {"lr": 6e-4, "steps": 5000},
    "half-the-length": PUBLISHED | {"length": 128},
    "float32": PUBLISHED | {"precision": "float32", "steps": 5000},
    "other-weights-of-that-law": PUBLISHED | {"seeds": (0, 1)},
    "an-unused-token": {"delimiters": 1, "seeds": (0, 1)},
    "that-law-without-unused-token": PUBLISHED | {"delimiters": 0},
}
"""Changes of the one-layer run of full size. A batch of 508 is the way to other sequences for the same weights."""


def late(arguments: argparse.Namespace) -> None:
    """Train one of `CAUSES` at full size, or show those that a folder holds."""
    if arguments.run:
        changes: dict[str, Any] = {"precision": "bfloat16", "compile": True, "evaluate": 256} | CAUSES[arguments.run]
        task = {"delimiters": changes.pop("delimiters")} if "delimiters" in changes else {}
        looks = [step for step in PAPER_STEPS if step <= changes.get("steps", 10_000)]
        one_layer_run = replace(EXPERIMENTS["one-layer"], task=task)
        record = one_layer_run.run("paper", measured_at=looks, progress=False, **changes).record
        save_result(record, arguments.out / f"{arguments.run}.nc", compressed=True)
    rows = []
    for cause in CAUSES:
        if not (arguments.out / f"{cause}.nc").exists():
            continue
        record = open_result(arguments.out / f"{cause}.nc").isel(layer=0, head=0)
        for step in (3000, 5000, 10_000):
            if step in record["step"].values:
                one = record.sel(step=step)
                names = ("sink_logit", "value_bos", "value_others", "residual_bos", "backcopy")
                rows.append((cause, f"{step:,}", *(", ".join(f"{v:.3g}" for v in one[name].values) for name in names)))
    measures = ("sink logit", "value norm of `<s>`", "of the others", "residual norm of `<s>`", "backcopy")
    table(("one layer, full size", "step", *measures), rows)


# Published numbers


class Verdicts:
    """Rows of the table: the published number of one run, our seeds and a run from the published first weights.

    Both get a verdict of their own. Seeds: a published run is another draw of the first weights, so that it should lie
    in the 95 % prediction interval of one more seed (Student's t, three seeds or more). Outside "differs"; inside
    "agrees" where the interval reaches no further than half of the published number to either side, else "open"; one
    seed gives no verdict. The same weights: "agrees" within 25 %.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []

    def add(self, what: str, step: int, seeds: np.ndarray | None, same: float | None, told: float) -> None:
        mine = np.array([]) if seeds is None else np.atleast_1d(seeds)
        shown = ", ".join(f"{v:.3g}" for v in mine), "" if same is None else f"{same:.3g}"
        again = "" if same is None else "agrees" if abs(same - told) <= 0.25 * abs(told) else "differs"
        self.rows.append((what, f"{step:,}", f"{told:g}", shown[0], over_seeds(mine, told), shown[1], again))

    def show(self) -> None:
        head = (
            "what",
            "step",
            "published",
            "ours, by seed",
            "over seeds",
            "from the published first weights",
            "with these",
        )
        table(head, self.rows)
        for column, words in ((4, ("agrees", "open", "differs", "one seed")), (6, ("agrees", "differs"))):
            counts = {word: sum(row[column] == word for row in self.rows) for word in words}
            print(f"\n{head[column]}: " + ", ".join(f"{n} {word}" for word, n in counts.items()))


def over_seeds(mine: np.ndarray, told: float) -> str:
    """Whether a published run can be one more seed: the rule of `Verdicts`."""
    if mine.size < 3:
        return "one seed" if mine.size else ""
    reach = stats.t.ppf(0.975, mine.size - 1) * mine.std(ddof=1) * np.sqrt(1 + 1 / mine.size)
    if abs(told - mine.mean()) > reach:
        return "differs"
    return "agrees" if reach <= 0.5 * abs(told) else "open"


def full_size(name: str) -> toys.Measured | None:
    """A run of full size, None if it was not made."""
    try:
        return toys.measured(name, "paper")
    except InputError:
        return None


def published_table(arguments: argparse.Namespace) -> None:
    found = Verdicts()
    one_layer(found)
    for name in (key for key in published.RESIDUAL if key != "step"):
        seeds, same = full_size(name), full_size(f"{name}-authors")
        for step, told in zip(published.RESIDUAL["step"], published.RESIDUAL[name], strict=True):
            ours, theirs = (at(run, "residual_bos", int(step)) for run in (seeds, same))
            found.add(f"{name}: residual norm, layer 0", int(step), ours, first(theirs), told)
    for name, told in published.STRUCTURES.items():
        gaps = [
            gap(run.record.isel(step=-1)) if run else None for run in (full_size(name), full_size(f"{name}-authors"))
        ]
        if any(one is not None for one in gaps):
            found.add(f"{name}: peak over the others, layer 0", 10_000, gaps[0], first(gaps[1]), told)
    cuts = [toys.measured(name, "paper").interventions for name in ("two-layer-mlp", "two-layer-mlp-authors")]
    for place, cut in enumerate(("none", "no layer 0")):
        ours, same = (without_layer_0(one.sel(intervention=cut)) for one in cuts)
        for name, value in ours.items():
            what = f"two-layer-mlp, {cut}: {name}"
            found.add(what, 10_000, value, first(same[name]), published.WITHOUT_LAYER_0[name][place])
    cuts = toys.measured("one-layer-long", "paper").interventions
    for cut, losses in published.INTERVENTIONS.items():
        for name, told in zip(("backcopy", "bigram_excess"), losses, strict=True):
            value = cuts.sel(intervention=cut)[name].values
            found.add(f"one layer, {cut}: {name.replace('_', ' ')}", 100_000, value, None, told)
    found.show()


def one_layer(found: Verdicts) -> None:
    """Table D1 of the one-layer run."""
    seeds, long, same = (full_size(name) for name in ("one-layer", "one-layer-long", "one-layer-authors"))
    for name in ("backcopy", "sink", "value_bos", "residual_bos", "sink_logit"):
        for step, told in zip(published.ONE_LAYER["step"], published.ONE_LAYER[name], strict=True):
            ours = at(seeds if step <= 10_000 else long, name, int(step))
            found.add(f"one layer: {name}", int(step), ours, first(at(same, name, int(step))), told)


def at(run: toys.Measured | None, name: str, step: int) -> np.ndarray | None:
    """A measure of layer 0 at one step, by seed."""
    if run is None or step not in run.record["step"].values:
        return None
    values = run.record[name].sel(step=step)
    return values.isel({dim: 0 for dim in ("layer", "head") if dim in values.dims}).values


def gap(record: xr.Dataset) -> np.ndarray:
    return (record["residual_bos"] - record["residual_others"]).isel(layer=0).values


def without_layer_0(one: xr.Dataset) -> dict[str, np.ndarray]:
    """What layer 0 of two makes: the peak after it, sink logit and value norm in layer 1."""
    return {"residual": gap(one), **{v: one[v].isel(layer=1).values.ravel() for v in ("sink_logit", "value_bos")}}


def first(values: np.ndarray | None) -> float | None:
    return None if values is None else float(values[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, work in (
        *(("accept", accept), ("longer", longer), ("rounding", rounding), ("published", published_table)),
    ):
        commands.add_parser(name).set_defaults(work=work)
    causes = commands.add_parser("late")
    causes.set_defaults(work=late)
    causes.add_argument("--run", choices=CAUSES)
    causes.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.work(arguments)


if __name__ == "__main__":
    main()
