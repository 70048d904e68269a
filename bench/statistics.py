"""Raw samples, and what lies below which share of them."""

from collections.abc import Sequence
from typing import NamedTuple


class Percentiles(NamedTuple):
    """What half, 95 in 100, 99 in 100 and all of some samples are not above."""

    p50: float
    p95: float
    p99: float
    most: float


def quantile(samples: Sequence[float], q: float) -> float:
    """Return the value below which this share of the samples lies, between two if need be."""
    ordered = sorted(samples)
    place = q * (len(ordered) - 1)
    low = ordered[int(place)]
    return low + (ordered[min(int(place) + 1, len(ordered) - 1)] - low) * (place % 1)


def median(samples: Sequence[float]) -> float:
    """Return the value below which half of the samples lie."""
    return quantile(samples, 0.5)


def spread(samples: Sequence[float]) -> Percentiles | None:
    """Return how far samples are spread; None where there are none."""
    if not samples:
        return None
    ordered = sorted(samples)  # once, as there may be many
    return Percentiles(*(quantile(ordered, q) for q in (0.5, 0.95, 0.99, 1)))
