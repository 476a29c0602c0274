"""The arms of the experiment: what is given as counterfactuals, by name, made only where it is wanted.

Arms named "half" (and the released ones) have half of every batch from their own lessons, the others one pile.
Spans are by gradient difference unless the name says otherwise; "random" ones are verified alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from workbench.leaf import objectives as beyond
from workbench.leaf.baselines import Arm, upweighted
from workbench.leaf.distillation_pairs import Lesson
from workbench.leaf.examples import Example
from workbench.leaf.pruning import Pruned
from workbench.leaf.teacher_student_gap import hardest
from workbench.names import TokenScoreName
from workbench.protocol import HookedModel

OTHER_THRESHOLDS = (0.05, 0.15)
ATTENTION = 5
"""What attention on ignored positions counts in the loss."""
FEW = 30
"""Misled examples that are known where labels are few."""
MAIN = ("KD", "LeaF", "oracle", "misled, half", "released", "released at random", "released everywhere")
"""What decides the hypotheses."""
FRESH = (
    *MAIN,
    "random",
    "perplexity",
    "LeaF at 0.05",
    "LeaF at 0.15",
    "LeaF response",
    "LeaF instruction + response",
    "LeaF, half",
    "few misled, half",
    "few released",
)
"""The arms that were taken over from the development students to fresh ones."""


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
        lessons: how many lessons of its own an arm sees.
    """

    student: HookedModel
    teacher: HookedModel
    whole: list[Example]
    misled: list[int]
    misled_late: list[int]
    kept: Mapping[str, list[Pruned]]
    lessons: int

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

    @cached_property
    def suspects(self) -> list[Lesson]:
        """The whole corpus with what the student heeds and the teacher does not need as ignored positions."""
        return self._everywhere("gradient_difference")

    @cached_property
    def suspects_at_random(self) -> list[Lesson]:
        """The same with spans at random."""
        return self._everywhere("random")

    def hard(self, lessons: Sequence[Any]) -> Arm:
        """As many of the hardest lessons as there are misled examples."""
        return Arm(hardest(self.student, self.teacher, lessons, max(1, len(self.misled)), micro_batch=64), 0.5)

    def released(self, selector: str, which: Sequence[int], attention: int = ATTENTION) -> Arm:
        """Misled examples with a selector's spans ignored."""
        return Arm(beyond.attention_penalised(self.whole, self.spans(selector), which), 0.5, attention)

    def _everywhere(self, score: TokenScoreName) -> list[Lesson]:
        found = beyond.candidate_spans(
            self.student, self.teacher, self.whole, score=score, batch_size=64, progress=False
        )
        return beyond.attention_penalised(self.whole, found, range(len(self.whole)))


_SPANS = "instruction gradient_difference"
_RANDOM = "instruction random"


@dataclass(frozen=True)
class Way:
    """A way to distil.

    Attributes:
        build: makes the arm.
        released: whether attention on ignored positions counts in the loss.
        varies: what of LeaF it varies, for arms that are drawn in a figure about that: "threshold" or "level".
        needs: selectors that must have counterfactuals of several originals.
    """

    build: Callable[[ToyMaterial], Arm]
    released: bool = False
    varies: str = ""
    needs: tuple[str, ...] = ()


WAYS: dict[str, Way] = {
    "KD": Way(lambda m: Arm()),
    "LeaF": Way(lambda m: Arm(m.leaf)),
    "LeaF at 0.05": Way(lambda m: Arm(m.spans(f"{_SPANS} at 0.05")), varies="threshold"),
    "LeaF at 0.15": Way(lambda m: Arm(m.spans(f"{_SPANS} at 0.15")), varies="threshold"),
    "LeaF collective": Way(lambda m: Arm(m.spans("instruction collective"))),
    "LeaF response": Way(lambda m: Arm(m.spans("response gradient_difference")), varies="level"),
    "LeaF instruction + response": Way(
        lambda m: Arm([*m.leaf, *m.spans("response gradient_difference")]), varies="level"
    ),
    "random": Way(lambda m: Arm(m.spans(_RANDOM))),
    "perplexity": Way(lambda m: Arm(m.spans("instruction perplexity"))),
    "oracle": Way(lambda m: Arm(m.spans("instruction oracle"))),
    "teacher-only filter": Way(lambda m: Arm(m.spans("teacher only"))),
    "misled": Way(lambda m: Arm(upweighted(m.examples, len(m.leaf)))),
    "LeaF, half": Way(lambda m: Arm(m.leaf, 0.5)),
    "oracle, half": Way(lambda m: Arm(m.spans("instruction oracle"), 0.5)),
    "misled, half": Way(lambda m: Arm(m.examples, 0.5)),
    "misled at both levels, half": Way(lambda m: Arm([m.whole[i] for i in (*m.misled, *m.misled_late)], 0.5)),
    "disagreeing, half": Way(lambda m: m.hard(m.whole)),
    "few misled, half": Way(lambda m: Arm(m.examples[:FEW], 0.5)),
    "crossed, half": Way(lambda m: Arm(beyond.crossed(m.whole, m.leaf), 0.5), needs=(_SPANS,)),
    "repaired, half": Way(lambda m: Arm(beyond.repaired(m.whole, m.leaf), 0.5)),
    "shifted, half": Way(lambda m: Arm(beyond.shifted(m.student, m.whole, m.leaf, micro_batch=64), 0.5)),
    "hard exchanged, half": Way(lambda m: m.hard(beyond.exchanged(m.whole, m.leaf, m.lessons)), needs=(_SPANS,)),
    "hard transplanted, half": Way(lambda m: m.hard(beyond.transplanted(m.whole, m.leaf, m.lessons)), needs=(_SPANS,)),
    "hard transplanted at random, half": Way(
        lambda m: m.hard(beyond.transplanted(m.whole, m.spans(_RANDOM), m.lessons)), needs=(_SPANS, _RANDOM)
    ),
    "released": Way(lambda m: m.released(_SPANS, m.misled), released=True),
    "released, four times as strongly": Way(lambda m: m.released(_SPANS, m.misled, 4 * ATTENTION), released=True),
    "released at random": Way(lambda m: m.released(_RANDOM, m.misled), released=True),
    "released, oracle": Way(lambda m: m.released("instruction oracle", m.misled), released=True),
    "released everywhere": Way(lambda m: Arm((), "concat", ATTENTION, m.suspects), released=True),
    "released everywhere at random": Way(lambda m: Arm((), "concat", ATTENTION, m.suspects_at_random), released=True),
    "released everywhere + misled": Way(lambda m: Arm(m.examples, 0.5, ATTENTION, m.suspects), released=True),
    "few released": Way(lambda m: m.released(_SPANS, m.misled[:FEW]), released=True),
}


def arms(material: ToyMaterial, names: Sequence[str]) -> dict[str, Arm]:
    """The arms of these names; those without counterfactuals of their own are left out.

    Args:
        material: what they are made from.
        names: keys of `WAYS`.
    """

    def there(selector: str) -> bool:
        return len({one.origin for one in material.spans(selector)}) > 1

    made = {name: WAYS[name].build(material) for name in names if all(map(there, WAYS[name].needs))}
    return {name: arm for name, arm in made.items() if name == "KD" or arm.counterfactuals or arm.originals}
