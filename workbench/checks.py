"""Self-checks of a model: what must hold before anything measured inside it can be believed.

Each check is a function of a `Subject` that measures one number and says up to which limit it is fine. A
check that does not concern a model is marked so, and one that breaks is a failed row with its reason: `check`
itself always answers. Seven of them decide whether heads and groups can be patched exactly; the rest say
which hooks, paddings and tokenizer settings to stay away from.
"""

import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from workbench.capture import capture, device_of
from workbench.errors import InputError
from workbench.models.anatomy import Anatomy, anatomy, kind_of
from workbench.models.exact import TOLERANCE, Agreement, agreement, relative_error
from workbench.models.forward import hooked, run
from workbench.models.original import left_padded_logits, original_logits
from workbench.prompts import encode, render, tokenizer_of
from workbench.results import provenance

EXACT = "exact: path patching can be trusted"
WRITTEN = ("q", "k", "v", "z", "pattern", "attn_out", "mlp_out")
LENGTHS = (9, 6, 4)
"""Tokens of the made-up sequences that are used when no texts are given."""


class NotApplicable(Exception):
    """This check does not concern this model; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What a check found: fine where `value` is at most `limit`."""

    value: float | int
    limit: float | int
    measured: str
    cause: str


@dataclass(frozen=True)
class Subject:
    """The model under test and what several checks need of it."""

    model: Any
    sequences: list[list[int]]
    reference: Any = None

    @cached_property
    def parts(self) -> Anatomy:
        """Its anatomy."""
        return anatomy(self.model)

    @cached_property
    def agreement(self) -> Agreement:
        """Its recomputed parts against itself."""
        return agreement(self.model)

    @cached_property
    def logits(self) -> Tensor:
        """Its logits on the first sequence."""
        return self.model(self.tokens)

    @property
    def tokens(self) -> Tensor:
        """The first sequence as a batch of one."""
        return torch.tensor(self.sequences[:1], device=device_of(self.model))

    @property
    def dtype(self) -> str:
        """The dtype of its parameters, such as "float32"."""
        dtype = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
        return str(dtype).removeprefix("torch.")

    @property
    def tolerance(self) -> float:
        """The largest relative error that its dtype explains."""
        return TOLERANCE.get(self.dtype, 0.1)

    def seen(self, *words: str) -> list[dict[str, Tensor]]:
        """For each layer, the activations at the named hooks on the first sequence."""
        names = {word: [f"blocks.{i}.{word}" for i in range(self.parts.n_layers)] for word in words}
        wanted = {name: lambda t: t for of_word in names.values() for name in of_word}
        kept = capture(self.model, self.sequences[:1], wanted)
        return [{word: kept[names[word][i]] for word in words} for i in range(self.parts.n_layers)]


def check(model: Any, texts: Sequence[Any] | None = None, *, reference: Any = None) -> xr.Dataset:
    """Test a model on a few tokens for everything that the other functions rely on.

    Args:
        model: a model from `workbench.load`.
        texts: texts, or sequences of token ids, to measure on; by default three short made-up sequences.
        reference: a Hugging Face model of the same weights for the comparison of logits. A TransformerBridge
            brings its own; a HookedTransformer has none unless it is given here.

    Returns:
        Per `check`: the `status` ("passed", "failed" or "not applicable"), the measured `value` (NaN where
        there is none) and the `limit` up to which it is fine, `passed` (True unless it failed), whether it
        `decides` on exact patching, and an `explanation`. The attribute `verdict` sums up.

    Raises:
        InputError: not a TransformerLens model, or texts for a model without tokenizer.
    """
    kind = kind_of(model)
    subject = Subject(model, _sequences(model, texts), reference)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # what they warn of, a row tells
        rows = [_row(subject, function) for function in CHECKS.values()]
    columns = dict(zip(("status", "value", "limit", "explanation"), zip(*rows, strict=True), strict=True))
    dataset = xr.Dataset(
        {
            "status": ("check", np.array(columns["status"])),
            "value": ("check", np.array(columns["value"], dtype=float)),
            "limit": ("check", np.array(columns["limit"], dtype=float)),
            "passed": ("check", np.array([status != "failed" for status in columns["status"]])),
            "decides": ("check", np.array([name in DECISIVE for name in CHECKS])),
            "explanation": ("check", np.array(columns["explanation"])),
        },
        coords={"check": list(CHECKS)},
    )
    return dataset.assign_attrs(
        provenance(
            method="check",
            model=getattr(model, "workbench_name", None),
            kind=kind,
            dtype=subject.dtype,
            device=device_of(model),
            verdict=_verdict(dataset),
        )
    )


def table(dataset: xr.Dataset) -> str:
    """The checks as lines of text, the verdict last.

    Args:
        dataset: what `check` returned.
    """
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
    return str(int(number)) if number.is_integer() else f"{number:.2g}"


def _sequences(model: Any, texts: Sequence[Any] | None) -> list[list[int]]:
    if texts is None:
        vocab = int(model.cfg.d_vocab)
        return [[(3 + 7 * i + 5 * row) % vocab for i in range(n)] for row, n in enumerate(LENGTHS)]
    if isinstance(texts, str) or not len(texts):
        raise InputError(f"texts={texts!r} must be a list of at least one text or sequence of token ids.")
    return [
        list(tokenizer_of(model)(t)["input_ids"]) if isinstance(t, str) else torch.as_tensor(t).tolist()
        for t in texts
    ]


def _row(subject: Subject, function: Callable[[Subject], Outcome]) -> tuple[str, float | int, float | int, str]:
    nan = float("nan")
    try:
        found = function(subject)
    except NotApplicable as reason:
        return "not applicable", nan, nan, str(reason)
    except Exception as error:  # whatever breaks here is what the caller wants to know
        first = (str(error).strip().splitlines() or [""])[0]
        return "failed", nan, nan, f"Could not be measured, {type(error).__name__}: {first}"
    if found.value <= found.limit:
        return "passed", found.value, found.limit, found.measured
    return "failed", found.value, found.limit, f"{found.measured} {found.cause}"


def _verdict(dataset: xr.Dataset) -> str:
    failed = dataset.where(~dataset["passed"], drop=True)
    names = [str(name) for name in failed["check"].values]
    decisive = [name for name in names if name in DECISIVE]
    if decisive:
        first = str(failed["explanation"].sel(check=decisive[0]).item())
        return f"refused: {', '.join(decisive)} failed. {decisive[0]}: {first}"
    return EXACT + (f"; mind what failed beside it: {', '.join(names)}" if names else "")


# The weights, and the model as a whole.


def finite_weights(subject: Subject) -> Outcome:
    """Parameters with NaN or infinity."""
    parameters = [p for p in subject.model.parameters() if p.is_floating_point()]
    bad = sum(1 for p in parameters if not torch.isfinite(p).all())
    words = f"Parameters with NaN or infinity, of {len(parameters)}."
    return Outcome(bad, 0, words, "The file is damaged or training diverged.")


def hugging_face_logits(subject: Subject) -> Outcome:
    """The model's logits against the Hugging Face model's own modules."""
    if subject.reference is not None:
        wanted = subject.reference(input_ids=subject.tokens.to(subject.reference.device)).logits
    else:
        wanted = original_logits(subject.model, subject.tokens)
    if wanted is None:
        raise NotApplicable(
            "A HookedTransformer keeps no Hugging Face model to compare with; pass one as reference=."
        )
    return Outcome(
        relative_error(subject.logits, wanted.to(subject.logits.device)),
        subject.tolerance,
        "Logits against the Hugging Face model called directly, relative error.",
        "TransformerLens computes something else than the original here, or the model was changed after it "
        "was wrapped; its numbers are not those of the model on disk.",
    )


def recomputed_attention(subject: Subject) -> Outcome:
    """What attention adds to the stream, recomputed from z."""
    return _recomputed(subject, "attention", "What attention adds to the stream, recomputed from z")


def recomputed_stream(subject: Subject) -> Outcome:
    """Whole blocks, recomputed from z and their input."""
    return _recomputed(subject, "stream", "Whole blocks, recomputed from z and the stream before them")


def recomputed_logits(subject: Subject) -> Outcome:
    """Logits, recomputed from the final stream."""
    return _recomputed(subject, "logits", "Logits, recomputed from the stream behind the last block")


def _recomputed(subject: Subject, what: str, words: str) -> Outcome:
    return Outcome(
        getattr(subject.agreement, what),
        subject.tolerance,
        f"{words}, relative error.",
        "The architecture holds something that the known block layouts do not, so patching by recomputation "
        "would be wrong.",
    )


def residual_identity(subject: Subject) -> Outcome:
    """Stream before plus attention plus MLP equals the stream behind, as the hooks show them."""
    words = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    layers = [[layer[word] for word in words] for layer in subject.seen(*words)]
    return Outcome(
        _worst(relative_error(before + attn + mlp, after) for before, attn, mlp, after in layers),
        subject.tolerance,
        "resid_pre + attn_out + mlp_out against resid_post, relative error of the worst layer.",
        "The blocks add something else to the stream, or scale it, and attributing it to heads and MLPs "
        "misses that.",
    )


# Attention.


def attention_rows(subject: Subject) -> Outcome:
    """Every row of the attention pattern sums to 1."""
    layers = subject.seen("attn.hook_pattern")
    sums = [layer["attn.hook_pattern"].double().sum(-1) for layer in layers]
    return Outcome(
        _worst(float((s - 1).abs().max()) for s in sums),
        subject.tolerance,
        "Rows of attention: largest distance of their sum from 1.",
        "The model has a learned sink, or no softmax, so weights on tokens are not shares of attention.",
    )


def kv_map_read(subject: Subject) -> Outcome:
    """Query head h's z is its pattern times the values of KV head h // group_size."""
    words = ("attn.hook_pattern", "attn.hook_v", "attn.hook_z")
    size = subject.parts.group_size
    errors = []
    for layer in subject.seen(*words):
        pattern, v, z = (layer[word].double() for word in words)
        errors.append(
            relative_error(torch.einsum("bhqk,bkhd->bqhd", pattern, v.repeat_interleave(size, 2)), z)
        )
    return Outcome(
        _worst(errors),
        subject.tolerance,
        f"z of query head h against its pattern times v of KV head h // {size}, relative error of the worst "
        "layer.",
        "Heads are not grouped in this order, or z holds more than attention, so KV groups name the wrong "
        "heads.",
    )


def kv_map_write(subject: Subject) -> Outcome:
    """Zeroing the values of KV head g zeroes z of its group and of no other head, in every layer."""
    parts, errors = subject.parts, []
    owners = torch.eye(parts.n_kv_heads, dtype=torch.bool, device=device_of(subject.model))

    def without_group(v: Float[Tensor, "row pos kv_head d_head"]) -> Tensor:
        keep = torch.cat([torch.ones_like(owners[:1]), ~owners])
        return v * keep[:, None, :, None]

    def compare(z: Float[Tensor, "row pos head d_head"]) -> Tensor:
        keep = ~owners.repeat_interleave(parts.group_size, 1)
        errors.append(relative_error(z[1:], z[:1] * keep[:, None, :, None]))
        return z[:1].repeat(len(z), 1, 1, 1)

    layers = range(parts.n_layers)
    hooks: dict[str, Callable[[Tensor], Tensor]] = {f"blocks.{i}.attn.hook_v": without_group for i in layers}
    with hooked(subject.model, hooks | {f"blocks.{i}.attn.hook_z": compare for i in layers}):
        run(subject.model, subject.tokens.expand(parts.n_kv_heads + 1, -1))
    return Outcome(
        _worst(errors),
        subject.tolerance,
        f"z with v of KV head g zeroed, against z with query heads {parts.group_size} g to "
        f"{parts.group_size} g + {parts.group_size - 1} zeroed, relative error of the worst layer.",
        "Writing values does not act on exactly the group's heads, so KV groups cannot be intervened on.",
    )


def writes(hook: str) -> Callable[[Subject], Outcome]:
    """The check that what is written at a hook reaches the output, in every layer."""

    def reaches(subject: Subject) -> Outcome:
        n = subject.parts.n_layers
        inside = "" if hook.endswith("_out") else "attn."
        ends: list[Tensor] = []

        def disturb(layer: int) -> Callable[[Tensor], Tensor]:
            def write(activation: Tensor) -> Tensor:
                changed = activation.clone()
                changed[layer] = 1.5 * activation[layer].roll(1, dims=0) + 0.5
                return changed

            return write

        hooks: dict[str, Callable[[Tensor], Tensor | None]] = {
            f"blocks.{i}.{inside}hook_{hook}": disturb(i) for i in range(n)
        }
        end = {f"blocks.{n - 1}.hook_resid_post": lambda t: ends.append(t.clone())}
        with hooked(subject.model, hooks), hooked(subject.model, end):
            run(subject.model, subject.tokens.expand(n + 1, -1))
        ignored = sum(1 for row in ends[0][:n] if torch.equal(row, ends[0][n]))
        return Outcome(
            ignored,
            0,
            f"Layers, of {n}, in which a disturbance written at hook_{hook} changes nothing behind the last "
            "layer.",
            "TransformerLens shows a copy there that the model does not read; patching it would report 0 "
            "for everything.",
        )

    return reaches


# Batches and tokenizer.


def right_padding(subject: Subject) -> Outcome:
    """Sequences of unequal length in one batch, padded on the right without a mask, against each alone."""
    end = f"blocks.{subject.parts.n_layers - 1}.hook_resid_post"
    sequences = _unequal(subject.sequences)
    together = capture(subject.model, sequences, {end: lambda t: t})[end]
    errors = []
    for row, tokens in zip(together, sequences, strict=True):
        alone = capture(subject.model, [tokens], {end: lambda t: t})[end][0]
        errors.append(relative_error(row[: len(tokens)], alone))
    return Outcome(
        _worst(errors),
        subject.tolerance,
        "The final stream of a right-padded batch against each sequence alone, relative error; all "
        "measuring here is batched so.",
        "Tokens see what follows them, so that batches of unequal lengths would change every result.",
    )


def left_padding(subject: Subject) -> Outcome:
    """Sequences padded on the left under a mask, as text generation does it, against each alone."""
    sequences = _unequal(subject.sequences)
    padded = left_padded_logits(subject.model, sequences)
    device = device_of(subject.model)
    errors = [
        relative_error(row, subject.model(torch.tensor([tokens], device=device))[0, -1])
        for row, tokens in zip(padded, sequences, strict=True)
    ]
    return Outcome(
        _worst(errors),
        subject.tolerance,
        "Last logits of a left-padded batch with its mask against each sequence alone, relative error; only "
        "batched generation relies on it, nothing that is measured here does.",
        "NaN comes from padding that can see no token at all, in float64 above all; generate one text at a "
        "time."
        if np.isnan(_worst(errors))
        else "Generate one text at a time.",
    )


def bos(subject: Subject) -> Outcome:
    """The tokenizer puts BOS first once or not at all."""
    tokenizer = _tokenizer(subject)
    begin = tokenizer.bos_token_id
    count = 0 if begin is None else tokenizer("The cat sat.")["input_ids"].count(begin)
    return Outcome(
        count,
        1,
        f"BOS tokens in an encoded text ({tokenizer.bos_token!r}).",
        "Two of them move the attention sink; repair the tokenizer's settings.",
    )


def chat_bos(subject: Subject) -> Outcome:
    """A dialogue in the chat template holds BOS at most once."""
    tokenizer = _tokenizer(subject)
    if not getattr(tokenizer, "chat_template", None):
        raise NotApplicable("The tokenizer has no chat template.")
    text, begin = render(tokenizer, [{"role": "user", "content": "Hello."}]), tokenizer.bos_token_id
    if begin is None:
        raise NotApplicable("The tokenizer has no BOS token.")
    naive = tokenizer(text)["input_ids"].count(begin)
    return Outcome(
        encode(tokenizer, text, rendered=True).count(begin),
        1,
        "BOS tokens in a dialogue, as PromptPairs encodes it"
        + (f"; encoding the rendered text naively gives {naive}." if naive > 1 else "."),
        "Two of them move the attention sink; take BOS out of the chat template.",
    )


def vocabulary(subject: Subject) -> Outcome:
    """Every id of the tokenizer is one that the model knows."""
    vocab = _tokenizer(subject).get_vocab()
    largest, d_vocab = max(vocab.values()), int(subject.model.cfg.d_vocab)
    return Outcome(
        largest,
        d_vocab - 1,
        f"The tokenizer's largest token id; the model knows 0 to {d_vocab - 1}.",
        "The tokenizer belongs to another model, or its added tokens need model.resize_token_embeddings.",
    )


def _tokenizer(subject: Subject) -> Any:
    try:
        return tokenizer_of(subject.model)
    except InputError:
        raise NotApplicable("The model has no tokenizer.") from None


def _unequal(sequences: list[list[int]]) -> list[list[int]]:
    """The sequences, and a beginning of the first where all are equally long."""
    same = len({len(s) for s in sequences}) == 1
    return [*sequences, sequences[0][: max(1, len(sequences[0]) // 2)]] if same else sequences


def _worst(errors: Any) -> float:
    """The largest error; NaN if any is NaN."""
    return float(np.max(np.fromiter(errors, dtype=float)))


CHECKS: dict[str, Callable[[Subject], Outcome]] = {
    "finite_weights": finite_weights,
    "hugging_face_logits": hugging_face_logits,
    "recomputed_attention": recomputed_attention,
    "recomputed_stream": recomputed_stream,
    "recomputed_logits": recomputed_logits,
    "residual_identity": residual_identity,
    "attention_rows": attention_rows,
    "kv_map_read": kv_map_read,
    "kv_map_write": kv_map_write,
    **{f"writes_{hook}": writes(hook) for hook in WRITTEN},
    "right_padding": right_padding,
    "left_padding": left_padding,
    "bos": bos,
    "chat_bos": chat_bos,
    "vocabulary": vocabulary,
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
