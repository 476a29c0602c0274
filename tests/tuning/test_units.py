import numpy as np
import pytest
import xarray as xr

from tests.tiny import bridge
from tests.zoo import specimen
from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.models.load import load
from workbench.patching.selection import random_heads, random_units, select_units
from workbench.tuning.units import units_of


def selection(n_layers=3, n_heads=4, n_kv_heads=2, ratio=0.3):
    values = np.arange(n_layers * n_kv_heads, dtype=float).reshape(1, n_layers, n_kv_heads)
    attrs = {"n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": n_kv_heads}
    data = xr.Dataset({"contribution": (("metric", "layer", "kv_group"), values)}, {"metric": ["logit_diff"]}, attrs)
    return select_units(data, ratio)


def test_a_selection_of_groups_gives_all_their_heads():
    units = units_of(anatomy(bridge("llama")), selection())
    assert units.kind == "kv_group"
    assert units.heads == ((0, 0), (0, 1), (0, 2), (0, 3))


def test_keys_and_values_are_tuned_by_default_where_no_heads_share_them():
    assert units_of(anatomy(bridge("gpt2")), [(0, 0)]).kv
    assert not units_of(anatomy(bridge("llama")), [(0, 0)]).kv
    assert units_of(anatomy(bridge("llama")), [(0, 0)], kv=True).kv


def test_random_controls_have_the_same_size_and_share_nothing_with_the_choice():
    parts, chosen = anatomy(bridge("llama")), selection()
    own = set(units_of(parts, chosen).heads)
    for control in (*random_units(chosen, 3, seed=1), *random_heads(chosen, 3, seed=1)):
        heads = units_of(parts, control).heads
        assert len(heads) == len(own) and not own & set(heads)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([], "units= is empty"),
        ([(0, 9)], "head=9: the model has 4 query heads"),
        ([(7, 0)], "layer=7: the model has 3 layers"),
        ([(0, 1), (0, 1)], "holds .0, 1. more than once"),
        ("atention", "did you mean 'attention'"),
        ([3], r"units= must be a list of .layer, head. pairs.*, a Selection, \"attention\" or \"all\"\."),
        (selection(4, 8, 2), "selected in a model of 4 layers of 8 query heads on 2 KV heads"),
    ],
)
def test_wrong_units_are_refused(units, message):
    with pytest.raises(InputError, match=message):
        units_of(anatomy(bridge("llama")), units)


def test_layers_without_heads_are_tuned_with_all_parameters_alone():
    parts = anatomy(load(specimen("Lfm2ForCausalLM")))
    assert {layer for layer, _ in units_of(parts, "attention").heads} == {1, 3}
    with pytest.raises(InputError, match='layer 0 has no attention heads that can be reached; units="all" tunes it'):
        units_of(parts, [(0, 0)])
