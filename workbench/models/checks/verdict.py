"""All checks in one table, and the verdict that they give on whether heads and groups can be patched exactly.

`check` shows the verdict, and `require_path`, `require_exact` and `require_hooks` refuse a model by it, for the same
reason in the same words.
"""

import textwrap
import warnings
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from workbench.errors import InputError, first_line
from workbench.models.anatomy import Anatomy, anatomy, kind_of
from workbench.models.attention import has_hooks, require_no_hooks
from workbench.models.checks import inside, outside
from workbench.models.checks.context import CheckContext, NotApplicable, Outcome
from workbench.models.devices import device_of
from workbench.models.exact import TOLERANCE, agreement, recomputed_logits
from workbench.models.state import evaluating, measuring, without_hooks
from workbench.prompts.templates import tokenizer_of
from workbench.prompts.texts import token_sequences
from workbench.protocol import HookedModel
from workbench.runs.results import provenance

EXACT = "exact: path patching can be trusted"
RERUN = "exact by running the model again for each sender"
LENGTHS = (9, 6, 4)
"""Tokens of the made-up sequences that are used when no texts are given."""
CHECKS: dict[str, Callable[[CheckContext], Outcome]] = {
    "finite_weights": inside.finite_weights,
    "hugging_face_logits": inside.hugging_face_logits,
    "recomputed_attention": inside.recomputed("attention", "What attention adds to the stream, recomputed from z"),
    "recomputed_stream": inside.recomputed("stream", "Whole blocks, recomputed from z and the stream before them"),
    "recomputed_logits": inside.recomputed_logits,
    "frozen_mixers": inside.frozen_mixers,
    "residual_identity": inside.residual_identity,
    "attention_rows": inside.attention_rows,
    "kv_map_read": inside.kv_map_read,
    "kv_map_write": inside.kv_map_write,
    **{f"writes_{hook}": inside.writes(hook) for hook in inside.WRITTEN},
    "right_padding": outside.right_padding,
    "left_padding": outside.left_padding,
    "bos": outside.bos,
    "eos": outside.eos,
    "chat_bos": outside.chat_bos,
    "vocabulary": outside.vocabulary,
    "left_hooks": inside.hooks_left,
}
Way = Literal["replay", "rerun", "hooks"]
_FIRST = (("finite_weights",), ("hugging_face_logits",))
_LAST = (("kv_map_read", "kv_map_write"), ("right_padding",))
DECISIVE: dict[Way, tuple[tuple[str, ...], ...]] = {
    "replay": (*_FIRST, ("recomputed_attention",), ("recomputed_stream",), ("recomputed_logits",), *_LAST),
    "rerun": (*_FIRST, ("frozen_mixers",), *_LAST),
    "hooks": (*_FIRST, ("recomputed_logits",), *_LAST),
}
"""A model is refused where all checks of one of these sets fail.

Path patching replays single tokens where it can ("replay"), else it runs the Hugging Face model again with its mixers
frozen ("rerun"); activations are patched at TransformerLens's hook points ("hooks").

Where z is gated, `kv_map_read` alone fails, and where the model does not use the values that are shown, `kv_map_write`
alone; heads are grouped in another order only where both fail.
"""
NAN = float("nan")

_proved: dict[Way, weakref.WeakSet[Any]] = {way: weakref.WeakSet() for way in DECISIVE}


@dataclass(frozen=True)
class Row:
    """One check's outcome; a value and a limit only where it was measured."""

    status: Literal["passed", "failed", "not applicable"]
    explanation: str
    value: float | int = NAN
    limit: float | int = NAN


def check(model: HookedModel, texts: Any = None, *, reference: Any = None) -> xr.Dataset:
    """Test a model on a few tokens for everything that the other functions rely on.

    Args:
        model: a model from `workbench.load`.
        texts: what to measure on, in any form of `prompts.token_sequences`; by default three short made-up sequences.
        reference: a Hugging Face model of the same weights for the comparison of logits. A TransformerBridge
            brings its own; a HookedTransformer has none unless it is given here.

    Returns:
        Per `check`: the `status` ("passed", "failed" or "not applicable"), the measured `value` (NaN where
        there is none) and the `limit` up to which it is fine, `passed` (True unless it failed), whether it
        `decides` on exact patching, and an `explanation`. The attribute `exact` says
        whether heads and groups can be patched exactly, and `verdict` says it in words.

    Raises:
        InputError: not a TransformerLens model, or texts for a model without tokenizer.
    """
    kind = kind_of(model)
    context = CheckContext(model, _sequences(model, texts), reference)
    with _quietly(), measuring(model):
        rows = {name: _row(context, name) for name in CHECKS}
    refused, again = (_refusal(way, rows.__getitem__) for way in ("replay", "rerun"))
    failed = [name for name, row in rows.items() if row.status == "failed"]
    beside = f"; mind what failed beside it: {', '.join(failed)}" if failed else ""
    verdict = f"refused: {_both(refused, again)}" if again else f"{RERUN}: {refused}"
    columns = {
        "status": [row.status for row in rows.values()],
        "value": [float(row.value) for row in rows.values()],
        "limit": [float(row.limit) for row in rows.values()],
        "passed": [row.status != "failed" for row in rows.values()],
        "decides": [any(name in names for names in DECISIVE["replay"]) for name in rows],
        "explanation": [row.explanation for row in rows.values()],
    }
    return xr.Dataset(
        {name: ("check", np.array(column)) for name, column in columns.items()},
        coords={"check": list(rows)},
        attrs=provenance(
            method="check",
            model=getattr(model, "workbench_name", None),
            kind=kind,
            dtype=context.dtype,
            device=device_of(model),
            exact=refused is None or again is None,
            computed="replay" if refused is None else "rerun" if again is None else "",
            verdict=verdict if refused else EXACT + beside,
        ),
    )


def require_exact(model: HookedModel) -> Anatomy:
    """The model's anatomy, once it is proved that heads and groups can be patched exactly by recomputation.

    The proof is given once, without the interventions that are active; with one, the recomputed parts must still add up
    to the model.

    Raises:
        InputError: a check that decides failed, or an intervention changes what is recomputed.
    """
    parts = anatomy(model)
    refused = _refused(model, "replay")
    if refused:
        raise _cannot(parts, refused)
    if has_hooks(model):
        _require_unchanged(parts, agreement(model).worst)
    return parts


def require_hooks(model: HookedModel) -> Anatomy:
    """The model's anatomy, once it is proved that what is patched at its hook points acts on its own logits.

    Raises:
        InputError: it has no heads, a check that decides failed, or an intervention changes the logits.
    """
    parts = anatomy(model)
    refused = _refused(model, "hooks")
    if refused:
        raise _cannot(parts, refused)
    if has_hooks(model):
        _require_unchanged(parts, recomputed_logits(model))
    return parts


def require_path(model: HookedModel) -> tuple[Anatomy, Way]:
    """The model's anatomy, and whether path patching replays single tokens or has to run the model again.

    Raises:
        InputError: neither is exact on it, or an intervention is active that would not be seen.
    """
    parts = anatomy(model)
    refused = _refused(model, "replay")
    if not refused:
        return require_exact(model), "replay"
    again = _refused(model, "rerun")
    if again:
        raise _cannot(parts, _both(refused, again))
    require_no_hooks(model, "not be seen by path patching, which runs the Hugging Face model here", parts.name)
    return parts, "rerun"


def recomputes(model: HookedModel) -> bool:
    """Whether whole blocks can be recomputed from z and the stream in front of them."""
    return _refused(model, "replay") is None


def _refused(model: HookedModel, way: Way) -> str | None:
    """Why patching is not exact in one way; None if it is. The proof is given once, without active interventions."""
    if model in _proved[way]:
        return None
    context = CheckContext(model, _sequences(model, None))
    with _quietly(), evaluating(model), without_hooks(model):
        refused = _refusal(way, lambda name: _row(context, name))
    if not refused:
        _proved[way].add(model)
    return refused


def _both(refused: str | None, again: str) -> str:
    """The reasons against both ways of path patching, once where they are the same."""
    return again if refused is None or refused == again else f"{refused} Run again with frozen mixers: {again}"


def _cannot(parts: Anatomy, refused: str) -> InputError:
    return InputError(
        f"{parts.architecture} cannot be patched exactly: {refused} workbench.check(model) shows every check."
    )


def _require_unchanged(parts: Anatomy, error: float) -> None:
    if error > TOLERANCE.get(parts.dtype, 0.1):
        raise InputError(
            "An intervention that is active on this model changes what patching recomputes (a branch, the stream or "
            "the logits), so effects would be wrong. Leave its `with` block first, or intervene on z, which is read."
        )


def table(dataset: xr.Dataset) -> str:
    """The checks that `check` returned as lines of text, the verdict last."""
    width = max(len(str(name)) for name in dataset["check"].values)
    lines = []
    for name in dataset["check"].values:
        row = dataset.sel(check=name)
        value, limit = float(row["value"]), float(row["limit"])
        numbers = f"{_short(value)} of {_short(limit)}" if np.isfinite(limit) else ""
        head = f"{row['status'].item():<14}  {name:<{width}}  {numbers:<18}  "
        wrapped = textwrap.wrap(row["explanation"].item(), 60)
        lines += [head + wrapped[0], *(" " * len(head) + more for more in wrapped[1:])]
    return "\n".join([*lines, "", dataset.attrs["verdict"]])


def _short(number: float) -> str:
    return f"{number:.0f}" if float(number).is_integer() else f"{number:.2g}"


def _sequences(model: HookedModel, texts: Any) -> list[list[int]]:
    if texts is None:
        vocab = int(model.cfg.d_vocab)
        return [[(3 + 7 * i + 5 * row) % vocab for i in range(n)] for row, n in enumerate(LENGTHS)]
    texts = [texts] if isinstance(texts, str) else texts
    if isinstance(texts, Sequence) and texts and all(isinstance(text, str) for text in texts):
        tokenizer = tokenizer_of(model)  # As it is, for the rows on BOS and EOS to show.
        texts = [list(tokenizer(text)["input_ids"]) for text in texts]
    return token_sequences(model, texts)


def _row(context: CheckContext, name: str) -> Row:
    try:
        found = CHECKS[name](context)
    except NotApplicable as reason:
        return Row("not applicable", str(reason))
    except Exception as error:  # whatever breaks here is what the caller wants to know
        return Row("failed", f"Could not be measured, {type(error).__name__}: {first_line(error)}")
    if found.value <= found.limit:
        return Row("passed", found.measured, found.value, found.limit)
    return Row("failed", f"{found.measured} {found.cause}", found.value, found.limit)


def _refusal(way: Way, row: Callable[[str], Row]) -> str | None:
    """Why a model cannot be patched exactly in one way; None if it can."""
    for names in DECISIVE[way]:
        rows = [row(name) for name in names]
        if all(one.status == "failed" for one in rows):
            return f"{' and '.join(names)} failed. {rows[0].explanation}"
    return None


@contextmanager
def _quietly() -> Generator[None]:
    """No gradients, and no warnings: what they warn of, a row tells."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield
