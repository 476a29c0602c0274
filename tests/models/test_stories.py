"""A real pretrained model with grouped heads tells its story, passes all checks and is patched exactly."""

import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.patching.test_path import twin
from workbench.models.anatomy import anatomy
from workbench.models.checks import EXACT, check
from workbench.models.load import load
from workbench.patching.path import path_patch
from workbench.prompts.pairs import PromptPairs

FOLDER = Path(os.environ.get("WORKBENCH_DATA", "")) / "models" / "stories260K"
pytestmark = pytest.mark.skipif(
    "WORKBENCH_DATA" not in os.environ or not FOLDER.is_dir(),
    reason="WORKBENCH_DATA is not set, so the pretrained stories260K is not at hand",
)
BOS = 1


def numbers():
    """The header and the float32 tensors of a llama2.c file, in its order."""
    data = (FOLDER / "stories260K.bin").read_bytes()
    return struct.unpack("7i", data[:28]), np.frombuffer(data, np.float32, offset=28)


def halves(weight, heads):
    """Rotary pairs that lie side by side, moved to the two halves of each head, as transformers has them."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def pretrained() -> LlamaForCausalLM:
    """The llama2.c checkpoint as a Hugging Face model."""
    (dim, hidden, layers, heads, kv_heads, vocab, length), values = numbers()
    kv, start = dim // heads * kv_heads, 0
    shapes = {
        "embed_tokens": (abs(vocab), dim),
        "input_layernorm": (layers, dim),
        "q_proj": (layers, dim, dim),
        "k_proj": (layers, kv, dim),
        "v_proj": (layers, kv, dim),
        "o_proj": (layers, dim, dim),
        "post_attention_layernorm": (layers, dim),
        "gate_proj": (layers, hidden, dim),
        "down_proj": (layers, dim, hidden),
        "up_proj": (layers, hidden, dim),
        "norm": (dim,),
    }
    tensors = {}
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        tensors[name] = torch.tensor(values[start : start + size]).view(shape)
        start += size
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=abs(vocab),
            hidden_size=dim,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=length,
            rms_norm_eps=1e-5,
            tie_word_embeddings=vocab > 0,
            bos_token_id=BOS,
            eos_token_id=2,
        )
    )
    model.model.embed_tokens.weight.data = tensors["embed_tokens"]
    model.model.norm.weight.data = tensors["norm"]
    model.tie_weights()
    for i, block in enumerate(model.model.layers):
        for name in ("input_layernorm", "post_attention_layernorm"):
            getattr(block, name).weight.data = tensors[name][i]
        block.self_attn.q_proj.weight.data = halves(tensors["q_proj"][i], heads).contiguous()
        block.self_attn.k_proj.weight.data = halves(tensors["k_proj"][i], kv_heads).contiguous()
        block.self_attn.v_proj.weight.data = tensors["v_proj"][i]
        block.self_attn.o_proj.weight.data = tensors["o_proj"][i]
        for name in ("gate_proj", "up_proj", "down_proj"):
            getattr(block.mlp, name).weight.data = tensors[name][i]
    return model.eval()


def pieces() -> list[bytes]:
    """The tokenizer's pieces: a score, a length and the bytes of each; some name one byte, as <0x0A>."""
    data, start, found = (FOLDER / "tok512.bin").read_bytes(), 4, []
    while start < len(data):
        (size,) = struct.unpack("i", data[start + 4 : start + 8])
        piece = data[start + 8 : start + 8 + size]
        found.append(bytes([int(piece[3:5], 16)]) if re.fullmatch(rb"<0x..>", piece) else piece)
        start += 8 + size
    return found


def spell(text: str) -> list[int]:
    """Token ids of a text, the longest piece first; llama2.c puts a space before it."""
    known, left, ids = {piece: i for i, piece in enumerate(pieces())}, b" " + text.encode(), [BOS]
    while left:
        size = next(n for n in range(len(left), 0, -1) if left[:n] in known)
        ids.append(known[left[:size]])
        left = left[size:]
    return ids


@pytest.fixture(scope="module")
def model():
    return load(pretrained().double())


def test_greedy_decoding_tells_the_known_story(tmp_path):
    pretrained().save_pretrained(tmp_path)
    model, words, tokens = load(tmp_path), pieces(), [BOS]
    with torch.no_grad():
        for _ in range(220):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    story = b"".join(words[t] for t in tokens[1:]).decode().strip()
    told = (FOLDER / "stories260K.md").read_text()
    begin = told.index("Once upon a time")
    assert story.startswith("Once upon a time, there was a little girl named Lily.")
    assert told[begin : begin + len(story)] == story and len(story) > 400


def test_all_checks_pass(model):
    result = check(model, [spell("Once upon a time, there was a little girl"), spell("Lily was sad")])
    assert result.attrs["verdict"].startswith(EXACT)
    assert set(result["check"].values[~result["passed"].values]) <= {"left_padding"}
    assert (anatomy(model).n_heads, anatomy(model).n_kv_heads, anatomy(model).group_size) == (8, 4, 2)


@pytest.mark.parametrize("unit", ["head", "kv_group"])
def test_path_patching_equals_the_twin_that_freezes_every_head(model, unit):
    base = [spell("Lily saw a big dog. The dog was"), spell("Tom was happy. He")]
    source = [spell("Lily saw a red ball. The ball was"), spell("Lily was sad. She")]
    answers = [spell("big")[1:2] + spell("red")[1:2], [spell("ran")[1], spell("said")[1]]]
    answers = [(a, b) if a != b else (a, b + 1) for a, b in answers]
    data = PromptPairs(base, source, answers)
    found = path_patch(model, data, unit=unit, metrics=["logit_diff"], progress=False)
    size = 1 if unit == "head" else 2
    for i, (x, y) in enumerate(zip(base, source, strict=True)):
        a, b = (answer[0] for answer in data.answers[i])
        for layer in range(5):
            for index in range(found.sizes[unit]):
                heads = [(layer, h) for h in range(index * size, (index + 1) * size)]
                logits = twin(model, x, y, heads)
                cell = found["patched"].isel(metric=0, example=i).sel({"layer": layer, unit: index})
                assert abs(cell.item() - float(logits[a] - logits[b])) < 1e-9
    assert found["contribution"].std() > 1e-3
