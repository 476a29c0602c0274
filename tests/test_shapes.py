"""The axis words of shape annotations and einops patterns are those of docs/shapes.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

import workbench

PACKAGE = Path(workbench.__file__).parent
TABLE = re.findall(r"^\| (`.+?) \|", (PACKAGE.parent / "docs" / "shapes.md").read_text(), re.MULTILINE)
GLOSSARY = {word for cell in TABLE for word in re.findall(r"`(\w+)`", cell)}
TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def shapes(tree: ast.AST) -> Iterator[str]:
    """Shapes inside jaxtyping annotations, such as `Float[Tensor, "batch pos"]`."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(ast.Name(kind), ast.Tuple([_, ast.Constant(str(shape))])) if hasattr(jaxtyping, kind):
                yield shape


def patterns(tree: ast.AST) -> Iterator[str]:
    """einops patterns, also in f-strings and where they are given a name first; not torch.einsum's letters."""
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.einsum"]
    strings = [part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values]
    inside = {id(part) for part in [*strings, *(call.args[0] for call in calls)]}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            text = "".join(str(v.value) if isinstance(v, ast.Constant) else "..." for v in node.values)
        else:
            continue
        if re.fullmatch(r"[\w\s().,]+->[\w\s().]+", text):
            yield text


def unknown(texts: Iterator[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"[a-zA-Z_]\w*", text)} - GLOSSARY


def test_words_outside_the_glossary_are_found():
    tree = ast.parse(
        'def f(x: Float[Tensor, "batch posn"], y: list[Bool[np.ndarray, "*cels 2"]]): '
        'rearrange(x, "(batch hd) pos -> batch hd pos"); reduce(x, f"{a} toks -> {a}", "mean")'
    )
    assert unknown(shapes(tree)) == {"posn", "cels"}
    assert unknown(patterns(tree)) == {"hd", "toks"}


@pytest.mark.parametrize("read", [shapes, patterns])
def test_the_package_uses_the_words_of_the_glossary(read):
    found = {str(path.relative_to(PACKAGE)): unknown(read(tree)) for path, tree in TREES.items()}
    assert not {path: words for path, words in found.items() if words}, "name the axis in docs/shapes.md, or rename it"


def test_every_word_of_the_glossary_is_in_use():
    texts = [text for tree in TREES.values() for read in (shapes, patterns) for text in read(tree)]
    assert not GLOSSARY - set(re.findall(r"\w+", " ".join(texts)))
