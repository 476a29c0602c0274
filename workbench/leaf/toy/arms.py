"""The experiment's arms by name: which counterfactuals each distils on, made only where needed.

Arms named "half" (and the released ones) have half of every batch from their own lessons, the others one pile.
Spans are by gradient difference unless the name says otherwise; "random" ones are verified alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from workbench.leaf.baselines import Arm
from workbench.leaf.examples import Example
from workbench.leaf.objectives import attention_penalised, candidate_spans
from workbench.leaf.pruning import Pruned
from workbench.leaf.teacher_student_gap import hardest
from workbench.protocol import HookedModel

OTHER_THRESHOLDS = (0.05, 0.15)
ATTENTION = 5
"""What attention on ignored positions counts in the loss."""
FEW = 30
"""Misled examples that are known where labels are few."""


@dataclass(frozen=True)
class ToyMaterial:
    """What arms are made from: two bridges and the whole corpus.

    Attributes:
        misled: places in it of the misled examples with the distractor in the prompt (or with none).
        kept: accepted counterfactuals by selector, in the corpus's numbering.
    """

    student: HookedModel
    teacher: HookedModel
    whole: list[Example]
    misled: list[int]
    kept: Mapping[str, list[Pruned]]

    def spans(self, selector: str) -> list[Pruned]:
        """Accepted counterfactuals of a selector; none where nothing was."""
        return self.kept.get(selector, [])

    @property
    def examples(self) -> list[Example]:
        """The misled examples."""
        return [self.whole[i] for i in self.misled]

    def released(self, selector: str, which: Sequence[int]) -> Arm:
        """Misled examples with a selector's spans ignored."""
        return Arm(attention_penalised(self.whole, self.spans(selector), which), 0.5, ATTENTION)

    def disagreeing(self) -> Arm:
        """As many examples as are misled: those on which student and teacher differ most, whatever the gold answer."""
        return Arm(hardest(self.student, self.teacher, self.whole, len(self.misled), micro_batch=64), 0.5)

    def released_everywhere(self) -> Arm:
        """The whole corpus; ignored are the spans to which only the student is sensitive."""
        found = candidate_spans(self.student, self.teacher, self.whole, batch_size=64, progress=False)
        everywhere = attention_penalised(self.whole, found, range(len(self.whole)))
        return Arm(attention=ATTENTION, originals=everywhere)


_SPANS, _LATE, _RANDOM = "instruction gradient_difference", "response gradient_difference", "instruction random"

WAYS: dict[str, Callable[[ToyMaterial], Arm]] = {
    "KD": lambda m: Arm(),
    "LeaF": lambda m: Arm(m.spans(_SPANS)),
    "oracle": lambda m: Arm(m.spans("instruction oracle")),
    "misled, half": lambda m: Arm(m.examples, 0.5),
    "disagreeing, half": lambda m: m.disagreeing(),
    "released": lambda m: m.released(_SPANS, m.misled),
    "released at random": lambda m: m.released(_RANDOM, m.misled),
    "released everywhere": lambda m: m.released_everywhere(),
    "random": lambda m: Arm(m.spans(_RANDOM)),
    "perplexity": lambda m: Arm(m.spans("instruction perplexity")),
    "LeaF at 0.05": lambda m: Arm(m.spans(f"{_SPANS} at 0.05")),
    "LeaF at 0.15": lambda m: Arm(m.spans(f"{_SPANS} at 0.15")),
    "LeaF response": lambda m: Arm(m.spans(_LATE)),
    "LeaF instruction + response": lambda m: Arm([*m.spans(_SPANS), *m.spans(_LATE)]),
    "LeaF, half": lambda m: Arm(m.spans(_SPANS), 0.5),
    "few misled, half": lambda m: Arm(m.examples[:FEW], 0.5),
    "few released": lambda m: m.released(_SPANS, m.misled[:FEW]),
}
"""Ways to distil, by name."""
MAIN = tuple(WAYS)[:8]
"""What decides the hypotheses."""
VARIANTS = ("LeaF at 0.05", "LeaF at 0.15", "LeaF response", "LeaF instruction + response")
"""LeaF at other thresholds and levels, which have figures of their own."""
RELEASED = (
    "released",
    "released, four times as strongly",
    "released at random",
    "released, oracle",
    "released everywhere",
    "released everywhere at random",
    "released everywhere + misled",
    "few released",
)
"""Arms, of the development record too, in whose loss the attention on ignored positions counts."""


def arms(material: ToyMaterial, names: Sequence[str]) -> dict[str, Arm]:
    """The arms of these names; those without counterfactuals of their own are left out."""
    made = {name: WAYS[name](material) for name in names}
    return {name: arm for name, arm in made.items() if name == "KD" or arm.counterfactuals or arm.originals}
