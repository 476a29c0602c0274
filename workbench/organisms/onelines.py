"""One-line Python functions: a request, the right line, and a check that runs a written line safely.

A line is run by walking its syntax tree; only arithmetic, comparisons, indexing and a few named functions and
methods exist there, and sizes are bounded. Nothing that a model wrote is ever passed to `eval` or `exec`.
"""

import ast
import operator
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workbench.statistics import share_of

NAMES = ("f", "g", "h", "run", "work", "make", "solve", "apply", "change", "compute", "value", "result")
NUMBER_NAMES = ("x", "n", "a", "k", "number")
TEXT_NAMES = ("s", "t", "text", "word", "name")
LIST_NAMES = ("xs", "items", "values", "row", "numbers")
TEST_SHARE = 0.2
LIMIT = 10**6

# (request, expression); {v} is the argument and {k} a small number.
NUMBER_TASKS = (
    ("{v} plus {k}", "{v} + {k}"),
    ("{v} minus {k}", "{v} - {k}"),
    ("{v} times {k}", "{v} * {k}"),
    ("{v} squared plus {k}", "{v} ** 2 + {k}"),
    ("twice {v} plus {k}", "2 * {v} + {k}"),
    ("twice {v} minus {k}", "2 * {v} - {k}"),
    ("the remainder of {v} divided by {k}", "{v} % {k}"),
    ("{v} divided by {k} without remainder", "{v} // {k}"),
    ("whether {v} is greater than {k}", "{v} > {k}"),
    ("whether {v} is less than {k}", "{v} < {k}"),
    ("whether {v} equals {k}", "{v} == {k}"),
    ("the larger of {v} and {k}", "max({v}, {k})"),
    ("the smaller of {v} and {k}", "min({v}, {k})"),
)
TEXT_TASKS = (
    ("{v} in capital letters", "{v}.upper()"),
    ("{v} backwards", "{v}[::-1]"),
    ("the length of {v}", "len({v})"),
    ("the length of {v} plus {k}", "len({v}) + {k}"),
    ("the first letter of {v}", "{v}[0]"),
    ("the last letter of {v}", "{v}[-1]"),
    ("the first {k} letters of {v}", "{v}[:{k}]"),
    ("{v} without the first {k} letters", "{v}[{k}:]"),
    ("{v} repeated {k} times", "{v} * {k}"),
    ("whether {v} has more than {k} letters", "len({v}) > {k}"),
)
LIST_TASKS = (
    ("the sum of {v}", "sum({v})"),
    ("the sum of {v} plus {k}", "sum({v}) + {k}"),
    ("the sum of {v} times {k}", "sum({v}) * {k}"),
    ("the largest of {v}", "max({v})"),
    ("the smallest of {v}", "min({v})"),
    ("the largest of {v} minus {k}", "max({v}) - {k}"),
    ("{v} in order", "sorted({v})"),
    ("{v} backwards", "{v}[::-1]"),
    ("the first {k} of {v}", "{v}[:{k}]"),
    ("the number of {v}", "len({v})"),
    ("whether {k} is in {v}", "{k} in {v}"),
)
INPUTS = {
    "number": (0, 1, 5, 12, 37),
    "text": ("a", "river", "banana split"),
    "list": ([4], [3, 1, 2], [5, 9, 2, 9, 7]),
}


@dataclass(frozen=True)
class OneLine:
    """A request for a one-line function, the line that answers it, and the kind of its argument."""

    question: str
    answer: str
    kind: str


def draw_one_line(rng: random.Random, split: str) -> OneLine:
    """A request of one split; the split holds out (task, number, names) together."""
    while True:
        kind = rng.choice(("number", "text", "list"))
        tasks, names = {
            "number": (NUMBER_TASKS, NUMBER_NAMES),
            "text": (TEXT_TASKS, TEXT_NAMES),
            "list": (LIST_TASKS, LIST_NAMES),
        }[kind]
        request, body = rng.choice(tasks)
        function, argument, k = rng.choice(NAMES), rng.choice(names), rng.randrange(2, 10)
        question = f"Write a Python function {function}({argument}) that returns {request}."
        question = question.format(v=argument, k=k)
        if (share_of(question) < TEST_SHARE) == (split == "test"):
            answer = f"def {function}({argument}): return {body}".format(v=argument, k=k)
            return OneLine(question, answer, kind)


def same_function(line: str, reference: str, kind: str) -> bool:
    """Whether two one-line functions are called alike and agree on every test input."""
    try:
        name, run = compile_line(line)
        reference_name, expected = compile_line(reference)
        return name == reference_name and all(_equal(run(value), expected(value)) for value in INPUTS[kind])
    except (SyntaxError, ValueError, TypeError, IndexError, ZeroDivisionError, KeyError, RecursionError):
        return False


def compile_line(line: str) -> tuple[str, Callable[[Any], Any]]:
    """Name and behaviour of `def name(argument): return expression`.

    Raises:
        ValueError: if the line is anything else or uses what is not allowed here.
    """
    if len(line) > 300:
        raise ValueError("the line is too long")
    body = ast.parse(line.strip()).body
    match body:
        case [ast.FunctionDef(name=name, args=ast.arguments(args=[argument]), body=[ast.Return(value=value)])] if value:
            return name, lambda given: _value(value, {argument.arg: given})
    raise ValueError("not a one-line function of one argument")


_BINARY: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE: dict[type, Any] = {
    ast.Gt: operator.gt,
    ast.Lt: operator.lt,
    ast.GtE: operator.ge,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda a, b: a in b,
}
_CALLS = {"len": len, "sum": sum, "max": max, "min": min, "sorted": sorted, "abs": abs}
_METHODS = {"upper": str.upper, "lower": str.lower}


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    """The value of an expression of the small language."""
    match node:
        case ast.Constant(value=bool() | int() | str() as constant):
            return constant
        case ast.Name(id=name):
            return names[name]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(type(op), _value(left, names), _value(right, names))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
            return _COMPARE[type(op)](_value(left, names), _value(right, names))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLS:
            return _CALLS[name](*(_value(argument, names) for argument in args))
        case ast.Call(func=ast.Attribute(value=target, attr=name), args=[], keywords=[]) if name in _METHODS:
            return _METHODS[name](_value(target, names))
        case ast.Subscript(value=target, slice=ast.Slice(lower=lower, upper=upper, step=step)):
            bounds = [None if part is None else _value(part, names) for part in (lower, upper, step)]
            return _value(target, names)[slice(*bounds)]
        case ast.Subscript(value=target, slice=index):
            return _value(target, names)[_value(index, names)]
    raise ValueError(f"{type(node).__name__} is not allowed in a one-line function")


def _bounded(op: type, left: Any, right: Any) -> Any:
    if any(isinstance(side, int) and abs(side) > LIMIT for side in (left, right)):
        raise ValueError("a number is too large")
    if op is ast.Pow and not (isinstance(right, int) and 0 <= right <= 4):
        raise ValueError("an exponent is too large")
    if op is ast.Mult and any(isinstance(side, str | list) for side in (left, right)):
        times = left if isinstance(left, int) else right
        if not isinstance(times, int) or times > 100:
            raise ValueError("a repetition is too long")
    return _BINARY[op](left, right)


def _equal(left: Any, right: Any) -> bool:
    return type(left) is type(right) and left == right
