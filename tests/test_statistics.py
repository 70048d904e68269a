"""One percentile: Python's is that of the shared table."""

import json

import pytest

from bench.statistics import PERCENTILES, quantile
from tests.conftest import ROOT

CASES = json.loads((ROOT / "tests" / "percentiles.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['q']} of {len(case['samples'])}")
def test_quantiles(case: dict[str, list[float] | float]) -> None:
    samples, q = case["samples"], case["q"]
    assert isinstance(samples, list)
    assert isinstance(q, float | int)
    assert quantile(samples, q) == pytest.approx(case["value"], abs=1e-9)


def test_there_are_no_percentiles_without_samples() -> None:
    found = {name: quantile([4.0, 2.0], q) for name, q in PERCENTILES.items()}
    assert found == pytest.approx({"p50": 3.0, "p95": 3.9, "p99": 3.98, "max": 4.0})
    with pytest.raises(ValueError, match="empty"):
        quantile([], 0.5)
