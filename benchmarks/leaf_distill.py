"""Speed of LeaF's distillation with the teacher in the loop and with its logits from disk; prints a table.

    python benchmarks/leaf_distill.py                # on the CPU: Llamas of 38 M parameters
    python benchmarks/leaf_distill.py --device cuda  # shapes of Llama-3.2-1B and Llama-3.1-8B, random weights

One update of the student with the teacher in the loop, and with its top-k logits read from disk, on the same
lessons. The loss of both is given: what lies outside the k counts as one outcome, so the second is the smaller one.
Logits are multiplied by 5, so that few tokens hold most of the teacher's mass, as in trained models. The first pass of
the teacher over all lessons is timed apart.
"""

import argparse
import tempfile

import torch
from common import LLAMA_3_8B, LLAMA_38M, print_table, random_model, seconds

from workbench.leaf import Example
from workbench.leaf.distillation_pairs import Plan, lessons_of
from workbench.leaf.distilling import Settings, _Run, _trainable
from workbench.leaf.teaching import InTheLoop, cached
from workbench.models.original import unwrapped

LLAMA_1B = LLAMA_3_8B | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
}


def random_examples(n: int, prompt: int, response: int, vocab: int) -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(n):
        ids = torch.randint(10, vocab, (prompt + response,), generator=generator).tolist()
        made.append(Example(tuple(ids[:prompt]), tuple(ids[prompt:]), (True,) * prompt, identifier=str(i)))
    return made


def distill(device: str, repeats: int, top_k: int, batch: int, lengths: tuple[int, int]) -> None:
    cuda = device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    student = random_model(LLAMA_1B if cuda else LLAMA_38M, device, dtype)
    teacher = random_model(LLAMA_3_8B if cuda else LLAMA_38M | {"num_hidden_layers": 24}, device, dtype)
    for model in (student, teacher):
        model.original_model.get_output_embeddings().weight.mul_(5)
    vocabulary = int(student.cfg.d_vocab)
    examples = random_examples(batch * (repeats + 2), *lengths, vocabulary)
    plan = Plan(lessons_of(examples), [], batch=batch, steps=repeats + 2)
    rows = []
    with unwrapped(teacher) as hf, tempfile.TemporaryDirectory() as folder:
        hf.set_attn_implementation("sdpa")

        def read():
            return cached(hf, examples, folder, identity="random", k=top_k, vocabulary=vocabulary, progress=False)

        reading, stored = seconds(read, 0, device)
        kept = [stored.read([e]) for e in examples]
        size, mass = (
            sum(one.index.numel() for one in kept) * 8 / 2**20,
            1 - float(torch.cat([one.rest for one in kept]).exp().mean()),
        )
        for name, said in (("teacher in the loop", InTheLoop(hf, vocabulary, 1.0)), (f"top {top_k} from disk", stored)):
            run = _Run(
                _trainable(student, str(dtype).removeprefix("torch.")), said, plan, Settings(), vocabulary, 4, 1, None
            )
            loss = run._accumulate(plan[0])
            run.shared.optimizer.zero_grad()

            def step(run=run):
                run._accumulate(plan[1])
                run.shared.optimizer.step()
                run.shared.optimizer.zero_grad()

            time, _ = seconds(step, repeats, device)
            rows.append((name, time, loss))
            run.shared.release()
            del run
            if cuda:
                torch.cuda.empty_cache()
    (_, slow, _), (_, fast, _) = rows
    print_table(
        (f"{batch} x {lengths[0]}+{lengths[1]} tokens", "per update", "loss before the first"),
        [(name, f"{1000 * time:.0f} ms", f"{loss:.5f}") for name, time, loss in rows],
    )
    print(f"\n{slow / fast:.2f} times faster from disk. The teacher read {len(examples)} lessons in {reading:.1f} s; ")
    print(f"its {top_k} likeliest tokens hold {mass:.1%} of its mass and take {size:.1f} MiB.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--top-k", type=int, default=64)
    parser.add_argument("--batch", type=int, default=None)
    arguments = parser.parse_args()
    cuda = arguments.device == "cuda"
    batch = arguments.batch or (16 if cuda else 4)
    distill(arguments.device, arguments.repeats, arguments.top_k, batch, (200, 300) if cuda else (32, 64))


if __name__ == "__main__":
    main()
