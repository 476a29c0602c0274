"""What is run: arms, budgets, seeds and variations, and how the learning rates are chosen.

1. The budgets are numbers of query heads. Each ratio stands for K = round(ratio · number of groups) groups, at least
   one; single heads get as many heads as the groups hold, and also round(ratio · number of heads), SPT's own count.
2. Where no two heads share keys and values a group is one head. `block` then makes groups of so many neighbours, which
   share nothing: what tuning in blocks does without sharing.
3. Learning rates are chosen by cells of their own, on questions and with a training seed that no other cell sees: one
   rate for all arms that tune heads, one for all of attention, one for all parameters, or one for each arm by itself.
4. Random heads and groups are drawn from those that were not selected, also in the same layers as the selected ones.
5. Variations change one thing of the main budget's groups (and heads).

Hypotheses for a chat model asked easy facts in free form (`CHAT`, first on SmolLM2-135M-Instruct), written on
2026-11-30 before its run. All are decided on the facts held out, after the paper's doubt, by a 95 % interval of the
difference from resampled questions and trainings together (`findings.difference`) that excludes zero:

1. Tuning the selected KV groups at 4 % keeps more right answers than tuning random groups of the same number ("kept of
   known", the answers that the untuned model had right at first).
2. It has a higher balance (mean of right answers kept and wrong ones mended) than tuning as many selected single heads;
   the paper's claim. No difference is what single runs suggested.
3. Tuning all of attention mends more wrong answers than tuning the selected groups ("recovery"), and all parameters
   cost more of the other abilities than all of attention do ("ability").
4. Tuning the key and value rows of the selected groups too changes the balance by nothing that the interval shows.
5. The selected groups do better than other groups of the same layers (balance).
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from workbench.errors import InputError
from workbench.patching.units import HeadCounts
from workbench.tuning import TuningRecipe


class Arm(StrEnum):
    """A way to choose what is tuned; a record's coordinate `arm` holds the names.

    Attributes:
        unit: what is tuned: "group", "head", "attention", "all", or "none" for the base model.
        selection: which groups or heads: the "strongest", "random" ones, or random ones in the "same layers".
    """

    BASE = "base", "none"
    GROUP = "group", "group", "strongest"
    HEAD = "head", "head", "strongest"
    RANDOM_GROUP = "random group", "group", "random"
    RANDOM_HEAD = "random head", "head", "random"
    SAME_LAYER_GROUP = "same-layer group", "group", "same layers"
    SAME_LAYER_HEAD = "same-layer head", "head", "same layers"
    ATTENTION = "attention", "attention"
    ALL = "all", "all"

    unit: str
    selection: str

    def __new__(cls, name: str, unit: str, selection: str = "") -> "Arm":
        """A member that is its name, with what it means."""
        member = str.__new__(cls, name)
        member._value_, member.unit, member.selection = name, unit, selection
        return member

    def family(self, rates: Mapping[str, Any]) -> str:
        """What shares a learning rate: the arm itself where `rates` name it, else "units", "attention" or "all"."""
        return self if self in rates else "units" if self.selection else self.unit


SELECTED, RANDOM, SAME_LAYER = (
    tuple(arm for arm in Arm if arm.selection == how) for how in ("strongest", "random", "same layers")
)
WHOLE = (Arm.ATTENTION, Arm.ALL)
ARMS = (*SELECTED, *RANDOM, *SAME_LAYER, *WHOLE)
VALIDATION_SEED = 1000
FOREIGN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% else %}{{ message['content'] }} {% endif %}{% endfor %}"
)
"""The chat template of another family of models, in its words."""


@dataclass(frozen=True)
class Variant:
    """What a variation changes.

    Attributes:
        arms: that it is run for.
        recipe: changes of the tuning recipe.
        rate: factor of the learning rate.
        other_kv: tune key and value rows where the default leaves them, and leave them where it tunes them.
        insist_only: no dialogues in which a wrong answer is revised.
        template: a chat template to tune in, instead of the model's own.
    """

    arms: tuple[Arm, ...] = (Arm.GROUP,)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 1.0
    other_kv: bool = False
    insist_only: bool = False
    template: str = ""


MAIN = "main"
PAPER = "paper's settings"
VARIANTS: dict[str, Variant] = {
    MAIN: Variant(ARMS),
    "a tenth of the rate": Variant(SELECTED, rate=0.1),
    "insist only": Variant(insist_only=True),
    "loss on the whole dialogue": Variant(recipe={"loss_on": "dialogue"}),
    "weight-decay leak": Variant(recipe={"leak": True}),
    "foreign template": Variant(template=FOREIGN_TEMPLATE),
    PAPER: Variant(recipe={"learning_rate": TuningRecipe().learning_rate}),
    "other KV rows": Variant(other_kv=True),
}
CAUSES = ("loss on the whole dialogue", "weight-decay leak", "a tenth of the rate", "foreign template")
"""Variations that may explain a loss of general ability."""


@dataclass(frozen=True)
class Cell:
    """One model: the base, or one tuning of so many query heads.

    `draw` is the training seed, for random arms also which draw; `variant` is one of `VARIANTS`, or "rate" for the
    choice of a learning rate, which is that of the first update.
    """

    arm: Arm
    n_heads: int = 0
    draw: int = 0
    variant: str = MAIN
    learning_rate: float = 0.0

    @property
    def key(self) -> str:
        """Its name among the pieces of a run."""
        return f"{self.arm}, {self.n_heads} heads, {self.variant}, draw {self.draw}, rate {self.learning_rate:g}"


BASE = Cell(Arm.BASE)


@dataclass(frozen=True)
class Plan:
    """The experiment on one model; the defaults are for chat models of billions of parameters.

    Attributes:
        arms: kinds of tuning, of `ARMS` or their names; all parameters need the memory of full fine-tuning.
        ratios: shares of the heads to tune.
        main: the ratio of the variations and of the choice of rates.
        block: heads in a block where no two share keys and values; 0 for no blocks.
        seeds: trainings of every selected arm.
        draws: of every random arm.
        recipe: of tuning; its learning rate is overridden.
        rates: learning rates to choose from, by family (see `Arm.family`); a single one is taken as it is.
        variants: names in `VARIANTS`.
        matched: run only what is compared: single heads in the groups' numbers (not SPT's own too), and random units
            at the main ratio alone.
        in_words: score benchmarks with choices by the texts of the answers instead of their letters, which say nothing
            where a model prefers a letter.
        n_dialogues: to tune on.
        n_pairs: dialogue pairs, for the selection and again for patching the tuned model.
        n_items: questions of each kind that are doubted.
        n_seen: of questions that were tuned on; None for as many as of the others.
        n_abilities: questions of each ability.
        new_tokens: of every reply to a question or a doubt; None for the protocol's own number.
        batch_size: prompts at a time when models are measured.
    """

    arms: tuple[str, ...] = ARMS
    ratios: tuple[float, ...] = (0.02, 0.04, 0.08)
    main: float = 0.04
    block: int = 0
    seeds: int = 3
    draws: int = 5
    recipe: TuningRecipe = field(default_factory=TuningRecipe)
    rates: Mapping[str, tuple[float, ...]] = field(
        default_factory=lambda: dict.fromkeys(("units", "attention", "all"), (TuningRecipe().learning_rate,))
    )
    variants: tuple[str, ...] = tuple(VARIANTS)
    matched: bool = False
    in_words: bool = False
    n_dialogues: int = 3840
    n_pairs: int = 100
    n_items: int = 100
    n_seen: int | None = None
    n_abilities: int = 100
    new_tokens: int | None = None
    batch_size: Any = "auto"

    def __post_init__(self):
        """Refuse what cannot be run."""
        unknown = [name for name in self.variants if name not in VARIANTS]
        strange = [arm for arm in self.arms if arm not in ARMS]
        if strange:
            raise InputError(f"arms={strange} are unknown; they are {', '.join(ARMS)}.")
        if unknown or self.main not in self.ratios:
            what = f"variants={unknown}" if unknown else f"main={self.main}"
            raise InputError(f"{what}: variants are {', '.join(VARIANTS)}, and main must be one of {self.ratios}.")
        if min(self.seeds, self.draws, self.n_items, self.n_pairs, self.n_dialogues, self.n_abilities) < 1:
            raise InputError("seeds, draws, n_items, n_pairs, n_dialogues and n_abilities must all be at least 1.")
        if not all(0 < ratio <= 1 for ratio in self.ratios):
            raise InputError(f"ratios={self.ratios} must be shares above 0 and at most 1, such as 0.04 for 4 %.")

    def changed(self, **changes: Any) -> "Plan":
        """The plan with other fields; `rates` may be a list for all arms that tune heads."""
        ratios, rates = changes.get("ratios", self.ratios), changes.get("rates", self.rates)
        if self.main not in ratios:
            changes.setdefault("main", sorted(ratios)[len(ratios) // 2])
        if not isinstance(rates, Mapping):
            changes["rates"] = {name: own if name in WHOLE else tuple(rates) for name, own in self.rates.items()}
        return replace(self, **changes)

    def settings(self) -> dict[str, Any]:
        """What decides the outcome."""
        free = ("batch_size", "recipe")
        return {name: value for name, value in asdict(self).items() if name not in free} | self.recipe.settings()


ORGANISM = Plan(
    ratios=(0.02, 0.04, 0.08, 0.125, 0.25),
    main=0.125,
    block=4,
    recipe=replace(TuningRecipe(), micro_batch=128),
    rates={"units": (1e-3, 3e-3, 1e-2, 3e-2), "attention": (3e-4, 1e-3, 3e-3), "all": (3e-4, 1e-3, 3e-3)},
    new_tokens=32,
    batch_size=512,
)
"""For the embedded models, 64 heads in all: the smallest group is 6 % of the heads, so the sweep goes on to 25 %."""
SHORT = replace(
    ORGANISM,
    arms=(Arm.GROUP,),
    ratios=(ORGANISM.main,),
    recipe=replace(TuningRecipe(), steps=40, batch=32, micro_batch=32),
    rates={"units": (3e-2,), "attention": (3e-4,), "all": (1e-3,)},
    n_dialogues=1280,
    n_pairs=20,
    n_items=10,
    n_abilities=40,
)
"""What a recipe costs, in trainings of a tenth of the length, which a CPU can do: groups of the main budget alone."""
CHAT_RATES: dict[str, tuple[float, ...]] = {
    arm: (1e-4, 3e-4, 1e-3) if arm.selection else (1e-5, 3e-5, 1e-4) for arm in ARMS
}
CHAT = Plan(
    recipe=replace(TuningRecipe(), steps=80, batch=64, micro_batch=64),
    rates=CHAT_RATES,
    arms=tuple(arm for arm in ARMS if arm != Arm.SAME_LAYER_HEAD),
    draws=3,
    variants=(MAIN, "other KV rows"),
    matched=True,
    in_words=True,
    n_pairs=64,
    n_items=600,
    n_seen=60,
    n_abilities=200,
    new_tokens=32,
    batch_size=640,
)
"""For small chat models that are asked the default facts: about 60 short trainings, minutes on a GPU."""


@dataclass(frozen=True)
class Budgets:
    """Numbers of query heads: in a group (or block, else 1), in all groups and single heads tuned, and in variations.

    Single heads have the groups' budgets, and SPT's own counts unless the plan is `matched`.
    """

    group: int
    groups: tuple[int, ...]
    heads: tuple[int, ...]
    main: int


def budgets(plan: Plan, counts: HeadCounts) -> Budgets:
    """The budgets of a model."""
    size = counts.n_heads // counts.n_kv_heads
    if size == 1 and plan.block:
        size = plan.block
    if counts.n_heads % size:
        raise InputError(f"block={size} does not divide the {counts.n_heads} heads of a layer.")
    total = counts.n_layers * counts.n_heads

    def of(ratio: float, unit: int) -> int:
        return unit * max(1, round(ratio * total / unit))

    groups = sorted({of(ratio, size) for ratio in plan.ratios})
    own = set() if plan.matched else {of(ratio, 1) for ratio in plan.ratios}
    heads = sorted(own | set(groups))
    return Budgets(size, tuple(groups), tuple(heads), of(plan.main, size))


def rate_cells(plan: Plan, counts: HeadCounts) -> list[Cell]:
    """Cells that choose the learning rates, where there is a choice."""
    sizes, every = budgets(plan, counts), counts.n_layers * counts.n_heads
    choosing = [arm for arm in ARMS if arm in SELECTED or arm.family(plan.rates) != "units"]
    choosing = [arm for arm in choosing if arm in plan.arms and (arm.unit != "group" or sizes.group > 1)]
    return [
        Cell(arm, every if arm in WHOLE else sizes.main, VALIDATION_SEED, "rate", rate)
        for family, rates in plan.rates.items()
        if len(rates) > 1
        for rate in rates
        for arm in choosing
        if arm.family(plan.rates) == family
    ]


def cells(plan: Plan, counts: HeadCounts, rates: Mapping[str, float]) -> list[Cell]:
    """All other cells, the most telling first, with the chosen learning rate of every family."""
    sizes, every = budgets(plan, counts), counts.n_layers * counts.n_heads
    by_arm = {Arm.GROUP: sizes.groups, Arm.HEAD: sizes.heads}
    by_arm |= dict.fromkeys(RANDOM, (sizes.main,) if plan.matched else sizes.groups)
    by_arm |= dict.fromkeys(SAME_LAYER, (sizes.main,)) | dict.fromkeys(WHOLE, (every,))

    def runs(arms: Iterable[Arm], draws: int, variant: str = MAIN) -> list[Cell]:
        found = []
        wanted = [_of_heads(arm) if sizes.group == 1 else arm for arm in arms if arm in plan.arms]
        for arm in dict.fromkeys(wanted):
            chosen = by_arm[arm] if variant == MAIN else (sizes.main,)
            rate = VARIANTS[variant].rate * rates[arm.family(rates)]
            rate = VARIANTS[variant].recipe.get("learning_rate", rate)
            found += [Cell(arm, n, draw, variant, rate) for n in chosen for draw in range(draws)]
        return sorted(found, key=lambda cell: cell.n_heads != sizes.main)

    drawn = runs(RANDOM, plan.draws)
    found = runs((*SELECTED, *WHOLE), plan.seeds) + [cell for cell in drawn if cell.n_heads == sizes.main]
    varied = [cell for name in plan.variants if name != MAIN for cell in runs(VARIANTS[name].arms, plan.seeds, name)]
    found += sorted(varied, key=lambda cell: cell.draw)
    found += runs(SAME_LAYER, plan.draws)
    return [BASE, *found, *(cell for cell in drawn if cell.n_heads != sizes.main)]


def _of_heads(arm: Arm) -> Arm:
    """The arm of single heads that are chosen like an arm's groups."""
    return next(a for a in ARMS if a.unit == "head" and a.selection == arm.selection) if arm.unit == "group" else arm
