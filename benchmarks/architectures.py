"""What `wb.check` finds on tiny random models of many architectures; prints the table of docs/architectures.md.

python -m benchmarks.architectures
"""

import warnings

import torch

import workbench as wb
from tests.tiny import MAKERS, TEN, tiny

CHECKS = ("hugging_face_logits", "recomputed_stream", "recomputed_logits", "residual_identity", "kv_map_read")
EXTRA = ("gemma3", "gptj", "cohere", "mixtral", "bloom", "mamba")


def cell(checks, name: str) -> str:
    row = checks.sel(check=name)
    return "–" if str(row["status"].item()) == "not applicable" else f"{float(row['value']):.0e}"


def row(family: str) -> str:
    try:
        model = wb.load(tiny(family, torch.float32))
    except wb.InputError as refusal:
        return f"| {family} | {' | '.join('–' for _ in CHECKS)} | refused when loading: {refusal} |"
    checks = wb.check(model)
    said = checks.attrs["verdict"]
    return f"| {family} | {' | '.join(cell(checks, name) for name in CHECKS)} | {said} |"


def main() -> None:
    warnings.simplefilter("ignore")
    print("| architecture | " + " | ".join(name.replace("_", " ") for name in CHECKS) + " | verdict |")
    print("|---" * (len(CHECKS) + 2) + "|")
    for family in (*TEN, *EXTRA):
        if family in MAKERS:
            print(row(family))


if __name__ == "__main__":
    main()
