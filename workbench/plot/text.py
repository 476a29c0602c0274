"""How much room a text takes in a figure, in pixels: widths of the letters of Helvetica, and lines broken to fit."""

import re
from html import unescape

THIN, SLIM, WIDE = "ijl.,:;'|!· It/\\", 'rf()[]{}-"', "mMwW@%…—"
LINE = 1.25
"""Height of a line in font sizes."""
BROKEN = re.compile(r"<br\s*/?>")


def shown(text: str) -> str:
    """A text as it is seen: without tags, entities resolved."""
    return unescape(re.sub(r"<[^>]*>", "", text))


def text_width(text: str, size: float | int) -> float:
    """Pixels of the longest line of a text; wide enough for the fonts that may stand in for the first one."""
    return max(sum(map(_em, shown(line))) for line in BROKEN.split(text)) * size * 1.04


def text_height(text: str, size: float | int) -> float:
    """Pixels of all lines of a text."""
    return len(BROKEN.split(text)) * size * LINE if text else 0.0


def wrap(text: str, width: float | int, size: float | int) -> str:
    """A text with lines no wider than `width` where its words allow; words may be broken after - / + · and _."""
    lines: list[str] = []
    for line in BROKEN.split(text):
        lines += _broken(line, width, size)
    return "<br>".join(lines)


def _broken(line: str, width: float | int, size: float | int) -> list[str]:
    words: list[str] = []
    for word in re.findall(r"<[^>]*>|[^ <]+ *| +", line):
        whole = text_width(word, size) <= width
        words += [word] if whole or word.startswith("<") else re.findall(r"[^-/+·_]+[-/+·_]* *|[-/+·_]+ *", word)
    lines = [""]
    for word in words:
        if shown(lines[-1]) and text_width(lines[-1] + word.rstrip(), size) > width:
            lines.append("")
        lines[-1] += word
    return [line.strip() for line in lines]


def _em(letter: str) -> float:
    """Width of a letter in font sizes."""
    if letter in THIN:
        return 0.27
    if letter in SLIM:
        return 0.34
    if letter in WIDE:
        return 0.86
    return 0.69 if letter.isupper() else 0.55
