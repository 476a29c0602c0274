r"""Reply matchers: read the answer out of a generated reply, only where the reply marks it as the answer.

Patterns are anchored: a letter counts as a choice where it is announced ("the answer is B"), said to be right ("B is
correct"), stands alone or before its option on the first line, or is the only one in parentheses, never because a word
begins with it ("Apologies", "A good question"). What stands in `\boxed{}` is the answer, whatever else is said;
a formula there, such as 2\sqrt{3}, is none. None means that no answer was found, which a result reports beside its
accuracy.
"""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from workbench.prompts.questions import LETTERS

_STRESSED = r"(?:\s+(?:indeed|actually|still|really|in fact))?"
_ANNOUNCED = (
    rf"(?i:\b(?:answer|option|choice)\b(?:\s+(?:of|is|remains|(?:should|must|would) be))?{_STRESSED}\s*(?::|=|,)?"
    r"|\b(?:it is|it's|i choose|i pick|i select|i'd go with|i would go with|i'll go with|going with))"
)
_BEHIND = r"(?=\s*(?:$|[.,:;!?)\]}*\"\n–—]|(?:because|since|as|for|but|which)\b))"
_IS_RIGHT = rf"[*\"'\])}}]*\s+(?i:(?:is|remains){_STRESSED}\s+(?:the\s+)?(?:correct|right)\b)"
_NEGATION = re.compile(r"(?i)\b(?:not|never|neither|nor|cannot|wrong|incorrect|rather than|instead of)\b|n't\b|n’t\b")
_NUMBER = re.compile(r"(?<![\w.])[-−]?\s?\$?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w)|(?<![\w.])[-−]?\$?\.\d+")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)")
_PART = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.?\d+"
_RATIO = (
    rf"\s*\$?\s*(?P<minus>[-−]?)\s*\$?\s*(?:(?P<whole>\d+)\s+)?(?P<above>{_PART})\s*/\s*(?P<below>{_PART})(?![\d/])"
)
_FRACTION = re.compile(_RATIO)
_VALUE = re.compile(
    rf"(?:{_RATIO}|\s*\$?\s*(?P<sign>[-−+]?)\s*\$?\s*(?P<value>(?:{_PART})(?:[eE][-+]?\d+)?)\.?)"
    r"(?:\s*[%°]|\s+[^\W\d][^\d+*/^_=]*)?\s*\$?"
)
"""A number that fills its place: sign, currency, fraction or mixed number, power of ten, then a unit in words."""
_YES_NO = re.compile(r"(?i)\banswer\s*(?:is|:)?\s*[:\"'*(\[]*\s*(yes|no)\b")
_OPENING = re.compile(r"(?i)^\W*(yes|no)\b(?!\s+(?:doubt|one|matter|longer|idea|problem|worries|need|wonder|and no)\b)")


def letter(reply: str, n_choices: int = 4) -> str | None:
    """The choice that a reply names, as a capital letter; letters beyond the `n_choices` are none."""
    reply, known = _unboxed(reply), LETTERS[:n_choices]
    alone = re.fullmatch(rf"\W*([{known}{known.lower()}])\W*", reply)
    if alone:
        return alone.group(1).upper()
    named = rf"[\s*\"'(\[{{]*([{known}])(?!['’]\w)(?!\w){_BEHIND}"
    right = rf"(?<![\w'’])([{known}]){_IS_RIGHT}"
    announced = [
        m
        for m in re.finditer(f"{_ANNOUNCED}{named}|{right}", reply)
        if not _denied(reply, m.start(), m.start(2) if m.group(2) else m.end())
    ]
    if announced:
        return announced[-1].group(1) or announced[-1].group(2)
    first = re.match(rf"\s*[*\"'(\[]*([{known}])(?:[)\].:*\"'](?=\s|$|\*)|\s*(?:\n|$))", reply)
    if first:
        return first.group(1)
    found = {
        m.group(1) for m in re.finditer(rf"[(\[]([{known}])[)\]]", reply) if not _denied(reply, m.start(), m.start())
    }
    return found.pop() if len(found) == 1 else None


def number(reply: str) -> str | None:
    """The number that a reply ends on: boxed, else after "####", else after "answer is", else the last one.

    In a box, or alone, stands one number with a unit at most (1/2, 1 1/2, 12,345 m, x = 3); anything else is a formula
    and none.
    """
    boxed = _BOXED.findall(reply)
    alone = _plain(boxed[-1] if boxed else reply.strip()).split("=")[-1].strip()
    whole = _VALUE.fullmatch(alone.rstrip("."))
    if whole:
        return _value(whole)
    if boxed or re.fullmatch(r"\S*\\[A-Za-z]+\S*", reply.strip()):
        return None
    marked = re.search(r"####\s*(.+)", reply)
    said = list(re.finditer(r"(?i)\banswer\s*(?:is|:|=)\s*(?:about|approximately|equal to)?\W*?(?=[-−$.\d])", reply))
    behind = re.sub(r"^[\s\d$.,+\-−*/×÷x()]*=", "", reply[said[-1].end() :]) if said else ""
    fraction = _FRACTION.match(behind)
    if fraction and not marked:
        return _value(fraction)
    for text, which in ((marked.group(1) if marked else "", 0), (behind, 0), (reply, -1)):
        found = _NUMBER.findall(text)
        if found:
            return canonical(found[which])
    return None


def yes_no(reply: str) -> str | None:
    """Yes or no, in small letters: the last one announced as the answer, else the word that the reply opens with."""
    reply = _unboxed(reply)
    announced = _YES_NO.findall(reply)
    if announced:
        return announced[-1].lower()
    opening = _OPENING.match(reply)
    return opening.group(1).lower() if opening else None


def text(reply: str, answers: Sequence[str]) -> str | None:
    """The only one of some answers that the reply's first line names as whole words and does not deny.

    Capitals do not count; of two answers that begin at one place the longer counts.
    """
    first = next((line for line in _unboxed(reply).splitlines() if line.strip()), "")
    known = {answer.strip().rstrip(".").casefold(): answer for answer in reversed(answers)}
    forms = "|".join(re.escape(form) for form in sorted(known, key=len, reverse=True))
    found = re.finditer(rf"(?<!\w)(?:{forms})(?!\w)", first.casefold())
    named = {known[m.group()] for m in found if not _denied(first, m.start(), m.start())}
    return named.pop() if len(named) == 1 else None


def gsm8k_strict(reply: str) -> str | None:
    """lm-evaluation-harness's "strict-match" of GSM8K: the first number after "#### "."""
    found = re.search(r"#### (-?[0-9.,]+)", reply)
    return _as_harness(found.group(1)) if found else None


def gsm8k_flexible(reply: str) -> str | None:
    """lm-evaluation-harness's "flexible-extract" of GSM8K: the last thing that looks like a number."""
    found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", reply)
    return _as_harness(next(part for part in found[-1] if part)) if found else None


MATCHERS: dict[str, Callable[..., str | None]] = {
    "letter": letter,
    "number": number,
    "yes_no": yes_no,
    "gsm8k_strict": gsm8k_strict,
    "gsm8k_flexible": gsm8k_flexible,
}
"""Functions that read an answer out of a reply; the same function brings the target into the same form."""


def in_form(read: Callable[[str], str | None], target: str) -> str | None:
    """A target in its matcher's form; a bare number or letter is put after the mark that the matcher looks for."""
    return next((found for form in (target, f"#### {target}") if (found := read(form)) is not None), None)


def canonical(text: str) -> str:
    """A number without currency, separators and needless zeros."""
    bare = re.sub(r"[\s$,]", "", text).replace("−", "-").rstrip(".")
    try:
        value = Decimal(bare)
    except InvalidOperation:
        return bare
    return str(int(value)) if value == value.to_integral_value() else str(value.normalize())


def _value(found: re.Match[str]) -> str | None:
    """A number of `_VALUE` or `_FRACTION`, as a decimal where that is exact, so that 1/2 and 0.5 are one."""
    parts = found.groupdict()
    if parts["above"] is None:
        return canonical(("-" if parts["sign"] in ("-", "−") else "") + parts["value"])
    above, below = (Fraction(parts[name].replace(",", "")) for name in ("above", "below"))
    if not below:
        return None
    value = (int(parts["whole"] or 0) + above / below) * (-1 if parts["minus"] else 1)
    decimal = Decimal(value.numerator) / Decimal(value.denominator)
    return canonical(str(decimal)) if Fraction(decimal) == value else str(value)


def _plain(formula: str) -> str:
    """LaTeX's fractions, thousands, text and degrees as plain text."""
    plain = re.sub(r"(?<=\d)(?:\{,\}|\\[,!;:]|,\\!)(?=\d{3}(?!\d))", "", formula)
    plain = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", plain)
    plain = re.sub(r"(\d?)\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1 \2/\3", plain)
    return re.sub(r"\\(?:text|math)[a-z]*\s*\{([^{}]*)\}|\^\{?\\circ\}?|\\[,;:! ]|\\(?=[$%])", r" \1", plain)


def _unboxed(reply: str) -> str:
    """The last boxed answer as a plain announcement, without words where it is a formula; without a box as it is."""
    boxed = _BOXED.findall(reply)
    if not boxed:
        return reply
    answer = _plain(boxed[-1]).split("=")[-1].strip()
    return "" if re.search(r"\\[A-Za-z]|\^", answer) else f"The answer is {answer}."


def _denied(reply: str, start: int, end: int) -> bool:
    """Whether the clause that ends here holds a negation."""
    clause = re.split(r"[.!?;,\n]\s|\bbut\b", reply[:start])[-1] + reply[start:end]
    return _NEGATION.search(clause) is not None


def _as_harness(text: str) -> str:
    return re.sub(r"\.$", "", re.sub(r"[,$]", "", text)).lower()
