"""The documentation's pages: every example runs, and every public name is on one of them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import workbench

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
EXAMPLES = [page for page in PAGES if "```python" in page.read_text()]
SHOWN = {line for page in PAGES for line in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)}
PACKAGE = Path(workbench.__file__).parent
STUBS = sorted(PACKAGE.rglob("__init__.pyi"))


def fences(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.stem)
def test_examples_run(page: Path) -> None:
    names: dict[str, object] = {}
    for fence in fences(page):
        exec(compile(fence, page.name, "exec"), names)


def test_examples_have_the_right_types(tmp_path: Path) -> None:
    files = [tmp_path / f"{page.stem}.py" for page in (ROOT / "README.md", *EXAMPLES)]
    for page, file in zip((ROOT / "README.md", *EXAMPLES), files, strict=True):
        file.write_text("\n".join(fences(page)))
    check = ["ty", "check", "--python", sys.prefix, *map(str, files)]
    told = subprocess.run([sys.executable, "-m", *check], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.parent.name)
def test_every_public_name_has_its_place(stub: Path) -> None:
    room = ".".join(stub.parent.relative_to(PACKAGE.parent).parts)
    imports = [node for node in ast.walk(ast.parse(stub.read_text())) if isinstance(node, ast.ImportFrom)]
    missing = [
        f"{room}.{node.module}.{alias.name}"
        for node in imports
        if node.module
        for alias in node.names
        if not {f"{room}.{node.module}", f"{room}.{node.module}.{alias.name}"} & SHOWN
    ]
    assert not missing, "put these on a page under docs/rooms"


def test_every_page_is_in_the_contents() -> None:
    contents = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in PAGES if str(page.relative_to(ROOT / "docs")) not in contents] == []
