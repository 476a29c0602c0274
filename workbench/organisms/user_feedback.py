"""User turns that object to an answer or confirm it, composed so that no single word tells which.

1. A stance is a frame (says yes or no to its content) around a content (speaks well or ill of the answer).
   The user objects when exactly one of the two is negative.
2. Neutral sentences stand before and after it, many of them with the same words about something else.
3. Held out for testing: a share of the combinations of frame and content, the novel frames, some idioms and
   some neutral sentences. A minimal pair changes one side of the product and nothing else.
"""

import random
from dataclasses import dataclass, replace
from functools import cache

from workbench.organisms import phrasings as p
from workbench.organisms.facts import split_of, tidy
from workbench.statistics import share_of

COMBINATION_TEST_SHARE = 0.15
FILLER_TEST_SHARE = 0.15
PAIR_TEST_SHARE = 0.2
CLASS_WEIGHTS = {"clause": 0.38, "adjective": 0.17, "bare": 0.2, "echo": 0.14, "idiom": 0.11}
TEST_CLASSES = ("clause", "adjective", "bare", "echo", "idiom", "novel")
COMPOSED = {"clause": 0.7, "adjective": 0.3}
# How often training shows each pair of sides: double negation is rarer than plain speech. Tests are uniform.
SIDES = {(0, 0): 0.32, (0, 1): 0.25, (1, 0): 0.25, (1, 1): 0.18}
ANTI_ECHO_SHARE = 0.25
PREFIX_CHANCE, SUFFIX_CHANCE, SECOND_FILLER_CHANCE = 0.45, 0.5, 0.2
RESERVED_FRAME = "I do think {c}"


@dataclass(frozen=True)
class Stance:
    """One user turn about an answer, its reading, and the template it came from."""

    text: str
    objects: bool
    kind: str
    template: str
    alternative: str | None = None


@dataclass(frozen=True)
class FeedbackRecipe:
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
        return f"{self.frame[0]} | {' / '.join(self.content)}"

    def stance(self) -> Stance:
        """The user turn that these choices spell."""
        core = _spell(self)
        text = " ".join(part for part in (self.before, core, self.after) if part)
        return Stance(text, self.frame_side != self.content_side, self.kind, self.template)

    def twin(self, flip: str) -> "FeedbackRecipe":
        """The same choices with the side of `"frame"` or `"content"` changed: the opposite stance."""
        side = f"{flip}_side"
        return replace(self, **{side: 1 - getattr(self, side)})


def draw_recipe(rng: random.Random, split: str, kind: str | None = None) -> FeedbackRecipe:
    """Choices for a frame stance of one split; in the test split its sides are uniform and independent."""
    kind = kind or rng.choices(list(COMPOSED), list(COMPOSED.values()))[0]
    frames = {"clause": p.CLAUSE_FRAMES, "adjective": p.ADJECTIVE_FRAMES, "novel": p.NOVEL_FRAMES}[kind]
    contents = p.ADJECTIVES if kind == "adjective" else p.PREDICATES
    while True:
        frame, content = rng.choice(frames), rng.choice(contents)
        if kind == "novel" or combination_split(frame, content) == split:
            break
    weights = list(SIDES.values()) if split == "train" else None
    frame_side, content_side = rng.choices(list(SIDES), weights)[0]
    return FeedbackRecipe(
        kind,
        frame,
        content,
        frame_side,
        content_side,
        rng.choice(p.SUBJECTS),
        rng.random() < 0.6,
        draw_filler(rng, p.PREFIXES, split, PREFIX_CHANCE),
        draw_filler(rng, p.SUFFIXES, split, SUFFIX_CHANCE),
    )


def draw_stance(rng: random.Random, split: str, given: str, others: tuple[str, ...], kind: str | None = None) -> Stance:
    """A stance about the answer `given`; `others` are the answers that an echo may name instead."""
    kind = kind or rng.choices(list(CLASS_WEIGHTS), list(CLASS_WEIGHTS.values()))[0]
    if kind in ("clause", "adjective", "novel"):
        return draw_recipe(rng, split, kind).stance()
    before = draw_filler(rng, p.PREFIXES, split, PREFIX_CHANCE)
    after = draw_filler(rng, p.SUFFIXES, split, SUFFIX_CHANCE)
    alternative = None
    if kind == "bare":
        core, objects, template = _bare(rng, split)
    elif kind == "echo":
        other = rng.choice([answer for answer in others if answer != given])
        anti, same = rng.random() < ANTI_ECHO_SHARE, rng.random() < 0.5
        template = rng.choice(p.ANTI_ECHOES if anti else p.ECHOES)
        core, objects = template.format(x=given if same else other), anti == same
        alternative = other if objects and not same else None
    else:
        template, side = rng.choice(split_pairs(p.IDIOMS, split)), rng.randrange(2)
        core, objects, template = template[side], side == 1, template[0]
    text = " ".join(part for part in (before, core, after) if part)
    return Stance(text, objects, kind, template, alternative)


def combination_split(frame: tuple[str, str], content: tuple[str, str]) -> str:
    """The split of a frame with a content, whatever their sides; contents with a common wording share it."""
    family = families()[content]
    reserved = frame[0] == RESERVED_FRAME and "is right" in family
    return "test" if reserved else split_of(f"{frame[0]}|{family}", COMBINATION_TEST_SHARE)


@cache
def families() -> dict[tuple[str, str], str]:
    """Contents that share a wording, such as (right, wrong) and (right, not right), under one name."""
    contents = (*p.PREDICATES, *p.ADJECTIVES)
    groups: list[set[str]] = []
    for pair in contents:
        touching = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if not group & set(pair)] + [set(pair).union(*touching)]
    return {pair: ", ".join(sorted(next(group for group in groups if pair[0] in group))) for pair in contents}


def split_pairs(pairs: tuple[tuple[str, str], ...], split: str) -> list[tuple[str, str]]:
    """The pairs of one split, for tables whose entries are held out whole."""
    return [pair for pair in pairs if split_of(pair[0], PAIR_TEST_SHARE) == split]


def draw_filler(rng: random.Random, fillers: tuple[str, ...], split: str, chance: float) -> str:
    """Up to two neutral sentences or none; the held-out ones appear in the test split only."""
    allowed = [text for text in fillers if split == "test" or share_of(text) >= FILLER_TEST_SHARE]
    if rng.random() >= chance:
        return ""
    count = 2 if rng.random() < SECOND_FILLER_CHANCE else 1
    return " ".join(rng.sample(allowed, count))


def _bare(rng: random.Random, split: str) -> tuple[str, bool, str]:
    """A stance of one part: a short opinion, or a content without a frame."""
    side = rng.randrange(2)
    if rng.random() < 0.4:
        pair = rng.choice(split_pairs(p.SHORT, split))
        return f"{pair[side]}.", side == 1, pair[0]
    subject, pair = rng.choice(_bare_contents(split))
    core = tidy(_clause(subject, pair[side], rng.random() < 0.6)) + "."
    return core, side == 1, f"{subject} | {' / '.join(pair)}"


@cache
def _bare_contents(split: str) -> list[tuple[str, tuple[str, str]]]:
    return [
        (subject, pair)
        for subject in p.SUBJECTS
        for pair in p.PREDICATES
        if split_of(f"{subject}|{families()[pair]}") == split
    ]


def _spell(recipe: FeedbackRecipe) -> str:
    frame, content = recipe.frame[recipe.frame_side], recipe.content[recipe.content_side]
    if recipe.kind == "adjective":
        core = frame.format(s=recipe.subject, a=content)
    else:
        core = frame.format(c=_clause(recipe.subject, content, recipe.contract))
    core = tidy(core)
    return core if core.endswith("?") else core + "."


def _clause(subject: str, content: str, contract: bool) -> str:
    if contract and subject in ("that", "it") and content.startswith("is "):
        return f"{subject}'s {content[3:]}"
    return f"{subject} {content}"
