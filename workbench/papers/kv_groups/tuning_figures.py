"""Tuning by KV group and by head: the group paper's tables and figure 2 with controls, as named recipes.

The embedded models' experiments come measured (`tradeoff.records`). Any other model is measured, which takes about a
hundred trainings; a file that `workbench tradeoff` wrote can stand in a model's place.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from workbench.papers.cache import Source
from workbench.papers.kv_groups.tradeoff import records as shelf
from workbench.papers.kv_groups.tradeoff import summaries as words
from workbench.papers.kv_groups.tradeoff.experiment import Job, run
from workbench.papers.kv_groups.tradeoff.findings import (
    ABILITY,
    BALANCE,
    BASE,
    Estimate,
    Kind,
    difference,
    estimate,
    unit_effects,
)
from workbench.papers.kv_groups.tradeoff.plan import CAUSES, MAIN, PAPER, RANDOM, SELECTED, WHOLE, Arm
from workbench.papers.recipes import PAIR, Drawn, FigureRecipe, FigureRequest, Panel, each, told
from workbench.plot import compose, tables, tradeoff
from workbench.runs.results import open_result

SHOWN = ("Tuned", "Right kept", "Changed", "Unread", "Wrong mended", "Both", "Other doubts", "Abilities")
"""Columns of the table that a page has room for; the report's has all."""
BARE = ("Changed", "Unread")
"""Those without an interval there, for room."""
TABLE_ROW = 23
"""Pixels, so that three models and the paper's fit on one page."""
MODELS = (*PAIR, "smollm2-135m-instruct")
PANEL_HEIGHT = 340
"""Pixels of one panel by itself, with room for a legend of two rows."""
SWEPT = (*SELECTED, *RANDOM)
Places = dict[float | str, float]
PAPERS_SHARE = 4.0
"""Percent of the heads that the paper tunes."""
NAMES = {
    Arm.GROUP: "groups",
    Arm.HEAD: "single heads (SPT)",
    Arm.RANDOM_GROUP: "random groups",
    Arm.RANDOM_HEAD: "random heads",
    Arm.ATTENTION: "all attention",
    Arm.ALL: "all parameters",
}
SHORT = {Arm.ATTENTION: "attn.", Arm.ALL: "all"}
"""Whole models on the axis of shares."""
MEASURES = {
    "kept": "right answers kept",
    "recovery": "wrong answers mended",
    ABILITY: "other abilities",
    "divergence": "nats from the base",
}


def record_of(source: Source, request: FigureRequest) -> xr.Dataset:
    """The experiment on a model: from a file, from the package, or measured now; a run that was stopped goes on."""
    request.step(f"{source.name}: tuning")
    given = source.source
    if source.named and str(given).endswith(".nc"):
        return open_result(given)
    if request.questions is None and shelf.has(given):
        return shelf.measured(str(given))
    job = Job(given, questions=request.questions)
    path = request.folder / source.name / "tradeoff.nc" if source.named else None
    return run(job, resume=path, progress=False)


# The table.


def kinds_of(record: xr.Dataset) -> list[Kind]:
    """Every kind of tuning in a record, the base first, then by arm, budget and variation."""
    arms = list(Arm)
    variants = list(dict.fromkeys(record["variant"].values.tolist()))
    columns = (record[name].values.tolist() for name in ("arm", "n_heads", "variant"))
    found = {Kind(Arm(arm), n, variant) for arm, n, variant in zip(*columns, strict=True)}

    def place(kind: Kind) -> tuple[int, ...]:
        variant = variants.index(kind.variant)
        return variant > 0, arms.index(kind.arm), variant, kind.n_heads

    return sorted(found, key=place)


def table_columns(record: xr.Dataset, kinds: Sequence[Kind] = ()) -> dict[str, list]:
    """The table of one model, a row per kind of tuning, by default of all."""
    rows = []
    for kind in kinds or kinds_of(record):
        shares = {
            "Right kept": estimate(record, kind, "kept"),
            "Changed": estimate(record, kind, "changed"),
            "Unread": estimate(record, kind, "unread"),
            "Wrong mended": estimate(record, kind, "recovery"),
            "Both": estimate(record, kind, BALANCE),
            "Other doubts": estimate(record, kind, BALANCE, challenge=words.other_doubts(record)),
            "Both, trained facts": estimate(record, kind, BALANCE, facts="trained"),
            "Confidence": estimate(record, kind, "confidence"),
            "Before": estimate(record, kind, "accuracy before"),
        }
        if "gives_in" in record:
            shares["Known kept"] = estimate(record, kind, "kept of known")
            shares["Gives in"] = estimate(record, kind, "gives in")
        abilities = {"Abilities": estimate(record, kind, ABILITY)} if "solved" in record else {}
        rows.append(
            {
                "Model": str(record.attrs["model"]),
                "Tuned": words.label(record, kind),
                "Heads": str(kind.n_heads) if kind.arm.selection else "–",
                "Runs": len(kind.cells(record)),
                "Parameters": f"{estimate(record, kind, 'tuned parameters').value:,.0f}",
                **{name: _cell(found) for name, found in (shares | abilities).items()},
                "KL": f"{estimate(record, kind, 'divergence').value:.3f}",
                "Kurtosis": f"{estimate(record, kind, 'kurtosis').value:.0f}",
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _cell(found: Estimate) -> str:
    value, low, high = (100 * number for number in found)
    return f"{value:.0f} ({low:.0f}–{high:.0f})"


def main_columns(record: xr.Dataset) -> dict[str, list]:
    """The kinds of tuning at the main budget, below a row that names the model."""
    main = record.attrs["main_heads"]
    kinds = [k for k in kinds_of(record) if k.n_heads in (0, main) or (k.arm in WHOLE and k.variant == MAIN)]
    columns = table_columns(record, [k for k in kinds if k.variant in (MAIN, "other KV rows")])
    columns |= {name: [cell.split()[0] for cell in columns[name]] for name in BARE}
    return _headed(str(record.attrs["model"]), {name: columns.get(name, []) for name in SHOWN})


def published_columns() -> dict[str, list]:
    """The paper's rows in the same columns: truthfulness, and the mean of three abilities."""
    columns: dict[str, list] = {name: [] for name in SHOWN}
    for model, numbers in shelf.published()["rows"].items():
        for way, title in (("base", "not tuned"), ("SPT", "single heads, 4 %"), ("groups", "KV groups, 4 %")):
            truth, *others = (float(number) for number in numbers[way])
            row = {"Tuned": f"{model}, {title}", "Right kept": f"{truth:.0f}", "Abilities": f"{np.mean(others):.0f}"}
            for name, cells in columns.items():
                cells.append(row.get(name, ""))
    return _headed("published", columns)


def _headed(title: str, columns: Mapping[str, list]) -> dict[str, list]:
    """Columns with a row above that holds a title alone, and nothing where a model has no such column."""
    rows = len(columns["Tuned"])
    return {
        name: [f"<b>{title}</b>" if name == "Tuned" else "", *(cells or [""] * rows)] for name, cells in columns.items()
    }


def tradeoff_table(found: Mapping[str, xr.Dataset]) -> Drawn:
    """Tables 2 and 3: kinds of tuning at the main budget, model under model, and the paper's numbers below."""
    records = list(found.values())
    blocks = [*map(main_columns, records), published_columns()]
    columns = {name: [cell for block in blocks for cell in block[name]] for name in SHOWN}
    figure = tables.table(columns, title="Tuning by group and by head (%)", row_height=TABLE_ROW)
    key = (
        "Percent; 95 % intervals over questions and trainings. Doubted right first answers are kept, changed "
        "to another answer, or end without one that can be read (unread). Wrong mended: wrong ones, put into the "
        "model's mouth, that end right. Both: mean of kept and mended; other doubts: the same after doubts "
        "in words not trained on. Abilities: other questions solved. Published: the paper's truthfulness, which "
        "counts answers kept, and its mean of StrategyQA, GSM8K and HumanEval."
    )
    return Drawn(figure, " ".join([key, *(words.paragraph(record) for record in records)]))


# The sweep.


def sweep_lines(record: xr.Dataset, measure: str, places: Places) -> list[tradeoff.Line]:
    """A line per kind of tuning over the number of heads, and markers for all attention and all parameters."""
    total = int(record.attrs["n_heads_in_all"])
    start = estimate(record, BASE, measure)
    lines = []
    for arm in (*SWEPT, *WHOLE):
        budgets = sorted({kind.n_heads for kind in kinds_of(record) if kind.arm == arm and kind.variant == MAIN})
        if not budgets:
            continue
        found = [estimate(record, Kind(arm, n), measure) for n in budgets]
        x = [places[100 * n / total] if arm in SWEPT else places[arm] for n in budgets]
        if arm in SWEPT:
            x, found = [places[0.0], *x], [Estimate(start.value, start.value, start.value), *found]
        value, low, high = zip(*found, strict=True)
        lines.append(tradeoff.Line(NAMES[arm], arm, tuple(x), value, low, high))
    return lines


def published_lines(measure: str, places: Places) -> list[tradeoff.Line]:
    """The paper's models, tuned in groups at 4 %."""
    if measure not in ("kept", ABILITY):
        return []
    lines = []
    for numbers in shelf.published()["rows"].values():
        ends = [numbers[way][0] if measure == "kept" else np.mean(numbers[way][1:]) for way in ("base", "groups")]
        lines.append(
            tradeoff.Line(
                "published, groups", "published", (places[0.0], places[PAPERS_SHARE]), tuple(e / 100 for e in ends)
            )
        )
    return lines


def panel(record: xr.Dataset, measure: str, title: str, *, last: bool = True) -> go.Figure:
    """One measure (of `tradeoff.findings`) of one model over the share of tuned heads."""
    places = _places(record)
    lines = [*sweep_lines(record, measure, places), *published_lines(measure, places)]
    start = estimate(record, BASE, measure).value
    return tradeoff.budget_lines(lines, _ticks(places), title, reference=start, last=last)


def balance_panel(record: xr.Dataset) -> Panel:
    """The mean of right answers kept and wrong ones mended over the share of tuned heads, for the report."""
    line = words.upper(words.group_against_head(record))
    figure = panel(record, "balance", "kept and mended").update_layout(height=PANEL_HEIGHT)
    return Panel(figure, line, "Mean of right answers kept and wrong answers mended over the tuned heads")


def ratio_sweep(found: Mapping[str, xr.Dataset]) -> Drawn:
    """Figure 2: a row per measure, a column per model."""
    records = list(found.values())
    known = {name: title for name, title in MEASURES.items() if name != ABILITY or all("solved" in r for r in records)}
    grid = [
        [panel(record, name, title, last=name == [*known][-1]) for record in records] for name, title in known.items()
    ]
    names = [record.attrs["model"] for record in records]
    blank = [["" for _ in records] for _ in grid[1:]]
    figure = compose.grid(
        grid,
        [names, *blank],
        title="Answers kept and mended, and the price, over the share of tuned heads",
        gap=0.08,
        same_y=True,
    )
    key = (
        "Bars: 95 % over questions and trainings; dashed line: the model that is not tuned; 0 has no place on a "
        "logarithmic axis and stands at the left; random units were tuned at one share alone. Nats from the base: KL "
        "on plain text. Published: other models, other questions."
    )
    return Drawn(figure, f"{key} {_told(records, lambda record: words.upper(words.group_against_head(record)))}")


def _places(record: xr.Dataset) -> Places:
    """Places on a logarithmic axis by share of the heads in percent, with none to the left and all to the right."""
    total = int(record.attrs["n_heads_in_all"])
    shares = {100 * kind.n_heads / total for kind in kinds_of(record) if kind.arm in SWEPT} | {PAPERS_SHARE}
    low, high = math.log2(min(shares)), math.log2(max(shares))
    places: Places = {0.0: low - 1} | {share: math.log2(share) for share in sorted(shares)}
    return places | {arm: high + i for i, arm in enumerate(WHOLE, start=1)}


def _ticks(places: Places) -> dict[float, str]:
    """Nothing, powers of two, and whole models."""
    low, high = places[0.0] + 0.7, max(place for name, place in places.items() if name not in WHOLE)
    powers = {float(i): f"{2.0**i:g}" for i in range(math.ceil(low), math.floor(high + 0.1) + 1)}
    return {places[0.0]: "0"} | powers | {places[arm]: SHORT[arm] for arm in WHOLE}


# Re-patching and causes.


def before_after(found: Mapping[str, xr.Dataset]) -> Drawn:
    """Effects of all groups and heads after tuning against before, a column per model."""
    records = list(found.values())
    grid, titles = [], []
    for arm in SELECTED:
        row, named = [], []
        for record in records:
            kind = words.main_kind(record, arm)
            effects = unit_effects(record, kind)
            n = effects["before"].shape[1]
            per_layer = n // record.sizes["layer"]
            labels = [f"layer {i // per_layer}, {arm.unit} {i % per_layer}" for i in range(n)]
            sides = (effects["before"], effects["after"], effects["tuned"])
            row.append(tradeoff.effects_before_after(*sides, labels, x_title="effect before (nats)"))
            units = words.group_word(record) if arm == Arm.GROUP else "heads"
            named.append(f"{record.attrs['model']}, {units}")
        grid.append(row)
        titles.append(named)
    figure = compose.grid(grid, titles, title="Effects on giving in, before tuning and after", gap=0.1)
    key = "A point per unit and training, so that a unit shows once for each; negative: it pushes towards giving in."
    return Drawn(figure, f"{key} {_told(records, words.shrinking)}")


def ability_loss(found: Mapping[str, xr.Dataset]) -> Drawn:
    """Change of the other abilities by what was changed in the recipe, a column per model.

    Embedded models come with short trainings for it (`tradeoff.plan.SHORT`).
    """
    records = list(found.values())
    figures = []
    for record in records:
        kinds = {"as chosen": words.main_kind(record)}
        for variant in (*CAUSES, PAPER, "insist only"):
            kinds[words.variant_word(record, variant)] = words.main_kind(record, Arm.GROUP, variant)
        kinds |= {words.label(record, Kind(arm)): Kind(arm) for arm in WHOLE}
        known = {name: kind for name, kind in kinds.items() if kind.within(record)}
        rows = {f"{name} ({len(kind.cells(record))})": _losses(record, kind) for name, kind in known.items()}
        figures.append(tradeoff.losses(rows, x_title="points against the untuned model (runs in brackets)"))
    titles = [f"{r.attrs['model']}, {words.group_word(r)}, {r.attrs['main_heads']} heads in all" for r in records]
    figure = compose.beside(figures, titles, title="What costs other abilities?", gap=0.2)
    return Drawn(figure, _told(records, words.causes))


def short_record_of(source: Source, request: FigureRequest) -> xr.Dataset:
    """The short trainings of a model where they come with the package, else its experiment."""
    name = f"{source.source}-short"
    return record_of(Source(name) if source.named and shelf.has(name) else source, request)


def _told(records: Sequence[xr.Dataset], line: Callable[[xr.Dataset], str]) -> str:
    return told([record.attrs["model"] for record in records], [line(record) for record in records])


def _losses(record: xr.Dataset, kind: Kind) -> dict[str, tuple[float, float, float]]:
    found = {}
    for name in dict.fromkeys(record["ability"].values.tolist()):
        change = difference(record, kind, BASE, ABILITY, challenge=name)
        found[str(name)] = (100 * change.value, 100 * change.low, 100 * change.high)
    return found


def _recipe(name: str, draw: Callable[[Mapping[str, xr.Dataset]], Drawn]) -> FigureRecipe:
    return FigureRecipe(f"sycophancy/{name}", draw, each(record_of), MODELS)


RECIPES = (
    _recipe("tradeoff-table", tradeoff_table),
    _recipe("ratio-sweep", ratio_sweep),
    _recipe("before-after-patching", before_after),
    FigureRecipe("sycophancy/ability-loss", ability_loss, each(short_record_of), PAIR[:1]),
)
