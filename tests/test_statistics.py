"""One percentile: Python's is that of the shared table."""

import json

import pytest

from bench.statistics import Percentiles, percentiles, quantile
from tests.conftest import ROOT

CASES = json.loads((ROOT / "tests" / "percentiles.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['q']} of {len(case['samples'])}")
def test_quantiles(case: dict[str, list[float] | float]) -> None:
    samples, q = case["samples"], case["q"]
    assert isinstance(samples, list)
    assert isinstance(q, float | int)
    assert quantile(samples, q) == pytest.approx(case["value"], abs=1e-9)


def test_there_are_no_percentiles_without_samples() -> None:
    assert percentiles([]) is None
    found = percentiles([4.0, 2.0])
    assert found == pytest.approx(Percentiles(3.0, 3.9, 3.98, 4.0))
    with pytest.raises(ValueError, match="empty"):
        quantile([], 0.5)
