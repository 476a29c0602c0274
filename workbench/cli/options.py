"""Options that several commands share, each with its help text, and how a command writes and reports its result.

A group of options is a dataclass; a command takes an instance with its own defaults, and the options stand under one
heading in `--help`.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from workbench.names import FigureWidth, ScoreAnswers


def _place(metavar: str, kind: type) -> Any:
    """How a path, or the name of something that may be a path, is read: `~` is the home folder."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: kind(Path(words[0]).expanduser() if words[0].startswith("~") else words[0]),
        is_instance=lambda thing: isinstance(thing, kind),
        str_from_instance=lambda thing: [str(thing)],
    )


File = Annotated[Path, _place("FILE", Path)]
Folder = Annotated[Path, _place("DIR", Path)]
Source = Annotated[str, _place("MODEL", str)]
Data = Annotated[str, _place("DATA", str)]

Model = Positional[Annotated[Source, arg(help="Name of an embedded model, local folder of safetensors, or Hub id.")]]
Progress = Annotated[bool, arg(help="Show a bar.")]
Width = Annotated[
    FigureWidth, arg(help="What figures are printed on: page, 6.75 inches across, or column, 3.25; text of 7 points.")
]
Seed = Annotated[int, arg(help="Seed of every random choice.")]
Benchmarks = Annotated[Folder | None, arg(help="Folder that holds one folder of files per benchmark.")]
RunCode = Annotated[bool, arg(help="Run the programs that the model writes for humaneval, each confined in a process.")]
QuestionFile = Annotated[
    File | None,
    arg(
        help='A JSON file of questions: "question" with "answers" (accepted texts), or with "choices" and "answer". '
        "By default an embedded model's own dialogues, else easy facts that come with the package."
    ),
]
Scored = Annotated[
    ScoreAnswers | None,
    arg(
        help="Whether a question with choices is answered by a letter, with the choices listed, or by the text of a "
        "choice, which the prompt does not list. By default letters for --questions, text for the package's facts."
    ),
]
TextFiles = Annotated[
    tuple[str, ...],
    arg(
        metavar="[DOMAIN=FILE ...]",
        help='.txt (texts separated by blank lines) or .jsonl (a "text" per line). By default short samples.',
    ),
]


@dataclass(frozen=True)
class Prompts:
    """The questions or dialogues that the model is given."""

    n: Annotated[int, arg(help="How many dialogues or questions.")] = 100
    seed: Annotated[int, arg(help="Seed of their draw.")] = 0
    questions: QuestionFile = None


@dataclass(frozen=True)
class Dialogues(Prompts):
    """Which dialogues are compared, and by which answers."""

    answers: Annotated[
        tuple[str, ...],
        arg(
            metavar="[auto | paper | GIVES-IN STANDS-FIRM]",
            help="Beginnings of a reply that are compared: auto finds the model's own, paper takes the first tokens of "
            "Apologies and Yes. By default auto, or what an embedded model was taught.",
        ),
    ] = ()
    prefix: Annotated[str, arg(help="A beginning of the reply that is forced on both sides.")] = ""

    @property
    def compared(self) -> Any:
        """The answers as `sycophancy.pairs` takes them."""
        if not self.answers:
            return None
        return self.answers[0] if len(self.answers) == 1 else tuple(self.answers)

    @property
    def asked(self) -> dict[str, Any]:
        """All of it, as `sycophancy.pairs`, the report and figures take it."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return given | {"answers": self.compared}


@dataclass(frozen=True)
class Texts:
    """The texts that the model reads."""

    texts: TextFiles = ()
    length: Annotated[int | None, arg(help="Tokens of each text; by default 128, or 48 of the samples.")] = None


@dataclass(frozen=True)
class Heads:
    """Which heads are zeroed on which of the texts."""

    n: Annotated[int | None, arg(help="Texts per domain; by default as many as the smallest has.")] = None
    heads: Annotated[tuple[str, ...], arg(metavar="[LAYER.HEAD ...]", help="These heads alone, such as 18.6.")] = ()
    layers: Annotated[tuple[int, ...], arg(help="The heads of these layers alone.")] = ()
    shortlist: Annotated[
        int | None,
        arg(help="Only so many heads, whose attention on the sink differs most between domains."),
    ] = None
    stop_early: Annotated[
        bool,
        arg(help="Leave out heads that rest in no domain, and stop others once they can hardly be found to wake."),
    ] = False


def head_of(name: str) -> tuple[int, int]:
    """Layer and index of a head's name, "18.6"."""
    from workbench.errors import InputError

    layer, dot, head = name.partition(".")
    if not (dot and layer.isdecimal() and head.isdecimal()):
        raise InputError(f"--heads {name}: a head is named by its layer and its index, such as 18.6.")
    return int(layer), int(head)


@dataclass(frozen=True)
class Output:
    """Where the result goes."""

    out: Annotated[File, arg(help="File for the result.")]
    progress: Progress = True


@dataclass(frozen=True)
class Resumable(Output):
    """Where the result goes."""

    resume: Annotated[bool, arg(help="Keep finished pieces beside the file, and go on from them after a stop.")] = False

    @property
    def journal(self) -> str | None:
        """The file to resume from, if that was asked."""
        return str(self.out) if self.resume else None


def options_of(command: Callable[..., Any]) -> dict[str, Any]:
    """The options of a command by name with their defaults; groups of options are flattened."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        group = parameter.default
        if is_dataclass(group):
            found |= {field.name: getattr(group, field.name) for field in fields(group)}
        else:
            found[name] = group
    return found


def say(*lines: object) -> None:
    """Write lines to the standard output."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def tell(line: str) -> None:
    """Write a line to the standard error: progress, or a note about the result."""
    sys.stderr.write(f"{line}\n")


def writable(out: Path) -> None:
    """Refuse a place where nothing can be written, before anything is computed."""
    from workbench.runs.files import check_writable

    check_writable(out.parent)


def finish(result: Any, out: Path, *text: str) -> None:
    """Write the result of a command, and report what it shows and where it is."""
    from workbench.runs.results import save_result

    save_result(result, out)
    say(*text, f"The result is {out}")
