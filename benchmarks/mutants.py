"""Mutation check of one room: does a test fail when a line computes something else?

`python -m benchmarks.mutants patching --sample 30` changes one operator, number, reduction or statement at a time in
`workbench/patching`, and runs the tests against a random sample of these mutants: first those of the changed module
(`tests/patching/test_<module>.py`), then, if they pass, those of the room. Messages, checks that only raise, defaults
and annotations are left alone. Heavy packages are imported once, and each mutant is a fork in which the changed source
takes the place of the file. A mutant that survives is equivalent, harmless, or a gap in the tests; `--only N` runs it
again once there is a test. Processes that a test starts itself see the unchanged file. Needs `os.fork`.
"""

import argparse
import ast
import contextlib
import importlib
import io
import os
import random
import resource
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import NamedTuple
from unittest import mock

SWAPS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
CALLS = {
    "mean": "sum",
    "sum": "mean",
    "min": "max",
    "max": "min",
    "argmin": "argmax",
    "argmax": "argmin",
    "any": "all",
    "all": "any",
    "minimum": "maximum",
    "maximum": "minimum",
    "floor": "ceil",
    "ceil": "floor",
    "zeros": "ones",
    "ones": "zeros",
    "zeros_like": "ones_like",
    "log_softmax": "softmax",
    "cumsum": "cumprod",
    "median": "mean",
}
UNTOUCHED = {
    "InputError",
    "WorkbenchWarning",
    "warn",
    "tqdm",
    "suggest",
    "provenance",
    "Run",
    "bar.update",
    "bar.close",
}
OPTIONS = {"progress", "batch_size", "strict", "stacklevel", "desc", "disable", "encoding", "use_cache"}
HEAVY = ("torch", "transformers", "transformer_lens", "pytest", "xarray", "scipy.stats", "datasets", "accelerate")
FAMILIES = ("llama", "gpt2", "qwen2", "gemma2", "gpt_neox")


class Mutant(NamedTuple):
    """One change of one file."""

    path: Path
    line: int
    old: str
    new: str
    source: bytes


class Finder(ast.NodeVisitor):
    """Collects the changes of one file that alter what it computes."""

    def __init__(self, path: Path):
        self.path, self.source, self.found = path, path.read_bytes(), []
        lines = self.source.splitlines(keepends=True)
        self.starts = [sum(map(len, lines[:i])) for i in range(len(lines))]
        for node in ast.walk(ast.parse(self.source)):
            if isinstance(node, ast.FunctionDef):
                for statement in node.body:
                    if not isinstance(statement, ast.FunctionDef | ast.ClassDef):
                        self.visit(statement)

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        end = self.starts[(node.end_lineno or 1) - 1] + (node.end_col_offset or 0)
        return self.starts[node.lineno - 1] + node.col_offset, end

    def change(self, start: int, end: int, new: str) -> None:
        line = self.source[:start].count(b"\n") + 1
        old = self.source[start:end].decode()
        changed = self.source[:start] + new.encode() + self.source[end:]
        self.found.append(Mutant(self.path, line, old, new, changed))

    def swap(self, operator: ast.AST, left: ast.expr, right: ast.expr) -> None:
        if type(operator) in SWAPS:
            old, new = SWAPS[type(operator)]
            start = self.source.find(old.encode(), self.span(left)[1], self.span(right)[0])
            if start >= 0:
                self.change(start, start + len(old), new)

    def negate(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            start, end = self.span(test)
            self.change(start, end, f"(not ({self.source[start:end].decode()}))")

    def leave(self, node: ast.AST) -> None:
        """Messages and imports compute nothing; functions inside functions are found by the walk."""

    visit_Raise = visit_JoinedStr = visit_Import = visit_ImportFrom = visit_ClassDef = visit_FunctionDef = leave

    def visit_If(self, node: ast.If) -> None:
        if not all(isinstance(statement, ast.Raise) for statement in node.body):
            self.negate(node.test)
            self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in OPTIONS:
            self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for operator, left, right in zip(node.ops, [node.left, *node.comparators], node.comparators, strict=False):
            self.swap(operator, left, right)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = (
            isinstance(x, ast.JoinedStr) or isinstance(getattr(x, "value", 0), str) for x in (node.left, node.right)
        )
        if not any(texts):
            self.swap(node.op, node.left, node.right)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.swap(node.op, node.target, node.value)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.swap(node.op, *node.values[:2])
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        start = self.span(node)[0]
        self.change(start, start + (3 if isinstance(node.op, ast.Not) else 1), "")
        if not isinstance(node.operand, ast.Constant):
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.change(*self.span(node), repr(not node.value))
        elif isinstance(node.value, int | float):
            self.change(
                *self.span(node), repr(node.value + 1 if isinstance(node.value, int) else node.value * 2 or 1.0)
            )

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) not in UNTOUCHED:
            self.change(*self.span(node), "pass")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func)
        if {name, name.rsplit(".", 1)[-1]} & UNTOUCHED:
            return
        short, end = name.rsplit(".", 1)[-1], self.span(node.func)[1]
        if short in CALLS:
            self.change(end - len(short), end, CALLS[short])
        self.generic_visit(node)


def mutants(room: str) -> list[Mutant]:
    """All mutants of a room, in the order of its files."""
    return [mutant for path in sorted(Path("workbench", room).rglob("*.py")) for mutant in Finder(path).found]


def tests_of(mutant: Mutant, room: str) -> Iterator[str]:
    """The tests that a mutant meets, one selection after the other."""
    own = Path("tests", *mutant.path.parts[1:-1], f"test_{mutant.path.name}")
    if own.exists():
        yield str(own)
    yield f"tests/{room}"


def survives(mutant: Mutant, tests: str, seconds: int) -> str:
    """Run some tests against a mutant in a fork: "killed", "survived" or, past `seconds` of CPU, "unfinished"."""
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        os._exit(_meet(mutant, tests))
    status = os.waitpid(child, 0)[1]
    return "unfinished" if os.WIFSIGNALED(status) else "killed" if os.WEXITSTATUS(status) else "survived"


def _meet(mutant: Mutant, tests: str) -> int:
    import pytest

    read, target = SourceFileLoader.get_code, mutant.path.resolve()

    def get_code(self: SourceFileLoader, name: str):
        changed = Path(self.path).resolve() == target
        return self.source_to_code(mutant.source, self.path) if changed else read(self, name)

    options = ["-x", "-q", "--tb=no", "-o", "addopts=", "-p", "no:xdist", "-p", "no:cacheprovider"]
    with contextlib.redirect_stdout(io.StringIO()), mock.patch.object(SourceFileLoader, "get_code", get_code):
        return int(pytest.main([tests, *options, "-W", "ignore::pytest.PytestAssertRewriteWarning"]))


def main() -> None:
    """Draw the sample, import what is slow to import, and run one mutant after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room")
    parser.add_argument("--sample", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of single mutants instead of a sample")
    parser.add_argument("--seconds", type=int, default=300, help="CPU time of one run of the tests")
    asked = parser.parse_args()
    every = mutants(asked.room)
    chosen = random.Random(asked.seed).sample(range(len(every)), min(asked.sample, len(every)))
    for name in HEAVY:
        importlib.import_module(name)
    from tests.tiny import bridge

    for family in FAMILIES:
        bridge(family)
    counts = dict.fromkeys(("killed", "survived", "unfinished"), 0)
    for number in asked.only or sorted(chosen):
        mutant, verdict = every[number], ""
        for tests in tests_of(mutant, asked.room):
            verdict = survives(mutant, tests, asked.seconds)
            if verdict != "survived":
                break
        counts[verdict] += 1
        print(f"{number} {verdict} {mutant.path}:{mutant.line} {mutant.old!r} -> {mutant.new!r}", flush=True)
    print(f"{asked.room}: {counts} of {len(every)} mutants in all")


if __name__ == "__main__":
    main()
