"""Cost of LeaF's sensitivity and of its whole first stage; prints tables.

    python benchmarks/leaf_sensitivity.py                        # on the CPU: Llamas of 38 M parameters and 3 x as deep
    python benchmarks/leaf_sensitivity.py --device cuda --stage  # shapes of Llama-3.2-1B and 3.1-8B, random weights

sensitivity: the time that the gradient difference of one batch takes, over that of one forward and one backward pass of
each model on the same batch. The peers are the bare Hugging Face modules with fused attention and frozen parameters,
once with logits everywhere, as their own loss computes them, and once with logits of the response only. The same
passes with gradients of all parameters are given for comparison (on a GPU only where they fit). Norms are compared with
those of the peer.

stage: `confounders` on random prompts, by stage. Random models are never right, so a rule that depends on the reply
says that the student is in half of its replies, and the teacher always.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from common import LLAMA_3_8B, LLAMA_38M, print_table, random_model, seconds

from workbench import leaf
from workbench.leaf.passes import gradient, target_rows
from workbench.models.anatomy import anatomy
from workbench.models.original import unwrapped

LLAMA_3_1B = LLAMA_3_8B | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
GIB = 2**30


def prompts(n: int, prompt: int, response: int, vocab: int) -> list[leaf.Example]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(n):
        ids = torch.randint(10, vocab, (prompt + response,), generator=generator).tolist()
        made.append(leaf.Example(tuple(ids[:prompt]), tuple(ids[prompt:]), (True,) * prompt, identifier=str(i)))
    return made


def passes(models: list, examples: list[leaf.Example], keep: bool, parameters: bool) -> list[torch.Tensor]:
    """One forward and one backward pass of each model, and the norms at its embeddings."""
    found, start = [], len(examples[0].prompt)
    tokens = torch.tensor([e.tokens for e in examples], device=next(models[0].parameters()).device)
    for model in models:
        with unwrapped(model) as hf, torch.enable_grad():
            hf.set_attn_implementation("sdpa")
            hf.requires_grad_(parameters)
            leaf_ = hf.get_input_embeddings()(tokens).detach().requires_grad_(True)
            only = {"logits_to_keep": tokens.shape[1] - start + 1} if keep else {}
            logits = hf(inputs_embeds=leaf_, use_cache=False, **only).logits.float()
            logits = logits[:, :-1] if keep else logits[:, start - 1 : -1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, start:].flatten(), reduction="sum")
            (loss / (tokens.shape[1] - start)).backward()
            found.append(torch.linalg.vector_norm(leaf_.grad.float(), dim=-1)[:, :start])
            for parameter in hf.parameters():
                parameter.grad = None
            hf.requires_grad_(False)
            hf.set_attn_implementation("eager")
    return found


def measured(work: Callable[[], object], repeats: int, device: str) -> tuple[float, float, object]:
    """Seconds, GiB beyond what is held, and the result."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    took, result = seconds(work, repeats, device)
    return took, (torch.cuda.max_memory_allocated() - held) / GIB if device == "cuda" else float("nan"), result


def sensitivity(models: list, device: str, repeats: int, batch: int, lengths: tuple[int, int]) -> None:
    examples = prompts(batch, *lengths, int(models[0].cfg.d_vocab))
    parts = [anatomy(model) for model in models]

    def ours() -> list[torch.Tensor]:
        each = [gradient(m, p, target_rows(examples, p.device))[1] for m, p in zip(models, parts, strict=True)]
        return [torch.linalg.vector_norm(slope, dim=-1)[:, : lengths[0]] for slope in each]

    ways = {
        "gradients of both models": ours,
        "the whole call, both models": lambda: leaf.sensitivity(*models, examples, batch_size=batch, progress=False),
        "forward and backward, logits of the response": lambda: passes(models, examples, True, False),
        "forward and backward, all logits": lambda: passes(models, examples, False, False),
        "the same with gradients of all parameters": lambda: passes(models, examples, False, True),
    }
    rows, norms, first = [], {}, 0.0
    for name, work in ways.items():
        try:
            took, memory, norms[name] = measured(work, repeats, device)
        except torch.OutOfMemoryError:
            rows.append((name, "does not fit", "", ""))
            torch.cuda.empty_cache()
            continue
        first = first or took
        rows.append(
            (name, f"{1000 * took:.0f} ms", f"{first / took:.2f}", "" if memory != memory else f"{memory:.1f} GiB")
        )
    head = (f"{batch} x {lengths[0]}+{lengths[1]} tokens", "time", "gradients' time over it", "memory")
    print_table(head, rows)
    one, peer = norms["gradients of both models"], norms["forward and backward, logits of the response"]
    far = max(float((a - b).norm() / b.norm()) for a, b in zip(one, peer, strict=True))
    print(f"\nNorms differ from the peer's by {far:.1e} of their length.\n", flush=True)


def stage(models: list, batch: int, n: int, lengths: tuple[int, int], new_tokens: int) -> None:
    student, teacher = models
    examples = prompts(n, *lengths, int(student.cfg.d_vocab))

    def match(reply: leaf.Reply, example: leaf.Example) -> bool:
        return len(example.context) < lengths[0] and sum(reply.tokens) % 2 == 0

    def right(reply: leaf.Reply, example: leaf.Example) -> bool:
        return True

    how: dict[str, Any] = {"max_new_tokens": new_tokens, "batch_size": batch, "progress": False}
    rows, began = [], time.perf_counter()

    def done(name: str, count: str) -> None:
        nonlocal began
        rows.append((name, count, f"{time.perf_counter() - began:.1f} s"))
        began = time.perf_counter()

    leaf.ask(student, examples, match=match, **how)
    done("replies of the student", f"{n} prompts x {new_tokens} tokens")
    leaf.ask(teacher, examples, match=right, **how)
    done("replies of the teacher", f"{n} prompts x {new_tokens} tokens")
    found = leaf.sensitivity(student, teacher, examples, batch_size=min(batch, 8), progress=False)
    done("sensitivity of both", f"{n} examples")
    pruned = leaf.prune(examples, leaf.candidates(found, threshold=0.05))
    shorter = [p.example for p in pruned]
    said = leaf.ask(student, shorter, match=match, **how)
    done("student without each span", f"{len(shorter)} prompts x {new_tokens} tokens")
    left = [e for e, ok in zip(shorter, said["correct"].values, strict=True) if ok == 1]
    leaf.ask(teacher, left, match=right, **how)
    done("teacher where the student was right", f"{len(left)} prompts x {new_tokens} tokens")
    print_table((f"stage 1, prompts of {lengths[0]} tokens", "work", "time"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--lengths", type=int, nargs=2, default=None, help="tokens of prompt and response")
    parser.add_argument("--stage", action="store_true")
    parser.add_argument("--n", type=int, default=32, help="prompts of the stage")
    arguments = parser.parse_args()
    cuda = arguments.device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    shapes = (LLAMA_3_1B, LLAMA_3_8B) if cuda else (LLAMA_38M, LLAMA_38M | {"num_hidden_layers": 24})
    models = [random_model(shape, arguments.device, dtype) for shape in shapes]
    lengths = tuple(arguments.lengths or ((200, 300) if cuda else (96, 96)))
    sensitivity(models, arguments.device, arguments.repeats, arguments.batch or (8 if cuda else 4), lengths)
    if arguments.stage:
        stage(models, 64, arguments.n, (lengths[0], 32), 64)


if __name__ == "__main__":
    main()
