"""The fan-out benchmark's report: goals, tables, JSON with every sample."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
_COSTS = (
    Goal("handshake", 120),
    Goal("GET /data", 80),
    Goal("long-poll cycle", 85, clients=1000),
    Goal("event", 18),
)
GOALS = (
    Goal("notification / floor", 1.10),
    Goal("memory", 1024, clients=5000),
    Goal("last received, most sockets", 1000, worst=True),
    *_COSTS,
    *(replace(one, what=f"{one.what} / floor", most=one.most / FLOOR_THEN) for one in _COSTS),
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


@dataclass(frozen=True)
class Report:
    """Everything that one run measured."""

    figures: Sequence[Figure]
    unavailable: Mapping[str, str]
    about: Mapping[str, Any]

    def as_json(self) -> str:
        rows = [
            {**vars(figure), "samples": [round(sample, 3) for sample in figure.samples]}
            for figure in self.figures
        ]
        return as_json({**self.about, "unavailable": dict(self.unavailable), "figures": rows})

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Return what `as_json` wrote, rounded."""
        about = json.loads(text)
        unavailable, rows = about.pop("unavailable"), about.pop("figures")
        return cls([Figure(**row) for row in rows], unavailable, about)

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
            title = TITLES[figure.what]
            if figure.server == BY_FLASK:
                title = title.replace("(direct)", "(by Flask)")
            row = [f"{title}, {figure.unit}", f"{figure.clients:,}", number(figure.median)]
            spread = (figure.quantile(q) for q in (0.1, 0.9, 1))
            row += [number(each) if len(figure.samples) > 1 else "" for each in spread]
            met = ["no", "yes"][goal.is_met(figure)] if goal else ""
            rows.append((*row, number(goal.most) if goal else "", met))
        return as_rst(rows)

    def side_by_side(self) -> str:
        """Return a table of all servers per N."""
        servers = list(dict.fromkeys([*(f.server for f in self.figures), *self.unavailable]))
        if {OURS, BY_FLASK}.issuperset(servers):
            return ""
        speak_http = {f.server for f in self.figures if f.what in _REQUESTS}
        sizes = sorted({f.clients for f in self.figures if f.what in _PUSH})
        parts: list[tuple[str, Mapping[str, str], int | None]] = [
            *((f"N = {n:,}", _PUSH, n) for n in sizes),
            ("HTTP", _REQUESTS, None),
        ]
        tables = []
        for title, columns, n in parts:
            rows = [(title, *columns.values())]
            for server in servers:
                own = [f for f in self.figures if f.server == server and n in (None, f.clients)]
                texts = {f.what: _summary(f) for f in own}
                # A notification needs no dispatch.
                if server in speak_http if n is None else server != BY_FLASK:
                    rows.append((server, *(texts.get(what, "–") for what in columns)))
            tables.append(as_rst(rows))
        if notes := [f"- {name}: {why}" for name, why in self.unavailable.items()]:
            tables.append("\n".join(["Not measured, or not in full:", "", *notes]))
        return "\n\n".join(tables)

    def text(self) -> str:
        """Return what a terminal shows."""
        return "\n\n".join(filter(None, [self.summary(), self.ours(), self.side_by_side()]))

    def summary(self) -> str:
        """Return date, machine, versions and method of the measurement."""
        of = self.about
        return f"{described(of)}\nFloor in {of['floor']}; {of['rounds']} rounds; {of['pinned']}."


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _summary(figure: Figure) -> str:
    spread = f" ({number(figure.quantile(0.1))}–{number(figure.quantile(0.9))})"
    return number(figure.median) + spread * (figure.unit == "×")
