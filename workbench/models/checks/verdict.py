"""All checks in one table, with the verdict on whether heads and groups can be patched exactly."""

import textwrap
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from workbench.errors import InputError, first_line
from workbench.models.anatomy import kind_of
from workbench.models.capture import device_of
from workbench.models.checks import inside, outside
from workbench.models.checks.context import CheckContext, NotApplicable, Outcome
from workbench.models.state import measuring
from workbench.prompts.templates import tokenizer_of
from workbench.prompts.texts import unpadded, whole_ids
from workbench.protocol import HookedModel
from workbench.runs.results import provenance

EXACT = "exact: path patching can be trusted"
LENGTHS = (9, 6, 4)
"""Tokens of the made-up sequences that are used when no texts are given."""
CHECKS: dict[str, Callable[[CheckContext], Outcome]] = {
    "finite_weights": inside.finite_weights,
    "hugging_face_logits": inside.hugging_face_logits,
    "recomputed_attention": inside.recomputed("attention", "What attention adds to the stream, recomputed from z"),
    "recomputed_stream": inside.recomputed("stream", "Whole blocks, recomputed from z and the stream before them"),
    "recomputed_logits": inside.recomputed("logits", "Logits, recomputed from the stream after the last block"),
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
DECISIVE = (
    "finite_weights",
    "hugging_face_logits",
    "recomputed_attention",
    "recomputed_stream",
    "recomputed_logits",
    "kv_map_read",
    "right_padding",
)


def check(model: HookedModel, texts: Sequence[Any] | None = None, *, reference: Any = None) -> xr.Dataset:
    """Test a model on a few tokens for everything that the other functions rely on.

    Args:
        model: a model from `workbench.load`.
        texts: texts, or sequences of token ids, to measure on; by default three short made-up sequences.
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
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # what they warn of, a row tells
        with measuring(model):
            rows = [_row(context, function) for function in CHECKS.values()]
    status, value, limit, explanation = zip(*rows, strict=True)
    dataset = xr.Dataset(
        {
            "status": ("check", np.array(status)),
            "value": ("check", np.array(value, dtype=float)),
            "limit": ("check", np.array(limit, dtype=float)),
            "passed": ("check", np.array(status) != "failed"),
            "decides": ("check", np.array([name in DECISIVE for name in CHECKS])),
            "explanation": ("check", np.array(explanation)),
        },
        coords={"check": list(CHECKS)},
    )
    return dataset.assign_attrs(
        provenance(
            method="check",
            model=getattr(model, "workbench_name", None),
            kind=kind,
            dtype=context.dtype,
            device=device_of(model),
            exact=bool((dataset["passed"] | ~dataset["decides"]).all()),
            verdict=_verdict(dataset),
        )
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


def _sequences(model: HookedModel, texts: Sequence[Any] | None) -> list[list[int]]:
    if texts is None:
        vocab = int(model.cfg.d_vocab)
        return [[(3 + 7 * i + 5 * row) % vocab for i in range(n)] for row, n in enumerate(LENGTHS)]
    if isinstance(texts, str) or not len(texts):
        raise InputError(f"texts={texts!r} must be a list of at least one text or sequence of token ids.")
    return [
        list(tokenizer_of(model)(row)["input_ids"]) if isinstance(row, str) else whole_ids(row, f"Text {i}")
        for i, row in enumerate(unpadded(texts))
    ]


def _row(
    context: CheckContext, function: Callable[[CheckContext], Outcome]
) -> tuple[str, float | int, float | int, str]:
    nan = float("nan")
    try:
        found = function(context)
    except NotApplicable as reason:
        return "not applicable", nan, nan, str(reason)
    except Exception as error:  # whatever breaks here is what the caller wants to know
        return "failed", nan, nan, f"Could not be measured, {type(error).__name__}: {first_line(error)}"
    if found.value <= found.limit:
        return "passed", found.value, found.limit, found.measured
    return "failed", found.value, found.limit, f"{found.measured} {found.cause}"


def _verdict(dataset: xr.Dataset) -> str:
    failed = dataset.sel(check=~dataset["passed"].values)
    decisive = failed.sel(check=failed["decides"].values)
    names = ", ".join(decisive["check"].values)
    if names:
        first = decisive.isel(check=0)
        return f"refused: {names} failed. {first['check'].item()}: {first['explanation'].item()}"
    return EXACT + (
        f"; mind what failed beside it: {', '.join(failed['check'].values)}" if failed["check"].size else ""
    )
