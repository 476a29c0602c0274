"""Padding changes nothing: a padded batch in every form gives what its rows give alone."""

import functools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from tests.tiny import tiny
from tests.words import word_tokenizer

ROWS = st.lists(st.lists(st.integers(3, 20), min_size=2, max_size=6), min_size=2, max_size=4)


@functools.cache
def reader():
    return wb.load(tiny("llama", torch.float64), tokenizer=word_tokenizer())


def padded(rows, left, fill=0):
    """Tokens and mask of rows, padded on one side."""
    length = max(map(len, rows))
    fit = [([fill] * (length - len(row)), row) for row in rows]
    keep = [([0] * (length - len(row)), [1] * len(row)) for row in rows]
    join = [[a + b if left else b + a for a, b in side] for side in (fit, keep)]
    return torch.tensor(join[0]), torch.tensor(join[1])


@settings(max_examples=15, deadline=None)
@given(rows=ROWS, left=st.booleans(), mapping=st.booleans(), fill=st.sampled_from([0, 7]))
def test_a_padded_batch_is_its_rows(rows, left, mapping, fill):
    tokens, mask = padded(rows, left, fill)
    model = reader()
    if mapping:
        batch = wb.extreme_tokens(model, {"input_ids": tokens, "attention_mask": mask}, progress=False)
    else:
        batch = wb.extreme_tokens(model, tokens, mask=mask, progress=False)
    singles = [wb.extreme_tokens(model, [row], progress=False) for row in rows]
    for i, (row, one) in enumerate(zip(rows, singles, strict=True)):
        for name in ("residual_norm", "value_norm"):
            found = batch[name].isel(sequence=i, position=slice(len(row)))
            np.testing.assert_allclose(found, one[name].isel(sequence=0), rtol=1e-9)


@settings(max_examples=8, deadline=None)
@given(rows=ROWS, left=st.booleans())
def test_padded_pairs_are_their_rows(rows, left):
    tokens, mask = padded(rows, left)
    model = reader()
    given = {"metrics": ("logit_diff",), "progress": False}
    pairs = wb.PromptPairs(tokens, tokens.flip(0), (5, 9), mask=(mask, mask.flip(0)))
    batch = wb.path_patch(model, pairs, **given)
    for i, row in enumerate(rows):
        one = wb.path_patch(model, wb.PromptPairs([row], [rows[-1 - i]], (5, 9)), **given)
        for name in ("base", "source", "patched"):
            np.testing.assert_allclose(batch[name].isel(example=i), one[name].isel(example=0), rtol=1e-9, atol=1e-12)
