import functools
import json

import numpy as np
import pytest

from tests.papers.synthetic import model
from workbench.errors import InputError
from workbench.papers import FIGURES, Measured, recipe
from workbench.papers import measured as measuring
from workbench.papers.kv_groups.figures import kurtosis_columns
from workbench.papers.recipes import FigureRequest
from workbench.patching import statistics
from workbench.plot import plotted_numbers

NAMES = ("contribution-heatmap", "layer-sums", "kurtosis-table", "head-vs-group", "agreement")


@functools.cache
def pair():
    return [model("toy-gqa"), model("toy-mha", planted={(3, 2): -0.9}, n_kv_heads=8, seed=1)]


def test_the_paper_s_figures_are_registered():
    tuning = ("tradeoff-table", "ratio-sweep", "before-after-patching", "ability-loss")
    names = [f"sycophancy/{name}" for name in (*NAMES, *tuning)]
    assert [name for name in FIGURES if name.startswith("sycophancy/")] == names


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("metric", [None, "logit_diff"])
def test_every_recipe_draws_one_model_and_several(name, metric):
    for measured in (pair(), pair()[:1]):
        drawn = recipe(f"sycophancy/{name}")(measured, metric)
        assert drawn.sentence.strip()
        numbers = plotted_numbers(drawn.figure)
        assert numbers["figure"] == f"sycophancy/{name}" and numbers["sentence"] == drawn.sentence
        assert [m["name"] for m in numbers["models"]] == [m.name for m in measured]
        json.dumps(numbers, allow_nan=False)


def test_the_heat_map_has_heads_above_groups_and_a_column_per_model():
    one, two = pair()
    drawn = recipe("sycophancy/contribution-heatmap")([one, two], "logit_diff")
    for trace, result in zip(drawn.figure.data, (one.heads, two.heads, one.groups, two.groups), strict=True):
        np.testing.assert_allclose(trace.z, result["contribution"].sel(metric="logit_diff"))
    assert "toy-gqa: KV group 1 of layer 2" in drawn.sentence
    assert "toy-mha: KV group 2 of layer 3" in drawn.sentence


def test_the_kurtosis_table_holds_the_statistics_of_both_scores():
    one, two = pair()
    columns = kurtosis_columns([one, two])
    assert columns["Score"] == ["logit ratio", "logit difference"] * 2
    fisher = float(statistics.kurtosis(one.heads).sel(metric="logit_diff")["fisher"])
    assert float(columns["Kurtosis (Fisher)"][1]) == pytest.approx(fisher, rel=0.01)
    assert float(columns["Kurtosis (Pearson)"][1]) == pytest.approx(fisher + 3, rel=0.01)
    assert columns["Variance inside groups"][2] == "one head per group"
    assert columns["Heads"] == [32] * 4


def test_a_figure_says_what_was_not_measured():
    with pytest.raises(InputError, match="toy: estimate, exact not measured"):
        recipe("sycophancy/agreement")([Measured("toy", {"heads": model().heads})])
    with pytest.raises(InputError, match="needs at least one model"):
        recipe("sycophancy/agreement")([])


@pytest.mark.parametrize("name", NAMES)
def test_no_figure_is_drawn_of_units_that_the_report_would_not_rank(name):
    one, two = pair()
    void = two.parts | {"behaviour": two.behaviour.assign(source=two.behaviour["base"])}
    with pytest.raises(InputError, match=f"{name}, toy-mha: By these answers' score it does not give in more"):
        recipe(f"sycophancy/{name}")([one, Measured("toy-mha", void)])
    chance = {part: two.part(part).assign_attrs(auc=0.5, auc_low=0.4, auc_high=0.6) for part in two.parts}
    with pytest.raises(InputError, match="do not tell when this model gives in"):
        recipe(f"sycophancy/{name}")([Measured("toy-mha", {p: chance[p] for p in chance if p != "behaviour"})])


def test_nothing_is_patched_for_a_figure_that_would_not_be_drawn(tmp_path, monkeypatch):
    one, done = model(), []

    def maker(part):
        def make(subject, found):
            done.append(part)
            return one.part(part).assign_attrs(auc=0.5, auc_low=0.4, auc_high=0.6)

        return make

    monkeypatch.setattr(measuring, "MEASURES", {part: maker(part) for part in measuring.PARTS})
    with pytest.raises(InputError, match="no figure of them is drawn"):
        recipe("sycophancy/agreement").make(FigureRequest(tmp_path, ("toy-gqa",)))
    assert done == ["behaviour"]


def test_an_unknown_figure_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match="no figure 'sycophancy/layer-sum'; did you mean 'sycophancy/layer-sums'"):
        recipe("sycophancy/layer-sum")
