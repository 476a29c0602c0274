"""The suite on the lowest and the newest versions that pyproject.toml allows, and the table of docs/versions.md.

    python -m benchmarks.versions                                     # every environment, the whole suite
    python -m benchmarks.versions --only "3.11 lowest" --tests tests/models tests/patching

An environment is a Python and a choice of versions: "lowest" (of what pyproject.toml names), "newest", or "hooked",
the newest with TransformerLens 3.9, the last one with a HookedTransformer. Each is made by uv in a folder of its own
and kept for the next run. Rows of docs/versions.md that are not run again stay as they are. The exit status is 1 where
a test fails or an environment cannot be made.
"""

import argparse
import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "versions.md"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
CHOICES = {
    "lowest": ["--resolution", "lowest-direct"],
    "newest": [],
    "hooked": ["transformer-lens<4"],
}
SAMPLE = (
    *(
        f"tests/models/test_{name}.py"
        for name in ("load", "exact", "checks", "forward", "attention", "hooked", "devices")
    ),
    *(f"tests/patching/test_{name}.py" for name in ("path", "activation", "attribution", "rerun")),
    "tests/extreme/test_detect.py",
    "tests/inactive_heads/test_scores.py",
    "tests/leaf/test_templates.py",
    "tests/prompts/test_texts.py",
    "tests/plot/test_export.py",
    "tests/runs",
)
SHOWN = ("torch", "transformers", "transformer-lens", "numpy", "xarray")
HEAD = """# Versions

What pyproject.toml allows, and what of it the tests were run on. `python -m benchmarks.versions` makes the
environments, runs the tests and writes this table: "lowest" has the lowest version of everything that pyproject.toml
names, "newest" the newest, "hooked" the newest with TransformerLens 3.9, the last with a HookedTransformer. Warnings
are errors in all. The sample is: {sample}.

"""
COLUMNS = ("Python", "versions", *SHOWN, "tests", "passed", "failed", "skipped", "date")


@dataclass(frozen=True)
class Environment:
    """A Python and a choice of versions, in a folder of its own."""

    python: str
    choice: str
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.python} {self.choice}"

    @property
    def interpreter(self) -> Path:
        return self.folder / self.name.replace(" ", "-") / "bin" / "python"

    def make(self) -> None:
        """Create it, unless it is there."""
        if (self.interpreter.parent / "pytest").exists():
            return
        uv, home = _uv(), self.interpreter.parent.parent
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", self.python, str(home)], check=True)
        install = [*uv, "pip", "install", "--quiet", "--python", str(self.interpreter), *CHOICES[self.choice]]
        subprocess.run([*install, "-e", f"{ROOT}[test]"], check=True)

    def versions(self) -> dict[str, str]:
        """Of the packages that are shown."""
        ask = f"from importlib.metadata import version; print(*map(version, {SHOWN}))"
        told = subprocess.run([self.interpreter, "-c", ask], capture_output=True, text=True, check=True).stdout
        return dict(zip(SHOWN, told.split(), strict=True))

    def run(self, tests: list[str]) -> dict[str, int]:
        """Run tests; how many passed, failed and were skipped."""
        command = [self.interpreter, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-rfE", "--tb=short", *tests]
        env = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        told = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        log = self.interpreter.parent.parent / "tests.log"
        log.write_text(told.stdout)
        print(f"{self.name}: {log}\n" + "\n".join(told.stdout.splitlines()[-25:]))
        counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", told.stdout[-500:])}
        failed = counts.get("failed", 0) + counts.get("error", 0) or int(told.returncode != 0)
        return {"passed": counts.get("passed", 0), "failed": failed, "skipped": counts.get("skipped", 0)}


def _uv() -> list[str]:
    return ["uv"] if shutil.which("uv") else [sys.executable, "-m", "uv"]


def environments(folder: Path) -> Iterator[Environment]:
    """All for which there is an interpreter; the lowest versions and TransformerLens 3.9 on the oldest Python."""
    for python in PYTHONS:
        found = subprocess.run([*_uv(), "python", "find", "--no-python-downloads", python], capture_output=True)
        if found.returncode:
            print(f"no Python {python} here")
            continue
        for choice in CHOICES if python == PYTHONS[0] else ("newest",):
            yield Environment(python, choice, folder)


def read(page: Path) -> dict[tuple[str, str], list[str]]:
    """The rows of the table by Python and choice."""
    lines = page.read_text().splitlines() if page.exists() else []
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| 3")]
    return {(row[0], row[1]): row for row in cells}


def write(page: Path, rows: dict[tuple[str, str], list[str]]) -> None:
    """The page, with the rows in order."""
    order = sorted(rows, key=lambda key: (PYTHONS.index(key[0]), list(CHOICES).index(key[1])))
    table = [COLUMNS, ["---"] * len(COLUMNS), *(rows[key] for key in order)]
    page.write_text(
        HEAD.format(sample=", ".join(SAMPLE)) + "\n".join("| " + " | ".join(row) + " |" for row in table) + "\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tests", nargs="*", default=[], help="paths or options for pytest; by default the whole suite"
    )
    parser.add_argument("--sample", action="store_true", help="the tests that touch most of what others change")
    parser.add_argument("--only", nargs="*", help='names of environments, such as "3.11 lowest"')
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "workbench-versions")
    parser.add_argument("--make", action="store_true", help="make the environments and run nothing")
    given = parser.parse_args()
    rows, bad = read(PAGE), 0
    for one in environments(given.folder.expanduser()):
        if given.only and one.name not in given.only:
            continue
        try:
            one.make()
        except subprocess.CalledProcessError as error:
            print(f"{one.name} cannot be made: {error}")
            bad += 1
            continue
        if given.make:
            continue
        found = one.run(list(SAMPLE) if given.sample else given.tests)
        bad += found["failed"]
        what = "sample" if given.sample else " ".join(given.tests) or "all"
        counts = [str(found[name]) for name in ("passed", "failed", "skipped")]
        about = [*one.versions().values(), what, *counts, str(datetime.date.today())]
        rows[one.python, one.choice] = [one.python, one.choice, *about]
        write(PAGE, rows)
    print(f"on {platform.machine()}: {bad} failed")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
