"""What the benchmarks share: random models of known shapes, and timing."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import workbench as wb

LLAMA_38M = {
    "vocab_size": 32000,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
SMOLLM2_135M = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
}
LLAMA_3_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def random_llama(shape: dict, device: str, dtype: torch.dtype):
    """A Hugging Face Llama of this shape with random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        hf = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))
        torch.set_default_dtype(before)
    return hf


def random_model(shape: dict, device: str, dtype: torch.dtype):
    """The same, loaded."""
    return wb.load(random_llama(shape, device, dtype))


def seconds(work, repeats: int, device: str) -> tuple[float, Any]:
    """Median wall time of some repeats after one that does not count, and the last result."""
    times, result = [], None
    for repeat in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = work()
        if device == "cuda":
            torch.cuda.synchronize()
        if repeat or repeats == 0:
            times.append(time.perf_counter() - start)
    return statistics.median(times), result


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(table(head, rows))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
