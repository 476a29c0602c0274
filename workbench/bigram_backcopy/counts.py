"""Character statistics of the toy language: unigram and bigram counts of a text.

`shakespeare()` reads the committed table of tiny Shakespeare (1,115,394 characters, 65 of them distinct),
`Counts.from_text` counts any other text, and `synthetic` draws a chain with a Zipf-like stationary law where no
text is at hand. `Counts.from_text(text, "tiny Shakespeare").write(TABLE)` makes the committed table again.
"""

import json
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workbench.errors import InputError

TABLE = Path(__file__).parent / "assets" / "tinyshakespeare.json"
FEWEST_PER_SYMBOL = 2
_LETTERS = string.ascii_letters + string.digits + ".,"


@dataclass(frozen=True, eq=False)
class Counts:
    """Symbols with the weight of each one and of each pair of neighbours.

    Attributes:
        name: what was counted.
        symbols: the distinct symbols, in the order of the tables.
        unigram: how often each symbol occurs `[symbol]`.
        bigram: how often the column's symbol follows the row's `[symbol, symbol]`.
    """

    name: str
    symbols: tuple[str, ...]
    unigram: np.ndarray
    bigram: np.ndarray

    @classmethod
    def from_text(cls, text: str, name: str = "text") -> "Counts":
        """Count a text's characters, which become the symbols in sorted order, and its neighbouring pairs.

        Raises:
            InputError: the text is too small for its bigrams to be estimated.
        """
        symbols = tuple(sorted(set(text)))
        needed = FEWEST_PER_SYMBOL * len(symbols) ** 2
        if len(symbols) < 4 or len(text) < needed:
            raise InputError(
                f"The text has {len(text)} characters, {len(symbols)} of them distinct: too small to estimate which "
                f"character follows which. Give at least 4 distinct characters and {max(needed, 32)} in all (twice as "
                "many as there are pairs), or use source='synthetic'."
            )
        place = {symbol: i for i, symbol in enumerate(symbols)}
        ids = np.fromiter((place[character] for character in text), dtype=np.int64, count=len(text))
        n = len(symbols)
        bigram = np.bincount(ids[:-1] * n + ids[1:], minlength=n * n).reshape(n, n)
        last = int(ids[-1])
        if not bigram[last].any():  # the last character occurs nowhere else: what follows it is unknown
            bigram[last, int(ids[0])] = 1
        return cls(name, symbols, np.bincount(ids, minlength=n), bigram)

    @classmethod
    def read(cls, path: str | Path) -> "Counts":
        """Read a table written by `write`."""
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        bigram = np.array([[int(word) for word in row.split()] for row in table["bigram"]])
        return cls(table["name"], tuple(table["symbols"]), np.array(table["unigram"]), bigram)

    def write(self, path: str | Path) -> None:
        """Write the table as JSON, a line per symbol."""
        table = {
            "name": self.name,
            "symbols": "".join(self.symbols),
            "unigram": self.unigram.tolist(),
            "bigram": [" ".join(map(str, row)) for row in self.bigram.tolist()],
        }
        Path(path).write_text(json.dumps(table, indent=0, ensure_ascii=True) + "\n", encoding="utf-8")


def shakespeare() -> Counts:
    """The committed counts of tiny Shakespeare."""
    return Counts.read(TABLE)


def synthetic() -> Counts:
    """A random chain: rows are Dirichlet draws around weights 1/rank, the unigram law is the stationary one."""
    n = len(_LETTERS)
    rank = 1.0 / np.arange(1, n + 1)
    bigram = np.random.default_rng(0).dirichlet(3.2 * rank / rank.sum() + 0.001, size=n)
    law = np.full(n, 1.0 / n)
    for _ in range(500):
        law = law @ bigram
    return Counts("synthetic", tuple(_LETTERS), law, bigram)
