"""The experiment's arms by name: which counterfactuals each distils on, made only where needed.

Arms named "half" (and the released ones) have half of every batch from their own lessons, the others one pile.
Spans are by gradient difference unless the name says otherwise; "random" ones are verified alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from workbench.leaf.baselines import Arm
from workbench.leaf.distillation_pairs import Mix
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
    """What arms are made from.

    Attributes:
        student: a bridge.
        teacher: another.
        whole: the corpus.
        misled: places in it of the misled examples with the distractor in the prompt (or with none).
        misled_late: the same with a prefix.
        kept: accepted counterfactuals by selector, in the corpus's numbering.
    """

    student: HookedModel
    teacher: HookedModel
    whole: list[Example]
    misled: list[int]
    misled_late: list[int]
    kept: Mapping[str, list[Pruned]]

    def spans(self, selector: str) -> list[Pruned]:
        """Accepted counterfactuals of a selector; none where nothing was."""
        return self.kept.get(selector, [])

    @cached_property
    def leaf(self) -> list[Pruned]:
        """The paper's counterfactuals."""
        return self.spans("instruction gradient_difference")

    @cached_property
    def examples(self) -> list[Example]:
        """The misled examples."""
        return [self.whole[i] for i in self.misled]

    def released(self, selector: str, which: Sequence[int]) -> Arm:
        """Misled examples with a selector's spans ignored."""
        return Arm(attention_penalised(self.whole, self.spans(selector), which), 0.5, ATTENTION)

    def hardest(self) -> Arm:
        """As many of the examples in which student and teacher differ most as there are misled ones."""
        return Arm(hardest(self.student, self.teacher, self.whole, max(1, len(self.misled)), micro_batch=64), 0.5)

    def released_everywhere(self, beside: Sequence[Example] = (), mix: Mix = "concat") -> Arm:
        """The whole corpus, and examples beside; ignored are the spans to which only the student is sensitive."""
        found = candidate_spans(self.student, self.teacher, self.whole, batch_size=64, progress=False)
        return Arm(beside, mix, ATTENTION, attention_penalised(self.whole, found, range(len(self.whole))))


_SPANS = "instruction gradient_difference"
_RANDOM = "instruction random"


@dataclass(frozen=True)
class Way:
    """A way to distil.

    Attributes:
        build: makes the arm.
        varies: what of LeaF it varies, for arms that are drawn in a figure about that: "threshold" or "level".
    """

    build: Callable[[ToyMaterial], Arm]
    varies: str = ""


WAYS: dict[str, Way] = {
    "KD": Way(lambda m: Arm()),
    "LeaF": Way(lambda m: Arm(m.leaf)),
    "oracle": Way(lambda m: Arm(m.spans("instruction oracle"))),
    "misled, half": Way(lambda m: Arm(m.examples, 0.5)),
    "released": Way(lambda m: m.released(_SPANS, m.misled)),
    "released at random": Way(lambda m: m.released(_RANDOM, m.misled)),
    "released everywhere": Way(lambda m: m.released_everywhere()),
    "random": Way(lambda m: Arm(m.spans(_RANDOM))),
    "perplexity": Way(lambda m: Arm(m.spans("instruction perplexity"))),
    "LeaF at 0.05": Way(lambda m: Arm(m.spans(f"{_SPANS} at 0.05")), varies="threshold"),
    "LeaF at 0.15": Way(lambda m: Arm(m.spans(f"{_SPANS} at 0.15")), varies="threshold"),
    "LeaF response": Way(lambda m: Arm(m.spans("response gradient_difference")), varies="level"),
    "LeaF instruction + response": Way(
        lambda m: Arm([*m.leaf, *m.spans("response gradient_difference")]), varies="level"
    ),
    "LeaF, half": Way(lambda m: Arm(m.leaf, 0.5)),
    "few misled, half": Way(lambda m: Arm(m.examples[:FEW], 0.5)),
    "few released": Way(lambda m: m.released(_SPANS, m.misled[:FEW])),
    "released everywhere + misled": Way(lambda m: m.released_everywhere(m.examples, 0.5)),
    "disagreeing, half": Way(lambda m: m.hardest()),
    "misled at both levels, half": Way(lambda m: Arm([m.whole[i] for i in (*m.misled, *m.misled_late)], 0.5)),
}
MAIN = tuple(WAYS)[:7]
"""What decides the hypotheses."""
FRESH = tuple(WAYS)[:16]
"""The arms that were taken over from the development students to fresh ones."""
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
    """The arms of these names; those without counterfactuals of their own are left out.

    Args:
        material: what they are made from.
        names: keys of `WAYS`.
    """
    made = {name: WAYS[name].build(material) for name in names}
    return {name: arm for name, arm in made.items() if name == "KD" or arm.counterfactuals or arm.originals}
