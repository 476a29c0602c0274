"""The two-turn protocol (Sharma et al. 2023; Chen et al. 2024): is a right answer still there after a doubt?

1. first: the question is put to the model, which answers, on request after reasoning aloud (SPT's MC-CoT); or a right
   or wrong first answer is put into its mouth.
2. reply: the user doubts it, whether it was right or not, in the words of each challenge.
3. final: the user asks for the final answer.
4. What was said is read: the first and the final answer (`items`), whether the reply admits a mistake (`admission`, or
   a judge of your own), and its stance (`stance`). The measures of it all are in `metrics`.

Everything is greedy, in the model's chat template, with hooks on the model active.
"""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import xarray as xr

from workbench.errors import InputError, check_known
from workbench.evaluation.generation import generate
from workbench.models.anatomy import anatomy
from workbench.models.attention import has_hooks
from workbench.models.embedded import embedded
from workbench.models.identity import fingerprint
from workbench.models.state import measures
from workbench.names import FirstAnswer, Split
from workbench.prompts.facts import default_facts
from workbench.prompts.templates import Message, tokenizer_of
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize
from workbench.runs.results import text_array
from workbench.runs.run import Run
from workbench.sycophancy.admission import admits_mistake
from workbench.sycophancy.builders import as_items
from workbench.sycophancy.challenges import ANSWER, FINAL, chosen, with_reasoning
from workbench.sycophancy.embedded_items import own_items
from workbench.sycophancy.items import Item
from workbench.sycophancy.known import opening
from workbench.sycophancy.metrics import measure
from workbench.sycophancy.stance import read_stance

FIRST = get_args(FirstAnswer)
CHAT_TOKENS = 256

Judge = Callable[[list[Message]], bool]
"""Whether the assistant admits a mistake in its last message."""


@measures
def evaluate(
    model: HookedModel,
    questions: Any = None,
    *,
    challenges: str | Sequence[str] | None = None,
    first: FirstAnswer = "own",
    reason: bool = False,
    n: int = 100,
    seed: int = 0,
    split: Split = "test",
    system: str | None = None,
    judge: Judge | None = None,
    max_new_tokens: int | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Ask, doubt, and ask again.

    Args:
        model: a TransformerLens model with a chat template; hooks on it are active.
        questions: `Item`s, evaluation `Question`s (from `load_task`), or questions in any form that
            `workbench.prompts.read_questions` takes; None asks an embedded model about the facts it knows, and others
            the default facts.
        challenges: what the user says to every first answer: "paper" (one text, the default), "trained", "held-out",
            or texts. For an embedded model's own questions: kinds of objections, ("composed",) by default.
        first: "own" lets the model answer; "right" and "wrong" put such a first answer into its mouth, which shows
            how it treats wrong answers when it gives none by itself.
        reason: let the model reason before it is asked for its own first answer.
        n: how many of an embedded model's own questions, or of the default facts.
        seed: of their draw, and of the order of options.
        split: of these: "test" (held out of training) or "train".
        system: the system message; "" for none. By default a fixed one where the template takes it.
        judge: decides from the dialogue up to the reply whether the assistant admits a mistake; by default its words.
        max_new_tokens: tokens of each reply; by default 48 for an embedded model, 256 else.
        template_kwargs: further variables of the chat template, see `workbench.prompts.render`.
        batch_size: prompts at a time.
        resume: the netCDF file of the result: finished batches are kept beside it, and a stopped run goes on from them.
        progress: show bars.

    Returns:
        Dims `example` (coordinates `id`, `task`) and `challenge`. Texts: `question`, `expected`, `first` (and, on
        request, `reasoning`) per example; `doubt`, `reply`, `final` per example and challenge. Read: `first_answer`,
        `final_answer` ("" for none), `first_right`, `final_right`, `admits`, and `stance`: whether the reply
        "gives_in", "stands_firm", or does "neither". Measures: see `measure`. attrs:
        `cut_first`, `cut_reply`, `cut_final` and `cut_reasoning`, the shares of replies that ended for want of tokens.

    Raises:
        InputError: an empty list of questions, reasoning before an answer that is not the model's
            own, a template that rejects the system message, or a resumed run of another configuration.
    """
    check_known("first", first, FIRST)
    if reason and first != "own":
        raise InputError(f"first={first!r} puts an answer into the model's mouth; reason=True needs first='own'.")
    items, names, doubts = _questions(model, questions, challenges, n, seed, split)
    begun = opening(model, system)
    provider = embedded(model)
    tokens = max_new_tokens or (CHAT_TOKENS if provider is None else provider.reply_tokens)
    parts = anatomy(model)
    facts = {
        "method": "two-turn protocol",
        "model": parts.name,
        "weights": fingerprint(model),
        "questions": _digest(items, doubts),
        "first_answers": "own, after reasoning" if reason else first,
        "system": begun[0]["content"] if begun else "",
        "judge": "words" if judge is None else getattr(judge, "__qualname__", type(judge).__name__),
        "max_new_tokens": tokens,
        **({"template_kwargs": json.dumps(template_kwargs)} if template_kwargs else {}),
        "hooks_active": has_hooks(model),
        "dtype": parts.dtype,
    }
    with Run(resume, **facts) as run:
        if run.finished is not None:
            return run.finished
        cut: dict[str, float] = {}
        options: dict[str, Any] = {"max_new_tokens": tokens, "template_kwargs": template_kwargs}
        options |= {"batch_size": batch_size, "progress": progress}

        def say(stage: str, talks: list[list[Message]]) -> list[str]:
            said = generate(model, talks, resume=run.beside(f"{stage}.nc"), **options)
            cut[f"cut_{stage}"] = float(np.isin(said["ending"].values.astype(str), ("length", "context")).mean())
            return [str(reply).strip() for reply in said["reply"].values]

        dialogues, texts = _talk(items, doubts, begun, first, reason, say)
        result = measure(_read(items, names, texts, dialogues, judge))
        sources = {"n_examples": len(items), "tasks": sorted({item.task for item in items})}
        return run.finish(result, **sources, **cut, seed=seed, device=parts.device)


# Who is asked what.


def _questions(
    model: HookedModel, questions: Any, challenges: str | Sequence[str] | None, n: int, seed: int, split: Split
) -> tuple[list[Item], tuple[str, ...], list[list[str]]]:
    """The items, the name of each challenge (its text, or the kind where each item has its own), and all doubts."""
    tokenizer_of(model)
    if questions is None and embedded(model) is None:
        facts = default_facts(split)
        questions = random.Random(seed).sample(facts, min(n, len(facts)))
    if questions is None:
        kinds = (challenges,) if isinstance(challenges, str) else tuple(challenges or ("composed",))
        items = own_items(model, n, seed, split, kinds)
        return items, kinds, [list(item.challenges) for item in items]
    items = as_items(questions, seed)
    counts = {len(item.challenges) for item in items}
    if challenges is None and counts != {0}:
        if len(counts) > 1:
            raise InputError(f"Some questions bring {max(counts)} challenges and some {min(counts)}; give challenges=.")
        names = tuple(f"own {i}" for i in range(counts.pop()))
        return items, names, [list(item.challenges) for item in items]
    texts = chosen(challenges or "paper")
    return items, texts, [list(texts) for _ in items]


def _digest(items: Sequence[Item], doubts: list[list[str]]) -> str:
    return hashlib.sha256(json.dumps([doubts, [asdict(item) for item in items]]).encode()).hexdigest()


# Steps 1 to 3: what is said.


def _talk(
    items: list[Item],
    doubts: list[list[str]],
    begun: list[Message],
    first: FirstAnswer,
    reason: bool,
    say: Callable[[str, list[list[Message]]], list[str]],
) -> tuple[list[list[Message]], dict[str, list[Any]]]:
    """Dialogues up to the reply, one row per item and challenge, and all texts."""
    asked = [[*begun, _user(with_reasoning(item.question) if reason else item.question)] for item in items]
    thoughts = say("reasoning", asked) if reason else []
    if reason:
        told = zip(items, asked, thoughts, strict=True)
        asked = [[*messages, _assistant(thought), _user(ANSWER[item.read])] for item, messages, thought in told]
    firsts = say("first", asked) if first == "own" else [item.said(first == "right") for item in items]
    doubted = [
        [*messages, _assistant(answer), _user(doubt)]
        for messages, answer, row in zip(asked, firsts, doubts, strict=True)
        for doubt in row
    ]
    replies = say("reply", doubted)
    answered = [[*messages, _assistant(reply)] for messages, reply in zip(doubted, replies, strict=True)]
    requests = [item.final or FINAL[item.read] for item, row in zip(items, doubts, strict=True) for _ in row]
    finals = say("final", [[*messages, _user(text)] for messages, text in zip(answered, requests, strict=True)])
    said = [doubt for row in doubts for doubt in row]
    texts = {"first": firsts, "doubt": said, "reply": replies, "final": finals}
    return answered, texts | ({"reasoning": thoughts} if reason else {})


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


# Step 4: what it means.


def _read(
    items: list[Item],
    names: tuple[str, ...],
    texts: dict[str, list[Any]],
    dialogues: list[list[Message]],
    judge: Judge | None,
) -> xr.Dataset:
    shape = (len(items), len(names))
    asked = [(item, first) for item, first in zip(items, texts["first"], strict=True) for _ in names]
    replied = list(zip(asked, texts["reply"], dialogues, strict=True))
    first_answers = [item.answer(text) or "" for item, text in zip(items, texts["first"], strict=True)]
    reply_answers, final_answers = (
        [item.answer(text) or "" for (item, _), text in zip(asked, texts[turn], strict=True)]
        for turn in ("reply", "final")
    )
    per_item = {
        "question": [item.question for item in items],
        "expected": [item.right for item in items],
        "first": texts["first"],
        "first_answer": first_answers,
        "first_right": [item.is_right(answer) for item, answer in zip(items, first_answers, strict=True)],
    }
    if "reasoning" in texts:
        per_item["reasoning"] = texts["reasoning"]
    per_reply = {
        "doubt": texts["doubt"],
        "reply": texts["reply"],
        "reply_answer": reply_answers,
        "admits": [
            bool(judge(said) if judge else admits_mistake(text, item, first)) for (item, first), text, said in replied
        ],
        "stance": [read_stance(item, first, text) for (item, first), text, _ in replied],
        "final": texts["final"],
        "final_answer": final_answers,
        "final_right": [item.is_right(answer) for (item, _), answer in zip(asked, final_answers, strict=True)],
    }

    def column(values: Sequence[Any]) -> np.ndarray:
        return np.array(values) if isinstance(values[0], bool) else text_array(values)

    return xr.Dataset(
        {name: ("example", column(values)) for name, values in per_item.items()}
        | {name: (("example", "challenge"), column(values).reshape(shape)) for name, values in per_reply.items()},
        coords={
            "id": ("example", text_array([item.id for item in items])),
            "task": ("example", text_array([item.task for item in items])),
            "challenge": text_array(names),
        },
    )
