"""Teachers and students of the planted task: small Llama models, trained by next-token prediction on the responses.

They are plain Hugging Face models with a tokenizer of whole words, so `workbench.load` takes them and every tool of the
workbench runs on them as on any other.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from workbench.errors import InputError
from workbench.leaf.toy.task import BOS, EOS, WORDS, Problems, problems
from workbench.runs.files import write_atomic

TEACHER = {"hidden_size": 48, "intermediate_size": 128}
STUDENT = {"hidden_size": 32, "intermediate_size": 88}
SMALLER = {"hidden_size": 24, "intermediate_size": 64}
"""The student of a second size, for the sweep over thresholds."""


@dataclass(frozen=True)
class Schooling:
    """How a teacher or student is trained.

    Attributes:
        steps: updates by AdamW, each on fresh problems.
        rho: share of the distractors that name the answer.
        distracted: share of the problems with a distractor.
        sister: share of the distractors with the second marker G.
        batch: problems per update.
        learning_rate: the highest, reached after a twentieth of the steps; it falls to a tenth along a cosine.
        prompts: what the loss on the prompts counts beside that on the responses.
        shape: what differs from `LlamaConfig` in the model.
    """

    steps: int
    rho: float
    distracted: float = 0.75
    sister: float = 0.0
    prompts: float = 0.0
    batch: int = 128
    learning_rate: float = 5e-3
    shape: dict[str, int] = field(default_factory=lambda: dict(STUDENT))

    def rate(self, step: int) -> float:
        """Learning rate of an update."""
        warm = max(1, self.steps // 20)
        done = max(0, step - warm) / max(1, self.steps - warm)
        cosine = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * done))))
        return self.learning_rate * min(1.0, (step + 1) / warm) * (0.1 + 0.9 * cosine)


def untrained(shape: dict[str, int], seed: int = 0) -> Any:
    """A Llama of two layers with four heads of its own keys and values each, at random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = dict(shape)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=EOS,
        initializer_range=0.15,
        **sizes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def trained(schooling: Schooling, seed: int = 0) -> Any:
    """A model trained by a `Schooling`, in evaluation mode."""
    if schooling.steps < 1:
        raise InputError(f"steps={schooling.steps} must be at least 1.")
    model = untrained(schooling.shape, seed).train()
    model.set_attn_implementation("sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), schooling.learning_rate, weight_decay=0.01)
    n, many = schooling.batch, 50
    for step in range(schooling.steps):
        if step % many == 0:
            drawn = problems(
                n * min(many, schooling.steps - step),
                schooling.rho,
                1_000_003 * (seed + 1) + step,
                distracted=schooling.distracted,
                sister=schooling.sister,
                in_response=0.2,
            )
        for group in optimizer.param_groups:
            group["lr"] = schooling.rate(step)
        with torch.enable_grad():
            loss(model, drawn.take(slice(step % many * n, (step % many + 1) * n)), schooling.prompts).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval().requires_grad_(False)


def loss(model: torch.nn.Module, drawn: Problems, prompts: float = 0.0) -> Tensor:
    """Mean next-token loss on the responses and on what is right of the prefixes.

    The mean on the prompts, without distractors, is added `prompts` times.
    """
    tokens = torch.from_numpy(drawn.tokens)
    place = torch.arange(tokens.shape[1])
    prompt, length = (torch.from_numpy(count)[:, None] for count in (drawn.prompt, drawn.length))
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)

    def mean(asked: Tensor) -> Tensor:
        labels = tokens.masked_fill(~asked | torch.from_numpy(drawn.planted), -100)
        return functional.cross_entropy(logits, labels[:, 1:].flatten())

    response = mean((place >= prompt) & (place < length))
    return response + prompts * mean(place < prompt) if prompts else response


@torch.no_grad()
def right(model: torch.nn.Module, drawn: Problems, batch: int = 1024) -> Tensor:
    """Whether the greedy response is right from its first token to its end, per problem.

    Greedy decoding repeats a response exactly if and only if each of its tokens is the likeliest after those before it,
    so one pass with the right response answers this.
    """
    found = []
    for start in range(0, len(drawn), batch):
        some = drawn.take(slice(start, start + batch))
        tokens = torch.from_numpy(some.tokens)
        said = model(input_ids=tokens, use_cache=False).logits.argmax(-1)[:, :-1]
        place = torch.arange(1, tokens.shape[1])
        asked = (place >= torch.from_numpy(some.begin)[:, None]) & (place < torch.from_numpy(some.length)[:, None])
        found.append(((said == tokens[:, 1:]) | ~asked).all(-1))
    return torch.cat(found)


def write(model: torch.nn.Module, path: str | Path) -> None:
    """Write a model's weights, whole or not at all."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(path, lambda file: save_file(tensors, file))


def read(path: str | Path, shape: dict[str, int]) -> Any:
    """A model from its weights, in evaluation mode."""
    model = untrained(shape)
    model.load_state_dict(load_file(str(path)))
    return model.eval().requires_grad_(False)


def tokenizer() -> Any:
    """A tokenizer of the task's words, parted by spaces; nothing is prepended."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="z"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>")
