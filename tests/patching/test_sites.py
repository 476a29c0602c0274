"""Which units each hook has, and where a cell of a sweep lies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import InputError
from workbench.patching.sites import HOOKS, KV_HOOKS, QUERY_HOOKS, grid, site
from workbench.patching.units import HeadCounts

COUNTS = HeadCounts(3, 6, 2)


@pytest.mark.parametrize("hook", HOOKS)
def test_names_are_those_of_transformerlens(hook):
    inside = "attn." if hook in (*QUERY_HOOKS, *KV_HOOKS) else ""
    assert site(hook, None, COUNTS).name(2) == f"blocks.2.{inside}hook_{hook}"


def test_groups_own_their_query_heads():
    groups = site("z", "kv_group", COUNTS).owners
    assert groups.tolist() == [[True] * 3 + [False] * 3, [False] * 3 + [True] * 3]
    assert np.array_equal(site("q", "head", COUNTS).owners, np.eye(6, dtype=bool))
    assert site("pattern", "layer", COUNTS).owners.tolist() == [[True] * 6]


@pytest.mark.parametrize("unit", ["kv_group", "kv_head"])
def test_keys_and_values_have_one_row_per_kv_head(unit):
    for hook in KV_HOOKS:
        assert np.array_equal(site(hook, unit, COUNTS).owners, np.eye(2, dtype=bool))
        assert site(hook, "layer", COUNTS).owners.tolist() == [[True, True]]


def test_the_stream_has_no_units():
    for hook in ("attn_out", "mlp_out", "resid_pre", "resid_post"):
        where = site(hook, None, COUNTS)
        assert where.owners is None and where.unit == "layer" and where.n_units == 1


@pytest.mark.parametrize(
    ("hook", "unit", "message"),
    [
        ("zz", None, r"hook='zz' is unknown; did you mean 'z'"),
        ("k", "head", r"has one row per KV head \(2\), not per query head \(6\)"),
        ("mlp_out", "head", r"is one vector per layer and position"),
        ("z", "kv_head", r"unit='kv_head' does not fit hook='z', which belongs to query heads; did you mean"),
    ],
)
def test_bad_sites(hook, unit, message):
    with pytest.raises(InputError, match=message):
        site(hook, unit, COUNTS)


def test_unknown_positions():
    with pytest.raises(InputError, match="positions='lst' is unknown; did you mean 'last'"):
        grid(site("z", None, COUNTS), 3, "lst", 4)


@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from(["all", "last", "each"]))
def test_every_cell_has_one_place(n_layers, width, positions):
    cells = grid(site("z", "kv_group", COUNTS), n_layers, positions, width)
    places = list(zip(*cells.place(cells.cells()), strict=True))
    assert len(places) == len(set(places)) == np.prod(cells.shape)
    labels = range(-width, 0) if positions == "each" else [-1]
    assert places == [(lay, u, p) for lay in range(n_layers) for u in range(2) for p in labels]


def test_dims_leave_out_what_there_is_only_one_of():
    assert grid(site("z", "head", COUNTS), 3, "each", 4).dims == ("layer", "head", "position")
    assert grid(site("attn_out", None, COUNTS), 3, "all", 4).dims == ("layer",)
