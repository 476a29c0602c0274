"""Waking heads and 8-bit rounding in a real model: makes the records in `workbench/papers/active_dormant/assets`.

    python benchmarks/real_heads.py texts DATA texts.json     # seconds; DATA is a folder of corpora
    python benchmarks/real_heads.py measure texts.json OUT    # minutes on a GPU; days on a CPU
    python benchmarks/real_heads.py pack OUT FOLDER           # the package's records of what was measured
    python benchmarks/real_heads.py sweep                     # seconds on this machine, and what cheaper ways find
    python benchmarks/real_heads.py recall                    # waking heads that a shortlist by attention holds

1. `texts` takes one piece each of many documents: books, Python files, encyclopedia articles and scenes of plays. Half
   of the documents are for finding heads, the others, which share none, for confirming them.
2. `measure` zeroes every head on the first half (`screen-*.nc`), and the heads that wake or nearly do on the second
   (`confirm.nc`), whose tests are corrected for these alone.
3. It then measures, on prose and code, what 8-bit rounding adds to the loss when weights or activations share scales in
   different ways, beside the remedies at inference time that take away sink, drain or peak (`remedies.nc`).
"""

import functools
import json
import lzma
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import tyro
import xarray as xr
from tyro.conf import Positional

import workbench as wb
from workbench.extreme import Scheme, compare_remedies, near_misses, phases, waking_table, without_peak
from workbench.extreme.domains import domain_sequences, sink_attention, sink_mask
from workbench.extreme.shortlist import shortlist
from workbench.papers.active_dormant.real_figures import record
from workbench.papers.active_dormant.sentences import domains_table, misleading_head, remedies_table
from workbench.prompts.samples import domain_texts
from workbench.runs.results import open_result, save_result
from workbench.statistics import share_of

MODEL = "smollm2-135m-instruct"
LETTERS = 1200
"""Of each document; 128 tokens or more with the tokenizers of the named models."""
BREAKS = {"prose": "\n\n", "code": "\n\n\n", "encyclopedia": "\n", "dialogue": "\n\n"}
"""Where a piece may begin."""
ROUNDINGS = (
    Scheme(8, 16, "token"),
    Scheme(8, 16, "token", weights="tensor"),
    Scheme(16, 8, "token"),
    Scheme(16, 8, "channel"),
    Scheme(16, 8, "tensor"),
    Scheme(8, 8, "token"),
    Scheme(8, 8, "tensor"),
)
"""Weights alone, activations alone, and both."""
NEAR = 20
"""Near misses that are measured again, at most."""
NAMED = [(18, 6)]
"""Measured again whatever the screen says: dormant in prose and active in code in an earlier measurement."""


def documents(data: Path) -> Iterator[tuple[str, str, str]]:
    """The kind, name and text of every document."""
    for kind, file in (("prose", "prose"), ("code", "code"), ("encyclopedia", "wiki")):
        with lzma.open(data / "corpora" / f"{file}.jsonl.xz", "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                row = json.loads(line)
                yield kind, f"{row['source']} {number}", row["text"]
    plays = (data / "corpora/tinyshakespeare/input.txt").read_text(encoding="utf-8")
    cuts = range(0, len(plays), 3 * LETTERS)
    yield from (("dialogue", f"plays {a}", plays[a:b]) for a, b in pairwise(cuts))


def piece(kind: str, name: str, text: str) -> str:
    """So many letters of a document, from a break near a place that depends on its name."""
    at = int(share_of(name) * max(0, len(text) - 2 * LETTERS))
    found = text.find(BREAKS[kind], at, at + LETTERS)
    return text[at if found < 0 else found :].lstrip("\n")[:LETTERS]


def texts(data: Positional[Path], out: Positional[Path], n: int = 104) -> None:
    """Draw n documents of each kind to find heads with, and as many others to confirm them."""
    pieces: dict[str, dict[str, str]] = {kind: {} for kind in BREAKS}
    for kind, name, text in documents(data):
        if len(text) >= 3 * LETTERS // (3 if kind == "encyclopedia" else 1):
            pieces[kind][name] = piece(kind, name, text)
    drawn = {}
    for kind, some in pieces.items():
        names = sorted(name for name, text in some.items() if len(text) == LETTERS)
        random.Random(0).shuffle(names)
        assert len(names) >= 2 * n, (kind, len(names))
        drawn[kind] = {"screen": [some[x] for x in names[:n]], "confirm": [some[x] for x in names[n : 2 * n]]}
    out.write_text(json.dumps(drawn, ensure_ascii=False), encoding="utf-8")


def measure(
    texts: Positional[Path], out: Positional[Path], model: str = MODEL, n: int = 96, length: int = 128, few: int = 32
) -> None:
    """Screen all heads, confirm those that wake or nearly do, and measure the roundings on a few of the texts."""
    drawn, out = json.loads(texts.read_text(encoding="utf-8")), Path(out)
    loaded = wb.load(model)

    def of(name: str, *kinds: str) -> dict[str, list[str]]:
        return {kind: drawn[kind][name] for kind in kinds}

    def heads(name: str, asked: list[tuple[int, int]] | None, *kinds: str) -> xr.Dataset:
        given = of(name, *kinds)
        return wb.active_dormant(loaded, given, length=length, n_sequences=n, heads=asked, at_once=32, progress=False)

    first = _timed(out / "screen-1.nc", lambda: heads("screen", None, "prose", "code"))
    print(domains_table(first))
    second = _timed(out / "screen-2.nc", lambda: heads("screen", None, "encyclopedia", "dialogue"))
    every = together(first, second)
    print(domains_table(every))
    print(domains_table(_timed(out / "confirm.nc", lambda: heads("confirm", candidates(first, every), *BREAKS))))
    rounded = {kind: drawn[kind]["confirm"][: 2 * few] for kind in ("prose", "code")}
    peak = without_peak(loaded, [text for some in of("screen", "prose", "code").values() for text in some[:8]])
    compare = functools.partial(
        compare_remedies, loaded, rounded, length=length, n_sequences=few, recipes=(), schemes=ROUNDINGS, more=[peak]
    )
    print(remedies_table(_timed(out / "remedies.nc", functools.partial(compare, progress=False))))


def together(*screens: xr.Dataset) -> xr.Dataset:
    """Several kinds of text that were measured apart, judged together."""
    measured = [found[["loss", "loss_change", "sink_weight"]] for found in screens]
    joined = xr.concat(measured, "domain", combine_attrs="drop_conflicts", coords="minimal", compat="override")
    return phases(joined)


def candidates(*screens: xr.Dataset) -> list[tuple[int, int]]:
    """Heads that wake, the nearest misses and the head that attention alone would name, in any of the screens."""
    found: dict[tuple[int, int], None] = dict.fromkeys(NAMED)
    for judged in screens:
        if at := misleading_head(judged):
            found[at] = None
        for rows in (waking_table(judged), near_misses(judged).isel(row=slice(NEAR))):
            found |= dict.fromkeys(zip(rows["layer"].values.tolist(), rows["head"].values.tolist(), strict=True))
    return sorted(found)


def pack(out: Positional[Path], folder: Positional[Path], model: str = MODEL) -> None:
    """Make the package's records of what `measure` wrote: no texts, single precision."""
    by_text = open_result(out / "confirm.nc")[["loss", "loss_change", "sink_weight"]]
    small = {
        "screen": _verdicts(open_result(out / "screen-1.nc")),
        "confirm": by_text.assign(sink_weight=by_text["sink_weight"].where(by_text["loss_change"].notnull())),
        "rounding": _verdicts(open_result(out / "remedies.nc")),
    }
    for name, found in small.items():
        found = found.drop_vars("text", errors="ignore")
        narrow = {x: found[x].astype(np.float32) for x in found.data_vars if found[x].dtype == np.float64}
        save_result(found.assign(narrow), folder / f"{model}-{name}.nc", compressed=True)


def _verdicts(found: xr.Dataset) -> xr.Dataset:
    """What is told of all texts together."""
    return found.drop_vars([name for name, values in found.data_vars.items() if "sequence" in values.dims])


def _timed(path: Path, work: Callable[[], xr.Dataset]) -> xr.Dataset:
    began = time.perf_counter()
    result = work()
    save_result(result, path, compressed=True)
    print(f"{path.name}: {time.perf_counter() - began:.0f} s", flush=True)
    return result


def sweep(model: str = MODEL, n: int = 16, length: int = 64, short: int = 72, every: bool = True) -> None:
    """Time zeroing on n texts of prose and of code: all heads, stopped early, a shortlist; and what each finds.

    Args:
        every: also without stopping, and say which of the heads that wake or nearly do the cheaper ways hold.
    """
    loaded, kinds = wb.load(model), {kind: list(domain_texts()[kind][:n]) for kind in ("prose", "code")}
    ways: dict[str, tuple[int | None, bool]] = {
        f"shortlist of {short}, stopped early": (short, True),
        "stopped early": (None, True),
    } | ({f"shortlist of {short}": (short, False), "all heads": (None, False)} if every else {})
    found = {}
    for way, (few, early) in ways.items():
        began, busy = time.perf_counter(), time.process_time()
        found[way] = wb.active_dormant(loaded, kinds, length=length, shortlist=few, stop_early=early, progress=False)
        seconds, cpu = time.perf_counter() - began, time.process_time() - busy
        print(f"{way}: {seconds:.0f} s, {cpu:.0f} s of CPU time\n{domains_table(found[way])}\n", flush=True)
    for what, rows in (("wake", waking_table), ("nearly wake", near_misses)) if every else ():
        at = rows(found["all heads"])
        for way, some in found.items():
            done = some["n_texts"].transpose("layer", "head").values[at["layer"].values, at["head"].values] == n
            print(f"{int(done.sum())} of {len(done)} heads that {what} are zeroed on all texts: {way}")


def recall(model: str = MODEL, n: int = 16, length: int = 64) -> None:
    """Of the heads that wake between prose and code in the package's record, how many does a shortlist hold?"""
    loaded, kinds = wb.load(model), {kind: list(domain_texts()[kind][:n]) for kind in ("prose", "code")}
    sequences, _ = domain_sequences(loaded, kinds, length, n)
    weights = np.stack([sink_attention(loaded, some, sink_mask(loaded, some, "first")) for some in sequences.values()])
    table = waking_table(record("screen"))
    for few in (24, 48, 72, 96):
        held = shortlist(weights, few, 0.5)[table["layer"].values, table["head"].values]
        print(f"a shortlist of {few} heads holds {int(held.sum())} of {len(held)}")


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {
        "texts": texts,
        "measure": measure,
        "pack": pack,
        "sweep": sweep,
        "recall": recall,
    }
    sys.exit(tyro.extras.subcommand_cli_from_dict(commands))
