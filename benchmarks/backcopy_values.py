"""The toy models' values: acceptance bounds, what became of the seeds that miss them, and the published numbers.

    python benchmarks/backcopy_values.py accept       # acceptance values, three seeds each
    python benchmarks/backcopy_values.py longer       # what one seed of three misses: eight seeds, three times as long
    python benchmarks/backcopy_values.py published    # full-size runs beside the published numbers

All read the measured runs that come with the package; `python -m workbench.bigram_backcopy.shelf` makes them anew.
"""

import argparse

import numpy as np
from common import print_table as table

from workbench import bigram_backcopy as toys
from workbench.bigram_backcopy import published
from workbench.bigram_backcopy.records import copying_layer

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


# Published numbers


def verdict(ours: np.ndarray, told: float) -> str:
    """Within 25 % of the published number: the mean of the seeds, or their range around it."""
    ours = np.atleast_1d(ours)
    near = abs(ours.mean() - told) <= 0.25 * abs(told)
    return "agrees" if near else "within seeds" if ours.min() <= told <= ours.max() else "differs"


def compare(what: str, step: int, ours: np.ndarray, told: float) -> list[str]:
    shown = ", ".join(f"{v:.3g}" for v in np.atleast_1d(ours))
    return [what, f"{step:,}", shown, f"{told:g}", verdict(ours, told)]


def published_table(arguments: argparse.Namespace) -> None:
    record = toys.measured("one-layer", "paper").record
    long = toys.measured("one-layer-long", "paper").record
    rows = []
    for name in ("backcopy", "sink", "value_bos", "residual_bos", "sink_logit"):
        for step, told in zip(published.ONE_LAYER["step"], published.ONE_LAYER[name], strict=True):
            source = record if step <= 10_000 else long
            if step in source["step"].values:
                rows.append(compare(f"one layer: {name}", int(step), source[name].sel(step=step).values.ravel(), told))
    for name, values in published.RESIDUAL.items():
        if name == "step":
            continue
        source = toys.measured(name, "paper").record["residual_bos"].isel(layer=0)
        for step, told in zip(published.RESIDUAL["step"], values, strict=True):
            rows.append(compare(f"{name}: residual norm, layer 0", int(step), source.sel(step=step).values, told))
    for name, told in published.STRUCTURES.items():
        if name == "two-layer":
            continue
        last = toys.measured(name, "paper").record.isel(step=-1, layer=0)
        gap = (last["residual_bos"] - last["residual_others"]).values
        rows.append(compare(f"{name}: peak over the others, layer 0", 10_000, gap, told))
    cuts = toys.measured("two-layer-mlp", "paper").interventions
    for place, cut in enumerate(("none", "no layer 0")):
        one = cuts.sel(intervention=cut)
        ours = {
            "residual": (one["residual_bos"] - one["residual_others"]).isel(layer=0).values,
            "sink_logit": one["sink_logit"].isel(layer=1).values.ravel(),
            "value_bos": one["value_bos"].isel(layer=1).values.ravel(),
        }
        for name, value in ours.items():
            what = f"two-layer-mlp, {cut}: {name}"
            rows.append(compare(what, 10_000, value, published.WITHOUT_LAYER_0[name][place]))
    cuts = toys.measured("one-layer-long", "paper").interventions
    for cut, (backcopy, bigram) in published.INTERVENTIONS.items():
        one = cuts.sel(intervention=cut)
        rows.append(compare(f"one layer, {cut}: backcopy", 100_000, one["backcopy"].values, backcopy))
        rows.append(compare(f"one layer, {cut}: bigram excess", 100_000, one["bigram_excess"].values, bigram))
    table(["what", "step", "ours (one number per seed)", "published", "verdict"], rows)
    counts = {word: sum(row[-1] == word for row in rows) for word in ("agrees", "within seeds", "differs")}
    print("\n" + ", ".join(f"{word}: {n}" for word, n in counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, work in (("accept", accept), ("longer", longer), ("published", published_table)):
        commands.add_parser(name).set_defaults(work=work)
    arguments = parser.parse_args()
    arguments.work(arguments)


if __name__ == "__main__":
    main()
