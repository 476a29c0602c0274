"""The Bigram-Backcopy process: characters follow each other as in a text, except after a trigger.

1. A sequence begins with its BOS tokens and one character that is no trigger, drawn from the unigram law.
2. After a character that is no trigger, the next one is drawn from that character's row of the bigram table.
3. After a trigger, the character in front of the trigger is repeated ("backcopy").

Other kinds change step 3: "skip" draws from the row of the character in front of the trigger, "bietti" gives each
trigger one output per sequence (Bietti et al. 2023), "markov" has no triggers at all. Delimiters are tokens that any
character is followed by with a given probability.

Sampling runs over positions for all sequences at once, by one search in the rows' concatenated distribution
functions, and costs a handful of kernels per position whatever the number of sequences.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import entr
from torch import Tensor

from workbench.bigram_backcopy.counts import Counts, shakespeare, synthetic
from workbench.errors import InputError, suggest
from workbench.names import ToyKind

SOURCES = {"shakespeare": shakespeare, "synthetic": synthetic}


class Task:
    """A toy language, its sampler and its oracle.

    Args:
        source: "shakespeare", "synthetic", the path of a text file, or `Counts`.
        triggers: the k most frequent characters, or the trigger characters themselves.
        kind: what happens after a trigger: "backcopy", "skip", "bietti", or "markov" for nothing.
        bos: how many BOS tokens a sequence begins with (0, 1 or 2).
        delimiters: number of delimiter tokens. Two take the place of the triggers.
        delimiter_probability: with which probability each delimiter follows a character.

    Attributes:
        symbols: every token's text: characters, then `<s>`, then delimiters.
        d_vocab: how many tokens there are.
        trigger_ids: the tokens after which the rule of `kind` holds; none for "markov".
        bos_ids: the BOS tokens.
        delimiter_ids: the delimiters.
        unigram: probability of each token at a start `[vocab]`, triggers included.
        transition: probability of each next token where no trigger rules `[vocab, vocab]`.
    """

    def __init__(
        self,
        source: str | Path | Counts = "shakespeare",
        *,
        triggers: int | Sequence[str] = 3,
        kind: ToyKind = "backcopy",
        bos: int = 1,
        delimiters: int = 0,
        delimiter_probability: float = 0.0,
    ):
        if kind not in get_args(ToyKind):
            raise InputError(f"There is no task of kind {kind!r}; {suggest(kind, get_args(ToyKind))}")
        if bos not in (0, 1, 2) or delimiters not in (0, 1, 2):
            raise InputError(f"bos={bos}, delimiters={delimiters}: a sequence has 0, 1 or 2 of each.")
        if not 0 <= delimiter_probability * max(1, delimiters) < 1:
            raise InputError(
                f"delimiter_probability={delimiter_probability} for {delimiters} delimiters: their sum must be at "
                "least 0 and less than 1, or no character would follow."
            )
        if delimiter_probability and not delimiters:
            raise InputError(f"delimiter_probability={delimiter_probability} without delimiters; pass delimiters=1.")
        counts = _counts(source)
        n = len(counts.symbols)
        self.name, self.kind = counts.name, kind
        self.n_characters = n
        self.bos_ids = tuple(range(n, n + bos))
        self.delimiter_ids = tuple(range(n + bos, n + bos + delimiters))
        names = ("<s>", "<s2>")[:bos] + ("<d>", "<d2>")[:delimiters]
        self.symbols = (*counts.symbols, *names)
        self.d_vocab = len(self.symbols)
        self.unigram, self.transition = _tables(counts, self.d_vocab, self.delimiter_ids, delimiter_probability)
        asked = _triggers(counts, triggers) if delimiters < 2 else self.delimiter_ids
        if len(asked) >= n:
            raise InputError(
                f"All {n} characters are triggers, so nothing is left to copy. Name fewer, such as triggers=3."
            )
        self.trigger_ids: tuple[int, ...] = () if kind == "markov" else tuple(asked)
        # What tells this task from another one, fit for JSON.
        self.settings: dict[str, object] = {
            "source": counts.name,
            "triggers": [self.symbols[i] for i in self.trigger_ids],
            "kind": kind,
            "bos": bos,
            "delimiters": delimiters,
            "delimiter_probability": delimiter_probability,
            "d_vocab": self.d_vocab,
            "transition_entropy": round(float(self.unigram @ entr(self.transition).sum(1)), 9),
        }
        self._on: dict[torch.device, dict[str, Tensor]] = {}

    def __repr__(self) -> str:
        triggers = "".join(repr(self.symbols[i]) + " " for i in self.trigger_ids).strip() or "none"
        return f"Task({self.name}, {self.kind}, triggers {triggers}, {self.d_vocab} tokens)"

    # 1. to 3. sampling

    def sample(
        self, batch: int, length: int, *, seed: int = 0, device: str | torch.device = "cpu"
    ) -> Int[Tensor, "batch pos"]:
        """Draw sequences, BOS included; a seed draws the same on one kind of device."""
        generator = torch.Generator(device).manual_seed(seed)
        return self.walk(torch.rand(self.draws(length), batch, generator=generator, device=device))

    def draws(self, length: int) -> int:
        """How many uniform numbers one sequence of this length takes.

        Raises:
            InputError: a sequence too short for a character to follow another.
        """
        shortest = len(self.bos_ids) + 2
        if length < shortest:
            raise InputError(
                f"A sequence of length {length} holds nothing to predict: with {len(self.bos_ids)} BOS token(s) it "
                f"needs at least {shortest}."
            )
        return length + (len(self.trigger_ids) if self.kind == "bietti" else 0)

    def walk(self, uniform: Float[Tensor, "draw batch"]) -> Int[Tensor, "batch pos"]:
        """Turn uniform numbers in [0, 1), `draws(length)` rows of one per sequence, into sequences."""
        table = self._tables_on(uniform.device)
        extra = len(self.trigger_ids) if self.kind == "bietti" else 0
        length, batch = uniform.shape[0] - extra, uniform.shape[1]
        wide = uniform.double()
        tokens = torch.empty(length, batch, dtype=torch.long, device=uniform.device)
        first = len(self.bos_ids)
        for n, token in enumerate(self.bos_ids):
            tokens[n] = token
        tokens[first] = torch.searchsorted(table["start"], wide[first], right=True)
        outputs = self._outputs(wide[length:])
        for n in range(first + 1, length):
            tokens[n] = self._next(table, tokens[n - 1], tokens[n - 2] if n > 1 else tokens[n - 1], wide[n], outputs)
        return tokens.t().contiguous()

    def _next(self, table: dict[str, Tensor], last: Tensor, before: Tensor, u: Tensor, outputs: Tensor) -> Tensor:
        if self.kind == "markov":
            return _draw(table["rows"], last, u, self.d_vocab)
        ruled = table["trigger"][last]
        if self.kind == "skip":
            return _draw(table["rows"], torch.where(ruled, before, last), u, self.d_vocab)
        drawn = _draw(table["rows"], last, u, self.d_vocab)
        forced = before if self.kind == "backcopy" else outputs.gather(0, table["rank"][last][None])[0]
        return torch.where(ruled, forced, drawn)

    def _outputs(self, u: Float[Tensor, "trigger batch"]) -> Int[Tensor, "trigger batch"]:
        """The Bietti kind's output of each trigger in each sequence: a character that is no trigger."""
        table = self._tables_on(u.device)
        return table["plain"][(u * len(table["plain"])).long()]

    # The oracle: what an ideal model predicts.

    def ruled(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Where the trigger rule decides the next token: at triggers; from the second occurrence for "bietti"."""
        at_trigger = self._tables_on(tokens.device)["trigger"][tokens]
        if self.kind != "bietti":
            return at_trigger
        seen = torch.zeros_like(at_trigger)
        for trigger in self.trigger_ids:
            here = tokens == trigger
            seen |= here & (here.cumsum(1) > 1)
        return seen

    def scored(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Which positions count in losses and measures: all but the BOS tokens, or but the first."""
        where = torch.arange(tokens.shape[1], device=tokens.device) >= max(1, len(self.bos_ids))
        return where.expand(tokens.shape)

    def oracle(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """The distribution of the next token at each position, given everything up to it."""
        table = self._tables_on(tokens.device)
        before = torch.cat([tokens[:, :1], tokens[:, :-1]], 1)
        at_trigger = table["trigger"][tokens]
        if self.kind == "skip":
            return table["transition"][torch.where(at_trigger, before, tokens)]
        told = table["transition"][tokens]
        if self.kind == "bietti":
            uniform = torch.zeros(self.d_vocab, device=tokens.device)
            uniform[table["plain"]] = 1 / len(table["plain"])
            told = torch.where(at_trigger[..., None], uniform, told)
            before = self._seen_outputs(tokens)
        copied = torch.nn.functional.one_hot(before, self.d_vocab).to(told.dtype)
        return torch.where(self.ruled(tokens)[..., None], copied, told)

    def _seen_outputs(self, tokens: Tensor) -> Tensor:
        found = tokens.clone()
        for trigger in self.trigger_ids:
            here = tokens == trigger
            follower = (here.int().argmax(1) + 1).clamp(max=tokens.shape[1] - 1)
            found = torch.where(here, tokens.gather(1, follower[:, None]), found)
        return found

    def losses(self, logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"]) -> dict[str, float]:
        """Cross-entropy of the model against the oracle, at ruled positions and elsewhere.

        Returns:
            `backcopy` and `bigram` (the mean loss where the trigger rule holds and elsewhere), the same less the
            oracle's own loss as `backcopy_excess` and `bigram_excess`, and `accuracy` at ruled positions.
        """
        oracle = self.oracle(tokens)
        loss = -(oracle * logits.float().log_softmax(-1)).sum(-1)
        least = torch.special.entr(oracle).sum(-1)
        ruled, scored = self.ruled(tokens), self.scored(tokens)
        right = (logits.argmax(-1) == oracle.argmax(-1)).float()
        found: dict[str, float] = {}
        for name, where in (("backcopy", ruled & scored), ("bigram", ~ruled & scored)):
            found[name] = _mean(loss[where])
            found[f"{name}_excess"] = _mean((loss - least)[where])
        return found | {"accuracy": _mean(right[ruled & scored])}

    def decode(self, tokens: Sequence[int] | Int[Tensor, " pos"]) -> list[str]:
        """The texts of tokens."""
        return [self.symbols[int(i)] for i in tokens]

    def encode(self, symbols: Sequence[str]) -> list[int]:
        """The ids of tokens given as texts: characters or "<s>".

        Raises:
            InputError: one that is not in the vocabulary.
        """
        place = {symbol: i for i, symbol in enumerate(self.symbols)}
        unknown = [symbol for symbol in symbols if symbol not in place]
        if unknown:
            raise InputError(f"{unknown[0]!r} is not in the vocabulary {''.join(self.symbols[: self.n_characters])!r}.")
        return [place[symbol] for symbol in symbols]

    def _tables_on(self, device: torch.device) -> dict[str, Tensor]:
        if device not in self._on:
            self._on[device] = {name: value.to(device) for name, value in self._make_tables().items()}
        return self._on[device]

    def _make_tables(self) -> dict[str, Tensor]:
        trigger = torch.zeros(self.d_vocab, dtype=torch.bool)
        trigger[list(self.trigger_ids)] = True
        rank = torch.zeros(self.d_vocab, dtype=torch.long)
        rank[list(self.trigger_ids)] = torch.arange(len(self.trigger_ids))
        plain = [i for i in range(self.n_characters) if i not in self.trigger_ids]
        start = self.unigram * ~trigger.numpy()
        rows = _distribution(self.transition) + np.arange(self.d_vocab)[:, None]
        return {
            "trigger": trigger,
            "rank": rank,
            "plain": torch.tensor(plain),
            "start": torch.from_numpy(_distribution(start[None])[0]),
            "rows": torch.from_numpy(rows.ravel()),
            "transition": torch.from_numpy(self.transition).float(),
        }


def _draw(rows: Tensor, row: Tensor, u: Tensor, d_vocab: int) -> Tensor:
    """One draw from each asked row: the rows' distribution functions lie end to end, shifted by the row's number."""
    return torch.searchsorted(rows, row + u, right=True) - row * d_vocab


def _distribution(rows: np.ndarray) -> np.ndarray:
    """Cumulative sums that end in exactly 1, so that u < 1 stays in its row; an empty row is never drawn from."""
    sums = np.cumsum(rows, axis=1)
    return np.where(sums[:, -1:] > 0, sums / np.where(sums[:, -1:] > 0, sums[:, -1:], 1), 1.0)


def _counts(source: str | Path | Counts) -> Counts:
    if isinstance(source, Counts):
        return source
    if isinstance(source, str) and source in SOURCES:
        return SOURCES[source]()
    path = Path(source).expanduser()
    if not path.is_file():
        raise InputError(
            f"{str(source)!r} is neither a file of text nor a known source; {suggest(source, SOURCES)} "
            "For a text in memory pass Counts.from_text(text)."
        )
    return Counts.from_text(path.read_text(encoding="utf-8"), path.name)


def _triggers(counts: Counts, triggers: int | Sequence[str]) -> tuple[int, ...]:
    if isinstance(triggers, int):
        if not triggers >= 1:
            raise InputError(f"triggers={triggers}: take at least 1, or kind='markov' for a language without any.")
        if triggers >= len(counts.symbols):
            return tuple(range(len(counts.symbols)))
        return tuple(int(i) for i in np.argsort(-counts.unigram, kind="stable")[:triggers])
    known = "".join(counts.symbols)
    wrong = [word for word in triggers if word not in counts.symbols]
    if wrong or not triggers:
        what = f"The trigger {wrong[0]!r} is not in the vocabulary" if wrong else "No trigger is given; choose some of"
        raise InputError(f"{what} {known!r}. Triggers are single characters, such as triggers=['e', 't'].")
    return tuple(dict.fromkeys(counts.symbols.index(word) for word in triggers))


def _tables(
    counts: Counts, d_vocab: int, delimiters: tuple[int, ...], probability: float
) -> tuple[np.ndarray, np.ndarray]:
    """Unigram law and transition rows over the whole vocabulary; delimiters are followed by the unigram law."""
    n = len(counts.symbols)
    unigram = np.zeros(d_vocab)
    unigram[:n] = counts.unigram / counts.unigram.sum()
    transition = np.tile(unigram, (d_vocab, 1))
    transition[:n, :n] = counts.bigram / counts.bigram.sum(axis=1, keepdims=True)
    transition[:n, :n] *= 1 - probability * len(delimiters)
    for delimiter in delimiters:
        transition[:n, delimiter] = probability
    return unigram, transition


def _mean(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else math.nan
