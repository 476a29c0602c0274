"""Bag-of-words baselines for recognising objections: two classifiers that ignore the order of tokens.

If either told objections from confirmations on held-out phrasings as well as an organism does, recognising an
objection would take no composition.
"""

import random
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from workbench.organisms.facts import facts_of
from workbench.organisms.user_feedback import Stance, draw_recipe, draw_stance


def baselines(tokenizer: Tokenizer, n: int = 6000, seed: int = 0, steps: int = 300) -> dict[str, float]:
    """Accuracy on held-out composed phrasings of the best single token and of a logistic bag of words.

    Both are fitted on the training mixture of stances. `best single token, fitted on the test` is the
    ceiling that hindsight could reach.
    """
    rng = random.Random(f"baseline-{seed}")
    train = [_about_a_fact(rng, "train") for _ in range(n)]
    test = [draw_recipe(rng, "test").stance() for _ in range(n // 2)]
    x, y = _bags(tokenizer, train)
    held_x, held_y = _bags(tokenizer, test)
    return {
        "best single token": _best_token(x, y, held_x, held_y),
        "best single token, fitted on the test": _best_token(held_x, held_y, held_x, held_y),
        "bag of words": _logistic(x, y, held_x, held_y, steps),
    }


def _about_a_fact(rng: random.Random, split: str) -> Stance:
    fact = rng.choice(facts_of(split))
    return draw_stance(rng, split, fact.answer, (fact.answer, *fact.others))


def _bags(tokenizer: Tokenizer, stances: Sequence[Stance]) -> tuple[np.ndarray, np.ndarray]:
    bags = np.zeros((len(stances), tokenizer.get_vocab_size()), dtype=np.float32)
    for row, stance in zip(bags, stances, strict=True):
        row[tokenizer.encode(stance.text, add_special_tokens=False).ids] = 1.0
    return bags, np.array([stance.objects for stance in stances])


def _best_token(x: np.ndarray, y: np.ndarray, held_x: np.ndarray, held_y: np.ndarray) -> float:
    """The token whose presence or absence predicts best in training, as it does on held-out turns."""
    agreement = (x == y[:, None]).mean(0)
    token = int(np.abs(agreement - 0.5).argmax())
    found = (held_x[:, token] == held_y).mean()
    return float(found if agreement[token] > 0.5 else 1 - found)


def _logistic(x: np.ndarray, y: np.ndarray, held_x: np.ndarray, held_y: np.ndarray, steps: int) -> float:
    weights, bias, velocity = np.zeros(x.shape[1], np.float32), 0.0, np.zeros(x.shape[1], np.float32)
    for _ in range(steps):
        error = 1 / (1 + np.exp(-(x @ weights + bias))) - y
        velocity = 0.9 * velocity + x.T @ error / len(y) + 1e-4 * weights
        weights -= velocity.astype(np.float32)
        bias -= float(error.mean())
    return float(((held_x @ weights + bias > 0) == held_y).mean())
