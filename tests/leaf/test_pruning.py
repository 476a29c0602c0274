"""Span and collective pruning, by id and by text."""

from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from tests.leaf.made import examples
from tests.tuning.chat import chat_tokenizer
from workbench.errors import InputError
from workbench.leaf.examples import Example
from workbench.leaf.pruning import prune, spans
from workbench.leaf.tokenized_examples import example

SEVEN = Example(tuple(range(10, 17)), (1, 2), (True,) * 7)
MASK = xr.DataArray([[bool(int(c)) for c in "0110100"]], dims=("example", "position"))


def test_span_pruning_gives_one_sample_per_run_and_collective_one_in_all():
    by_span = prune([SEVEN], MASK)
    assert [p.removed for p in by_span] == [(1, 2), (4,)]
    assert [p.example.prompt for p in by_span] == [(10, 13, 14, 15, 16), (10, 11, 12, 13, 15, 16)]
    together = prune([SEVEN], MASK, how="collective")
    assert [(p.removed, p.example.prompt) for p in together] == [((1, 2, 4), (10, 13, 15, 16))]


@given(st.sets(st.integers(0, 30)))
def test_runs_cover_the_positions_and_never_touch(positions):
    runs = spans(positions)
    assert sorted(positions) == [p for run in runs for p in run]
    assert all(b == a + 1 for run in runs for a, b in pairwise(run))
    assert all(later[0] > earlier[-1] + 1 for earlier, later in pairwise(runs))


def test_examples_without_candidates_give_nothing_and_origins_stay_right():
    first, second, third = examples()
    made = prune([first, second, third], [[], [2], [1, 3]])
    assert [(p.origin, p.removed) for p in made] == [(1, (2,)), (2, (1,)), (2, (3,))]


def test_a_counterfactual_of_nothing_is_left_out_and_refused_where_there_is_no_other():
    first, second = examples()[:2]
    everything = list(first.positions)
    assert [p.origin for p in prune([first, second], [everything, [1]], how="collective")] == [1]
    with pytest.raises(InputError, match="delete everything that may be pruned in each of 1 counterfactuals"):
        prune([first], [everything])


def test_text_is_tokenized_again_on_request_and_the_round_trip_reported():
    tokenizer = chat_tokenizer()
    made = example(tokenizer, "what is the answer two", "three is right")
    for span in ([3], [2], list(made.positions[:3])):
        (by_id,) = prune([made], [span])
        (anew,) = prune([made], [span], retokenize=tokenizer)
        assert by_id.round_trip is None
        assert anew.round_trip
        assert anew.example.tokens == by_id.example.tokens
    assert prune([made], [[3, 4]])[0].example.text == "what answer two"


def test_wrong_requests_are_refused():
    with pytest.raises(InputError, match="how='spans' is unknown; did you mean 'span'"):
        prune([SEVEN], MASK, how="spans")
    with pytest.raises(InputError, match="There are 1 examples and candidates for 2"):
        prune([SEVEN], [[1], [2]])
    with pytest.raises(InputError, match="take one threshold"):
        prune([SEVEN], MASK.expand_dims(threshold=[0.1]))
    with pytest.raises(InputError, match="may not be pruned"):
        prune(examples()[:1], [np.array([0])])
    with pytest.raises(InputError, match="has token ids and no text"):
        prune([SEVEN], MASK, retokenize=chat_tokenizer())
