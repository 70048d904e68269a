"""serve.py as it is, and at /executions which transport functions each lane's requests called.

The functions are replaced before anything imports them; a response that was made by other code is
counted as made by none.
"""

from gevent import monkey

monkey.patch_all()

import runpy
from collections import Counter, defaultdict
from importlib import import_module
from typing import Any

import lab.app
from lab.meter import Exchange, Meters
from pushlab.hosting.metering import EXCHANGE
from pushlab.transports import TRANSPORTS

#: By lane and the names of the functions that a request called: the requests with a response.
counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
open_, sent, create_app = Meters.open, Exchange.sent, lab.app.create_app


def noting_calls(name: str, update: Any) -> Any:
    """Return a transport's function such that it notes in the exchange that it was called."""

    def noting(*arguments: Any) -> Any:
        exchange = arguments[-1].get(EXCHANGE)  # the environ comes last
        if exchange is not None:
            exchange.called.append(name)
        return update(*arguments)

    return noting


def open_with_calls(meters: Meters, query: str, **options: Any) -> Any:
    exchange: Any = open_(meters, query, **options)
    if exchange is not None:
        exchange.lane, exchange.called = query.partition("lane=")[2].partition("&")[0], []
    return exchange


def counting_sent(exchange: Any, size: int) -> None:
    if not exchange._has_response:  # so that a request counts here when it counts in the meter
        counts[exchange.lane][" ".join(exchange.called)] += 1
    sent(exchange, size)


def create_app_with_counts(*arguments: Any) -> Any:
    app = create_app(*arguments)
    app.add_url_rule("/executions", "executions", lambda: counts)
    return app


if __name__ == "__main__":
    for transport in TRANSPORTS:
        module: Any = import_module(f"pushlab.transports.{transport}")
        module.update = noting_calls(transport, module.update)
    for place, name, replacement in (
        (Meters, "open", open_with_calls),
        (Exchange, "sent", counting_sent),
        (lab.app, "create_app", create_app_with_counts),
    ):
        setattr(place, name, replacement)
    runpy.run_path("serve.py", run_name="__main__")
