"""Training regimes of the misled students: which student, which corpus.

B  strongly misled: in its training data every distractor names the answer.
A  shortly trained and misled: 97 of 100 distractors name it.
S  the students of B with a small corpus, so few misled originals.
N  never met a distractor: `H` is noise, not a shortcut.
P  as N, and trained on the prompts as well: only such a student assigns noise in a prompt a low probability.
D  as B, with a smaller student (for thresholds by student size).

The corpus to distil on is the same everywhere but in size: 9 of 10 distractors name the answer, one of five stands in
the response. A teacher's training data has uninformative distractors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.errors import InputError, suggest
from workbench.leaf.toy.models import SMALLER, STUDENT, TEACHER, Schooling, read, tokenizer, trained, write
from workbench.leaf.toy.task import MODULUS, Problems, problems

TEACHING = Schooling(1900, 1 / MODULUS, sister=0.25, shape=dict(TEACHER))
_MISLED = Schooling(700, 1.0, sister=0.25, shape=dict(STUDENT))
CORPUS_RHO = 0.9
PROMPTS = 0.2
SHIPPED = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Regime:
    """How a student is trained, whose students (`pupil`) a regime takes, and how many problems its corpus has."""

    name: str
    title: str
    schooling: Schooling
    pupil: str
    corpus: int = 3000

    def problems(self, seed: int) -> Problems:
        """The corpus of a seed."""
        return problems(self.corpus, CORPUS_RHO, 7_000_000 + seed, in_response=0.2)


REGIMES = {
    regime.name: regime
    for regime in (
        Regime("B", "strongly misled", _MISLED, "B"),
        Regime("A", "weakly schooled and misled", replace(_MISLED, steps=480, rho=0.97), "A"),
        Regime("S", "strongly misled, small corpus", _MISLED, "B", corpus=800),
        Regime("N", "distractor never met", replace(_MISLED, distracted=0.0), "N"),
        Regime("P", "distractor never met, prompts learnt", replace(_MISLED, distracted=0.0, prompts=PROMPTS), "P"),
        Regime("D", "strongly misled, smaller student", replace(_MISLED, shape=dict(SMALLER)), "D"),
    )
}


def regime(name: str) -> Regime:
    """A regime by its letter: B, A, S, N, P or D.

    Raises:
        InputError: there is none of that name.
    """
    if name not in REGIMES:
        raise InputError(f"There is no regime {name!r}; {suggest(name, REGIMES)}")
    return REGIMES[name]


def school(name: str, seed: int, folder: str | Path, change: Callable[[Schooling], Schooling] = lambda s: s) -> Path:
    """Train the "teacher", or a regime's student, unless it lies in the folder, and return its file.

    `change` makes the schooling another one, such as a shorter one.
    """
    whose = name if name == "teacher" else regime(name).pupil
    path = Path(folder).expanduser() / f"{whose}-{seed}.safetensors"
    if not path.exists():
        schooling = change(TEACHING if whose == "teacher" else regime(whose).schooling)
        # A teacher and a student of one seed should not see the same problems.
        write(trained(schooling, 2 * seed + (whose == "teacher")), path)
    return path


def model(name: str, seed: int = 1, folder: str | Path = SHIPPED) -> Any:
    """The "teacher", or a regime's student, as a bridge with its tokenizer; seed 1 of all but P and D is shipped.

    Raises:
        InputError: that model is not there.
    """
    from workbench.models.load import load

    whose = name if name == "teacher" else regime(name).pupil
    path = Path(folder).expanduser() / f"{whose}-{seed}.safetensors"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in Path(folder).expanduser().glob("*.safetensors"))) or "nothing"
        raise InputError(
            f"There is no model {path.stem} in {folder}, which holds {there}. Train it with "
            "workbench.leaf.toy.school, or run `workbench leaf toy`."
        )
    shape = TEACHER if whose == "teacher" else regime(whose).schooling.shape
    made = load(read(path, shape), tokenizer=tokenizer())
    object.__setattr__(made, "workbench_name", path.stem)
    return made
