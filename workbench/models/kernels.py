"""Triton kernels that read causal attention without writing its pattern: for GPUs, in bf16, fp16 and fp32.

`attend` is flash attention (Dao, arXiv 2307.08691) with windows, soft caps and learned sinks. `over_queries` reads each
block of keys once, forms `exp(logit - logsumexp)` for the queries behind it and sums over these. Query head h reads KV
head `h // group_size`. Blocks of queries and keys that no pair of tokens shares are never computed.
"""

import importlib.util
import os
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_INSTALLED = importlib.util.find_spec("triton") is not None
_FAR = 1e30
"""A logsumexp that leaves no weight: that of a query which is padding."""

FAILURES: tuple[type[Exception], ...] = ()
"""What is raised where a GPU cannot run these kernels."""

if _INSTALLED:
    import triton  # ty: ignore[import-not-found]
    import triton.language as tl  # ty: ignore[import-not-found]
    from triton.errors import TritonError  # ty: ignore[import-not-found]

    FAILURES = (TritonError,)

    @triton.jit
    def _rows(
        base,
        stride,
        start,
        length,
        BLOCK: tl.constexpr,
        WIDTH: tl.constexpr,
        PADDED: tl.constexpr,
    ):
        """Some rows of a matrix, zero where there are none."""
        n = start + tl.arange(0, BLOCK)
        d = tl.arange(0, PADDED)
        there = n[:, None] < length
        if PADDED != WIDTH:
            there = there & (d[None, :] < WIDTH)
        return tl.load(base + n[:, None] * stride + d[None, :], mask=there, other=0.0)

    @triton.jit
    def _logits(products, scale, cap, CAPPED: tl.constexpr):
        """What goes into the softmax, over log 2; `cap * tanh(x / cap)` with a soft cap."""
        if CAPPED:
            ratio = products * (scale / cap)
            return (cap * 1.4426950408889634) * (1 - 2 / (1 + tl.exp2(ratio * 2.8853900817779268)))
        return products * (scale * 1.4426950408889634)

    @triton.jit
    def _received_by(
        keys,
        query,
        query_stride,
        logsumexp,
        weights,
        start,
        key_start,
        length,
        window,
        scale,
        cap,
        received,
        weighted,
        entropy,
        MASKED: tl.constexpr,
        CAPPED: tl.constexpr,
        LOGITS: tl.constexpr,
        ENTROPY: tl.constexpr,
        PRECISION: tl.constexpr,
        QUERIES: tl.constexpr,
        KEYS: tl.constexpr,
        WIDTH: tl.constexpr,
        PADDED: tl.constexpr,
    ):
        """Add what a block of keys receives from a block of queries."""
        n = start + tl.arange(0, QUERIES)
        block = _rows(query, query_stride, start, length, QUERIES, WIDTH, PADDED)
        normaliser = tl.load(logsumexp + n, mask=n < length, other=1e30)
        products = tl.dot(keys, tl.trans(block), input_precision=PRECISION)
        logits = _logits(products, scale, cap, CAPPED)
        logs = logits - normaliser[None, :] * 1.4426950408889634
        if MASKED:
            apart = n[None, :] - (key_start + tl.arange(0, KEYS))[:, None]
            logs = tl.where((apart >= 0) & (apart < window), logs, -1e30)
            logits = tl.where((apart > 0) & (apart < window), logits, 0.0)
        pattern = tl.exp2(logs)
        received += tl.sum(pattern, 1)
        if ENTROPY:
            entropy -= tl.sum(pattern * logs, 1)
        if LOGITS:
            weighted += tl.sum(logits * tl.load(weights + n, mask=n < length, other=0.0)[None, :], 1)
        return received, weighted, entropy

    @triton.jit
    def _over_queries(
        query,
        key,
        logsumexp,
        weights,
        received_out,
        weighted_out,
        entropy_out,
        query_batch,
        query_head,
        query_row,
        key_batch,
        key_head,
        key_row,
        heads,
        group,
        length,
        window,
        scale,
        cap,
        WINDOWED: tl.constexpr,
        CAPPED: tl.constexpr,
        LOGITS: tl.constexpr,
        ENTROPY: tl.constexpr,
        PRECISION: tl.constexpr,
        QUERIES: tl.constexpr,
        KEYS: tl.constexpr,
        WIDTH: tl.constexpr,
        PADDED: tl.constexpr,
    ):
        key_start = tl.program_id(0) * KEYS
        row = tl.program_id(1).to(tl.int64)
        batch, head = row // heads, row % heads
        query += batch * query_batch + head * query_head
        key += batch * key_batch + (head // group) * key_head
        logsumexp += row * length
        weights += batch * length
        keys = _rows(key, key_row, key_start, length, KEYS, WIDTH, PADDED)
        received = tl.zeros([KEYS], dtype=tl.float32)
        weighted = tl.zeros([KEYS], dtype=tl.float32)
        entropy = tl.zeros([KEYS], dtype=tl.float32)
        end = length
        if WINDOWED:
            end = min(length, key_start + KEYS + window - 1)
        diagonal = (key_start // QUERIES) * QUERIES
        full = end if WINDOWED else min(length, tl.cdiv(key_start + KEYS, QUERIES) * QUERIES)
        for start in range(diagonal, full, QUERIES):
            received, weighted, entropy = _received_by(
                keys, query, query_row, logsumexp, weights, start, key_start, length, window, scale, cap,
                received, weighted, entropy,
                True, CAPPED, LOGITS, ENTROPY, PRECISION, QUERIES, KEYS, WIDTH, PADDED,
            )  # fmt: skip
        for start in range(full, end, QUERIES):
            received, weighted, entropy = _received_by(
                keys, query, query_row, logsumexp, weights, start, key_start, length, window, scale, cap,
                received, weighted, entropy,
                False, CAPPED, LOGITS, ENTROPY, PRECISION, QUERIES, KEYS, WIDTH, PADDED,
            )  # fmt: skip
        j = key_start + tl.arange(0, KEYS)
        tl.store(received_out + row * length + j, received, mask=j < length)
        if LOGITS:
            tl.store(weighted_out + row * length + j, weighted * 0.6931471805599453, mask=j < length)
        if ENTROPY:
            tl.store(entropy_out + row * length + j, entropy * 0.6931471805599453, mask=j < length)

    @triton.jit
    def _attended_from(
        queries,
        key,
        value,
        key_row,
        value_row,
        query_start,
        start,
        length,
        window,
        scale,
        cap,
        top,
        mass,
        mixed,
        sums,
        MASKED: tl.constexpr,
        CAPPED: tl.constexpr,
        PRECISION: tl.constexpr,
        QUERIES: tl.constexpr,
        KEYS: tl.constexpr,
        WIDTH: tl.constexpr,
        PADDED: tl.constexpr,
        VALUE_WIDTH: tl.constexpr,
        VALUE_PADDED: tl.constexpr,
    ):
        """Let a block of queries attend to a block of keys."""
        keys = _rows(key, key_row, start, length, KEYS, WIDTH, PADDED)
        logits = _logits(tl.dot(queries, tl.trans(keys), input_precision=PRECISION), scale, cap, CAPPED)
        if MASKED:
            apart = (query_start + tl.arange(0, QUERIES))[:, None] - (start + tl.arange(0, KEYS))[None, :]
            sums += tl.sum(tl.where((apart > 0) & (apart < window), logits, 0.0), 1)
            logits = tl.where((apart >= 0) & (apart < window), logits, -1e30)
        else:
            sums += tl.sum(logits, 1)
        new = tl.maximum(top, tl.max(logits, 1))
        shrink = tl.exp2(top - new)
        pattern = tl.exp2(logits - new[:, None])
        values = _rows(value, value_row, start, length, KEYS, VALUE_WIDTH, VALUE_PADDED)
        mixed = mixed * shrink[:, None] + tl.dot(pattern.to(values.dtype), values, input_precision=PRECISION)
        return new, mass * shrink + tl.sum(pattern, 1), mixed, sums

    @triton.jit
    def _attend(
        query,
        key,
        value,
        sinks,
        out,
        logsumexp,
        sums_out,
        query_batch,
        query_head,
        query_row,
        key_batch,
        key_head,
        key_row,
        value_batch,
        value_head,
        value_row,
        heads,
        group,
        length,
        window,
        scale,
        cap,
        WINDOWED: tl.constexpr,
        CAPPED: tl.constexpr,
        SINKS: tl.constexpr,
        PRECISION: tl.constexpr,
        QUERIES: tl.constexpr,
        KEYS: tl.constexpr,
        WIDTH: tl.constexpr,
        PADDED: tl.constexpr,
        VALUE_WIDTH: tl.constexpr,
        VALUE_PADDED: tl.constexpr,
    ):
        query_start = (tl.num_programs(0) - 1 - tl.program_id(0)) * QUERIES  # The longest rows begin first.
        row = tl.program_id(1).to(tl.int64)
        batch, head = row // heads, row % heads
        query += batch * query_batch + head * query_head
        key += batch * key_batch + (head // group) * key_head
        value += batch * value_batch + (head // group) * value_head
        queries = _rows(query, query_row, query_start, length, QUERIES, WIDTH, PADDED)
        if SINKS:
            top = tl.zeros([QUERIES], dtype=tl.float32) + tl.load(sinks + head) * 1.4426950408889634
            mass = tl.full([QUERIES], 1.0, dtype=tl.float32)
        else:
            top = tl.full([QUERIES], -1e30, dtype=tl.float32)
            mass = tl.zeros([QUERIES], dtype=tl.float32)
        mixed = tl.zeros([QUERIES, VALUE_PADDED], dtype=tl.float32)
        sums = tl.zeros([QUERIES], dtype=tl.float32)
        first = 0
        if WINDOWED:
            first = (max(query_start - window + 1, 0) // KEYS) * KEYS
        full = first if WINDOWED else (query_start // KEYS) * KEYS
        for start in range(first, full, KEYS):
            top, mass, mixed, sums = _attended_from(
                queries, key, value, key_row, value_row, query_start, start, length, window, scale, cap,
                top, mass, mixed, sums,
                False, CAPPED, PRECISION, QUERIES, KEYS, WIDTH, PADDED, VALUE_WIDTH, VALUE_PADDED,
            )  # fmt: skip
        for start in range(full, min(length, query_start + QUERIES), KEYS):
            top, mass, mixed, sums = _attended_from(
                queries, key, value, key_row, value_row, query_start, start, length, window, scale, cap,
                top, mass, mixed, sums,
                True, CAPPED, PRECISION, QUERIES, KEYS, WIDTH, PADDED, VALUE_WIDTH, VALUE_PADDED,
            )  # fmt: skip
        n = query_start + tl.arange(0, QUERIES)
        d = tl.arange(0, VALUE_PADDED)
        at = ((batch * length + n[:, None]) * heads + head) * VALUE_WIDTH + d[None, :]
        there = (n[:, None] < length) & (d[None, :] < VALUE_WIDTH)
        tl.store(out + at, (mixed / mass[:, None]).to(out.dtype.element_ty), mask=there)
        tl.store(logsumexp + row * length + n, (top + tl.log2(mass)) * 0.6931471805599453, mask=n < length)
        tl.store(sums_out + row * length + n, sums * 0.6931471805599453, mask=n < length)


def usable(tensor: Tensor) -> bool:
    """Whether kernels run where a tensor lies, in its dtype: on a GPU, or anywhere in Triton's interpreter."""
    there = tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    return _INSTALLED and there and tensor.dtype in _DTYPES


def over_queries(
    query: Float[Tensor, "batch head pos d_head"],
    key: Float[Tensor, "batch kv_head pos d_head"],
    logsumexp: Float[Tensor, "batch head pos"],
    scaling: float,
    softcap: float | None = None,
    window: int | None = None,
    logit_weights: Float[Tensor, "batch pos"] | None = None,
    entropy: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the queries that see each key, `[batch, head, pos]` in float32, in one pass over the products.

    Args:
        query: rotated queries.
        key: rotated keys.
        logsumexp: of each query's logits, a learned sink included; infinite for a query that counts for nothing.
        scaling: of the products.
        softcap: `cap * tanh(logit / cap)` goes into the softmax.
        window: keys that a query sees, itself included.
        logit_weights: of each query in the sum of logits.
        entropy: whether entropies are asked for.

    Returns:
        The attention received, the weighted sum of logits, the key's own query left out, and the terms `-p log p`; the
        last two empty unless asked for.
    """
    query, key = _rowwise(query), _rowwise(key)
    batch, heads, length, width = query.shape
    received = query.new_empty(batch, heads, length, dtype=torch.float32)
    weighted = torch.empty_like(received if logit_weights is not None else received[:0])
    terms = torch.empty_like(received if entropy else received[:0])
    normaliser = logsumexp.float().clamp(max=_FAR).contiguous()
    weights = normaliser if logit_weights is None else logit_weights.float().contiguous()
    queries, keys, warps = _blocks(width, query.dtype)
    with _on(query):
        _over_queries[(triton.cdiv(length, keys), batch * heads)](
            query,
            key,
            normaliser,
            weights,
            received,
            received if logit_weights is None else weighted,
            terms if entropy else received,
            *query.stride()[:3],
            *key.stride()[:3],
            heads,
            heads // key.shape[1],
            length,
            window or length,
            scaling,
            softcap or 1.0,
            WINDOWED=window is not None,
            CAPPED=softcap is not None,
            LOGITS=logit_weights is not None,
            ENTROPY=entropy,
            QUERIES=queries,
            KEYS=keys,
            **_common(width, query.dtype, warps),
        )
    return received, weighted, terms


def attend(
    query: Float[Tensor, "batch head pos d_head"],
    key: Float[Tensor, "batch kv_head pos d_head"],
    value: Float[Tensor, "batch kv_head pos d_value"],
    scaling: float,
    softcap: float | None = None,
    window: int | None = None,
    sinks: Float[Tensor, " head"] | None = None,
) -> tuple[Float[Tensor, "batch pos head d_value"], Float[Tensor, "batch head pos"], Float[Tensor, "batch head pos"]]:
    """Causal attention: z, each query's logsumexp, a learned sink included, and its sum of logits of other keys."""
    query, key, value = _rowwise(query), _rowwise(key), _rowwise(value)
    batch, heads, length, width = query.shape
    out = query.new_empty(batch, length, heads, value.shape[-1])
    logsumexp = query.new_empty(batch, heads, length, dtype=torch.float32)
    sums = torch.empty_like(logsumexp)
    keys, queries, warps = _blocks(max(width, value.shape[-1]), query.dtype)
    with _on(query):
        _attend[(triton.cdiv(length, queries), batch * heads)](
            query,
            key,
            value,
            logsumexp if sinks is None else sinks.float().contiguous(),
            out,
            logsumexp,
            sums,
            *query.stride()[:3],
            *key.stride()[:3],
            *value.stride()[:3],
            heads,
            heads // key.shape[1],
            length,
            window or length,
            scaling,
            softcap or 1.0,
            WINDOWED=window is not None,
            CAPPED=softcap is not None,
            SINKS=sinks is not None,
            QUERIES=queries,
            KEYS=keys,
            VALUE_WIDTH=value.shape[-1],
            VALUE_PADDED=_padded(value.shape[-1]),
            **_common(width, query.dtype, warps),
        )
    return out, logsumexp, sums


def _rowwise(vectors: Tensor) -> Tensor:
    return vectors if vectors.stride(-1) == 1 else vectors.contiguous()


def _padded(width: int) -> int:
    return max(16, 1 << (width - 1).bit_length())


def _common(width: int, dtype: torch.dtype, warps: int) -> dict[str, Any]:
    precision = "tf32x3" if dtype == torch.float32 else "tf32"
    return {"WIDTH": width, "PADDED": _padded(width), "PRECISION": precision, "num_warps": warps, "num_stages": 3}


def _blocks(width: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Vectors of the side that is streamed and of the side that stays, and warps."""
    padded = _padded(width) * (2 if dtype == torch.float32 else 1)
    if padded <= 128:
        return 64, 128, 8
    return (32, 64, 4) if padded <= 256 else (16, 32, 4)


def _on(tensor: Tensor) -> Any:
    """Kernels start on the device of their tensors."""
    return torch.cuda.device_of(tensor)
