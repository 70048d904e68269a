"""Percentiles: the only formula for them in Python."""

import statistics
from collections.abc import Sequence
from fractions import Fraction

#: The percentiles that tables show, by their names there.
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


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
