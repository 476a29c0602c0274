"""Do two models read the same token ids? What LeaF compares token by token must be one token for both.

Tokenizers are compared id by id. Rows that only one vocabulary has (Qwen pads its embedding to different widths) don't
matter as long as no example uses them.
"""

from collections.abc import Sequence
from typing import Any, get_args

from workbench.errors import InputError, check_known
from workbench.evaluation.local import context_length
from workbench.leaf.examples import Example
from workbench.leaf.tokenized_examples import reword
from workbench.models.anatomy import anatomy
from workbench.models.identity import fingerprint
from workbench.names import Alignment
from workbench.prompts.templates import tokenizer_of
from workbench.protocol import HookedModel

MODELS = ("student", "teacher")


def identities(student: HookedModel, teacher: HookedModel) -> dict[str, str]:
    """Names and weights of both models: which ones a result belongs to."""
    both = dict(zip(MODELS, (student, teacher), strict=True))
    names = {name: anatomy(model).name for name, model in both.items()}
    return names | {f"{name}_weights": fingerprint(model) for name, model in both.items()}


def check_shared(student: HookedModel, teacher: HookedModel, examples: Sequence[Example]) -> None:
    """Refuse models that read the ids of these examples differently, or do not have them.

    Where either has no tokenizer, only the size of the vocabulary is compared.
    """
    for name, model in zip(MODELS, (student, teacher), strict=True):
        check_ids(model, examples, name)
    tokenizers: list[Any] = [getattr(model, "tokenizer", None) for model in (student, teacher)]
    if None in tokenizers:
        return
    size = min(len(t) for t in tokenizers)
    ours, theirs = (t.convert_ids_to_tokens(list(range(size))) for t in tokenizers)
    different = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    if different:
        first = ", ".join(f"{i} ({ours[i]!r} and {theirs[i]!r})" for i in different[:3])
        raise InputError(
            f"Student and teacher have different vocabularies: {len(different)} of the first {size} ids stand for "
            f"different tokens, such as {first}. Take models of one family, or align='characters' to compare them by "
            "the characters of the text."
        )


def check_lengths(model: HookedModel, examples: Sequence[Example], name: str) -> None:
    """Refuse examples that are longer than a model's context."""
    limit = context_length(model)
    long = next((e for e in examples if limit is not None and len(e.tokens) > limit), None)
    if long is not None:
        raise InputError(
            f"Example {long.identifier!r} has {len(long.tokens)} tokens, but the {name}'s context has {limit}. Leave "
            "it out: cut, it would lose its response."
        )


def check_ids(model: HookedModel, examples: Sequence[Example], name: str) -> None:
    """Refuse examples with ids that a model does not have."""
    vocab = int(model.cfg.d_vocab)
    for example in examples:
        wrong = next((t for t in example.tokens if not 0 <= t < vocab), None)
        if wrong is not None:
            raise InputError(
                f"Example {example.identifier!r} holds token id {wrong}, but the {name} knows the ids 0 to "
                f"{vocab - 1}. The usual cause is a tokenizer of another model."
            )


def teacher_examples(
    student: HookedModel, teacher: HookedModel, examples: Sequence[Example], align: Alignment = "ids"
) -> list[Example] | None:
    """The examples in the teacher's tokens: None where they are the student's, as they must be with align="ids".

    "ids" refuses different vocabularies; "characters" tokenizes the text of every example again and refuses those
    without.
    """
    check_known("align", align, get_args(Alignment))
    if align == "ids":
        check_shared(student, teacher, examples)
        return None
    check_ids(student, examples, "student")
    tokenizer = tokenizer_of(teacher)
    return [reword(example, tokenizer) for example in examples]
