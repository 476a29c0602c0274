"""The paper's training runs by name, at full size and at a size for one CPU core.

`small` is setting S: d_model 64, batches of 32 fresh sequences of 64 tokens (32 where there are several layers),
learning rate 3e-3 for AdamW. `paper` is d_model 256, 512 sequences of 256 tokens, learning rate 3e-4. SGD takes 0.03
in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.bigram_backcopy.structures import architecture
from workbench.bigram_backcopy.task import Task
from workbench.bigram_backcopy.training import PAPER, Trained, train
from workbench.errors import InputError, suggest
from workbench.names import Optimizer, Scale, ToyAttention, ToyStart

PAPER_STEPS = (
    *(0, 20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 220, 240, 260, 280, 300, 340, 400, 500, 600, 680, 740, 800),
    *(860, 940, 1000, 1200, 1500, 2000, 2500, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10_000),
)


@dataclass(frozen=True)
class Experiment:
    """One training run of the paper.

    Attributes:
        name: what it is called here.
        structure: a name in `STRUCTURES`.
        task: arguments of `Task`.
        attention: "softmax" or "relu".
        optimizer: "adamw" or "sgd".
        steps: at the small size.
        paper_lr: at full size; None takes 3e-4 for AdamW and 0.03 for SGD.
    """

    name: str
    structure: str = "1xTF"
    task: dict[str, Any] = field(default_factory=dict)
    attention: ToyAttention = "softmax"
    optimizer: Optimizer = "adamw"
    steps: int = 3000
    paper_lr: float | None = None

    def run(
        self, scale: Scale = "small", seeds: Sequence[int] = (0, 1, 2), start: ToyStart = "here", **changes: Any
    ) -> Trained:
        """Train it, one model per seed, with `changes` of the arguments of `train`.

        `start="authors"` gives weights as the authors draw them (with their vocabulary, which has an unused delimiter).
        """
        unused: dict[str, Any] = {"delimiters": 1} if start == "authors" else {}
        task = Task(**unused | self.task)
        sgd = 0.03 if self.optimizer == "sgd" else None
        if scale == "small":
            length = 64 if self.structure == "1xTF" else 32
            shape = architecture(self.structure, attention=self.attention, n_ctx=length, start=start)
            chosen: dict[str, Any] = {"length": length, "steps": self.steps, "lr": sgd}
        else:
            shape = architecture(self.structure, attention=self.attention, d_model=256, n_ctx=256, start=start)
            chosen = PAPER | {"measured_at": PAPER_STEPS, "lr": self.paper_lr or sgd or PAPER["lr"]}
        arguments: dict[str, Any] = {"optimizer": self.optimizer, "seeds": seeds} | chosen | changes
        return train(task, shape, **arguments)


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("one-layer"),
        Experiment("one-layer-sgd", optimizer="sgd"),
        Experiment("one-layer-relu", attention="relu", paper_lr=3e-3, steps=1500),
        Experiment("three-layer", "3xTF", steps=4000),
        Experiment("three-layer-sgd", "3xTF", optimizer="sgd", steps=4000),
        Experiment("three-layer-relu", "3xTF", attention="relu", steps=4000),
        Experiment("two-layer", "2xTF", steps=4000),
        Experiment("two-layer-mlp", "2xTF+MLP", steps=4000),
        Experiment("mlp-layer-mlp", "MLP+TF+MLP", steps=4000),
        Experiment("mlp-layer-mlp-sgd", "MLP+TF+MLP", optimizer="sgd", steps=4000),
        Experiment("mlp-layer-mlp-relu", "MLP+TF+MLP", attention="relu", steps=4000),
        Experiment("attention-layer-mlp", "Attn+TF+MLP", steps=4000),
        Experiment("attention-only", "Attn", steps=2000),
        Experiment("no-bos", task={"bos": 0}, steps=2000),
        Experiment("delimiters", task={"delimiters": 1, "delimiter_probability": 0.1}, steps=2000),
        Experiment("five-triggers", task={"triggers": 5}, steps=1200),
        Experiment("skip", task={"kind": "skip"}, steps=1200),
        Experiment("markov", task={"kind": "markov"}, steps=1200),
        Experiment("synthetic", task={"source": "synthetic"}, steps=1500),
        Experiment("bietti", "3xTF", task={"kind": "bietti"}, steps=4000),
    )
}


def experiment(name: str) -> Experiment:
    """One of the paper's training runs, such as "one-layer" or "three-layer-sgd".

    Raises:
        InputError: there is none of that name.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"There is no experiment {name!r}; {suggest(name, EXPERIMENTS)}")
    return EXPERIMENTS[name]
