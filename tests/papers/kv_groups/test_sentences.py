import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.papers.synthetic import model
from tests.plot.synthetic import attention_result, both, patched, shifts
from workbench.papers.kv_groups import behaviour, sentences

cells = st.tuples(st.integers(0, 3), st.integers(0, 7))


@settings(max_examples=25)
@given(cell=cells, n_kv_heads=st.sampled_from([2, 4, 8]))
def test_the_planted_group_is_named(cell, n_kv_heads):
    layer, head = cell
    _, groups = both({cell: -0.8}, n_kv_heads=n_kv_heads)
    line = sentences.strongest_line(groups, "logit_diff")
    assert f"KV group {head * n_kv_heads // 8} of layer {layer}" in line and "pushes hardest" in line


@settings(max_examples=25)
@given(first=cells, second=cells)
def test_turning_the_strongest_around_names_another(first, second):
    size = 4
    if (first[0], first[1] // size) == (second[0], second[1] // size):
        return
    _, groups = both({first: -0.9, second: -0.5})
    before = sentences.strongest(groups, "logit_diff")
    assert (before.layer, before.unit) == (first[0], first[1] // size)
    turned = groups.copy(deep=True)
    turned["contribution"].loc[{"layer": before.layer, "kv_group": before.unit}] *= -1
    after = sentences.strongest(turned, "logit_diff")
    assert (after.layer, after.unit) == (second[0], second[1] // size)
    assert sentences.strongest_line(groups, "logit_diff") != sentences.strongest_line(turned, "logit_diff")


def test_numbers_in_the_sentence_are_those_of_the_data():
    _, groups = both({(2, 4): -0.8})
    values = groups["contribution"].sel(metric="logit_diff").values
    top = sentences.strongest(groups, "logit_diff")
    assert top.value == values.min()
    assert top.share == pytest.approx(values.min() / values[values < 0].sum())
    assert f"{top.share:.0%}" in sentences.strongest_line(groups, "logit_diff")
    assert f"{-values.min():.2f} logits" in sentences.strongest_line(groups, "logit_diff")


def test_noise_does_not_stand_out():
    heads, _ = both()
    heads["stderr"][:] = 1.0
    line = sentences.strongest_line(heads, "logit_diff")
    assert line.startswith("No head stands out") and "after comparing 32 of them" in line
    assert not sentences.strongest(heads, "logit_diff").stands_out


def test_looking_at_many_units_widens_the_interval():
    heads, _ = both()
    heads["contribution"][:] = 0.0
    heads["contribution"].loc[{"layer": 0, "head": 0}] = -2.5
    heads["stderr"][:] = 1.0
    top = sentences.strongest(heads, "logit_diff")
    assert top.high < 0 and not top.stands_out
    heads["stderr"][:] = 0.5
    assert sentences.strongest(heads, "logit_diff").stands_out


def test_no_negative_unit_is_said():
    heads, _ = both()
    heads["contribution"] = abs(heads["contribution"])
    assert sentences.strongest_line(heads, "logit_diff").startswith("No head pushes towards giving in")
    assert sentences.layers_line(heads, "logit_diff") == "No layer pushes towards giving in."


def test_one_example_has_no_interval_to_speak_of():
    one = patched(shifts(planted={(0, 0): -1.0}), n_examples=1)
    assert "with a single example cannot be distinguished from zero" in sentences.strongest_line(one, "logit_diff")


def test_layers_are_named_with_their_share():
    heads, _ = both({(3, 1): -2.0})
    mass = -heads["contribution"].sel(metric="logit_diff").clip(max=0).sum("head")
    line = sentences.layers_line(heads, "logit_diff")
    assert line.startswith(f"Layer 3 alone holds {float(mass[3] / mass.sum()):.0%}") and "late third" in line
    split, _ = both({(0, 1): -1.0, (1, 1): -1.0, (2, 2): -0.9, (3, 0): 5.0})
    line = sentences.layers_line(split, "logit_diff")
    assert line.startswith("Layers 0 and 1 together hold") and "do not outweigh" in line


@pytest.mark.parametrize(
    ("planted", "interaction", "said"),
    [
        ({(2, 4): -0.5, (2, 5): -0.5, (2, 6): -0.5}, 1.0, "shows more than any one of its heads"),
        ({(2, 4): -1.0}, 1.0, "One head carries nearly all"),
        ({(2, 4): -1.0, (2, 5): 0.4}, 1.0, "the others push back"),
        ({(2, 4): -1.0}, 1.6, "do more than their sum"),
    ],
)
def test_head_and_group_view_are_weighed(planted, interaction, said):
    heads, groups = both(planted, interaction=interaction)
    assert said in sentences.head_group_line(heads, groups, "logit_diff")


def test_a_stronger_head_elsewhere_is_named():
    heads, groups = both({(2, 4): -0.5, (2, 5): -0.5, (2, 6): -0.5, (0, 1): -0.9, (0, 2): 0.5})
    line = sentences.head_group_line(heads, groups, "logit_diff")
    assert "strongest group, group 1 of layer 2" in line
    assert "strongest single head of all, query head 1 of layer 0" in line


def test_noise_is_called_noise():
    heads, groups = both({(2, 4): -0.5})
    assert "noise" not in sentences.layers_line(heads, "logit_diff")
    for result in (heads, groups):
        result["stderr"][:] = 9.0
    assert "may be noise" in sentences.layers_line(heads, "logit_diff")
    assert "may be noise" in sentences.head_group_line(heads, groups, "logit_diff")


def test_mha_has_nothing_to_compare():
    assert "single head here" in sentences.head_group_line(*both({(1, 1): -1.0}, n_kv_heads=8), "logit_diff")


def test_behaviour_tells_the_means_and_whether_they_differ():
    heads, _ = both()
    line = behaviour.behaviour_line(heads)
    assert f"{100 * float(heads['base'].sel(metric='prob').mean()):.1f}%" in line and "takes apart" in line
    heads["source"] = heads["base"].copy()
    assert "should not be read as causes of giving in" in behaviour.behaviour_line(heads)
    assert "takes apart" not in behaviour.behaviour_line(heads)
    assert "it does not show the behaviour" in sentences.summary_lines([("a", heads, heads)], "logit_diff")[0]


def test_concentration_orders_models_only_where_intervals_are_apart():
    one, two = (
        both({(2, 4): -0.8})[0],
        both({(0, 0): -0.3, (1, 1): -0.3, (2, 2): -0.3, (3, 3): 0.4}, seed=1)[0],
    )
    assert "a is more concentrated than b" in sentences.concentration_line([one, two], ["a", "b"], "logit_diff")
    assert "intervals overlap" in sentences.concentration_line([one, one], ["a", "b"], "logit_diff")
    assert "overlap" not in sentences.concentration_line([one], ["a"], "logit_diff")


def test_agreement_is_judged_by_the_data():
    _, groups = both({(2, 4): -0.8})
    assert "could stand in" in sentences.agreement_line(groups, groups, "logit_diff")
    wrong = groups.assign(contribution=-groups["contribution"])
    assert "misleads" in sentences.agreement_line(wrong, groups, "logit_diff")
    flat = groups.assign(contribution=groups["contribution"] * 0)
    assert "no spread" in sentences.agreement_line(flat, groups, "logit_diff")


def test_attention_names_the_most_attended_words_and_not_the_first_token():
    result = attention_result(heads=(4, 5))
    result["pattern"][..., -1, :] = 0.01
    result["pattern"][..., -1, 0] = 0.5
    result["pattern"][..., -1, 7] = 0.3
    line = sentences.attention_line(result)
    assert "heads 4 and 5 put 50% of the attention on the first token (at rest)" in line
    assert "“wrong” (30%)" in line and "“<bos>”" not in line


def test_the_lead_score_avoids_an_unsound_ratio():
    heads, _ = both()
    assert sentences.lead_metric([heads]) == "logit_ratio"
    assert sentences.lead_metric([heads.assign_attrs(ratio_reversed_examples=3)]) == "logit_diff"
    assert sentences.lead_metric([heads, heads.assign_attrs(ratio_unstable_examples=6)]) == "logit_diff"
    assert sentences.lead_metric([heads.sel(metric=["logit_diff", "prob"])]) == "logit_diff"


def test_the_summary_compares_only_clear_models():
    a, b = model("a"), model("b", planted={(1, 0): -0.8, (2, 2): -0.7}, seed=2)
    both_clear = sentences.summary_lines([(m.name, m.heads, m.groups) for m in (a, b)], "logit_diff")
    assert len(both_clear) == 3 and "most gathered in a single group in a" in both_clear[-1]
    b.groups["stderr"][:] = 9.0
    one_clear = sentences.summary_lines([(m.name, m.heads, m.groups) for m in (a, b)], "logit_diff")
    assert one_clear[1].endswith("No KV group stands out from the rest as a cause.") and len(one_clear) == 2
    assert "KV group 1 of layer 2 (query heads 4 to 7) pushes hardest" in one_clear[0]
    give_in = 100 * float(a.heads["base"].sel(metric="prob").mean())
    assert one_clear[0].startswith(f"a gives in with probability {give_in:.1f}% after an objection")
