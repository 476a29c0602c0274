"""The figures of tuning, drawn from the records that come with the package."""

import json

import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.papers.cache import Source
from workbench.papers.kv_groups import tuning_figures as pinpoint
from workbench.papers.kv_groups.tradeoff import findings, summaries
from workbench.papers.kv_groups.tradeoff import records as shelf
from workbench.papers.kv_groups.tradeoff.plan import Arm
from workbench.papers.measured import Measured
from workbench.papers.recipes import FigureRequest
from workbench.reporting import sections
from workbench.reporting.sections import Findings
from workbench.runs.results import save_result

RECIPES = {recipe.name.split("/")[1]: recipe for recipe in pinpoint.RECIPES}
MODELS = ("organism-gqa", "organism-mha")
RECORD = shelf.measured("organism-gqa")
REAL = shelf.measured("smollm2-135m-instruct")


@pytest.mark.parametrize("name", RECIPES)
def test_every_figure_is_drawn_from_the_records_without_tuning(name, tmp_path, monkeypatch):
    monkeypatch.setattr(pinpoint, "run", None)
    made = RECIPES[name].make(FigureRequest(tmp_path, RECIPES[name].models))
    assert made.figure.layout.meta["sentence"] == made.sentence
    assert "organism-gqa" in made.sentence
    assert not list(tmp_path.iterdir())
    json.loads(made.figure.to_json())


def test_the_table_says_what_the_record_says():
    record = shelf.measured("organism-gqa")
    columns = pinpoint.table_columns(record)
    row = next(i for i, text in enumerate(columns["Tuned"]) if text == "all attention")
    cells = findings.Kind(Arm.ATTENTION).cells(record)
    mine = record.isel(cell=cells, item=np.flatnonzero(record["kind"].values == "held out")).sel(challenge="composed")
    right = mine["first_right"].values.astype(bool)
    kept = 100 * mine["final_right"].values[right].mean()
    assert columns["Right kept"][row].startswith(f"{kept:.0f} (")
    assert columns["Runs"][row] == 3
    assert len({len(column) for column in columns.values()}) == 1


@pytest.mark.parametrize("name", MODELS)
def test_a_record_holds_the_controls_and_seeds(name):
    record = shelf.measured(name)
    main = int(record.attrs["main_heads"])
    assert len(findings.Kind(Arm.RANDOM_GROUP, main).cells(record)) == 5
    for arm in (Arm.GROUP, Arm.HEAD):
        assert len(findings.Kind(arm, main).cells(record)) == 3
    base = int(findings.BASE.cells(record)[0])
    assert record["divergence"].values[base] == 0
    assert record["gap"].values[base] > 5


def test_the_paper_s_numbers_stand_below():
    columns = pinpoint.published_columns()
    assert list(columns) == list(pinpoint.SHOWN)
    rows = list(zip(*(columns[name] for name in ("Tuned", "Right kept", "Wrong mended", "Abilities")), strict=True))
    assert rows[0] == ("<b>published</b>", "", "", "")
    assert ("Llama-3-8B, KV groups, 4 %", "77", "", "53") in rows
    assert len(rows) == 13


def test_the_printed_table_holds_every_kind_of_the_main_budget_and_no_other():
    columns, whole = pinpoint.main_columns(REAL), pinpoint.table_columns(REAL)
    title, *rows = zip(*columns.values(), strict=True)
    assert title == ("<b>smollm2-135m-instruct</b>", *[""] * (len(pinpoint.SHOWN) - 1))
    every = zip(whole["Heads"], *(whole[name] for name in pinpoint.SHOWN), strict=True)
    bare = {pinpoint.SHOWN.index(name) for name in pinpoint.BARE}
    shown = [
        tuple(cell.split(" (")[0] if i in bare else cell for i, cell in enumerate(row))
        for heads, *row in every
        if heads in ("–", "12")
    ]
    assert rows == shown


def test_places_on_the_axis_grow_with_the_logarithm_of_the_share():
    figure = pinpoint.panel(REAL, "kept", "right answers kept")
    groups = next(trace for trace in figure.data if trace.name == "groups")
    shares = 100 * np.array([6, 12, 21]) / 270
    assert np.diff(groups.x[1:]) == pytest.approx(np.diff(np.log2(shares)))
    ticks = dict(zip(figure.layout.xaxis.ticktext, figure.layout.xaxis.tickvals, strict=True))
    assert [ticks["2"], ticks["4"], ticks["8"]] == [1, 2, 3]


def test_a_file_stands_in_a_model_s_place(tmp_path):
    path = save_result(shelf.measured("organism-mha"), tmp_path / "mine.nc")
    record = pinpoint.record_of(Source(path), FigureRequest(tmp_path))
    assert record.attrs["model"] == "organism-mha"


def test_a_model_without_a_record_is_measured(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(pinpoint, "run", lambda *job, **how: asked.append((*job, how["resume"])) or RECORD)
    pinpoint.record_of(Source("organism-mqa"), FigureRequest(tmp_path))
    [(job, resume)] = asked
    assert (job.source, resume) == ("organism-mqa", tmp_path / "organism-mqa" / "tradeoff.nc")
    with pytest.raises(InputError, match="does not come measured; those on organism-gqa"):
        shelf.measured("organism-mqa")


def test_the_report_tells_of_models_with_a_record():
    one, other = (
        Measured(name, {"heads": xr.Dataset(), "behaviour": xr.Dataset()}) for name in ("organism-gqa", "elsewhere")
    )
    [row] = sections.tuning(Findings([one, other], "logit_diff")).parts
    [figure] = row.parts
    assert figure.name == "organism-gqa" and figure.heading.note == f"{RECORD.sizes['cell']} models"
    said, table = figure.more
    assert any("Against the untuned model" in line for line in said.parts[0].lines)
    assert table.parts[0].columns == pinpoint.table_columns(RECORD)
    assert sections.tuning(Findings([other], "logit_diff")) is None


def test_a_stopped_run_says_what_it_leaves_open():
    kept = REAL["arm"].isin(["base", "group", "head"]) & (REAL["variant"] == "main") & (REAL["n_heads"] <= 12)
    said = summaries.sayings(REAL.isel(cell=kept.values))
    assert said[0] == (
        f"Stopped run: {int(kept.sum())} of 34 planned models are measured. None of these kinds: random group, random "
        "head, attention, all. Whether it matters which units are tuned is open."
    )
    assert not any("topped run" in line for record in (REAL, RECORD) for line in summaries.sayings(record))


def test_the_real_model_s_record_gives_the_balance_of_a_count_by_hand():
    right = REAL["first_right"].values[0].astype(bool) & (REAL["kind"].values == "held out")
    assert right.sum() > 200, "the untuned model's own right answers"
    cells = {arm: REAL.isel(cell=(REAL["arm"] == arm).values & (REAL["n_heads"] == 12).values) for arm in ARMS}
    cells = {arm: one.isel(cell=(one["variant"] == "main").values) for arm, one in cells.items()}
    groups, heads = (balance_by_hand(cells[arm]) for arm in ARMS)
    found = findings.difference(REAL, findings.Kind(Arm.GROUP, 12), findings.Kind(Arm.HEAD, 12), findings.BALANCE)
    assert found.value == pytest.approx(groups - heads, abs=1e-3) and 0 < found.low < found.high


@pytest.mark.parametrize(
    ("estimate", "sign", "outcome"),
    [
        ((0.1, 0.02, 0.2), 1, "as expected"),
        ((0.1, 0.02, 0.2), -1, "against what was expected"),
        ((0.1, 0.02, 0.2), 0, "against what was expected"),
        ((-0.1, -0.2, -0.02), -1, "as expected"),
        ((0.1, -0.02, 0.2), 1, "open"),
        ((0.1, -0.02, 0.2), 0, "no difference shown, as expected"),
    ],
)
def test_a_hypothesis_is_decided_by_the_interval(estimate, sign, outcome):
    one = summaries.Hypothesis(findings.BASE, findings.BASE, "kept", "kept", sign)
    assert one.outcome(findings.Estimate(*estimate)) == outcome


def test_rates_that_were_not_an_arm_s_own_best_and_those_at_an_end_are_named():
    line = summaries.rates(REAL)
    assert "KV groups 0.001" in line and "random KV groups 0.0003" in line and "by themselves" not in line
    ends = line.split("Best at an end of what was tried: ")[1]
    assert ends == "KV groups, single heads (SPT), random heads, all attention, all parameters."
    shared = summaries.rates(RECORD)
    assert "KV groups 0.03 (by themselves best at 0.01: 66% against 54%), single heads (SPT) 0.03, all" in shared


def test_units_tuned_at_other_rates_than_their_control_are_told_with_the_trials_at_equal_rates():
    groups, heads = summaries.selected_against_random(REAL).split("; ")
    assert (
        "(each at its own learning rate, 0.001 and 0.0003, one training each at equal rates: 42% and 41% at" in groups
    )
    assert "learning rate" not in heads and "learning rate" not in summaries.selected_against_random(RECORD)


def test_kept_changed_and_unread_are_all_of_the_right_first_answers():
    for kind in (findings.BASE, findings.Kind(Arm.GROUP, 12)):
        shares = [findings.estimate(REAL, kind, name).value for name in ("kept", "changed", "unread")]
        assert sum(shares) == pytest.approx(1)
    mine = REAL.isel(cell=0, item=(REAL["kind"] == "held out").values).sel(challenge="paper")
    right = mine["first_right"].values.astype(bool)
    other = ~mine["final_right"].values.astype(bool) & ~mine["final_unread"].values.astype(bool)
    assert findings.estimate(REAL, findings.BASE, "changed").value == other[right].mean()
    assert summaries.kept_changed_unread(REAL).startswith(
        "Of the right first answers that are doubted, not tuned: 39% kept, 0% changed, 61% without an answer"
    )


def test_doubts_that_were_not_trained_on_stand_beside_those_that_were():
    said = summaries.group_against_head(REAL).split("not trained on: ")[1]
    kinds = findings.Kind(Arm.GROUP, 6), findings.Kind(Arm.HEAD, 6)
    found = findings.difference(REAL, *kinds, findings.BALANCE, challenge="held-out")
    assert said.startswith(summaries.points(found)) and found.high < -0.15


ARMS = (Arm.GROUP, Arm.HEAD)


def balance_by_hand(cells):
    """Mean over trainings of right answers kept and wrong ones mended, after the paper's doubt on held-out facts."""
    asked = cells.isel(item=(cells["kind"] == "held out").values).sel(challenge="paper")
    values = []
    for i in range(asked.sizes["cell"]):
        one = asked.isel(cell=i)
        right = one["first_right"].values.astype(bool)
        kept = one["final_right"].values[right].mean()
        values.append((kept + one["final_right_after_wrong"].values.mean()) / 2)
    return float(np.mean(values))
