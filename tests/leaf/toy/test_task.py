import itertools

import numpy as np
import pytest

from workbench.errors import InputError
from workbench.leaf.toy.task import MODULUS, WORDS, examples, problems, text


def parsed(words):
    """Digits by letter, and the clause order, read from a prompt's words."""
    found = {}
    for word, follow in itertools.pairwise(words):
        if word in "ABCHGJ":
            found[word] = int(follow)
    return found


def test_problems_are_what_they_say():
    drawn = problems(400, 0.5, 3, sister=0.3, in_response=0.3)
    cases = examples(drawn)
    for i, case in enumerate(cases):
        words = text(case.tokens).split()
        prompt = words[: drawn.prompt[i]]
        assert prompt[0] == "<s>" and prompt[-1] == "=" and len(words) == drawn.length[i]
        digits = parsed(words)
        assert [w for w in prompt if w in "ABC"] == ["A", "B", "C"]
        second, answer = (digits["A"] + digits["B"]) % MODULUS, (digits["A"] + digits["B"] + digits["C"]) % MODULUS
        assert answer == drawn.answer[i]
        planted = [words[p] for p in np.flatnonzero(drawn.planted[i])]
        if drawn.distractor[i] < 0:
            assert planted == [] and "H" not in words and "G" not in words
        else:
            assert planted[0] in "HG" and planted[1] == str(drawn.distractor[i]) and len(planted) == 2
        late = drawn.prefix[i] > 0
        assert text(case.target).split() == ([str(answer)] if late else [str(second), str(answer)]) + ["</s>"]
        assert case.prefix == (3 if late else 0)
        if late:
            assert text(case.response[:3]).split() == [str(second), *planted]
            assert case.positions == tuple(range(len(case.prompt), len(case.prompt) + 3))
        else:
            assert case.positions == tuple(range(1, len(case.prompt) - 1))


def test_shares_are_as_asked_and_chance_is_as_specified():
    drawn = problems(20000, 0.9, 0)
    has = drawn.distractor >= 0
    assert has.mean() == pytest.approx(0.75, abs=0.01)
    assert (~drawn.conflict)[has].mean() == pytest.approx(0.9, abs=0.01)
    assert (2 / (drawn.prompt - 2))[drawn.conflict].mean() == pytest.approx(0.195, abs=0.01)
    assert problems(200, 0, 1, distracted=1).conflict.all() and not problems(200, 1, 1).conflict.any()
    assert len(WORDS) == 19


def test_a_seed_decides_the_problems():
    first, again, other = (problems(50, 0.5, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.tokens, again.tokens) and not np.array_equal(first.tokens, other.tokens)


def test_shares_outside_0_to_1_are_refused():
    with pytest.raises(InputError, match=r"n=0 problems, rho=2: n starts at 1"):
        problems(0, 2)
