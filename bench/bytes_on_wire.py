"""Count the bytes of one update: `python -m bench.bytes_on_wire`.

Starts serve.py and follows it with one client per transport and payload, which sends what Chromium
sends. Counts every byte of HTTP and WebSocket that passes the socket, both ways. TCP and IP add 40
bytes or more per packet, which are not counted.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing

import click

from bench import command_line
from bench.clients.chromium import AGENT
from bench.clients.publisher import VALUE, Posting
from bench.clients.worker import LoadGenerator
from bench.report.tables import as_rst
from bench.scenarios import VARIANTS, Variant
from bench.servers import started
from bench.target import Target
from pushlab.transports import TRANSPORTS

COMMAND = "python -m bench.bytes_on_wire"

#: Requests, and bytes up (to the server) and down.
Cost = Mapping[str, int]


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
                if any(cost != costs[0] for cost in costs):
                    raise ValueError(f"{name}: not all cost the same")
                found[name] = costs[0]
    return found


def _costs(target: Target, variant: Variant, updates: int) -> Iterator[tuple[str, list[Cost]]]:
    client, polls = LoadGenerator(), variant.transport == "poll"
    name = TRANSPORTS[variant.transport].short.replace("Short polling", "short poll")
    name = name.replace("Long polling", "long poll")
    opening = client.open(clients=1, carry=variant.carry, **target.address(variant.transport))

    def turn(*, news: bool) -> Cost:
        client.begin(begin_at=time.time(), ticks=int(polls), period=0.001 * polls)
        if news:
            target.publisher.change()
        found = client.finish(sequence=target.newest if news else -1, deadline=time.time() + 5)
        if found["lost"]:
            raise AssertionError(f"{name}: no update")
        return _cost(found["traffic"])

    if polls:
        yield f"{name}, nothing new", [turn(news=False) for _ in range(updates)]
    elif variant.transport != "longpoll":
        yield f"{name}, opening", [_cost(opening["traffic"])]
    payload = "carry" if variant.carry else "signal then fetch"
    yield f"{name}, {payload}", [turn(news=True) for _ in range(updates)]
    client.close()


def _cost(traffic: Cost) -> Cost:
    return {name: traffic[name] for name in ("requests", "up", "down")}


def table(costs: Mapping[str, Cost]) -> str:
    """Return a reStructuredText table."""
    rows: list[tuple[str, ...]] = [("bytes for one update", "requests", "up", "down", "both")]
    for name, cost in costs.items():
        rows.append((name, *map(str, cost.values()), str(cost["up"] + cost["down"])))
    return as_rst(rows)


@click.command(help=(__doc__ or "").partition(":")[0])
@command_line.update_docs_option("Write docs/results/wire.json.")
def main(*, update_docs: bool) -> None:
    """Measure, print the table, write the results."""
    costs = measure()
    print(table(costs))
    if update_docs:
        found = {
            "browser": "Chromium " + AGENT.partition("Chrome/")[2].partition(".")[0],
            "value": VALUE,
            "value_bytes": len(json.dumps(VALUE, separators=(",", ":"))),  # as the server writes it
            "costs": costs,
        }
        command_line.publish("wire", COMMAND, found)


if __name__ == "__main__":
    command_line.run(main, None, COMMAND)
