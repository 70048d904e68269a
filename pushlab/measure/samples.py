"""Raw samples, and what lies below which share of them."""

from collections.abc import Sequence


def quantile(samples: Sequence[float], share: float) -> float:
    """Return the value below which this share of the samples lies, between two if need be."""
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    low = ordered[int(place)]
    return low + (ordered[min(int(place) + 1, len(ordered) - 1)] - low) * (place % 1)


def median(samples: Sequence[float]) -> float:
    """Return the value below which half of the samples lie."""
    return quantile(samples, 0.5)
