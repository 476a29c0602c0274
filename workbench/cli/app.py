"""The command line: the same names and defaults as the functions, and plain messages for bad input.

Everything heavy is imported inside the commands, so that `workbench --help` answers at once.
"""

import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tyro.conf import DisallowNone, OmitArgPrefixes
from tyro.extras import SubcommandApp

from workbench.cli import extreme, leaf, organism
from workbench.cli.bigram_backcopy import backcopy
from workbench.cli.inactive_heads import dormant
from workbench.cli.options import options_of, tell
from workbench.cli.patching import patch
from workbench.cli.report import check, fetch, figure, list_figures, report
from workbench.cli.sycophancy import evaluate, sycophancy
from workbench.cli.tuning import tradeoff, tune
from workbench.errors import InputError

BAD_INPUT = 2
STOPPED = 130
Command = Callable[..., None]


@dataclass(frozen=True)
class Group:
    """Commands under one name, and the question that they answer together."""

    question: str
    commands: dict[str, Command]


COMMANDS: dict[str, Command | Group] = {
    "report": report,
    "patch": patch,
    "extreme": Group(
        "Which tokens are extreme, where does that come from, which heads does it make dormant, and what helps?",
        {"tokens": extreme.tokens, "peak": extreme.peak, "domains": extreme.domains, "remedies": extreme.remedies},
    ),
    "dormant": dormant,
    "backcopy": backcopy,
    "leaf": Group(
        "Which tokens of a prompt mislead a student but not its teacher, and does distilling without them help?",
        {"find": leaf.find, "check": leaf.check, "distill": leaf.distill, "toy": leaf.toy},
    ),
    "sycophancy": sycophancy,
    "tune": tune,
    "tradeoff": tradeoff,
    "eval": evaluate,
    "figure": Group(
        "What do the papers' figures look like for my models? `workbench figure NAME` is short for `figure draw NAME`.",
        {"draw": figure, "list": list_figures},
    ),
    "check": check,
    "fetch": fetch,
    "organism": Group("Can the embedded models be trained again?", {"train": organism.train}),
}
KEEP_THEIR_WORK = {report, figure, tune, tradeoff, backcopy, leaf.distill, leaf.toy, organism.train}
"""Commands that go on where they were stopped without being asked to."""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for input that cannot be used, or 130 when it was stopped.

    Args:
        args: The command line; None takes the program's own.
    """
    words = list(sys.argv[1:] if args is None else args)
    if words[:1] == ["figure"] and words[1:] and words[1] not in ("draw", "list", "-h", "--help"):
        words.insert(1, "draw")
    usual = warnings.formatwarning
    warnings.formatwarning = _plainly  # ty: ignore[invalid-assignment]
    try:
        _app(COMMANDS).cli(
            prog="workbench",
            description="Which heads, KV groups and tokens of a model cause what it does?",
            args=words,
            config=(OmitArgPrefixes, DisallowNone),
        )
    except InputError as error:
        tell(f"workbench: {in_options(str(error), _command(words))}")
        return BAD_INPUT
    except KeyboardInterrupt:
        tell(f"workbench: {_how_to_go_on(words)}")
        return STOPPED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        warnings.formatwarning = usual
    return 0


def _app(commands: dict[str, Command] | dict[str, Command | Group]) -> SubcommandApp:
    app = SubcommandApp()
    for name, command in commands.items():
        if isinstance(command, Group):
            app.command(_app(command.commands), name=name, help=command.question)
        else:
            app.command(name=name)(command)
    return app


def _command(words: Sequence[str]) -> Command:
    """The function that a command line calls."""
    found = COMMANDS[words[0]]
    return found.commands[words[1]] if isinstance(found, Group) else found


def in_options(message: str, command: Command) -> str:
    """A message about arguments of a function in the words of the command line: `questions=` becomes `--questions`."""
    names = "|".join(options_of(command))

    def option(found: re.Match[str]) -> str:
        space = " " if re.match(r"[^\s,.;:)]", message[found.end() :]) else ""
        return f"--{found[1].replace('_', '-')}{space}"

    return re.sub(rf"(?<![\w-])({names})=", option, message) if names else message


def _how_to_go_on(words: Sequence[str]) -> str:
    command = _command(words)
    if "--resume" in words or command in KEEP_THEIR_WORK:
        return "stopped. Give the same command again to go on with what is finished."
    if "resume" in options_of(command):
        return "stopped, and nothing is kept. With --resume a run keeps what is finished and can go on after a stop."
    return "stopped, and nothing is kept."


def _plainly(message: Warning | str, *_where: object, **_more: object) -> str:
    """A warning as one line, without the place in the code that gave it."""
    return f"workbench: {' '.join(str(message).split())}\n"
