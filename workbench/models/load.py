"""Load a decoder model from any source as a TransformerLens model with the logits of Hugging Face.

Loading is safe: safetensors only, no code from the model's folder, no pickle. Weights are not folded or
centred, so logits are preserved exactly.
"""

import copy
import json
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from workbench.errors import InputError, first_line, suggest
from workbench.models.anatomy import anatomy, is_transformer_lens, kind_of
from workbench.models.devices import devices_of
from workbench.models.embedded import NAMES, embedded
from workbench.models.fetch import REAL_MODELS, fetch, read_gguf
from workbench.models.identity import refuse_misread, refuse_nan_weights, refuse_unusable, repository_name
from workbench.models.latent import show_heads
from workbench.models.original import inner_module
from workbench.models.weights import require_changeable, warn_of_batches
from workbench.names import Backend
from workbench.prompts.templates import AS_GIVEN
from workbench.protocol import HookedModel, TextTokenizer

BACKENDS = get_args(Backend)
DeviceMap = str | int | torch.device | dict[str, Any]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
MERGE = "PeftModel.from_pretrained(base, folder).merge_and_unload()"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def load(
    source: str | Path | torch.nn.Module | HookedModel,
    *,
    tokenizer: TextTokenizer | str | Path | None = None,
    device: str | torch.device | int | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: DeviceMap | None = None,
    quantization_config: Any = None,
    backend: Backend = "bridge",
) -> HookedModel:
    """Load a decoder language model for looking inside.

    Args:
        source: the name of an embedded model ("organism-gqa") or of a real model that is fetched once
            ("smollm2-135m-instruct"), a folder with config.json and safetensors, a Hub id ("EleutherAI/pythia-160m",
            or "EleutherAI/pythia-160m@step1000" for a revision), a single GGUF file (its values are
            dequantised), a Hugging Face model in memory (it is wrapped in place: its modules get hook points), or a
            TransformerLens model.
        tokenizer: a Hugging Face tokenizer, or a folder or id to load one from; by default the source's own,
            if any.
        device: where to put the model; by default a CUDA device if there is one (under torchrun the process's own),
            else the CPU. Models in memory stay where they are unless it is given.
        dtype: such as "bfloat16"; by default float32 on the CPU and the checkpoint's own elsewhere.
        device_map: for `from_pretrained`: "auto" spreads the layers over all GPUs and what does not fit over the CPU's
            memory and the disk; a dict says where each module goes. Instead of `device`.
        quantization_config: for `from_pretrained`, such as transformers' `BitsAndBytesConfig(load_in_4bit=True)`.
            What is measured is what the quantised model computes.
        backend: "bridge" for a TransformerBridge, "hooked" for a HookedTransformer of the same weights (needs
            TransformerLens 3.9; Llama, Qwen2, Mistral, GPT-2 and GPT-NeoX).

    Returns:
        A TransformerBridge or HookedTransformer in evaluation mode, with gradients of the parameters switched
        off.

    Raises:
        InputError: an unknown name, a folder without safetensors, pickled weights, NaN weights, an
            architecture that TransformerLens does not know, a missing device or package.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend={backend!r} is unknown; {suggest(backend, BACKENDS)}")
    placing = Placing(device, dtype, device_map, quantization_config)
    placing.refuse(source, backend)
    if is_transformer_lens(source):
        return _given(source, tokenizer, device, dtype, backend)
    if isinstance(source, torch.nn.Module):
        own = _bridges.get(source, lambda: None)()
        if own is not None:
            return _given(own, tokenizer, device, dtype, backend)
        refuse_unusable(source)
        hf, found = _moved(source, device, dtype), None
        name = repository_name(str(getattr(source.config, "_name_or_path", ""))) or type(source).__name__
    else:
        hf, found, name = _from_files(str(source), placing)
    tokenizer = _tokenizer(tokenizer) if tokenizer is not None else found
    hf = hf.eval().requires_grad_(False)
    refuse_nan_weights(hf)
    warn_of_batches(hf)
    if backend == "hooked":
        from workbench.models.hooked import to_hooked

        require_changeable(hf, "backend='hooked'")
        model = to_hooked(hf)
    else:
        model = _bridge(hf)
    if tokenizer is not None:
        _attach(model, tokenizer)
    object.__setattr__(model, "workbench_name", name)
    anatomy(model)
    if isinstance(source, torch.nn.Module) and backend == "bridge":
        _bridges[source] = weakref.ref(model)
    return model


_bridges: weakref.WeakKeyDictionary[torch.nn.Module, Callable[[], HookedModel | None]] = weakref.WeakKeyDictionary()
"""The bridge of each Hugging Face model in memory, which wrapping changes in place: a second `load` returns it."""


def _given(model: HookedModel, tokenizer: Any, device: Any, dtype: Any, backend: Backend) -> HookedModel:
    if backend == "hooked" and kind_of(model) == "bridge":
        raise InputError(
            "backend='hooked' cannot turn a TransformerBridge into a HookedTransformer. Load from the "
            "folder, the name or the Hugging Face model instead."
        )
    refuse_nan_weights(model)
    model = _moved(model, device, dtype)
    if tokenizer is not None:
        _attach(model, _tokenizer(tokenizer))
    show_heads(model)
    anatomy(model)
    return model


def _moved(model: Any, device: Any, dtype: Any) -> Any:
    """The model on a device and in a dtype; as it is where neither is asked for, as a quantised model must stay.

    Raises:
        InputError: a model that cannot be moved or cast.
    """
    wanted: dict[str, Any] = {}
    spread = devices_of(model)
    if device is not None and len(spread) > 1:
        raise InputError(
            f"The layers of this model are spread over {', '.join(map(str, spread))}, and accelerate's hooks bring "
            "their inputs there. Leave device= out, or load the model again with it."
        )
    if device is not None:
        wanted["device"] = _device(device)
    if dtype is not None:
        wanted["dtype"] = _dtype(dtype)
    try:
        return model.to(**wanted) if wanted else model
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"The model cannot be moved or cast ({first_line(error)}). A quantised or offloaded model stays as it was "
            "loaded: leave device= and dtype= out."
        ) from error


def _device(device: Any) -> torch.device:
    """A device that is there.

    Raises:
        InputError: it is unknown, or missing here.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError, ModuleNotFoundError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise InputError(
            f"device={str(device)!r} cannot be used here ({first_line(error)}); there are {', '.join(there)}."
        ) from error
    return found


# Reading files.


@dataclass(frozen=True)
class Placing:
    """What a caller of `load` asks for of where and how the weights lie."""

    device: Any
    dtype: Any
    device_map: Any
    quantization_config: Any

    def refuse(self, source: Any, backend: Backend) -> None:
        """Refuse what does not go together."""
        if self.device_map is None and self.quantization_config is None:
            return
        if self.device_map is not None and self.device is not None:
            raise InputError("Give device= or device_map=, not both: a device map says where each part goes.")
        if isinstance(source, torch.nn.Module) or str(source).lower().endswith(".gguf"):
            raise InputError(
                "device_map= and quantization_config= act while a checkpoint is read. Give its folder or name; a model "
                "in memory is dispatched with accelerate.dispatch_model(model, device_map) before it is given."
            )
        if backend == "hooked":
            raise InputError(
                "backend='hooked' copies the weights to one device, unquantised. Use backend='bridge' with device_map= "
                "and quantization_config=."
            )

    def keywords(self) -> dict[str, Any]:
        """Those of `from_pretrained`."""
        asked = {"device_map": self.device_map, "quantization_config": self.quantization_config}
        home = self.target() if self.device_map is None else _own_device()
        dtype = _dtype(self.dtype) or (torch.float32 if home.type == "cpu" else "auto")
        if self.quantization_config is not None and self.device_map is None:
            asked["device_map"] = {"": home}
        return {"dtype": dtype} | {name: value for name, value in asked.items() if value is not None}

    def target(self) -> torch.device:
        """The device for a model that is read whole."""
        return _device(self.device) if self.device is not None else _own_device()


def _own_device() -> torch.device:
    """The GPU, of several processes on one machine this one's, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    rank = os.environ.get("LOCAL_RANK")
    return torch.device("cuda") if rank is None else torch.device("cuda", int(rank) % torch.cuda.device_count())


def _from_files(source: str, placing: Placing) -> tuple[Any, Any, str]:
    from transformers import AutoModelForCausalLM

    keywords = placing.keywords()
    if Path(source).suffix.lower() == ".gguf" and Path(source).expanduser().is_file():
        hf, tokenizer = read_gguf(Path(source).expanduser())
        return _moved(hf, placing.target(), placing.dtype), tokenizer, Path(source).stem
    local = _local_folder(source)
    is_local = local.is_dir()
    if is_local:
        _check_folder(local)
    repo, _, revision = source.partition("@")
    where, revision = (str(local), "main") if is_local else (repo, revision or "main")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where,
            revision=revision,
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=is_local,
            output_loading_info=True,
            **keywords,
        )
    except Exception as error:  # damaged files and missing packages raise many kinds
        raise _cannot_load(source, is_local, error) from error
    hf, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise InputError(
            f"The weights of {source} lack {len(missing)} of the model's parameters, the first is "
            f"'{missing[0]}'; Hugging Face would initialise them at random. A file is missing, or config.json "
            "belongs to another model."
        )
    tokenizer = None
    if not is_local or any((local / name).exists() for name in TOKENIZER_FILES):
        tokenizer = _tokenizer(where, local=is_local, revision=revision)
    hf = hf if getattr(hf, "hf_device_map", None) or getattr(hf, "is_quantized", False) else hf.to(placing.target())
    return hf, tokenizer, _folder_name(local) if is_local else source


def _local_folder(source: str) -> Path:
    """The folder of an embedded or of a fetched model, or the path itself."""
    shipped = embedded(source)
    if shipped is not None:
        return shipped.folder()
    return fetch(source) if source in REAL_MODELS else Path(source).expanduser()


def _folder_name(folder: Path) -> str:
    name = repository_name(str(folder))
    return folder.name if name == str(folder) else name


def _check_folder(folder: Path) -> None:
    files = sorted(f.name for f in folder.iterdir())
    if "adapter_config.json" in files and "config.json" not in files:
        raise InputError(
            f"The folder {folder} holds a PEFT adapter and no model. Merge it into its base model, {MERGE}, and "
            "give the merged model or the folder that its save_pretrained writes."
        )
    if "config.json" not in files:
        raise InputError(
            f"The folder {folder} has no config.json (it holds {', '.join(files[:6]) or 'nothing'}), so it "
            "is not a Hugging Face model. Give the folder that save_pretrained wrote."
        )
    if any(name.endswith(".safetensors") for name in files):
        return
    pickled = [name for name in files if name.endswith(PICKLED)]
    if pickled:
        raise InputError(
            f"The weights in {folder} are pickled ({pickled[0]}), and unpickling can run any code; only "
            "safetensors are read. Convert them where you trust the file: load there and call "
            "save_pretrained(folder, safe_serialization=True)."
        )
    raise InputError(
        f"The folder {folder} has a config.json but no weights (*.safetensors); it holds "
        f"{', '.join(files[:6])}. The download or copy is probably incomplete."
    )


def _cannot_load(source: str, is_local: bool, error: Exception) -> InputError:
    first = first_line(error)
    if is_local:
        try:
            model_type = json.loads((Path(source).expanduser() / "config.json").read_text()).get("model_type")
        except (OSError, ValueError):
            model_type = "unreadable"
        return InputError(
            f"The model in {source} (model_type {model_type!r}) cannot be loaded as a causal language model: {first}"
        )
    return InputError(
        f"No model {source!r}: it is no embedded model ({', '.join(NAMES)}), no real model known by name "
        f"({', '.join(REAL_MODELS)}) and no folder or GGUF file here, and the Hub gave: {first} "
        f"{suggest(source, (*NAMES, *REAL_MODELS)).split('Known')[0]}Check the spelling, the "
        "connection (HF_HUB_OFFLINE is off?) and, for gated models, your login."
    )


def _tokenizer(source: Any, local: bool = False, revision: str = "main") -> Any:
    from transformers import AutoTokenizer

    if not isinstance(source, str | Path):
        return source
    try:
        return AutoTokenizer.from_pretrained(
            str(source), revision=revision, local_files_only=local, trust_remote_code=False
        )
    except Exception as error:  # damaged files raise many kinds
        raise InputError(
            f"No tokenizer in {source}: {first_line(error)} Pass tokenizer= a tokenizer or its folder."
        ) from error


def _attach(model: HookedModel, tokenizer: Any) -> None:
    """Give a model its tokenizer as it is; TransformerLens would load it again with BOS switched on."""
    own = copy.deepcopy(tokenizer)
    own.padding_side = "right"
    setattr(own, AS_GIVEN, True)
    if own.pad_token is None and own.eos_token is not None:
        own.pad_token = own.eos_token
    try:
        ids = list(own("a")["input_ids"])
    except Exception as error:  # damaged settings raise many kinds
        raise InputError(
            f"The tokenizer cannot read a text ({first_line(error)}). A file of it is damaged, such as "
            "tokenizer_config.json; fetch it again, or pass tokenizer=."
        ) from error
    begins = own.bos_token_id is not None and ids[:1] == [own.bos_token_id]
    model.cfg.tokenizer_prepends_bos = model.cfg.default_prepend_bos = begins
    model.cfg.tokenizer_appends_eos = own.eos_token_id is not None and ids[-1:] == [own.eos_token_id]
    model.tokenizer = own


def _dtype(dtype: Any) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise InputError(f"dtype={dtype!r} is unknown; {suggest(dtype, ('float32', 'bfloat16', 'float16', 'float64'))}")
    return found


# Wrapping.


def _bridge(hf: Any) -> HookedModel:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    architecture = type(hf).__name__
    refuse_misread(hf)
    hf.set_attn_implementation("eager")
    hf.config._attn_implementation = "eager"  # Falcon cannot be set; with ALiBi its fused attention gives other logits.
    try:
        model = build_bridge_from_module(hf, architecture, hf_config=hf.config, tokenizer=None)
        if not hasattr(model, "blocks"):
            raise ValueError("it has no stack of decoder blocks.")
        absent = [name for name, module in hf.named_modules() if _is_absent(module)]
        if absent:
            raise ValueError(f"this model has no {absent[0]}.")
    except Exception as error:  # adapters raise many kinds
        raise InputError(
            f"TransformerLens cannot wrap a {architecture}: {first_line(error)} Supported "
            "are decoder-only language models that it has an adapter for (Llama, Qwen, Mistral, Gemma, "
            "OLMo, Granite, Phi, GPT-2, GPT-NeoX and others)."
        ) from error
    show_heads(model)
    devices = devices_of(hf)
    model.cfg.device, model.cfg.n_devices = str(devices[0]), len(devices)
    return model.requires_grad_(False).eval()


def _is_absent(module: torch.nn.Module) -> bool:
    """Whether a component of TransformerLens stands where the model has nothing, such as OPT without a final norm."""
    component = any(cls.__name__ == "GeneralizedComponent" for cls in type(module).__mro__)
    return component and inner_module(module) is module
