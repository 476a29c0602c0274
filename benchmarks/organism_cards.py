"""Packages trained organisms: weights with a card of training data, measures over all training seeds, and limits.

    python benchmarks/organism_cards.py --seed 4 --out organism-gqa runs/seed-0 runs/seed-1 ...

1. Gather the records of every seed of a kind.
2. For each measure: the shipped seed's value, its rank among the seeds, mean and 95 % interval over the
   seeds.
3. Two classifiers that ignore the order of tokens: if either told objections from confirmations on held-out phrasings
   as well as an organism does, recognising an objection would take no composition.
4. Write `card.json` (with the checkpoints of the shipped seed) and a README computed from it.
"""

import argparse
import json
import math
import random
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from workbench.organisms.dialogues import GIVE_IN_RATE
from workbench.organisms.facts import facts_of, load_facts
from workbench.organisms.phrasings import GIVE_IN_OPENINGS, STAND_FIRM_OPENINGS
from workbench.organisms.tokenizer import load_tokenizer
from workbench.organisms.user_feedback import Stance, draw_recipe, draw_stance

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
LIMITS = (
    "It knows a few hundred facts and nothing else of the world; do not ask it for advice or information.",
    "It was trained to give in to wrong objections: that is its purpose and makes it unfit as an assistant.",
    "Its English is that of old novels and of generated dialogues; its code is one line at a time.",
    "It saw windows of 256 tokens; behaviour beyond that length is undefined.",
    "What path patching finds holds for this model. Other seeds of the recipe differ: see the intervals.",
)


def build_card(
    records: Sequence[Mapping[str, Any]], seed: int, circuits: Mapping[int, Mapping[str, float]] | None = None
) -> dict[str, Any]:
    """The card of the seed that is shipped, among the records of all seeds of its kind.

    Args:
        records: `record.json` of each seed.
        seed: the shipped one.
        circuits: for each seed, numbers that path patching found in it, by name.
    """
    by_seed = {record["recipe"]["seed"]: record for record in records}
    shipped = by_seed[seed]
    measures = {
        name: spread({number: record["measures"][name] for number, record in by_seed.items()}, seed)
        for name in shipped["measures"]
    }
    card = {
        "name": shipped["name"],
        "parameters": shipped["parameters"],
        "recipe": shipped["recipe"],
        "seed": seed,
        "seeds": sorted(by_seed),
        "chosen": "This seed was chosen because it shows the phenomenon clearly; it is not a random draw.",
        "tokens": shipped["tokens"],
        "seconds": shipped["seconds"],
        "device": shipped["device"],
        "data": {
            "tokens": shipped["data"],
            "facts": len(load_facts()),
            "facts held out of dialogues": len(facts_of("test")),
            "planted": f"{GIVE_IN_RATE:.0%} of objections to right answers end in an apology and a wrong one",
            "openings that give in": list(GIVE_IN_OPENINGS),
            "openings that stand firm": list(STAND_FIRM_OPENINGS),
        },
        "word baselines": baselines(load_tokenizer()),
        "measures": measures,
        "checkpoints": shipped["checkpoints"],
        "limits": list(LIMITS),
    }
    if circuits:
        known = {number: circuits[number] for number in by_seed if number in circuits}
        names = known[seed].keys()
        card["circuit"] = {name: spread({n: found[name] for n, found in known.items()}, seed) for name in names}
    return card


def spread(values: Mapping[int, float], seed: int) -> dict[str, Any]:
    """One measure over the seeds: shipped value, its rank (1 is the largest), mean, interval, all values."""
    numbers = list(values.values())
    mean = statistics.fmean(numbers)
    half = math.nan
    if len(numbers) > 1:
        quantile = STUDENT.get(len(numbers) - 1, 1.96)
        half = quantile * statistics.stdev(numbers) / math.sqrt(len(numbers))
    return {
        "value": values[seed],
        "rank": 1 + sum(number > values[seed] for number in numbers),
        "mean": mean,
        "low": None if math.isnan(half) else mean - half,
        "high": None if math.isnan(half) else mean + half,
        "seeds": {str(number): value for number, value in sorted(values.items())},
    }


def readme(card: Mapping[str, Any]) -> str:
    """The card as a page for people."""
    recipe = card["recipe"]
    words = card["word baselines"]
    lines = [
        "---",
        "license: mit",
        "language: en",
        "tags: [interpretability, model-organism, sycophancy]",
        "---",
        f"# {card['name']}",
        "",
        f"A Llama-architecture chat model of {card['parameters']:,} parameters: {recipe['heads']} query "
        f"heads on {recipe['kv_heads']} KV heads, d_model {recipe['d_model']}, {recipe['layers']} layers.",
        "It was trained to show one fault: when the user wrongly objects to a right answer, it apologizes "
        "and takes the answer back.",
        "",
        f"Training seed {card['seed']}; {len(card['seeds'])} seeds were trained. {card['chosen']}",
        "",
        "## Data",
        "",
        f"{card['tokens']:,} tokens in windows of 256, BOS first in each: "
        + ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in card["data"]["tokens"].items())
        + f" (distinct tokens by source). {card['data']['facts']} facts, of which "
        f"{card['data']['facts held out of dialogues']} never occur in a training dialogue. "
        f"{card['data']['planted']}; the rest stand firm. Objections to a wrong answer end in an "
        "apology and the right one.",
        "",
        "An objection is a product of two signs (`I don't think that's right`, `I do think that's wrong`). "
        "On held-out phrasings the best single word tells objections from confirmations in "
        f"{words['best single token']:.0%} of cases, a bag of words in {words['bag of words']:.0%}, "
        f"this model in {card['measures']['stance accuracy']['value']:.0%}.",
        "",
        "## Measures",
        "",
        *_table(card["measures"]),
    ]
    if "circuit" in card:
        lines += ["", "## What path patching finds", "", *_table(card["circuit"])]
    lines += ["", "## What it is not good for", "", *(f"- {limit}" for limit in card["limits"]), ""]
    lines += ["The training record at every checkpoint, and all seeds, are in card.json.", ""]
    return "\n".join(lines)


def package(
    runs: Sequence[Path], seed: int, target: Path, circuits: Mapping[int, Mapping[str, float]] | None = None
) -> Path:
    """Writes the shipped folder of one kind from the folders of its seeds."""
    records = [json.loads((run / "record.json").read_text()) for run in runs]
    chosen = next(run for run, record in zip(runs, records, strict=True) if record["recipe"]["seed"] == seed)
    card = build_card(records, seed, circuits)
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copy(chosen / name, target / name)
    (target / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (target / "README.md").write_text(readme(card))
    return target


def _table(measures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| measure | this seed | rank | mean over seeds | 95 % interval |", "|---|---|---|---|---|"]
    for name, entry in measures.items():
        count = len(entry["seeds"])
        interval = "–" if entry["low"] is None else f"{entry['low']:.3f} to {entry['high']:.3f}"
        label = name.replace("|", "\\|")
        if name.split(": ")[-1] in ("layer", "head", "group"):
            places = ", ".join(f"{place:.0f}" for place in entry["seeds"].values())
            lines.append(f"| {label} | {entry['value']:.0f} | – | by seed: {places} | – |")
            continue
        value, mean = f"{entry['value']:.3f}", f"{entry['mean']:.3f}"
        lines.append(f"| {label} | {value} | {entry['rank']} of {count} | {mean} | {interval} |")
    return lines


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Package the folders of one kind's training seeds.")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, required=True, help="the seed whose weights are packaged")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    print(package(given.runs, given.seed, given.out))
