"""What counts as a sink, a drain and a peak."""

from dataclasses import dataclass

from workbench.errors import InputError


@dataclass(frozen=True)
class Thresholds:
    """What counts as a sink, a drain and a peak.

    Attributes:
        sink_weight: attention received above which a head has the token as its sink; 0.3 is Gu et al.'s ε. The first
            token's own query, which can attend to nothing else, does not count.
        sink_heads: share of the layer's heads that must have it; a quarter, so that a few heads that follow one token
            for its meaning don't make it a sink.
        min_queries: a token seen by fewer queries is not judged, in texts of any length, since the mean of a few
            queries passes 0.3 by chance, its own attention to itself alone being one of them. In a text of so many
            tokens the first token alone is judged, with or without BOS; in a shorter one none is.
        drain: norm of the value through W_O relative to the median of the other tokens, the median over the layer's
            heads; at most half.
        peak: stream norm relative to the median of the other tokens; at least 3. Ordinary tokens of the embedded models
            stay below 2.
    """

    sink_weight: float = 0.3
    sink_heads: float = 0.25
    min_queries: int = 8
    drain: float = 0.5
    peak: float = 3.0

    def __post_init__(self):
        """Refuse thresholds that nothing or everything meets."""
        if not (0 < self.sink_weight < 1 and 0 < self.sink_heads <= 1):
            raise InputError(
                f"sink_weight={self.sink_weight} must lie between 0 and 1, and sink_heads={self.sink_heads} above 0 "
                "and at most 1: both are shares."
            )
        if self.min_queries < 1 or self.drain <= 0 or self.peak <= 0:
            raise InputError(
                f"min_queries={self.min_queries} must be at least 1, drain={self.drain} and peak={self.peak} positive."
            )
