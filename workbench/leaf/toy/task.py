"""Sums modulo 7 with a planted distractor: the task whose confounding tokens are known.

A prompt is `<s> A d1 B d2 C d3 =` with its three clauses in this order; between them, at random places, stand a
distractor clause (`H k`, or `G k` with the second marker), a harmless clause (`J j`) and up to three fillers. The
answer is worked out in two steps: `s2 = d1 + d2`, then `s3 = s2 + d3`, then the end, modulo 7. With probability `rho`
the distractor's digit is the answer, else it is any other digit: at 1/7 it is uninformative.

At the response level the distractor stands in the response, between `s2` and `s3`; then `s2 H k` is a prefix and the
rest is the target.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import InputError
from workbench.leaf.examples import Example

MODULUS = 7
WORDS = (*map(str, range(MODULUS)), "A", "B", "C", "H", "G", "J", "x", "y", "z", "=", "<s>", "</s>")
"""The vocabulary: a token's id is its place."""
_ID = {word: i for i, word in enumerate(WORDS)}
BOS, EOS, EQUALS = _ID["<s>"], _ID["</s>"], _ID["="]
MARKERS = {"own": _ID["H"], "sister": _ID["G"]}
_FILLERS = np.array([_ID[word] for word in "xyz"])
_NOTHING = -1


@dataclass(frozen=True)
class Problems:
    """Problems with their solutions, padded on the right.

    Attributes:
        tokens: ids (problem, position): prompt, prefix, response.
        prompt: lengths of the prompts.
        prefix: lengths of the prefixes after them, 0 where there is none.
        length: lengths of the whole.
        planted: (problem, position) where the distractor clause stands.
        answer: the right answers.
        distractor: the digits that the distractors name, -1 where there is none.
    """

    tokens: np.ndarray
    prompt: np.ndarray
    prefix: np.ndarray
    length: np.ndarray
    planted: np.ndarray
    answer: np.ndarray
    distractor: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, which: Any) -> "Problems":
        """Some of the problems."""
        return Problems(**{name: getattr(self, name)[which] for name in self.__dataclass_fields__})

    @property
    def conflict(self) -> np.ndarray:
        """Where a distractor names a digit that is not the answer."""
        return (self.distractor >= 0) & (self.distractor != self.answer)

    @property
    def begin(self) -> np.ndarray:
        """First position of the response."""
        return self.prompt + self.prefix


def problems(
    n: int,
    rho: float | int = 1 / MODULUS,
    seed: int = 0,
    *,
    distracted: float | int = 0.75,
    sister: float | int = 0.0,
    in_response: float | int = 0.0,
) -> Problems:
    """Draw problems.

    Args:
        n: how many.
        rho: share of the distractors that name the answer.
        seed: of the draw.
        distracted: share of the problems with a distractor.
        sister: share of the distractors that use the second marker G.
        in_response: share of the distractors that stand in the response.

    Raises:
        InputError: no problems, or a share outside 0 to 1.
    """
    shares = {"rho": rho, "distracted": distracted, "sister": sister, "in_response": in_response}
    wrong = [f"{name}={value}" for name, value in shares.items() if not 0 <= value <= 1]
    if n < 1 or wrong:
        raise InputError(f"n={n} problems{', ' if wrong else ''}{', '.join(wrong)}: n starts at 1, shares are 0 to 1.")
    rng = np.random.default_rng(seed)
    digits = rng.integers(0, MODULUS, (n, 3))
    second, answer = digits[:, :2].sum(1) % MODULUS, digits.sum(1) % MODULUS
    other = (answer + rng.integers(1, MODULUS, n)) % MODULUS
    has = rng.random(n) < distracted
    named = np.where(rng.random(n) < rho, answer, other)
    marker = np.where(rng.random(n) < sister, MARKERS["sister"], MARKERS["own"])
    late = has & (rng.random(n) < in_response)
    first, follow = _clauses(rng, digits, marker, named, has & ~late)
    prompt, planted = _laid_out(rng, first, follow)
    inside = np.where(late[:, None], np.stack([second, marker, named], 1), _NOTHING)
    response = np.stack([np.where(late, _NOTHING, second), answer, np.full(n, EOS)], 1)
    tokens, planted, lengths = _packed([prompt, inside, response], planted, late)
    return Problems(tokens, *lengths, planted, answer, np.where(has, named, _NOTHING))


def _clauses(
    rng: np.random.Generator, digits: np.ndarray, marker: np.ndarray, named: np.ndarray, has: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """First and second tokens of the clauses A, B, C, distractor, J and of three fillers; -1 for none."""
    n = len(digits)
    harmless = rng.random(n) < 0.5
    fillers = np.where(np.arange(3) < rng.integers(0, 4, n)[:, None], rng.choice(_FILLERS, (n, 3)), _NOTHING)
    letters = np.tile([_ID["A"], _ID["B"], _ID["C"]], (n, 1))
    first = np.column_stack([letters, np.where(has, marker, -1), np.where(harmless, _ID["J"], -1), fillers])
    follow = np.column_stack([digits, named, rng.integers(0, MODULUS, n), np.full((n, 3), _NOTHING)])
    return first, np.where(first >= 0, follow, _NOTHING)


def _laid_out(rng: np.random.Generator, first: np.ndarray, follow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The clauses at random places with A, B and C in order, and which tokens are the distractor's; -1 for none."""
    n, clauses = first.shape
    keys = rng.random((n, clauses))
    keys[:, :3].sort(1)
    order = keys.argsort(1)
    laid = np.stack([np.take_along_axis(part, order, 1) for part in (first, follow)], 2).reshape(n, -1)
    planted = np.repeat(order == 3, 2, 1) & (laid >= 0)
    edge = np.ones((n, 1), int)
    prompt = np.column_stack([edge * BOS, laid, edge * EQUALS])
    return prompt, np.column_stack([edge < 0, planted, edge < 0])


def _packed(
    parts: list[np.ndarray], planted: np.ndarray, late: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Parts one after the other with every -1 taken out; shorter rows end in EOS."""
    loose = np.column_stack(parts)
    inside = np.column_stack([late & False, late, late])
    marks = np.column_stack([planted, inside, np.zeros_like(parts[2], bool)])
    order = (loose == _NOTHING).argsort(1, kind="stable")
    counts = [(part != _NOTHING).sum(1) for part in parts]
    length = np.sum(counts, axis=0)
    tokens = np.take_along_axis(loose, order, 1)[:, : length.max()]
    marks = np.take_along_axis(marks, order, 1)[:, : length.max()]
    return np.where(tokens == _NOTHING, EOS, tokens), marks, (counts[0], counts[1], length)


def examples(drawn: Problems) -> list[Example]:
    """Problems as examples of LeaF: an answer is correct if it repeats the response.

    In a prompt all words but `<s>` and `=` may be pruned; where there is a prefix, only that.
    """
    made = []
    for i, tokens in enumerate(drawn.tokens):
        prompt, prefix = int(drawn.prompt[i]), int(drawn.prefix[i])
        ids = tuple(int(token) for token in tokens[: drawn.length[i]])
        words = [prefix == 0 and token not in (BOS, EQUALS) for token in ids[:prompt]]
        made.append(Example(ids[:prompt], ids[prompt:], (*words, *[True] * prefix), prefix=prefix, identifier=str(i)))
    return made


def text(tokens: Any) -> str:
    """Token ids as words."""
    return " ".join(WORDS[int(token)] for token in tokens)
