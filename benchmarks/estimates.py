"""How well gradient estimates of activation patching agree with the exact effects, and what they cost.

    python benchmarks/estimates.py --model organism-gqa --examples 8

z of every head at all positions. Passes are forward passes over all layers per example; a backward pass counts as two.
"""

import argparse
import time
import warnings

import numpy as np
from common import print_table

import workbench as wb
from workbench.errors import WorkbenchWarning
from workbench.names import Integrate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="organism-gqa")
    parser.add_argument("--examples", type=int, default=8)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", WorkbenchWarning)
    model = wb.load(arguments.model)
    pairs = wb.sycophancy.pairs(model, n=arguments.examples)
    layers = wb.anatomy(model).n_layers
    start = time.process_time()
    exact = wb.activation_patch(model, pairs, unit="head", metrics=["logit_diff"], progress=False)["contribution"]
    units = exact.size / layers
    rows = [("exact", f"{units * (layers + 1) / 2:.0f}", f"{time.process_time() - start:.1f} s", "1", "1", "0")]
    ways: list[tuple[str, int, Integrate]] = [
        ("gradient at base", 1, "inputs"),
        ("EAP-IG", 5, "inputs"),
        ("EAP-IG", 20, "inputs"),
        ("layers", 8, "layers"),
    ]
    for name, steps, integrate in ways:
        start = time.process_time()
        found = wb.attribution_patch(
            model,
            pairs,
            unit="head",
            steps=steps,
            integrate=integrate,
            metrics=["logit_diff"],
            verify=0,
            progress=False,
        )["contribution"]
        seconds = time.process_time() - start
        agreement = wb.compare_estimates(found, exact).squeeze()
        off = float(np.abs(found - exact).max() / np.abs(exact).max())
        through = (layers + 1) / 2 if integrate == "layers" else 1
        label = f"{name}, {steps} points" if steps > 1 else name
        numbers = (f"{float(agreement[which]):.3f}" for which in ("pearson", "spearman"))
        rows.append((label, f"{5 * steps * through:.0f}", f"{seconds:.1f} s", *numbers, f"{off:.2f}"))
    head = ("estimate", "passes", "processor time", "Pearson", "Spearman", "largest error, of the largest effect")
    print_table(head, rows)


if __name__ == "__main__":
    main()
