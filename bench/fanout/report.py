"""The fan-out benchmark's report: goals, tables, JSON with every sample."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.environment import described
from bench.fanout.experiments import KINDS, MIX, POLL, SOCKET, STREAM, Figure
from bench.report.tables import as_rst
from bench.results import as_json

OURS = "Pushlab"
#: The same, with all requests dispatched by Flask.
BY_FLASK = "Pushlab by Flask"
#: The same, dispatched directly, where no two requests are alike.
NOT_REMEMBERED = "Pushlab, nothing remembered"
#: The limit of what a server may reach.
LIMIT = "epoll in C"


@dataclass(frozen=True)
class Goal:
    """The most that a median, or worst sample, may be."""

    what: str
    most: float
    aim: float | None = None  #: what would be better
    server: str = OURS
    against: str = ""  #: another server, in whose medians this is counted
    worst: bool = False

    @property
    def title(self) -> str:
        title = self.what.replace(" / floor", "")
        if self.server != OURS:
            title += f" ({self.server.removeprefix(OURS).strip(' ,')})"
        return f"{title}, against {self.against}" if self.against else title

    def found(self, report: "Report") -> list[tuple[Figure, float]]:
        """Return its figures, and the value of each."""
        found = []
        for figure in report.named(self.what, self.server):
            value = max(figure.samples) if self.worst else figure.median
            if self.against:
                others = report.named(self.what, self.against, figure.clients)
                if not others:
                    continue
                value /= others[0].median
            found.append((figure, value))
        return found

    def is_met(self, report: "Report") -> bool:
        """Tell whether all figures reach it."""
        return all(value <= self.most for _, value in self.found(report))


def _memory() -> Iterator[Goal]:
    names = [f"memory per {kind.one}" for kind in KINDS]
    for name in names:
        yield Goal(name, 1024)
        yield Goal(f"{name}, after the changes", 1024)
    for after in ("", ", after the changes"):
        yield Goal(f"memory per {POLL.one}{after}", 1024, server=BY_FLASK)
    for name in names:
        yield Goal(f"{name}, over TLS", 17 * 1024)


#: Of a change: a notification and an event.
_CHANGE, _CHANGE_AIM = 1.25, 1.15
GOALS = (
    Goal("long-poll cycle / floor", 3.3),
    Goal("long-poll cycle / floor", 4.5, server=NOT_REMEMBERED),
    Goal("long-poll cycle / floor", 2.5, against=LIMIT),
    Goal("long-poll cycle / floor", 1, against="Node ws"),
    Goal("long-poll cycle / floor", 47, server=BY_FLASK),
    Goal("event / floor", _CHANGE, _CHANGE_AIM),
    Goal("notification / floor", _CHANGE, _CHANGE_AIM),
    Goal("GET /data / floor", 3.5),
    Goal(f"{SOCKET.opening} / floor", 14),
    Goal(f"{STREAM.opening} / floor", 10),
    *_memory(),
    *(Goal(f"last of the most, {of}", 1000, worst=True)
      for of in (*(kind.one for kind in KINDS[1:]), MIX)),
    Goal("slowest GET of another client, change", 20, worst=True),
)  # fmt: skip

#: What stands side by side: a table's title, and by column the figures.
_TABLES: dict[str, dict[str, list[str]]] = {
    "CPU, floors (p10–p90)": {kind.cost: [f"{kind.cost} / floor"] for kind in KINDS},
    "opening, floors (p10–p90)": {
        kind.opening.removeprefix("opening "): [f"{kind.opening} / floor"] for kind in KINDS
    },
    "bytes, before and after the changes": {
        kind.one: [f"memory per {kind.one}", f"memory per {kind.one}, after the changes"]
        for kind in KINDS
    },
    "from POST to the last, ms": {kind.one: [f"last {kind.one}"] for kind in KINDS[1:]},
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

    def named(self, what: str, server: str = OURS, clients: int | None = None) -> list[Figure]:
        """Return a server's figures, by clients."""
        named = [f for f in self.figures if (f.what, f.server) == (what, server)]
        return [figure for figure in named if clients in (None, figure.clients)]

    def all(self, what: str, server: str = OURS, clients: int | None = None) -> list[Figure]:
        """Return a server's figures, by clients; raises LookupError."""
        found = self.named(what, server, clients)
        if not found:
            many = "" if clients is None else f" for {clients:,}"
            raise LookupError(f"there is no figure {what!r} of {server}{many}")
        return found

    def ours(self) -> str:
        """Return the table of our own figures that have goals."""
        header = ("", "N", "", "", "p10", "p90", "worst", "goal", "met")
        rows: list[tuple[str, ...]] = [header]
        for goal in GOALS:
            for figure, value in goal.found(self):
                median = value if goal.against else figure.median
                row = [goal.title, f"{figure.clients:,}", number(median), figure.unit]
                has_spread = len(figure.samples) > 1 and not goal.against
                row += [number(figure.quantile(q)) if has_spread else "" for q in (0.1, 0.9, 1)]
                most, met = number(goal.most), "yes" if value <= goal.most else "no"
                if goal.aim is not None:
                    most += f", aim {number(goal.aim)}"
                    met += ", aim too" if value <= goal.aim else ""
                rows.append((*row, most, met))
        return as_rst(rows)

    def side_by_side(self) -> str:
        """Return tables of all servers, for each N."""
        servers = dict.fromkeys(figure.server for figure in self.figures)
        costs = {f"{kind.cost} / floor" for kind in KINDS}
        tables = []
        for n in sorted({figure.clients for figure in self.figures if figure.what in costs}):
            for title, columns in _TABLES.items():
                rows = [(f"N = {n:,}: {title}", *columns)]
                for server in servers:
                    cells = [self._cell(names, server, n) for names in columns.values()]
                    rows += [(server, *cells)] if any(cells) else []
                tables.append(as_rst(rows))
        if notes := [f"- {name}: {why}" for name, why in self.unavailable.items()]:
            tables.append("\n".join(["Not measured, or not in full:", "", *notes]))
        return "\n\n".join(tables)

    def in_floors(self) -> str:
        """Return the medians in floors for the largest N."""
        names = [*(kind.cost for kind in KINDS), SOCKET.opening, STREAM.opening]
        n = max(figure.clients for figure in self.all(f"{SOCKET.cost} / floor"))
        rows = [(f"{n:,}, in floors", *names)]
        for server in dict.fromkeys(figure.server for figure in self.figures):
            found = [self.named(f"{name} / floor", server, n) for name in names]
            if any(found):
                rows.append((server, *(number(one[0].median) if one else "" for one in found)))
        return as_rst(rows)

    def _cell(self, names: Sequence[str], server: str, n: int) -> str:
        return ", ".join(_summary(f) for what in names for f in self.named(what, server, n))

    def text(self) -> str:
        """Return what a terminal shows."""
        return "\n\n".join([self.summary(), self.ours(), self.side_by_side()])

    def summary(self) -> str:
        """Return date, machine, versions and method of the measurement."""
        of = self.about
        return f"{described(of)}\nFloor in {of['floor']}; {of['rounds']} rounds; {of['pinned']}."


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _summary(figure: Figure) -> str:
    spread = f" ({number(figure.quantile(0.1))}–{number(figure.quantile(0.9))})"
    return number(figure.median) + spread * (figure.unit == "×")
