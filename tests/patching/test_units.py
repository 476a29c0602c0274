"""Index maps: every unit holds exactly the heads it should, and a wrong address is refused with the "
"model's counts."""

import re

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import InputError
from workbench.patching.units import HeadCounts, Senders, counts_of, heads_of, per_layer, senders

GQA = HeadCounts(n_layers=3, n_heads=8, n_kv_heads=2)


@st.composite
def any_counts(draw):
    n_kv_heads, size = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    return HeadCounts(draw(st.integers(1, 5)), n_kv_heads * size, n_kv_heads)


def held(found: Senders, *where: int) -> list[tuple[int, int]]:
    grid = found.mask.reshape(*found.shape, *found.mask.shape[1:])
    return [(int(layer), int(head)) for layer, head in np.argwhere(grid[where])]


@given(any_counts())
def test_a_group_holds_the_heads_that_read_its_kv_head(counts):
    found = senders("kv_group", None, counts)
    size = counts.n_heads // counts.n_kv_heads
    assert found.dims == ("layer", "kv_group")
    assert found.shape == (counts.n_layers, counts.n_kv_heads)
    for layer in range(counts.n_layers):
        for group in range(counts.n_kv_heads):
            reading = [(layer, head) for head in range(counts.n_heads) if head // size == group]
            assert held(found, layer, group) == reading


@given(any_counts(), st.sampled_from(["head", "kv_group", "layer"]))
def test_units_divide_the_heads_among_them(counts, unit):
    found = senders(unit, None, counts)
    assert len(found) == np.prod(found.shape) == counts.n_layers * per_layer(unit, counts)
    assert (found.mask.sum(axis=0) == 1).all()
    assert len({int(n) for n in found.mask.sum(axis=(1, 2))}) == 1
    assert all(len(found.coords[dim]) == n for dim, n in zip(found.dims, found.shape, strict=True))
    xr.DataArray(np.arange(len(found)).reshape(found.shape), found.coords, found.dims)


@given(any_counts())
def test_units_run_in_row_major_order(counts):
    for unit in ("head", "layer"):
        found = senders(unit, None, counts)
        flat = found.mask.reshape(len(found), -1)
        first = [int(np.argmax(row)) for row in flat]
        assert first == sorted(first)
    assert (
        senders("head", None, counts).mask.reshape(-1, counts.n_layers * counts.n_heads)
        == np.eye(counts.n_layers * counts.n_heads)
    ).all()


@given(st.integers(1, 8), st.integers(1, 8))
def test_without_sharing_a_group_is_a_head(n_layers, n_heads):
    mha = HeadCounts(n_layers, n_heads, n_heads)
    assert (senders("kv_group", None, mha).mask == senders("head", None, mha).mask).all()


def test_with_one_kv_head_a_group_is_a_layer():
    mqa = HeadCounts(3, 8, 1)
    assert (senders("kv_group", None, mqa).mask == senders("layer", None, mqa).mask).all()


def test_heads_of_a_group_are_a_block():
    assert list(heads_of(1, 4)) == [4, 5, 6, 7]


@given(st.data())
def test_custom_sets_hold_what_was_listed(data):
    counts = data.draw(any_counts())
    every = [(layer, head) for layer in range(counts.n_layers) for head in range(counts.n_heads)]
    sets = data.draw(st.lists(st.lists(st.sampled_from(every), min_size=1, unique=True), min_size=1, max_size=4))
    found = senders("head", sets, counts)
    assert found.dims == ("unit",)
    assert found.shape == (len(sets),) == (len(found),)
    for number, heads in enumerate(sets):
        assert held(found, number) == sorted(heads)


def test_custom_sets_are_labelled():
    five = [(0, head) for head in range(5)]
    found = senders("head", [[(2, 1)], [(0, 0), (1, 7)], five], GQA)
    array = xr.DataArray(np.zeros(3), found.coords, found.dims)
    assert array["label"].values.tolist() == ["L2H1", "L0H0 L1H7", "L0H0 L0H1 L0H2 L0H3 and 1 more"]
    named = senders("head", {"late": [(2, 1)], "early": ((0, 0),)}, GQA)
    assert named.coords["label"][1].tolist() == ["late", "early"]
    assert held(named, 0) == [(2, 1)]


def test_numpy_addresses_are_taken():
    assert held(senders("head", [np.array([[2, 1], [0, 3]])], GQA), 0) == [(0, 3), (2, 1)]


@pytest.mark.parametrize(
    ("units", "text"),
    [
        ([], "units= is empty; give at least one set"),
        ({}, "units= is empty; give at least one set"),
        ([[(0, 0)], []], "units[1] is empty; give at least one (layer, head)"),
        ({"mine": []}, "units['mine'] is empty; give at least one (layer, head)"),
        ([[(0, 0), (1, 1), (0, 0)]], "units[0] holds (0, 0) more than once"),
        ([[(0, 8)]], "units[0] holds (0, 8): head=8: the model has 8 query heads per layer, numbered 0 to 7"),
        ([[(0, -1)]], "units[0] holds (0, -1): head=-1: the model has 8 query heads"),
        ([[(3, 0)]], "units[0] holds (3, 0): layer=3: the model has 3 layers, numbered 0 to 2"),
        ([(0, 1)], "units[0] must be a list of (layer, head) pairs of integers"),
        ([[(0, 1.5)]], "units[0] must be a list of (layer, head) pairs"),
        ([["L0H1"]], "units[0] must be a list of (layer, head) pairs"),
        ("head", "units[0] must be a list of (layer, head) pairs"),
    ],
)
def test_a_wrong_set_is_refused(units, text):
    with pytest.raises(InputError, match=re.escape(text)):
        senders("head", units, GQA)


def test_a_misspelt_unit_gets_the_nearest_one():
    with pytest.raises(
        InputError,
        match=r"unit='kv_goup' is no kind of unit; did you mean 'kv_group'\?.*head, kv_group, layer",
    ):
        senders("kv_goup", None, GQA)


def test_counts_come_from_a_results_attributes():
    assert counts_of(xr.Dataset(attrs=GQA._asdict() | {"model": "m"})) == GQA
    with pytest.raises(InputError, match=r"attributes lack n_kv_heads.*whole Dataset"):
        counts_of(xr.Dataset(attrs={"n_layers": 3, "n_heads": 8}))
