"""The same sweep by each peer, as a process of its own that `peers.py` talks to; no part needs another peer.

Each peer is used in the fastest way that its documentation shows for many cells. It prepares its model once, and then,
for each line that it reads, patches the asked cells and answers with the seconds and the logit differences.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

A, B = 260, 300
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3-8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "small": {
        "vocab_size": 4096,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
    },
}
Seconds = tuple[float, float]
"""Of the clock, and of all threads of the process together."""
Found = tuple[Seconds, Seconds, list[float]]
"""Seconds that do not grow with the number of cells, seconds of the cells, and the logit difference of each."""


class Task:
    """A model, prompts and cells.

    `given` holds: model (a name of SHAPES, or a folder), device, examples, length, shared, what ("activation" or
    "path"), unit ("head" or "kv_group") and cells, each a layer and the number of a unit.
    """

    def __init__(self, given: dict[str, Any]):
        self.device, self.what, self.unit = given["device"], given["what"], given["unit"]
        self.cells = [tuple(cell) for cell in given["cells"]]
        self.model = given["model"]
        vocab = SHAPES[self.model]["vocab_size"] if self.model in SHAPES else 49152
        generator = torch.Generator().manual_seed(1)
        shape = (given["examples"], given["length"])
        base, source = (torch.randint(10, vocab, shape, generator=generator) for _ in range(2))
        source[:, : given["shared"]] = base[:, : given["shared"]]
        self.base, self.source = base.to(self.device), source.to(self.device)

    def hugging_face(self) -> Any:
        from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        if self.model not in SHAPES:
            return AutoModelForCausalLM.from_pretrained(self.model, dtype=dtype).to(self.device).eval()
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        with torch.device(self.device):
            hf = LlamaForCausalLM(LlamaConfig(**SHAPES[self.model], tie_word_embeddings=False)).eval()
        torch.set_default_dtype(torch.float32)
        return hf

    def heads(self, config: Any) -> list[tuple[int, list[int]]]:
        """Layer and query heads of each cell."""
        size = 1 if self.unit == "head" else config.num_attention_heads // config.num_key_value_heads
        return [(layer, list(range(unit * size, (unit + 1) * size))) for layer, unit in self.cells]

    def clock(self) -> Seconds:
        """The time now."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def since(self, start: Seconds) -> Seconds:
        """What has passed."""
        wall, processor = self.clock()
        return wall - start[0], processor - start[1]


def difference(logits: torch.Tensor) -> torch.Tensor:
    """Logit difference at the last position, `[batch]`."""
    last = logits[:, -1].float()
    return last[:, A] - last[:, B]


def workbench(task: Task) -> Callable[[], Found]:
    """Ours, always over all cells; the asked ones are compared."""
    import workbench as wb

    model = wb.load(task.hugging_face())
    pairs = wb.PromptPairs(task.base.cpu(), task.source.cpu(), (A, B))

    def run() -> Found:
        start = task.clock()
        if task.what == "path":
            result = wb.path_patch(
                model, pairs, unit=task.unit, batch_size=len(pairs), metrics=["logit_diff"], progress=False
            )
        else:
            result = wb.activation_patch(model, pairs, hook="z", unit=task.unit, metrics=["logit_diff"], progress=False)
        seconds = task.since(start)
        values = result["patched"].sel(metric="logit_diff").mean("example").values
        return seconds, (0.0, 0.0), [float(values[cell]) for cell in task.cells]

    return run


def transformer_lens(task: Task) -> Callable[[], Found]:
    """`generic_activation_patch`, a forward pass per cell; for path patching one with every head frozen by a hook."""
    import pandas as pd
    from transformer_lens import patching

    import workbench as wb

    model: Any = wb.load(task.hugging_face())
    patch: Any = patching.generic_activation_patch
    cells = task.heads(model.original_model.config)
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]

    def write(activation: torch.Tensor, index: list[int], source: torch.Tensor) -> torch.Tensor:
        heads = cells[index[1]][1]
        activation[:, :, heads] = source[:, :, heads]
        return activation

    def sweep(cache: Any) -> list[float]:
        index = pd.DataFrame({"layer": [layer for layer, _ in cells], "cell": range(len(cells))})
        found = patch(
            model,
            task.base,
            cache,
            lambda logits: difference(logits).mean(),
            write,
            "z",
            index_df=index,
        )
        return found.tolist()

    def frozen(base: Any, source: Any) -> list[float]:
        values = []
        for layer, heads in cells:
            z = {name: base[name] for name in names}
            z[names[layer]] = z[names[layer]].clone()
            z[names[layer]][:, -1, heads] = source[names[layer]][:, -1, heads]
            hooks = [(name, lambda _t, hook, kept=z[name]: kept.clone()) for name in names]
            values.append(float(difference(model.run_with_hooks(task.base, fwd_hooks=hooks)).mean()))
        return values

    def run() -> Found:
        start = task.clock()
        _, source = model.run_with_cache(task.source, names_filter=names)
        base = model.run_with_cache(task.base, names_filter=names)[1] if task.what == "path" else None
        fixed, middle = task.since(start), task.clock()
        values = sweep(source) if base is None else frozen(base, source)
        return fixed, task.since(middle), values

    return run


def nnsight(task: Task) -> Callable[[], Found]:
    """One trace per layer, an invoke per cell: they share a batched forward pass. Logits of the last position only."""
    from nnsight import TransformersModel  # ty: ignore[import-not-found]
    from transformers import PreTrainedTokenizerFast

    hf = task.hugging_face()
    model = TransformersModel(hf, tokenizer=tokenizer(PreTrainedTokenizerFast))
    cells, width = task.heads(hf.config), hf.config.hidden_size // hf.config.num_attention_heads
    layers = sorted({layer for layer, _ in cells})

    def run() -> Found:
        start = task.clock()
        z = {}
        with model.trace(task.source):
            z = {}.save()  # ty: ignore[missing-attribute]
            for layer in layers:
                z[layer] = model.model.layers[layer].self_attn.o_proj.input
        fixed, middle = task.since(start), task.clock()
        values = {}
        for layer in layers:
            own = [(i, heads) for i, (at, heads) in enumerate(cells) if at == layer]
            with model.trace(logits_to_keep=1) as tracer:
                logits = [].save()  # ty: ignore[missing-attribute]
                for _, heads in own:
                    with tracer.invoke(task.base):
                        columns = slice(heads[0] * width, (heads[-1] + 1) * width)
                        into = model.model.layers[layer].self_attn.o_proj.input
                        into[:, :, columns] = z[layer][:, :, columns]
                        logits.append(model.lm_head.output)
            values |= {i: float(difference(out).mean()) for (i, _), out in zip(own, logits, strict=True)}
        return fixed, task.since(middle), [values[i] for i in range(len(cells))]

    return run


def tokenizer(cls: Any) -> Any:
    """A tokenizer that only knows how to pad; prompts are token ids."""
    from tokenizers import Tokenizer, models

    return cls(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0}, "<pad>")), pad_token="<pad>")


def pyvene(task: Task) -> Callable[[], Found]:
    """One intervenable model per layer with the source's activations kept; the layer's cells share a batch."""
    import pyvene as pv  # ty: ignore[import-not-found]

    hf = task.hugging_face()
    cells, examples = task.heads(hf.config), len(task.base)
    every = list(range(task.base.shape[1]))

    def intervenable(layer: int) -> Any:
        where = pv.RepresentationConfig(layer, "head_attention_value_output", "h.pos", max_number_of_units=len(every))
        return pv.IntervenableModel(pv.IntervenableConfig([where], pv.VanillaIntervention), model=hf)

    def run() -> Found:
        values: dict[int, float] = {}
        start = task.clock()
        for layer in sorted({layer for layer, _ in cells}):
            own = [(i, heads) for i, (at, heads) in enumerate(cells) if at == layer]
            heads = [[head for head in chosen] for _, chosen in own for _ in range(examples)]
            places = [[heads, [every] * len(heads)]]
            repeated = [{"input_ids": ids.repeat(len(own), 1), "logits_to_keep": 1} for ids in (task.base, task.source)]
            _, out = intervenable(layer)(repeated[0], [repeated[1]], {"sources->base": (places, places)})
            found = difference(out.logits).view(len(own), examples).mean(1).tolist()
            values |= {i: value for (i, _), value in zip(own, found, strict=True)}
        return (0.0, 0.0), task.since(start), [values[i] for i in range(len(cells))]

    return run


PEERS = {peer.__name__: peer for peer in (workbench, transformer_lens, nnsight, pyvene)}


@torch.no_grad()
def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(sys.argv[3]))
    task = Task(json.loads(sys.argv[2]))
    run = PEERS[sys.argv[1]](task)
    print("ready", flush=True)
    for _ in sys.stdin:
        if task.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if task.device == "cuda" else 0
        fixed, cells, values = run()
        peak = torch.cuda.max_memory_allocated() - before if task.device == "cuda" else 0
        print("found " + json.dumps([fixed, cells, values, peak]), flush=True)


if __name__ == "__main__":
    main()
