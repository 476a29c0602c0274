"""Query head h reads KV head h // group_size, wherever heads are split into KV groups or KV heads are repeated."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.extreme.drains import by_kv_head, value_norms
from workbench.inactive_heads.definitions import Layer
from workbench.models.anatomy import heads_by_unit
from workbench.models.attention import attend_in_chunks
from workbench.patching.units import HeadCounts, senders

BATCH, POS, WIDTH, VALUE = 2, 5, 4, 3


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


groups = given(n_kv=st.integers(1, 5), size=st.integers(1, 4))


@groups
def test_a_unit_owns_the_heads_whose_number_it_divides(n_kv, size):
    owner = np.arange(n_kv * size) // size
    found = heads_by_unit(n_kv, n_kv * size)
    np.testing.assert_array_equal(found, owner == np.arange(n_kv)[:, None])
    mask = senders("kv_group", None, HeadCounts(2, n_kv * size, n_kv)).mask
    for number, (layer, group) in enumerate(np.ndindex(2, n_kv)):
        np.testing.assert_array_equal(mask[number], np.outer(np.arange(2) == layer, found[group]))


@groups
def test_numbers_of_kv_heads_are_given_to_their_query_heads_and_averaged_back(n_kv, size):
    owner = torch.arange(n_kv * size) // size
    per_kv_head = normal(BATCH, n_kv)
    layer = Layer(0, torch.ones(BATCH, POS, dtype=torch.bool), n_kv * size, normal(BATCH, POS, n_kv * size, WIDTH))
    assert torch.equal(layer.by_head(per_kv_head), per_kv_head[:, owner])
    norms = normal(BATCH, n_kv * size, POS)
    wanted = torch.stack([norms[:, owner == g].mean(1) for g in range(n_kv)], 1)
    torch.testing.assert_close(by_kv_head(norms, n_kv), wanted, rtol=1e-14, atol=1e-14)


@groups
def test_values_are_projected_by_the_heads_that_read_them(n_kv, size):
    values, roots = normal(BATCH, POS, n_kv, WIDTH), normal(n_kv * size, WIDTH, WIDTH)
    found = value_norms(values, roots)
    for head in range(n_kv * size):
        wanted = (values[:, :, head // size] @ roots[head]).norm(dim=-1)
        torch.testing.assert_close(found[:, head], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [2, POS])
@groups
def test_attention_in_chunks_reads_the_head_of_the_group(chunk, n_kv, size):
    q, k = normal(BATCH, n_kv * size, POS, WIDTH), normal(BATCH, n_kv, POS, WIDTH)
    v = normal(BATCH, n_kv, POS, VALUE)
    patterns = []
    found = attend_in_chunks(q, k, v, 0, lambda c: patterns.append(c.pattern), chunk, {})
    hidden = torch.ones(POS, POS, dtype=torch.bool).triu(1)
    for head in range(n_kv * size):
        scores = q[:, head] @ k[:, head // size].mT / WIDTH**0.5
        pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        torch.testing.assert_close(found[:, :, head], pattern @ v[:, head // size], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(patterns[0][:, head], pattern[:, :chunk, :chunk], rtol=1e-12, atol=1e-12)
