"""The type of every model argument: the interface that TransformerLens models share."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch.nn import Parameter


@runtime_checkable
class HookedModel(Protocol):
    """A TransformerLens model, as `workbench.load` returns it: a TransformerBridge or a HookedTransformer.

    Attributes:
        cfg: the TransformerLens configuration (`n_layers`, `n_heads`, `d_head`, `d_model`, …).
        tokenizer: a Hugging Face tokenizer, or None.
    """

    cfg: Any
    tokenizer: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Logits of a batch of tokens, or the residual stream with `start_at_layer=` and `stop_at_layer=`."""
        ...

    def hooks(self, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        """Add hooks inside a `with` block."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator["Parameter"]:
        """The parameters, as those of any torch module."""
        ...

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


@runtime_checkable
class TextTokenizer(Protocol):
    """A Hugging Face tokenizer."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A text as `input_ids`."""
        ...

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The vocabulary's words for some ids."""
        ...

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
