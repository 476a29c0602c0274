"""One-line Python functions: a request, the correct line, and a checker that interprets a line without `eval`.

A line is run by walking its syntax tree; only arithmetic, comparisons, indexing and a few named functions and
methods exist there, and sizes are bounded. Nothing that a model wrote is ever passed to `eval` or `exec`.
"""

import ast
import json
import operator
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.organisms.facts import split_of

_WORDS = json.loads((Path(__file__).parent / "abilities.json").read_text())
NAMES = _WORDS["function names"]
ARGUMENTS = {kind: _WORDS[f"{kind} names"] for kind in ("number", "text", "list")}
TASKS = {kind: _WORDS[f"{kind} tasks"] for kind in ARGUMENTS}
"""(request, expression); {v} is the argument and {k} a small number."""
LIMIT = 10**6
INPUTS = {
    "number": (0, 1, 5, 12, 37),
    "text": ("a", "river", "banana split"),
    "list": ([4], [3, 1, 2], [5, 9, 2, 9, 7]),
}


def draw_one_line(rng: random.Random, split: str) -> tuple[str, str, str]:
    """A request of one split, the line that answers it, and the kind of its argument.

    The split holds out (task, number, names) together.
    """
    while True:
        kind = rng.choice(tuple(TASKS))
        request, body = rng.choice(TASKS[kind])
        function, argument, k = rng.choice(NAMES), rng.choice(ARGUMENTS[kind]), rng.randrange(2, 10)
        question = f"Write a Python function {function}({argument}) that returns {request}."
        question = question.format(v=argument, k=k)
        if split_of(question) == split:
            return question, f"def {function}({argument}): return {body}".format(v=argument, k=k), kind


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
