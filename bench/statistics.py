"""Percentiles: the only formula for them in Python."""

import statistics
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple


class Percentiles(NamedTuple):
    """The percentiles that tables show."""

    p50: float
    p95: float
    p99: float
    max: float


def quantile(samples: Sequence[float], q: float) -> float:
    """Return the quantile q, 0 to 1, of the samples.

    Interpolates linearly between the two nearest samples, as method 7 of Hyndman and Fan (1996),
    and as the page does: both are tested with tests/percentiles.json. Raises ValueError if there
    are no samples.
    """
    if q <= 0:
        return min(samples)
    if q >= 1 or len(samples) < 2:
        return max(samples)
    share = Fraction(q).limit_denominator(1000)
    cuts = statistics.quantiles(samples, n=share.denominator, method="inclusive")
    return cuts[share.numerator - 1]


def median(samples: Sequence[float]) -> float:
    """Return the value below which half of the samples lie."""
    return quantile(samples, 0.5)


def percentiles(samples: Sequence[float]) -> Percentiles | None:
    """Return the percentiles of samples; None if there are none."""
    if not samples:
        return None
    return Percentiles(*(quantile(samples, q) for q in (0.5, 0.95, 0.99, 1)))
