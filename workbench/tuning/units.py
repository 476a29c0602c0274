"""Which part of a model is tuned: chosen heads or KV groups, all of attention, or everything.

Heads come as a `Selection` from `workbench.patching` (ranked, random or in the same layers: its controls are the
controls of tuning too) or as (layer, head) pairs. Chen et al. 2024 tune Q, K, V and O of a head where every head has
its own keys and values, and Q and O alone where heads share them; `kv` says otherwise.
"""

from dataclasses import dataclass
from typing import Any, get_args

from workbench.errors import InputError, check_known
from workbench.models.anatomy import Anatomy
from workbench.names import WholeModel
from workbench.patching.selection import Selection
from workbench.patching.units import Address, HeadCounts, checked_heads

WHOLE = get_args(WholeModel)


@dataclass(frozen=True)
class Units:
    """What is tuned: a kind of unit, "attention" or "all", and (layer, head) of every query head in it, sorted.

    With `kv` the key and value rows that the heads read are tuned too.
    """

    kind: str
    heads: tuple[Address, ...]
    kv: bool

    @property
    def label(self) -> str:
        """Such as "16 heads (kv_group)" or "all attention"."""
        if self.kind in WHOLE:
            return {"attention": "all attention", "all": "all parameters"}[self.kind]
        return f"{len(self.heads)} heads ({self.kind}{', keys and values too' if self.kv else ''})"


def units_of(parts: Anatomy, units: Any, kv: bool | None = None) -> Units:
    """The units to tune, as `pinpoint_tune` takes them, checked against the model.

    With `kv` and single heads of a shared KV head the siblings that were not chosen change too.
    """
    kv = parts.group_size == 1 if kv is None else kv
    if isinstance(units, str):
        check_known("units", units, WHOLE, "Or give a Selection or heads.")
        every = tuple((layer, head) for layer in parts.head_layers for head in range(parts.n_heads))
        return Units(units, every, True)
    if isinstance(units, Selection):
        own = HeadCounts(parts.n_layers, parts.n_heads, parts.n_kv_heads, parts.headless)
        if units.counts != own:
            raise InputError(
                f"The units were selected in a model of {_spell(units.counts)}, and {parts.name} has {_spell(own)}. "
                "Select them again with results of this model."
            )
    kind, heads = (units.by, units.heads) if isinstance(units, Selection) else ("head", units)
    whole = 'units="all" tunes it with all others'
    pairs = checked_heads(heads, parts, "units=", ', a Selection, "attention" or "all"', whole)
    return Units(kind, tuple(sorted(pairs)), kv)


def _spell(counts: HeadCounts) -> str:
    return f"{counts.n_layers} layers of {counts.n_heads} query heads on {counts.n_kv_heads} KV heads"
