"""Short texts of three kinds that come with the package, written for it, so that every figure can be drawn offline.

For numbers to publish give texts of your own, many and long: `--texts prose=FILE code=FILE`.
"""

import json
import lzma
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from workbench.errors import InputError

PROMPT = "Summer is warm. Winter is cold."
"""The sentence that the paper's first figure reads."""

SAMPLES: dict[str, tuple[str, ...]] = {
    "prose": (
        "The lamp on the landing had gone out again, and Edith felt her way down with one hand on the wall. Below, "
        "somebody was moving chairs. She stopped at the turn of the stairs and listened, for her brother never rose "
        "before eight, and the cook had gone to her sister's for the week. A chair scraped; a door closed softly.",
        "We had been eleven days out of port when the wind left us. The sails hung like washing, and the men, who had "
        "sung at every task till then, grew quiet and looked at the water. The captain walked up and down with his "
        "watch in his hand. He said nothing of the water casks, but everyone had counted them.",
        "My grandmother kept bees behind the orchard, and in the long evenings of June she would sit beside the hives "
        "with her sewing, as another woman might sit with neighbours. She told them everything: who had married, who "
        "was ill, what the hay had fetched. When she died, my father went out before breakfast to tell them that too.",
        "It was a small town with two churches, one inn and a great many opinions. Mr. Harker had lived in it for "
        "forty years without giving offence to anyone, which was held against him. On the morning of the fair he put "
        "on his brown coat, locked his door, and walked to the station carrying a bag that nobody had seen before.",
    ),
    "code": (
        'def merge(left, right):\n    """Merge two sorted lists."""\n    merged = []\n    i = j = 0\n    while i < '
        "len(left) and j < len(right):\n        if left[i] <= right[j]:\n            merged.append(left[i])\n"
        "            i += 1\n        else:\n            merged.append(right[j])\n            j += 1\n"
        "    return merged + left[i:] + right[j:]\n",
        "class Queue:\n    def __init__(self, items=()):\n        self.items = list(items)\n\n"
        "    def push(self, item):\n"
        "        self.items.append(item)\n\n    def pop(self):\n        if not self.items:\n"
        '            raise IndexError("the queue is empty")\n        return self.items.pop(0)\n\n'
        "    def __len__(self):\n        return len(self.items)\n",
        "import math\n\n\ndef primes(limit):\n    sieve = [True] * (limit + 1)\n    sieve[0] = sieve[1] = False\n"
        "    for n in range(2, math.isqrt(limit) + 1):\n        if sieve[n]:\n"
        "            for multiple in range(n * n, limit + 1, n):\n                sieve[multiple] = False\n"
        "    return [n for n, prime in enumerate(sieve) if prime]\n",
        "def neighbours(grid, row, column):\n    for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0)):\n"
        "        r, c = row + dr, column + dc\n        if 0 <= r < len(grid) and 0 <= c < len(grid[0]):\n"
        "            yield r, c\n\n\ndef count_islands(grid):\n    seen = set()\n    islands = 0\n"
        "    for r, line in enumerate(grid):\n        for c, cell in enumerate(line):\n"
        "            if cell and (r, c) not in seen:\n                islands += 1\n",
    ),
    "encyclopedia": (
        "A lighthouse is a tower with a lamp that helps ships to find their way at night. The first ones burned wood "
        "on open platforms; later ones used oil, gas and electricity, and lenses of cut glass that gather the light "
        "into a narrow beam. Each has its own pattern of flashes, so that sailors can tell one from another.",
        "Copper is a chemical element with the symbol Cu and atomic number 29. It is a soft metal with a reddish "
        "colour and conducts heat and electricity very well. It has been worked for about ten thousand years, at first "
        "as found in nature and later melted from ores. Mixed with tin it forms bronze, with zinc brass.",
        "The otter is a mammal that lives in and beside water. There are thirteen species, on every continent except "
        "Australia and Antarctica. Otters eat fish, crabs and frogs, have dense fur and webbed feet, and sleep in dens "
        "on the bank. The sea otter opens shells with stones and sleeps floating on its back.",
        "A glacier is a mass of ice that moves slowly under its own weight. It forms where more snow falls than melts "
        "over many years, so that the lower layers are pressed into ice. Glaciers carve valleys and carry rock with "
        "them, which they leave behind as moraines. They store most of the fresh water of the Earth.",
    ),
}


def domain_texts() -> dict[str, tuple[str, ...]]:
    """More texts of some kinds, for tests over texts: 24 of prose and of code, 8 dialogues, each of 64 tokens or more.

    `SAMPLES` of these kinds come first.
    """
    lines = (resources.files("workbench.prompts") / "assets" / "domains.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    names = dict.fromkeys(row["domain"] for row in rows)
    more = {name: tuple(row["text"] for row in rows if row["domain"] == name) for name in names}
    return {name: SAMPLES.get(name, ()) + texts for name, texts in more.items()}


def read_texts(files: Sequence[str]) -> dict[str, list[str]]:
    """Texts by domain from files.

    Args:
        files: "domain=path" each, or just a path, whose name gives the domain. A path ends in .txt (texts parted by
            blank lines), .jsonl or .jsonl.xz (one object with a "text" per line).

    Raises:
        InputError: a file that cannot be read or holds no texts, or two of one domain.
    """
    texts: dict[str, list[str]] = {}
    for word in files:
        name, _, path = word.rpartition("=")
        where = Path(path).expanduser()
        name = name or where.name.split(".")[0]
        if name in texts:
            raise InputError(f"two files for the domain {name!r}; name them apart: NAME={path}.")
        texts[name] = _read(where)
    return texts


def _read(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
        raw = (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8")
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the texts in {str(path)!r}: {error}.") from error
    if ".jsonl" not in path.suffixes:
        found = [text.strip("\n") for text in raw.split("\n\n") if text.strip()]
    else:
        try:
            found = [json.loads(line)["text"] for line in raw.split("\n") if line.strip()]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f'{str(path)!r}: each line must be a JSON object with a "text" ({error!r}).') from error
    if not found:
        raise InputError(f"{str(path)!r} holds no texts.")
    return found
