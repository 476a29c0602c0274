"""Character statistics of the toy language: unigram and bigram counts of a text.

`shakespeare()` reads the committed table of tiny Shakespeare (1,115,394 characters, 65 of them distinct),
`Counts.from_text` counts any other text, and `synthetic` draws a chain with a Zipf-like stationary law where no
text is at hand. The committed table is made again, and compared, by

    python -m workbench.bigram_backcopy.counts TEXT_FILE [TABLE.json]
"""

import json
import string
import sys
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
        """Count a text's characters and neighbouring pairs.

        Args:
            text: any text; its sorted distinct characters become the symbols.
            name: what to call it in results.

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


def synthetic(n_symbols: int = 64, seed: int = 0) -> Counts:
    """A random chain: rows are Dirichlet draws around weights 1/rank, the unigram law is the stationary one.

    Raises:
        InputError: fewer than four symbols.
    """
    if n_symbols < 4:
        raise InputError(f"A synthetic chain of {n_symbols} symbols leaves nothing to copy; take at least 4.")
    rank = 1.0 / np.arange(1, n_symbols + 1)
    bigram = np.random.default_rng(seed).dirichlet(3.2 * rank / rank.sum() + 0.001, size=n_symbols)
    law = np.full(n_symbols, 1.0 / n_symbols)
    for _ in range(500):
        law = law @ bigram
    names = _LETTERS if n_symbols <= len(_LETTERS) else [chr(0x4E00 + i) for i in range(n_symbols)]
    return Counts("synthetic", tuple(names[:n_symbols]), law, bigram)


def main(arguments: list[str]) -> str:
    """Count a text file into a table and say what was counted."""
    if not arguments:
        raise InputError("Name the text file: python -m workbench.bigram_backcopy.counts TEXT_FILE [TABLE.json]")
    found = Counts.from_text(Path(arguments[0]).read_text(encoding="utf-8"), "tiny Shakespeare")
    table = Path(arguments[1]) if len(arguments) > 1 else TABLE
    found.write(table)
    return f"{int(found.unigram.sum())} characters, {len(found.symbols)} distinct, in {table.name}"


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1:]) + "\n")
