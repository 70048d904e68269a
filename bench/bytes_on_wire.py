"""Count the bytes of one update: `python -m bench.bytes_on_wire`.

Starts serve.py and follows it with one client per transport and payload, which sends what Chromium
sends. Counts every byte of HTTP and WebSocket that passes the socket, both ways. TCP and IP add 40
bytes or more per packet, which are not counted.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import click

from bench import command_line
from bench.clients.chromium import AGENT
from bench.clients.publisher import VALUE, Posting
from bench.clients.worker import LoadGenerator
from bench.environment import about
from bench.processes import ROOT
from bench.report.tables import as_rst
from bench.results import as_json
from bench.scenarios import VARIANTS, Variant
from bench.servers import started
from bench.target import Target
from pushlab.transports import TRANSPORTS

RESULT = ROOT / "docs" / "results" / "wire.json"
COMMAND = "python -m bench.bytes_on_wire"

#: As the raw result names polling; other transports as the registry does.
_NAMES = {"poll": "short poll", "longpoll": "long poll"}


class Cost(NamedTuple):
    """Requests, and bytes up (to the server) and down."""

    requests: int
    up: int
    down: int

    @property
    def total(self) -> int:
        return self.up + self.down


def measure(updates: int = 20) -> dict[str, Cost]:
    """Return the costs of one update, by name.

    Also those of a poll in vain, and of opening a connection. Raises ValueError if not all updates
    cost the same.
    """
    found: dict[str, Cost] = {}
    with started("serve.py") as process, closing(Posting("127.0.0.1", process.port)) as publisher:
        target = Target(publisher, host="127.0.0.1", port=process.port)
        target.warm_up()
        for variant in VARIANTS:
            for name, costs in _costs(target, variant, updates):
                (found[name],) = set(costs)  # all cost the same
    return found


def _costs(target: Target, variant: Variant, updates: int) -> Iterator[tuple[str, list[Cost]]]:
    client, polls = LoadGenerator(), variant.transport == "poll"
    name = _NAMES.get(variant.transport, TRANSPORTS[variant.transport].short)
    opening = client.open(clients=1, carry=variant.carry, **target.address(variant.transport))

    def turn(*, news: bool) -> Cost:
        client.begin(begin_at=time.time(), ticks=int(polls), period=0.001 * polls)
        if news:
            target.publisher.change()
        found = client.finish(sequence=target.newest if news else -1, deadline=time.time() + 5)
        if found["lost"]:
            raise AssertionError(f"{name}: no update")
        return _cost(found)

    if polls:
        yield f"{name}, nothing new", [turn(news=False) for _ in range(updates)]
    elif variant.transport != "longpoll":
        yield f"{name}, opening", [_cost(opening)]
    payload = "carry" if variant.carry else "signal then fetch"
    yield f"{name}, {payload}", [turn(news=True) for _ in range(updates)]
    client.close()


def _cost(found: Mapping[str, Any]) -> Cost:
    return Cost(*(found["traffic"][of] for of in Cost._fields))


def table(costs: Mapping[str, Cost]) -> str:
    """Return a reStructuredText table."""
    rows: list[tuple[str, ...]] = [("bytes for one update", "requests", "up", "down", "both")]
    rows += [(name, *map(str, cost), str(cost.total)) for name, cost in costs.items()]
    return as_rst(rows)


def from_raw_result(found: Mapping[str, Any]) -> dict[str, Cost]:
    """Return the costs that docs/results/wire.json has."""
    return {name: Cost(**cost) for name, cost in found["costs"].items()}


@click.command(help=(__doc__ or "").partition(":")[0])
@command_line.update_docs_option("Write docs/results/wire.json.")
def main(*, update_docs: bool) -> None:
    """Measure, print the table, write the results."""
    costs = measure()
    print(table(costs))
    if update_docs:
        found = {
            "command": f"{COMMAND} --update-docs",
            **about(),
            "browser": "Chromium " + AGENT.partition("Chrome/")[2].partition(".")[0],
            "value": VALUE,
            "value_bytes": len(json.dumps(VALUE, separators=(",", ":"))),  # as the server writes it
            "costs": {name: cost._asdict() for name, cost in costs.items()},
        }
        RESULT.write_text(as_json(found))


if __name__ == "__main__":
    command_line.run(main, None, COMMAND)
