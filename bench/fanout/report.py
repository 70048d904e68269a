"""The fan-out benchmark's report: goals, tables, JSON with every sample."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
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
    """The most that a median, or worst sample, may be."""

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
    Goal("last received, most sockets", 1000, worst=True),
    *(
        goal
        for what, most, clients in (
            ("handshake", 120, None),
            ("GET /data", 80, None),
            ("long-poll cycle", 85, 1000),
            ("event", 18, None),
        )
        for goal in (
            Goal(what, most, clients),
            Goal(f"{what} / floor", most / FLOOR_THEN, clients),
        )
    ),
)

#: With what dispatches the request. An event or notification needs none.
_IN_FLOORS = {
    "notification": "CPU per notification, without it",
    "handshake": "CPU per WebSocket handshake (by Flask)",
    "GET /data": "CPU per GET /data (direct)",
    "long-poll cycle": "CPU per long-poll cycle (direct)",
    "event": "CPU per server-sent event",
}
TITLES = {
    "floor": "the floor: one send() in a loop",
    "publishing": "CPU per publishing request, without subscribers",
    "change": "CPU per change and browser, with the publishing request",
    "memory": "memory (RSS) per idle push socket",
    "last received": "time from POST to the last browser",
    "floor beside HTTP": "the floor, beside the next",
    "last received, most sockets": "the same, for the most browsers that fit",
    **_IN_FLOORS,
    **{f"{what} / floor": f"{title}, in floors" for what, title in _IN_FLOORS.items()},
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
                **vars(figure),
                "median": round(figure.median, 3),
                "p10": round(figure.quantile(0.1), 3),
                "p90": round(figure.quantile(0.9), 3),
                "samples": [round(sample, 3) for sample in figure.samples],
            }
            for figure in self.figures
        ]
        return as_json({**self.about, "unavailable": dict(self.unavailable), "figures": rows})

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Return what `as_json` wrote, rounded."""
        about = json.loads(text)
        unavailable, rows = about.pop("unavailable"), about.pop("figures")
        names = [each.name for each in fields(Figure)]
        return cls([Figure(*(row[name] for name in names)) for row in rows], unavailable, about)

    def figure(self, what: str, clients: int | None = None, server: str = OURS) -> Figure:
        """Return a figure of this server; raises LookupError."""
        return self.all(what, server, clients)[0]

    def all(self, what: str, server: str = OURS, clients: int | None = None) -> list[Figure]:
        """Return a server's figures, by clients; raises LookupError."""
        named = [f for f in self.figures if (f.what, f.server) == (what, server)]
        found = [figure for figure in named if clients in (None, figure.clients)]
        if not found:
            many = "" if clients is None else f" for {clients:,}"
            raise LookupError(f"there is no figure {what!r} of {server}{many}")
        return found

    def ours(self) -> str:
        """Return the table of our own figures, with the goals."""
        rows: list[tuple[str, ...]] = [("", "N", "median", "p10", "p90", "worst", "goal", "met")]
        for figure in (figure for figure in self.figures if figure.server in (OURS, BY_FLASK)):
            goal = next((goal for goal in GOALS if goal.aims_at(figure)), None)
            spread = (figure.quantile(0.1), figure.quantile(0.9), max(figure.samples))
            title = TITLES[figure.what]
            if figure.server == BY_FLASK:
                title = title.replace("(direct)", "(by Flask)")
            row = [f"{title}, {figure.unit}", f"{figure.clients:,}", number(figure.median)]
            row += [number(each) if len(figure.samples) > 1 else "" for each in spread]
            met = ["no", "yes"][goal.is_met(figure)] if goal else ""
            rows.append((*row, number(goal.most) if goal else "", met))
        return as_rst(rows)

    def side_by_side(self) -> str:
        """Return a table of all servers per N."""
        servers = list(dict.fromkeys([*(f.server for f in self.figures), *self.unavailable]))
        if {OURS, BY_FLASK}.issuperset(servers):
            return ""
        push = [name for name in servers if name != BY_FLASK]  # notifications need no dispatch
        sizes = sorted({f.clients for f in self.figures if f.what in _PUSH})
        tables = [self._side_by_side(f"N = {n:,}", push, _PUSH, n) for n in sizes]
        speak_http = {f.server for f in self.figures if f.what in _REQUESTS}
        http = [server for server in servers if server in speak_http]
        tables.append(self._side_by_side("HTTP", http, _REQUESTS))
        if notes := [f"- {name}: {why}" for name, why in self.unavailable.items()]:
            tables.append("\n".join(["Not measured, or not in full:", "", *notes]))
        return "\n\n".join(tables)

    def _side_by_side(
        self, title: str, servers: Sequence[str], whats: Mapping[str, str], n: int | None = None
    ) -> str:
        rows = [(title, *whats.values())]
        for server in servers:
            own = {f.what: f for f in self.figures if f.server == server and n in (None, f.clients)}
            rows.append((server, *(_summary(own.get(what)) for what in whats)))
        return as_rst(rows)

    def text(self) -> str:
        """Return what a terminal shows."""
        return "\n\n".join(filter(None, [self.summary(), self.ours(), self.side_by_side()]))

    def summary(self) -> str:
        """Return date, machine, versions and method of the measurement."""
        of = self.about
        return f"{described(of)}\nFloor in {of['floor']}; {of['rounds']} rounds; {of['pinned']}."


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


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _summary(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    spread = f" ({number(figure.quantile(0.1))}–{number(figure.quantile(0.9))})"
    return number(figure.median) + spread * (figure.unit == "×")
