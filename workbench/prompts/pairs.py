"""Pairs of prompts that differ in one respect, as tokens.

A pair holds `base`, the prompt that shows a behaviour, `source`, a prompt that does not, and two answers:
`a`, how a reply begins when the behaviour shows ("Apologies"), and `b`, how it begins otherwise ("Yes"). An answer is a
sequence of tokens, or a set of several sequences of which the reply begins with one.
Sequences are kept as lists of ids without padding; who runs them pads.
"""

import hashlib
import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, product
from numbers import Integral
from typing import Any, overload

from torch import Tensor

from workbench.errors import InputError
from workbench.prompts.templates import Message, beginning, encode, encode_dialogue, tokenizer_of
from workbench.prompts.texts import has_mask, refuse_padding, refuse_unknown_ids, unpadded, whole_ids
from workbench.protocol import HookedModel

TokenSequence = tuple[int, ...]
Answer = TokenSequence | tuple[TokenSequence, ...]
"""One token sequence, or a set of them: `(5,)`, `(5, 9)`, `((5,), (7, 9))`."""


class PromptPairs:
    """Aligned pairs of token sequences with two answers each; slicing gives pairs again.

    Args:
        base: token ids of the prompts that are run and patched: one list each, a tensor `[example, pos]`, or what a
            tokenizer returns, with its attention mask.
        source: token ids of the prompts that the activations come from. Lengths may differ from `base`.
        answers: `(a, b)` per example: token ids, sequences of ids for answers of several tokens, or sets of sequences
            (lists of lists of ids), of which the reply begins with one. One pair stands for all examples.
        mask: for padded tensors: 1 where a token is real, 0 where it is padding; one mask, or one for base and one for
            source. Without one, functions that see the model refuse rows that begin or end in its pad token.
        vocab: number of tokens that the model knows; given, ids are checked against it.
        meta: one dictionary per example for the reader: texts, the template, the fact.

    Attributes:
        unpadded: whether it is known that no token is padding.
        facts: what is known of all pairs together and belongs into every result about them: how many were asked for,
            how answers were found, how often the model shows the behaviour by itself.

    Raises:
        InputError: no examples, unequal numbers of them, an empty prompt, a equal to b, an answer that is the beginning
            of the other, ids that are no whole numbers or outside `vocab`, or a mask of another shape.
    """

    def __init__(
        self,
        base: Iterable[Any] | Tensor,
        source: Iterable[Any] | Tensor,
        answers: Sequence[Any] | Tensor,
        *,
        mask: Tensor | tuple[Any, Any] | None = None,
        vocab: int | None = None,
        meta: Sequence[dict[str, Any]] | None = None,
    ):
        masks = mask if isinstance(mask, tuple) else (mask, mask)
        self.base, self.source = (
            [_ids(row) for row in unpadded(rows, own, "Prompt")]
            for rows, own in zip((base, source), masks, strict=True)
        )
        self.unpadded = all(has_mask(rows, own) for rows, own in zip((base, source), masks, strict=True))
        self.answers = _answers(answers, len(self.base))
        self.meta = [dict(m) for m in meta] if meta is not None else [{} for _ in self.base]
        _check(self.base, self.source, self.answers, self.meta)
        self.facts: dict[str, Any] = {}
        if vocab is not None:
            self.check_vocab(vocab)

    @classmethod
    def from_text(
        cls,
        model: HookedModel,
        base: Sequence[str],
        source: Sequence[str],
        answers: Sequence[Any],
        *,
        bos: bool | None = None,
    ) -> "PromptPairs":
        """Pairs from plain texts.

        Args:
            model: a TransformerLens model with a tokenizer.
            base: texts that show the behaviour.
            source: texts that do not.
            answers: `(a, b)` words or token ids, for each example or one for all; a list of words is a set of openers.
                A word is a sequence of tokens as it follows the prompt: mind the leading space.
            bos: put BOS first (True), leave it out (False), or as the tokenizer does by itself (None).
        """
        tokenizer = tokenizer_of(model)
        for name, texts in (("base", base), ("source", source)):
            if isinstance(texts, str):
                raise InputError(f"{name} is one text; give a list of texts, such as [{texts[:30]!r}].")
        rows = [[encode(tokenizer, text, bos=bos) for text in texts] for texts in (base, source)]
        equal = len(base) == len(source)
        meta = [{"base": b, "source": s} for b, s in zip(base, source, strict=True)] if equal else None
        return cls._of_texts(model, rows, answers, meta)

    @classmethod
    def from_dialogues(
        cls,
        model: HookedModel,
        base: Sequence[Sequence[Message]],
        source: Sequence[Sequence[Message]],
        answers: Sequence[Any],
        *,
        prefix: str | Sequence[int] = "",
        meta: Sequence[dict[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> "PromptPairs":
        """Pairs from dialogues, rendered by the model's own chat template up to the reply that is asked for.

        Args:
            model: a TransformerLens model whose tokenizer has a chat template.
            base: dialogues that show the behaviour; each a list of `{"role", "content"}`.
            source: dialogues that do not.
            answers: as in `from_text`.
            prefix: a beginning of the reply that is forced on both sides, such as "I'm", or its token ids; answers then
                follow it.
            meta: one dictionary per example to keep.
            template_kwargs: further variables of the template, see `render`.
        """
        tokenizer = tokenizer_of(model)
        if isinstance(prefix, str):
            prefix = tokenizer(prefix, add_special_tokens=False)["input_ids"] if prefix else []
        begun = [int(token) for token in prefix]

        def ids(messages: Sequence[Message]) -> list[int]:
            return encode_dialogue(tokenizer, messages, reply=True, template_kwargs=template_kwargs) + begun

        return cls._of_texts(model, [list(map(ids, dialogues)) for dialogues in (base, source)], answers, meta)

    @classmethod
    def _of_texts(
        cls, model: HookedModel, rows: list[list[list[int]]], answers: Sequence[Any], meta: Any
    ) -> "PromptPairs":
        tokenizer = tokenizer_of(model)
        made = cls(*rows, _encode_answers(tokenizer, answers), vocab=int(model.cfg.d_vocab), meta=meta)
        made.unpadded = True
        made.facts["bos"] = beginning(tokenizer, made.base + made.source)
        return made

    def __len__(self) -> int:
        return len(self.base)

    def __iter__(self) -> Iterator["PromptPairs"]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, which: int) -> "PromptPairs": ...
    @overload
    def __getitem__(self, which: slice | Sequence[int]) -> "PromptPairs": ...
    def __getitem__(self, which: int | slice | Sequence[int]) -> "PromptPairs":
        """The chosen examples as pairs, also for a single index."""
        if isinstance(which, slice):
            which = range(len(self))[which]
        chosen = [int(which)] if isinstance(which, int | Integral) else list(which)
        made = PromptPairs(
            [self.base[i] for i in chosen],
            [self.source[i] for i in chosen],
            [self.answers[i] for i in chosen],
            meta=[self.meta[i] for i in chosen],
        )
        made.unpadded = self.unpadded
        made.facts = dict(self.facts)
        return made

    def __repr__(self) -> str:
        lengths = sorted(len(s) for s in self.base + self.source)
        return f"PromptPairs({len(self)} pairs, {lengths[0]} to {lengths[-1]} tokens, digest {self.digest[:8]})"

    @property
    def digest(self) -> str:
        """SHA-256 of all tokens and answers: the identity of the prompts in a result's provenance."""
        content = json.dumps([self.base, self.source, self.answers], separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def answer_sets(self) -> list[tuple[tuple[TokenSequence, ...], tuple[TokenSequence, ...]]]:
        """Both answers of each example as sets of token sequences."""
        return [(_sequences(a), _sequences(b)) for a, b in self.answers]

    @property
    def single_tokens(self) -> bool:
        """Whether every answer is one token."""
        return all(len(answer) == 1 and isinstance(answer[0], int) for pair in self.answers for answer in pair)

    def check_model(self, model: HookedModel) -> None:
        """Refuse ids that a model does not have, and prompts that begin or end in its pad token."""
        self.check_vocab(int(model.cfg.d_vocab))
        for name, rows in (("Base prompt", self.base), ("Source prompt", self.source)):
            if not self.unpadded:
                even = len(rows) > 1 and len(set(map(len, rows))) == 1
                refuse_padding(rows, getattr(model, "tokenizer", None), batch=even, name=name)

    def check_vocab(self, vocab: int) -> None:
        """Refuse ids that a model of `vocab` tokens does not have."""
        for i, (base, source, answers) in enumerate(zip(self.base, self.source, self.answer_sets, strict=True)):
            tokens = chain.from_iterable(chain.from_iterable(answers))
            for name, ids in (("base", base), ("source", source), ("answers", tokens)):
                refuse_unknown_ids(ids, vocab, f"Example {i}: {name}")


def shared_prefix(base: Sequence[int], source: Sequence[int]) -> int:
    """How many leading tokens two sequences have in common."""
    pairs = enumerate(zip(base, source, strict=False))
    return next((n for n, (x, y) in pairs if x != y), min(len(base), len(source)))


def _ids(tokens: Any) -> list[int]:
    if isinstance(tokens, str):
        raise InputError(
            f"PromptPairs takes token ids, and got the text {tokens[:40]!r}. Use "
            "PromptPairs.from_text(model, …) for texts."
        )
    return whole_ids(tokens, "A prompt")


def _answers(answers: Sequence[Any] | Tensor, n: int) -> list[tuple[Answer, Answer]]:
    if isinstance(answers, Tensor):
        answers = answers.tolist()
    pairs = [answers] * n if _is_one_pair(answers) else list(answers)
    try:
        return [(_answer(a), _answer(b)) for a, b in pairs]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"answers={str(answers)[:60]} are no pairs (a, b) of token ids. Give one pair, such as (5, 9), or a "
            "list of one pair per example; words need PromptPairs.from_text or from_dialogues."
        ) from error


class _OnePair(tuple[Any, ...]):
    """An answer pair that stands for every example, told apart from two examples' pairs by its type."""


def _is_one_pair(answers: Sequence[Any]) -> bool:
    return isinstance(answers, _OnePair) or (len(answers) == 2 and all(isinstance(x, Integral | str) for x in answers))


def _answer(answer: Any) -> Answer:
    if isinstance(answer, Integral):
        return (int(answer),)
    parts = list(answer)
    if not any(isinstance(part, Sequence | Tensor) for part in parts):
        return tuple(operator.index(t) for t in parts)
    sequences = {tuple(operator.index(t) for t in ([part] if isinstance(part, Integral) else part)) for part in parts}
    kept = tuple(sorted(s for s in sequences if not any(s != t and s[: len(t)] == t for t in sequences)))
    return kept[0] if len(kept) == 1 else kept


def _sequences(answer: Answer) -> tuple[TokenSequence, ...]:
    return answer if answer and isinstance(answer[0], tuple) else (answer,)  # ty: ignore[invalid-explicit-return]


def _encode_answers(tokenizer: Any, answers: Sequence[Any]) -> Sequence[Any]:
    def ids(answer: Any) -> Any:
        if isinstance(answer, list | tuple | set | frozenset) and any(isinstance(word, str) for word in answer):
            return tuple(ids(word) for word in answer)
        if not isinstance(answer, str):
            return answer
        encoded = tokenizer(answer, add_special_tokens=False)["input_ids"]
        if not encoded:
            raise InputError(f"The answer {answer!r} has no tokens; give a word that the model can say.")
        return tuple(encoded)

    if _is_one_pair(answers):
        return _OnePair(ids(x) for x in answers)
    return [tuple(ids(x) for x in pair) for pair in answers]


def _check(base: list[list[int]], source: list[list[int]], answers: list[Any], meta: list[Any]) -> None:
    counts = {"base": len(base), "source": len(source), "answers": len(answers), "meta": len(meta)}
    if not base:
        raise InputError("No pairs: base is empty. Give at least one base and one source prompt.")
    if len(set(counts.values())) > 1:
        raise InputError(
            f"Pairs need as many sources and answers as bases, and got {counts}. Give one of each per "
            "example (a single answer pair stands for all)."
        )
    for i, (b, s, (x, y)) in enumerate(zip(base, source, answers, strict=True)):
        if not b or not s:
            raise InputError(f"Example {i}: the {'base' if not b else 'source'} prompt has no tokens.")
        if not x or not y:
            raise InputError(f"Example {i}: an answer has no tokens.")
        if x == y:
            raise InputError(
                f"Example {i}: answers a and b are the same, token ids {list(x)}, so nothing can tell them "
                "apart. Words that begin alike share their first token: take longer answers, or the first "
                "token that differs."
            )
        for both in product(_sequences(x), _sequences(y)):
            short, long = sorted(both, key=len)
            if long[: len(short)] == short:
                raise InputError(
                    f"Example {i}: the token ids {list(short)} of one answer begin {list(long)} of the other, so a "
                    "reply could show both. Take answers that differ before either ends."
                )
