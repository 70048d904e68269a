"""What clients send is remembered, unless it is long."""

from collections import Counter

import pytest

from pushlab import limits
from pushlab.transports import poll
from pushlab.wsgi.accept import prefers
from pushlab.wsgi.access import normalized_origin
from pushlab.wsgi.parameters import read
from pushlab.wsgi.remembered import remembered


@pytest.mark.parametrize(
    ("length", "times"), [(0, 2), (limits.REMEMBERED_LENGTH, 2), (limits.REMEMBERED_LENGTH + 1, 5)]
)
def test_short_texts_are_remembered_and_long_ones_are_not(length: int, times: int) -> None:
    """From the second time on."""
    called: Counter[str] = Counter()

    @remembered
    def function(text: str) -> int:
        called[text] += 1
        return len(text)

    for _ in range(5):
        assert function("x" * length) == length
    assert called["x" * length] == times


def test_what_comes_once_drives_out_nothing() -> None:
    called: Counter[str] = Counter()

    @remembered
    def function(text: str) -> str:
        called[text] += 1
        return text

    for number in range(3 * limits.REMEMBERED):
        function(f"once{number}")
        function("often")
    assert called["often"] == 2
    for number in range(2 * limits.REMEMBERED):  # and as many that come twice do
        assert function(f"twice{number}") == function(f"twice{number}") == f"twice{number}"
    assert function("often") == "often"
    assert called["often"] == 3


def test_a_long_one_means_the_same() -> None:
    """Of everything that a client may make as long as it wants."""
    padding = ", ".join(f"text/x{number}" for number in range(500))
    for accept, expected in (("text/event-stream", True), ("text/html", False)):
        for more in ("", f", {padding}"):
            assert prefers("text/event-stream", accept + more) is expected
    name = "x" * 2 * limits.REMEMBERED_LENGTH
    assert normalized_origin(f"https://{name}:443") == f"https://{name}"
    assert poll.etags(", ".join(['"a-1"', *[f'"{name}"'] * 3])).contains("a-1")
    query = f"topic=a&after=0a1b2c3d-1&{name}=1"
    assert read({"QUERY_STRING": query}).afters == ("0a1b2c3d-1",)
