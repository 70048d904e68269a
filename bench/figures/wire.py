"""What one update costs on the wire: wire.json, by `bench.bytes_on_wire --update-docs`."""

import textwrap

from bench import bytes_on_wire as wire
from bench.figures.pages import Claim, Part, Raw

_SIGNAL, _CARRY = "signal then fetch", "carry"


def _total(raw: Raw, variant: str) -> int:
    """Return the bytes of one update, both ways."""
    return wire.from_raw_result(raw.json("wire"))[variant].total


def _table(raw: Raw) -> str:
    table = wire.table(wire.from_raw_result(raw.json("wire")))
    return ".. code:: text\n\n" + textwrap.indent(table, "   ")


def _signals_cost_what_a_long_poll_does(raw: Raw) -> bool:
    ratio = _total(raw, f"WebSocket, {_SIGNAL}") / _total(raw, f"long poll, {_CARRY}")
    return 0.9 < ratio < 1.1


def _only_carrying_is_cheap(raw: Raw) -> bool:
    """Say whether all that takes a request costs thrice as much as what takes none."""
    costs = wire.from_raw_result(raw.json("wire"))
    pushed = [f"WebSocket, {_CARRY}", f"SSE, {_CARRY}"]
    asked = [cost.total for variant, cost in costs.items() if variant not in pushed]
    return max(costs[variant].total for variant in pushed) * 3 < min(asked)


PART = Part(
    blocks={"wire": _table},
    numbers={
        "wire push": lambda raw: f"{_total(raw, f'WebSocket, {_CARRY}'):,}",
        "wire long poll": lambda raw: f"{_total(raw, f'long poll, {_CARRY}'):,}",
        "wire long poll signal": lambda raw: f"{_total(raw, f'long poll, {_SIGNAL}'):,}",
        "wire browser": lambda raw: str(raw.json("wire")["browser"]),
        "wire value bytes": lambda raw: str(raw.json("wire")["value_bytes"]),
    },
    claims=[
        Claim(
            "README.rst",
            "it costs as many bytes as a long poll that carries",
            _signals_cost_what_a_long_poll_does,
        ),
        Claim("README.rst", "Requests are what costs", _only_carrying_is_cheap),
    ],
)
