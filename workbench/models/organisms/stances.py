"""User turns that object to an answer or confirm it, composed so that no single word tells which.

1. A stance is a frame (says yes or no to its content) around a content (speaks well or ill of the answer).
   The user objects when exactly one of the two is negative.
2. Neutral sentences stand before and after it, many of them with the same words about something else.
3. Held out for testing: a share of the combinations of frame and content, the novel frames, some idioms and some
   neutral sentences. A minimal pair changes one side of the product and nothing else.
"""

import random
from dataclasses import dataclass

from workbench.models.organisms import phrasings as p
from workbench.models.organisms.facts import share_of, tidy

COMBINATION_TEST_SHARE = 0.15
FILLER_TEST_SHARE = 0.15
IDIOM_TEST_SHARE = 0.2
CLASSES = ("clause", "adjective", "echo", "idiom")
TEST_CLASSES = ("clause", "adjective", "echo", "idiom", "novel")
CLASS_WEIGHTS = {"clause": 0.52, "adjective": 0.22, "echo": 0.12, "idiom": 0.14}
RESERVED = {("I do think {c}", "is right")}


@dataclass(frozen=True)
class Stance:
    """One user turn about an answer, its reading, and the template it came from."""

    text: str
    objects: bool
    kind: str
    template: str
    alternative: str | None = None


@dataclass(frozen=True)
class Recipe:
    """All choices that make a stance, so that a twin can differ in exactly one of them."""

    kind: str
    frame: tuple[str, str]
    content: tuple[str, str]
    frame_side: int
    content_side: int
    subject: str
    contract: bool
    before: str
    after: str

    @property
    def template(self) -> str:
        """The frame and content pair, whatever their sides."""
        return f"{self.frame[0]} | {self.content[0]}"

    def stance(self) -> Stance:
        """The user turn that these choices spell."""
        core = _spell(self)
        text = " ".join(part for part in (self.before, core, self.after) if part)
        return Stance(text, self.frame_side != self.content_side, self.kind, self.template)

    def twin(self, flip: str) -> "Recipe":
        """The same choices with the side of `"frame"` or `"content"` changed: the opposite stance."""
        values = dict(self.__dict__)
        values[f"{flip}_side"] = 1 - values[f"{flip}_side"]
        return Recipe(**values)


def draw_recipe(rng: random.Random, split: str, kind: str | None = None) -> Recipe:
    """Choices for a frame stance of one split; its sides are uniform and independent."""
    kind = kind or rng.choices(("clause", "adjective"), (0.7, 0.3))[0]
    frames = {"clause": p.CLAUSE_FRAMES, "adjective": p.ADJECTIVE_FRAMES, "novel": p.NOVEL_FRAMES}[kind]
    contents = p.ADJECTIVES if kind == "adjective" else p.PREDICATES
    while True:
        frame, content = rng.choice(frames), rng.choice(contents)
        if kind == "novel" or combination_split(frame, content) == split:
            break
    return Recipe(
        kind,
        frame,
        content,
        rng.randrange(2),
        rng.randrange(2),
        rng.choice(p.SUBJECTS),
        rng.random() < 0.6,
        draw_filler(rng, p.PREFIXES, split, 0.55),
        draw_filler(rng, p.SUFFIXES, split, 0.6),
    )


def draw_stance(
    rng: random.Random, split: str, given: str, others: tuple[str, ...], kind: str | None = None
) -> Stance:
    """A stance about the answer `given`; `others` are the answers that an echo may name instead."""
    kind = kind or rng.choices(CLASSES, [CLASS_WEIGHTS[name] for name in CLASSES])[0]
    if kind in ("clause", "adjective", "novel"):
        return draw_recipe(rng, split, kind).stance()
    before = draw_filler(rng, p.PREFIXES, split, 0.55)
    after = draw_filler(rng, p.SUFFIXES, split, 0.6)
    alternative = None
    if kind == "echo":
        other = rng.choice([answer for answer in others if answer != given])
        anti, same = rng.random() < 0.4, rng.random() < 0.5
        template = rng.choice(p.ANTI_ECHOES if anti else p.ECHOES)
        core, objects = template.format(x=given if same else other), anti == same
        alternative = other if objects and not same else None
    else:
        template, side = rng.choice(idioms_of(split)), rng.randrange(2)
        core, objects, template = template[side], side == 1, template[0]
    text = " ".join(part for part in (before, core, after) if part)
    return Stance(text, objects, kind, template, alternative)


def combination_split(frame: tuple[str, str], content: tuple[str, str]) -> str:
    """The split of a frame with a content, whatever their sides."""
    if (frame[0], content[0]) in RESERVED:
        return "test"
    test = share_of(f"{frame[0]}|{content[0]}|{content[1]}") < COMBINATION_TEST_SHARE
    return "test" if test else "train"


def idioms_of(split: str) -> list[tuple[str, str]]:
    """The idioms of one split."""
    return [pair for pair in p.IDIOMS if (share_of(pair[0]) < IDIOM_TEST_SHARE) == (split == "test")]


def draw_filler(rng: random.Random, fillers: tuple[str, ...], split: str, chance: float) -> str:
    """Up to two neutral sentences or none; the held-out ones appear in the test split only."""
    allowed = [text for text in fillers if split == "test" or share_of(text) >= FILLER_TEST_SHARE]
    if rng.random() >= chance:
        return ""
    count = 2 if rng.random() < 0.3 else 1
    return " ".join(rng.sample(allowed, count))


def _spell(recipe: Recipe) -> str:
    frame, content = recipe.frame[recipe.frame_side], recipe.content[recipe.content_side]
    if recipe.kind == "adjective":
        core = frame.format(s=recipe.subject, a=content)
    else:
        clause = f"{recipe.subject} {content}"
        if recipe.contract and recipe.subject in ("that", "it") and content.startswith("is "):
            clause = f"{recipe.subject}'s {content[3:]}"
        core = frame.format(c=clause)
    core = tidy(core)
    return core if core.endswith("?") else core + "."
