"""`workbench organism train`: train an embedded model again from its recipe."""

from workbench.cli.options import File, Folder, Seed, say, tell, writable


def train(
    kv_heads: int,
    out: Folder,
    seed: Seed = 0,
    steps: int | None = None,
    small: bool = False,
    data: File | None = None,
    device: str | None = None,
    keep: int = 0,
) -> None:
    """Does an embedded model come out the same when it is trained again from its recipe?

    The training's state lies beside the folder until it is done, and a run that was stopped goes on.

    Example: workbench organism train --kv-heads 2 --out my-organism --small

    Args:
        kv_heads: KV heads for the 8 query heads: 2 (GQA), 8 (MHA) or 1 (MQA).
        out: Folder for weights, configuration, tokenizer and the record of the training.
        steps: Optimizer steps; by default the recipe's.
        small: Train the small variant, which a CPU can do.
        data: Folder with corpora, or a file of token streams.
        device: Where to train; by default the GPU if there is one.
        keep: Keep the weights of about so many steps in OUT-checkpoints, for figures over training.
    """
    from workbench.organisms.recipe import FULL_RECIPE, SMALL_RECIPE
    from workbench.organisms.train import spaced_steps, train_organism

    writable(out)
    last = steps or (SMALL_RECIPE if small else FULL_RECIPE).steps
    kept = spaced_steps(last, keep) if keep else ()
    folder = train_organism(
        kv_heads, out, seed=seed, steps=steps, small=small, data=data, device=device, keep=kept, report=tell
    )
    say(f"The model is {folder}")
