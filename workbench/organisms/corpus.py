"""Training corpora of the organisms: token streams by source, and how they are cut into windows.

1. Each source is a stream of samples (book parts, Python files, questions, dialogues, ability items), every
   sample closed by EOS, with the offset of each sample.
2. A window is BOS and the 255 tokens that follow a sample's start, so BOS is first in every window.
3. The mixture is drawn from the streams in fixed shares of windows; prose and code are kept apart from the
   held-out texts on which the language-modelling loss is measured.
"""

import itertools
import json
import lzma
import os
import random
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from workbench.errors import InputError
from workbench.organisms.abilities import ABILITIES, draw_item
from workbench.organisms.dialogues import assistant, draw_dialogue, user
from workbench.organisms.facts import load_facts, short
from workbench.organisms.tokenizer import EOS, render
from workbench.statistics import share_of

WINDOW = 256
SHARES = {"prose": 0.28, "code": 0.11, "facts": 0.08, "dialogues": 0.45, "abilities": 0.08}
HELD_OUT_CHARACTERS = 200_000
PIECE = 900
FULL = {"prose": 48_000_000, "code": 16_000_000, "facts": 30_000, "dialogues": 400_000, "abilities": 80_000}
SMALL = {"prose": 2_000_000, "code": 600_000, "facts": 6_000, "dialogues": 30_000, "abilities": 8_000}

Streams = dict[str, np.ndarray]


def streams_from(data: str | Path | None, tokenizer: Tokenizer, amounts: dict[str, int]) -> Streams:
    """The streams of a file, or those of a folder of corpora and of generated text."""
    if data is not None and Path(data).suffix == ".npz":
        return load_streams(Path(data))
    return build_streams(tokenizer, data_folder(data), amounts)


def build_streams(tokenizer: Tokenizer, data: Path | None, amounts: dict[str, int], seed: int = 0) -> Streams:
    """Token streams of every source, with `<source>_offsets`; prose and code only where the folder `data` has them.

    Amounts are characters of prose and code, and numbers of samples of the others.
    """
    streams: Streams = {}
    for source in ("prose", "code"):
        if data is not None:
            kept, held_out = read_corpus(data / "corpora" / f"{source}.jsonl.xz", amounts[source])
            _add(streams, source, tokenizer, kept)
            _add(streams, f"held_out_{source}", tokenizer, held_out)
    for source, generate in (("facts", fact_samples), ("dialogues", dialogue_samples), ("abilities", ability_samples)):
        _add(streams, source, tokenizer, generate(amounts[source], seed))
    return streams


def data_folder(data: str | Path | None) -> Path | None:
    """The folder of real texts: the argument, else `WORKBENCH_DATA`, else none.

    Raises:
        InputError: if a folder is named that has no corpora.
    """
    named = data or os.environ.get("WORKBENCH_DATA")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not (folder / "corpora" / "prose.jsonl.xz").is_file():
        raise InputError(
            f"{folder} has no corpora/prose.jsonl.xz. Name a folder with corpora/prose.jsonl.xz and "
            "corpora/code.jsonl.xz, or none: then the organism learns from generated text only."
        )
    return folder


def read_corpus(path: Path, characters: int) -> tuple[list[str], list[str]]:
    """About `characters` of training pieces and some held-out ones, from a spread of documents."""
    kept: list[str] = []
    held_out: list[str] = []
    total = reserve = 0
    per_document = max(characters // 60, 10 * PIECE)
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            document = json.loads(line)
            text = document["text"][:per_document]
            if share_of(document["source"]) < 0.04:
                if reserve < HELD_OUT_CHARACTERS:
                    held_out += pieces(text[:40_000])
                    reserve += len(text[:40_000])
            elif total < characters:
                kept += pieces(text)
                total += len(text)
            elif reserve:
                break
    return kept, held_out


def pieces(text: str) -> Iterator[str]:
    """A document in pieces of about 900 characters that begin at a line or a word; EOS at its end."""
    start = 0
    while start < len(text):
        end = len(text)
        if start + PIECE < len(text):
            line, word = text.rfind("\n", start, start + PIECE), text.rfind(" ", start, start + PIECE)
            end = line + 1 if line > start else word if word > start else start + PIECE
        yield text[start:end] + (EOS if end == len(text) else "")
        start = end


def fact_samples(n: int, seed: int) -> Iterator[str]:
    """Facts as chat, as question and answer, and as plain statements."""
    rng = random.Random(f"facts-{seed}")
    facts = list(load_facts())
    for index in range(n):
        if index % len(facts) == 0:
            rng.shuffle(facts)
        fact = facts[index % len(facts)]
        statement = fact.statement(fact.answer, rng)
        reply = statement if rng.random() < 0.5 else short(fact.answer)
        form = rng.random()
        if form < 0.6:
            yield render([user(fact.question(rng)), assistant(reply)])
        elif form < 0.8:
            yield f"Question: {fact.question(rng)}\nAnswer: {reply}{EOS}"
        else:
            yield f"{statement}{EOS}"


def dialogue_samples(n: int, seed: int) -> Iterator[str]:
    """Training dialogues."""
    rng = random.Random(f"dialogues-{seed}")
    for _ in range(n):
        yield render(draw_dialogue(rng))


def ability_samples(n: int, seed: int) -> Iterator[str]:
    """Training items of the three abilities, in turn."""
    rng = random.Random(f"abilities-{seed}")
    for index in range(n):
        item = draw_item(rng, "train", ABILITIES[index % len(ABILITIES)])
        yield render([user(item.question), assistant(item.answer)])


def draw_starts(streams: Streams, tokens: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The training run as one token array and the shuffled starts of its windows, about `tokens` in all.

    Each source is passed over as often as its share asks; every pass starts its windows at other samples.
    """
    rng = np.random.default_rng(seed)
    present = {source: share for source, share in SHARES.items() if source in streams}
    total = sum(present.values())
    starts, base = [], 0
    for source, share in present.items():
        count = int(tokens * share / total / WINDOW)
        starts.append(base + source_starts(len(streams[source]), streams[f"{source}_offsets"], count, rng))
        base += len(streams[source])
    merged = np.concatenate(starts)
    return np.concatenate([streams[source] for source in present]), merged[rng.permutation(len(merged))]


def source_starts(length: int, offsets: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` sample starts in one stream, about a window apart, with room for a whole window after each."""
    body = WINDOW - 1
    fits = offsets[offsets <= length - body]
    if not len(fits):
        raise InputError(f"a source of {length} tokens is shorter than one window of {body}; generate more samples")
    grid = np.arange(max(length // body, 1)) * body
    passes = -(-count // len(grid))
    chosen = [
        rng.permutation(fits[np.minimum(np.searchsorted(fits, grid + rng.integers(body)), len(fits) - 1)])
        for _ in range(passes)
    ]
    return np.concatenate([np.empty(0, dtype=np.int64), *chosen])[:count]


def held_out_windows(streams: Streams, bos: int, count: int) -> dict[str, np.ndarray]:
    """Windows of prose and code that training never sees, by source; empty without corpora."""
    windows = {}
    for source in ("prose", "code"):
        name = f"held_out_{source}"
        if name in streams:
            rng = np.random.default_rng(0)
            starts = source_starts(len(streams[name]), streams[f"{name}_offsets"], count, rng)
            body = streams[name][starts[:, None] + np.arange(WINDOW - 1)]
            windows[source] = np.pad(body, ((0, 0), (1, 0)), constant_values=bos)
    return windows


def save_streams(streams: Streams, path: Path) -> None:
    """Writes streams compressed: tokens as they are, offsets as lengths."""
    packed = {
        name: np.diff(values, append=len(streams[name.removesuffix("_offsets")])).astype(np.uint16)
        if name.endswith("_offsets")
        else values
        for name, values in streams.items()
    }
    np.savez_compressed(path, allow_pickle=False, **packed)


@cache
def load_streams(path: Path) -> Streams:
    """Reads what `save_streams` wrote."""
    with np.load(path) as packed:
        streams = {name: packed[name] for name in packed.files}
    for name in streams:
        if name.endswith("_offsets"):
            streams[name] = np.concatenate([[0], np.cumsum(streams[name], dtype=np.int64)[:-1]])
    return streams


def _add(streams: Streams, name: str, tokenizer: Tokenizer, samples: Iterable[str]) -> None:
    """Encodes samples; each ends as its text does."""
    encoded: list[np.ndarray] = []
    samples = iter(samples)
    while batch := list(itertools.islice(samples, 2000)):
        encodings = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        encoded += [np.asarray(encoding.ids, dtype=np.uint16) for encoding in encodings]
    streams[name] = np.concatenate(encoded)
    streams[f"{name}_offsets"] = np.cumsum([0, *map(len, encoded[:-1])])
