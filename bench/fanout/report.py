"""The fan-out benchmark's report: goals, tables, JSON with every sample."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.environment import described
from bench.fanout.experiments import Figure
from bench.report.tables import as_rst
from bench.results import as_json

OURS = "Pushlab"
#: The same, with all requests dispatched by Flask.
BY_FLASK = "Pushlab by Flask"


@dataclass(frozen=True)
class Goal:
    """The most that a figure's median may be.

    With `worst`, the most that any sample may be.
    """

    what: str
    most: float
    clients: int | None = None
    worst: bool = False

    def aims_at(self, figure: Figure) -> bool:
        if (figure.server, figure.what) != (OURS, self.what):
            return False
        return self.clients in (None, figure.clients)

    def is_met(self, figure: Figure) -> bool:
        return (max(figure.samples) if self.worst else figure.median) <= self.most


#: Microseconds that a floor took where the goals in microseconds were set.
FLOOR_THEN = 6.8

GOALS = (
    Goal("notification / floor", 1.10),
    Goal("memory", 1024, clients=5000),
    Goal("handshake", 120),
    Goal("handshake / floor", 120 / FLOOR_THEN),
    Goal("GET /data", 80),
    Goal("GET /data / floor", 80 / FLOOR_THEN),
    Goal("long-poll cycle", 85, clients=1000),
    Goal("long-poll cycle / floor", 85 / FLOOR_THEN, clients=1000),
    Goal("event", 18),
    Goal("event / floor", 18 / FLOOR_THEN),
    Goal("last received, most sockets", 1000, worst=True),
)

TITLES = {
    "floor": "the floor: one send() in a loop",
    "publishing": "CPU per publishing request, without subscribers",
    "change": "CPU per change and browser, with the publishing request",
    "notification": "CPU per notification, without it",
    "notification / floor": "CPU per notification, in floors",
    "handshake": "CPU per WebSocket handshake (by Flask)",
    "handshake / floor": "CPU per WebSocket handshake (by Flask), in floors",
    "memory": "memory (RSS) per idle push socket",
    "last received": "time from POST to the last browser",
    "floor beside HTTP": "the floor, beside the next",
    "GET /data": "CPU per GET /data (direct)",
    "GET /data / floor": "CPU per GET /data (direct), in floors",
    "long-poll cycle": "CPU per long-poll cycle (direct)",
    "long-poll cycle / floor": "CPU per long-poll cycle (direct), in floors",
    "event": "CPU per server-sent event (by Flask)",
    "event / floor": "CPU per server-sent event (by Flask), in floors",
    "last received, most sockets": "the same, for the most browsers that fit",
}


@dataclass(frozen=True)
class Report:
    """Everything that one run measured."""

    figures: Sequence[Figure]
    unavailable: Mapping[str, str]
    about: Mapping[str, Any]

    def as_json(self) -> str:
        rows = [
            {
                "server": figure.server,
                "what": figure.what,
                "clients": figure.clients,
                "unit": figure.unit,
                "median": round(figure.median, 3),
                "p10": round(figure.quantile(0.1), 3),
                "p90": round(figure.quantile(0.9), 3),
                "samples": [round(sample, 3) for sample in figure.samples],
            }
            for figure in self.figures
        ]
        found = {**self.about, "unavailable": dict(self.unavailable), "figures": rows}
        return as_json(found)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Return what `as_json` wrote, rounded."""
        about = json.loads(text)
        unavailable, rows = about.pop("unavailable"), about.pop("figures")
        figures = [
            Figure(row["server"], row["what"], row["clients"], row["unit"], row["samples"])
            for row in rows
        ]
        return cls(figures, unavailable, about)

    def figure(self, what: str, clients: int | None = None, server: str = OURS) -> Figure:
        """Return a figure of this server; raises LookupError."""
        return self.all(what, server, clients)[0]

    def all(self, what: str, server: str = OURS, clients: int | None = None) -> list[Figure]:
        """Return a server's figures, one per number of clients.

        Raises LookupError if there is none.
        """
        found = [
            figure
            for figure in self.figures
            if (figure.what, figure.server) == (what, server) and clients in (None, figure.clients)
        ]
        if not found:
            many = "" if clients is None else f" for {clients:,}"
            raise LookupError(f"there is no figure {what!r} of {server}{many}")
        return found

    def ours(self) -> str:
        """Return the table of our own figures, with the goals."""
        rows = [("", "N", "median", "p10", "p90", "worst", "goal", "met")]
        for figure in (figure for figure in self.figures if figure.server in (OURS, BY_FLASK)):
            goal = next((goal for goal in GOALS if goal.aims_at(figure)), None)
            rows.append(
                (
                    f"{_title(figure)}, {figure.unit}",
                    f"{figure.clients:,}",
                    number(figure.median),
                    *(
                        (number(figure.quantile(0.1)), number(figure.quantile(0.9)),
                         number(max(figure.samples)))
                        if len(figure.samples) > 1 else ("", "", "")
                    ),
                    number(goal.most) if goal else "",
                    ("yes" if goal.is_met(figure) else "no") if goal else "",
                )
            )  # fmt: skip
        return as_rst(rows)

    def side_by_side(self) -> str:
        """Return the figures of all servers, a table per N.

        It is empty without other servers.
        """
        servers = list(dict.fromkeys([*(f.server for f in self.figures), *self.unavailable]))
        if {OURS, BY_FLASK}.issuperset(servers):
            return ""
        sizes = sorted({f.clients for f in self.figures if f.what in _PUSH})
        tables = [self._side_by_side(f"N = {n:,}", servers, _PUSH, n) for n in sizes]
        speak_http = {f.server for f in self.figures if f.what in _REQUESTS}
        tables.append(
            self._side_by_side("HTTP", [s for s in servers if s in speak_http], _REQUESTS)
        )
        notes = [f"- {name}: {why}" for name, why in self.unavailable.items()]
        if notes:
            tables.append("\n".join(["Not measured, or not in full:", "", *notes]))
        return "\n\n".join(tables)

    def _side_by_side(
        self, title: str, servers: Sequence[str], whats: Mapping[str, str], n: int | None = None
    ) -> str:
        rows = [(title, *whats.values())]
        for server in servers:
            if server == BY_FLASK and whats is _PUSH:
                continue  # a notification is not dispatched
            own = {f.what: f for f in self.figures if f.server == server and n in (None, f.clients)}
            rows.append((server, *(_summary(own.get(what)) for what in whats)))
        return as_rst(rows)

    def text(self) -> str:
        """Return what a terminal shows."""
        return "\n\n".join(filter(None, [self.summary(), self.ours(), self.side_by_side()]))

    def summary(self) -> str:
        """Return date, machine, versions and method of the measurement."""
        return (
            f"{described(self.about)}\n"
            f"Floor in {self.about['floor']}; {self.about['rounds']} rounds; "
            f"{self.about['pinned']}."
        )


#: The columns where all servers stand side by side.
_PUSH = {
    "notification / floor": "CPU, floors (p10–p90)",
    "memory": "bytes per socket",
    "handshake / floor": "handshake, floors (p10–p90)",
    "handshake": "µs",
    "last received": "last received, ms",
}
_REQUESTS = {
    "GET /data / floor": "GET /data, floors (p10–p90)",
    "GET /data": "µs",
    "long-poll cycle / floor": "long-poll cycle, floors (p10–p90)",
    "long-poll cycle": "µs",
}


def _title(figure: Figure) -> str:
    title = TITLES[figure.what]
    return title if figure.server == OURS else title.replace("(direct)", "(by Flask)")


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _summary(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    spread = f" ({number(figure.quantile(0.1))}–{number(figure.quantile(0.9))})"
    return number(figure.median) + spread * (figure.unit == "×")
