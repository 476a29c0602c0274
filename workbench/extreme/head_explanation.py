"""What an active head does: where it attends, which tokens activate it, and which predictions need it.

1. A query counts as active ("awake") where the head pays less than half of its attention to the sink.
2. What it then looks at: by the token's text, by its relation to the query (itself, the one before, the one that
   followed an earlier occurrence of the same token, …) beside what even attention would give, and how far back.
3. What its absence costs: the predictions whose loss rises most when the head is zeroed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from workbench.errors import InputError
from workbench.extreme.ablation import require_predictions, row_batches, zeroed_predictions
from workbench.extreme.domains import sink_mask, sink_positions
from workbench.extreme.maps import patterns
from workbench.models.anatomy import Anatomy, anatomy
from workbench.models.attention import Chunk, observe
from workbench.models.devices import device_of
from workbench.models.identity import fingerprint
from workbench.models.state import measures
from workbench.names import Sinks
from workbench.prompts.texts import digest, token_sequences, words
from workbench.protocol import HookedModel
from workbench.runs.results import provenance

RELATIONS = ("sink", "self", "previous", "after the same", "the same", "delimiter", "other")
"""Of a key to its query; a key that fits several counts for the first. "after the same" is the token that followed an
earlier occurrence of the query's token, which induction heads look at."""
DELIMITERS = set(".,;:!?\"'`()[]{}<>-–—…*#=_/\\|“”‘’")
_CONTEXT = 8
"""Tokens of context shown with a prediction."""
_AT_ONCE = 8
"""Sequences in which the head is zeroed at a time."""


@measures
def attention_maps(
    model: HookedModel, layer: int, head: int, domains: Mapping[str, Any], *, max_tokens: int = 25
) -> xr.Dataset:
    """The attention of one head on the beginning of one text per domain, as `plot.waking_maps` takes it.

    Args:
        model: a TransformerLens model.
        layer: the head's layer.
        head: its index in the layer.
        domains: names, each with one text (a string or token ids); all long enough.
        max_tokens: tokens shown, the paper's 25.

    Returns:
        `pattern(domain, query, key)` with the coordinate `token(domain, key)`.
    """
    check_head(layer, head, anatomy(model))
    maps = [patterns(model, text, layers=[layer], max_tokens=max_tokens) for text in domains.values()]
    short = {name: found.sizes["key"] for name, found in zip(domains, maps, strict=True)}
    if not maps or min(short.values()) < max_tokens:
        raise InputError(
            f"The texts have {short} tokens; give at least one, each of {max_tokens}, or a smaller max_tokens=."
        )
    weights = np.stack([found["pattern"].sel(layer=layer, head=head).values for found in maps])
    tokens = np.stack([found["token"].values for found in maps])
    attrs = maps[0].attrs | {"layer": layer, "head": head}
    coords = {"domain": list(domains), "token": (("domain", "key"), tokens)}
    return xr.Dataset({"pattern": (("domain", "query", "key"), weights)}, coords, attrs)


@measures
def explain_head(
    model: HookedModel,
    layer: int,
    head: int,
    texts: Any,
    *,
    length: int = 128,
    sinks: Sinks | Sequence[int] = "first",
    asleep: float = 0.5,
    top: int = 12,
    column: str = "text",
) -> xr.Dataset:
    """Where one head attends when it is active, and which predictions need it.

    Args:
        model: a model from `workbench.load`.
        layer: the head's layer.
        head: its index in the layer.
        texts: of the kind it is awake on; longer ones are cut to `length` tokens.
        length: tokens of each text, at most.
        sinks: "first", "extreme" or positions, as in `active_dormant`.
        asleep: attention on the sink from which a query counts as asleep.
        top: how many tokens and predictions to list.
        column: which column of a Dataset holds the texts.

    Returns:
        `share(relation)` of the awake queries' attention and `even(relation)`, what even attention would give;
        `attended(rank)` with `attended_share`, of attention off the sink; `waking(rank)` with `waking_share`, the
        queries' own tokens; and per prediction that loses most its `context`, `token`, `loss`, `loss_change`, and
        where the head looked, `looked_at` with `looked_share`. In attrs `awake_share` of queries, `mean_distance`.

    Raises:
        InputError: a head that the model does not have, texts of one token, or a head that is never active on them.
    """
    parts = anatomy(model)
    check_head(layer, head, parts)
    sequences = token_sequences(model, texts, max_tokens=length, column=column)
    require_predictions(sequences)
    positions = sink_positions(sinks, min(len(s) for s in sequences))
    loss, change = _predictions(model, sequences, layer, head)
    seen = _Seen()
    texts_of = words(model, sequences)
    for i, pattern in enumerate(_each_pattern(model, sequences, layer, head)):
        mask = sink_mask(model, [sequences[i]], positions)[0]
        seen.add(sequences[i], texts_of[i], pattern, mask, asleep)
    if not seen.awake:
        raise InputError(
            f"Layer {layer}, head {head} pays at least {asleep:.0%} of its attention to the sink at all "
            f"{seen.queries} queries of these texts, so it is never active. Give other texts, or a larger asleep=."
        )
    variables = seen.tables(top) | _costly(loss, change, texts_of, seen.looks, top)
    attrs = provenance(
        method="explain_head",
        model=parts.name,
        weights=fingerprint(model),
        texts=digest(sequences),
        layer=layer,
        head=head,
        sinks=positions,
        asleep=asleep,
        n_sequences=len(sequences),
        n_queries=seen.queries,
        awake_share=seen.awake / seen.queries,
        mean_distance=seen.distance / seen.off_sink,
        mean_loss_change=float(np.mean([np.nanmean(row) for row in change])),
    )
    return xr.Dataset(variables, {"relation": list(RELATIONS)}, attrs)


def check_head(layer: int, head: int, parts: Anatomy) -> None:
    """Raise unless the model has this head."""
    for name, index, n in (("layer", layer, parts.n_layers), ("head", head, parts.n_heads)):
        if not 0 <= index < n:
            raise InputError(f"{name}={index}: the model has {n} {name}s, numbered 0 to {n - 1}.")


def relations(ids: Sequence[int], texts: Sequence[str], sinks: np.ndarray) -> np.ndarray:
    """Which relation each key has to each query, (query, key), as an index into `RELATIONS`."""
    tokens, n = np.asarray(ids), len(ids)
    query, key = np.arange(n)[:, None], np.arange(n)[None]
    before = np.r_[-1, tokens[:-1]]
    delimiter = np.array([bool(t) and set(t.strip()) <= DELIMITERS for t in texts])
    tests = [
        np.broadcast_to(sinks[None], (n, n)),
        query == key,
        key == query - 1,
        (before[None] == tokens[:, None]) & (key >= 1) & (key <= query),
        tokens[None] == tokens[:, None],
        np.broadcast_to(delimiter[None], (n, n)),
    ]
    return np.select(tests, range(len(tests)), len(RELATIONS) - 1)


class _Seen:
    """Sums over the awake queries of all sequences."""

    def __init__(self):
        self.share, self.even = np.zeros(len(RELATIONS)), np.zeros(len(RELATIONS))
        self.attended: defaultdict[str, float] = defaultdict(float)
        self.waking: Counter[str] = Counter()
        self.looks: list[list[tuple[str, float]]] = []
        self.queries = self.awake = 0
        self.distance = self.off_sink = 0.0

    def add(self, ids: Sequence[int], texts: list[str], pattern: np.ndarray, sinks: np.ndarray, asleep: float) -> None:
        """Take in one sequence's pattern."""
        n = len(ids)
        asks = ~sinks & (np.cumsum(sinks) > 0)
        awake = asks & (pattern[:, sinks].sum(1) < asleep)
        self.queries, self.awake = self.queries + int(asks.sum()), self.awake + int(awake.sum())
        visible = np.tril(np.ones((n, n), dtype=bool))[awake]
        kind, weight = relations(ids, texts, sinks)[awake], pattern[awake]
        even = visible / visible.sum(1, keepdims=True)
        for sums, values in ((self.share, weight), (self.even, even)):
            sums += np.bincount(kind.ravel(), values.ravel(), len(RELATIONS))
        off_sink = weight * ~sinks
        for text, mass in zip(texts, off_sink.sum(0), strict=True):
            self.attended[text] += float(mass)
        self.waking.update(text for text, is_awake in zip(texts, awake, strict=True) if is_awake)
        self.distance += float((off_sink * (np.flatnonzero(awake)[:, None] - np.arange(n))).sum())
        self.off_sink += float(off_sink.sum())
        self.looks.append([(texts[k], float(pattern[q, k])) for q, k in enumerate(pattern.argmax(1))])

    def tables(self, top: int) -> dict[str, Any]:
        """The sums as shares."""
        attended = [
            (t, mass / self.off_sink) for t, mass in sorted(self.attended.items(), key=lambda item: -item[1])[:top]
        ]
        waking = [(t, count / self.awake) for t, count in self.waking.most_common(top)]
        empty = ("", 0.0)
        n = max(len(attended), len(waking))
        attended, waking = (rows + [empty] * (n - len(rows)) for rows in (attended, waking))
        return {
            "share": ("relation", self.share / self.awake),
            "even": ("relation", self.even / self.awake),
            "attended": ("rank", np.array([t for t, _ in attended])),
            "attended_share": ("rank", np.array([share for _, share in attended])),
            "waking": ("rank", np.array([t for t, _ in waking])),
            "waking_share": ("rank", np.array([share for _, share in waking])),
        }


def _each_pattern(
    model: HookedModel, sequences: Sequence[Sequence[int]], layer: int, head: int
) -> Iterator[np.ndarray]:
    """One head's pattern on each sequence."""
    for tokens in sequences:
        pattern = np.zeros((len(tokens), len(tokens)))

        def keep(chunk: Chunk, pattern: np.ndarray = pattern) -> None:
            if chunk.layer == layer:
                n_queries, n_keys = chunk.visible.shape
                rows = slice(chunk.start, chunk.start + n_queries)
                pattern[rows, :n_keys] = chunk.pattern[0, head].double().cpu().numpy()

        observe(model, torch.tensor([list(tokens)], device=device_of(model)), attention=keep)
        yield pattern


def _predictions(
    model: HookedModel, sequences: Sequence[Sequence[int]], layer: int, head: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Loss and its change with the head zeroed, for each prediction of each sequence."""
    loss, change = [], []
    for start in range(0, len(sequences), _AT_ONCE):
        some = sequences[start : start + _AT_ONCE]
        batches = row_batches(model, max(len(s) for s in some), "auto")
        for kept, found in zip((loss, change), zeroed_predictions(model, some, layer, head, batches), strict=True):
            kept += [row[: len(s) - 1] for row, s in zip(found.cpu().numpy(), some, strict=True)]
    return loss, change


def _costly(
    loss: list[np.ndarray],
    change: list[np.ndarray],
    texts: list[list[str]],
    looks: list[list[tuple[str, float]]],
    top: int,
) -> dict[str, Any]:
    """The predictions whose loss rises most without the head."""
    places = [(i, n) for i, row in enumerate(change) for n in range(len(row))]
    places = sorted(places, key=lambda place: -change[place[0]][place[1]])[:top]
    contexts = ["".join(texts[i][max(0, n + 1 - _CONTEXT) : n + 1]) for i, n in places]
    columns = {
        "context": np.array(contexts),
        "token": np.array([texts[i][n + 1] for i, n in places]),
        "loss": np.array([loss[i][n] for i, n in places]),
        "loss_change": np.array([change[i][n] for i, n in places]),
        "looked_at": np.array([looks[i][n][0] for i, n in places]),
        "looked_share": np.array([looks[i][n][1] for i, n in places]),
        "sequence": np.array([i for i, _ in places]),
        "position": np.array([n for _, n in places]),
    }
    return {name: ("prediction", values) for name, values in columns.items()}
