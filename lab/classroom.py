"""A class: a teacher's key, pages that measure together.

Only `--class` makes one. The messages are part of those on /lab: see lab/instruments.py.
"""

import hmac
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from io import StringIO
from typing import Any, NamedTuple

import segno

from lab import network
from lab.settings import Settings
from lab.static_files import OWN
from pushlab.hosting.lifecycle import say
from pushlab.transports import TRANSPORTS

COMMANDS = ("teach", "experiment", "end", "medians", "result")
#: The ids in the one list of experiments, which is the page's: a teacher may add one there.
EXPERIMENTS = tuple(
    re.findall('^\t\tid: "([a-z-]+)",$', (OWN / "experiments.js").read_text("utf-8"), re.M)
)

MAX_FIGURE = 1e9  #: the largest number in medians and results
MAX_WORDS = 40  #: characters of a prediction, or a value, in words
MAX_RESULTS = 500  #: of one run
#: Seconds after which a run no longer keeps others from starting: its teacher may have gone home.
LONGEST_RUN = 600.0

HINTS = (
    "Nobody can connect? The firewall of Windows asks at the first start: allow private networks.",
    "A Wi-Fi that isolates its clients, as for guests, lets nobody in: use a hotspot.",
)


class CommandRejected(Exception):
    """A command is not carried out; the message says why."""


@dataclass(eq=False)
class Member:
    """A page of a class."""

    room: "Classroom"
    is_teacher: bool = False
    medians: dict[str, float] = field(default_factory=dict)  #: milliseconds by transport
    known_run: int = 0  #: the number of the run that the page has been sent; 0: that none is
    last_result: int = 0  #: the number of the run of which it has sent its result


class Result(NamedTuple):
    """What one page predicted and measured."""

    prediction: float | str | None
    value: float | str | None
    lanes: dict[str, float]  #: the median by transport, in milliseconds


class Run:
    """An experiment that was started on every page."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.ended = False
        self.results: list[Result] = []
        self._begun = time.monotonic()

    @property
    def age(self) -> float:
        """The seconds since it was started."""
        return time.monotonic() - self._begun

    @property
    def is_under_way(self) -> bool:
        """Whether pages that come now join it."""
        return not self.ended and self.age < LONGEST_RUN

    def summary(self) -> dict[str, Any]:
        """Return what the teacher's pages show of its results."""
        return {
            "run": self.number,
            "id": self.name,
            "count": len(self.results),
            "predictions": _counted(it.prediction for it in self.results),
            "values": _counted(it.value for it in self.results),
            "lanes": _by_transport(it.lanes for it in self.results),
        }


class Classroom:
    """A class's pages, its teacher's key, its runs."""

    def __init__(self, settings: Settings) -> None:
        self.key = secrets.token_urlsafe(12)
        self._settings = settings
        self._members: dict[Member, None] = {}
        self._run: Run | None = None
        self._lock = threading.Lock()

    # Where the class is.

    def urls(self, port: int, host: str = "") -> list[str]:
        """Return the URLs for the class, the best first.

        That is the one with this `host`, if there is one, else that of the default route.
        """
        hosts = sorted(network.addresses(self._settings.host), key=lambda each: each != host)
        return [self._settings.url(port, each) for each in hosts or [""]]

    def announce(self, port: int) -> None:
        """Print what a teacher needs to start a class."""
        best, *others = self.urls(port)
        say(f"The class opens:   {best}")
        for url in others:
            say(f"     or perhaps:   {url}")
        say(f"The teacher opens: {best}/?key={self.key}")
        picture = StringIO()
        _code(best).terminal(picture, border=2, compact=True)
        with suppress(UnicodeError):  # not every terminal has its characters
            say(picture.getvalue())
        for hint in HINTS:
            say(hint)

    # The pages.

    @contextmanager
    def joined(self) -> Iterator[Member]:
        """Count a page in, and out again."""
        member = Member(self)
        with self._lock:
            self._members[member] = None
        try:
            yield member
        finally:
            with self._lock:
                del self._members[member]

    def news(self, member: Member) -> dict[str, Any]:
        """Return what this page has not been sent yet.

        That is the run, once; and for the teacher, each time, the class.
        """
        news: dict[str, Any] = {}
        run = self._run if self._run and self._run.is_under_way else None
        number = run.number if run else 0
        if number != member.known_run:
            member.known_run = number
            news["experiment"] = run and {"id": run.name, "run": number, "age": round(run.age, 2)}
        if member.is_teacher:
            with self._lock:
                students = [each for each in self._members if not each.is_teacher]
                news["class"] = {
                    "pages": len(students),
                    "medians": _by_transport(each.medians for each in students),
                    "results": self._run and self._run.summary(),
                }
        return news

    def carry_out(self, member: Member, command: dict[str, Any]) -> None:
        """Do what the page asks for; raises CommandRejected."""
        match command:
            case {"do": "teach", "key": str(key)} if self._is_key(key):
                member.is_teacher = True
            case {"do": "teach"}:
                raise CommandRejected("key: not the key of this class's teacher")
            case {"do": "experiment" | "end"} if not member.is_teacher:
                raise CommandRejected("only the teacher starts and ends an experiment for all")
            case {"do": "experiment", "id": str(name)} if name in EXPERIMENTS:
                self._start(name)
            case {"do": "experiment"}:
                raise CommandRejected(f"id: none of {', '.join(EXPERIMENTS)}")
            case {"do": "end"}:
                with self._lock:
                    if self._run:
                        self._run.ended = True
            case {"do": "medians", "lanes": dict(lanes)} if _is_medians(lanes):
                member.medians = lanes
            case {"do": "medians"}:
                raise CommandRejected(f"lanes: not milliseconds by {', '.join(TRANSPORTS)}")
            case _:
                self._take_result(member, command)

    def _is_key(self, key: str) -> bool:
        # Whatever JSON can say; compared in a time that does not depend on where they differ.
        return hmac.compare_digest(key.encode(errors="surrogatepass"), self.key.encode())

    def _start(self, name: str) -> None:
        with self._lock:
            run = self._run
            if run and run.is_under_way:
                raise CommandRejected(f"experiment: {run.name} is under way; end it first")
            self._run = Run(run.number + 1 if run else 1, name)

    def _take_result(self, member: Member, result: Mapping[str, Any]) -> None:
        lanes = result.get("lanes")
        if not isinstance(lanes, dict) or not all(map(_is_lane_result, lanes.items())):
            raise CommandRejected(f"lanes: not figures from 0 on by {', '.join(TRANSPORTS)}")
        for name in ("prediction", "value"):
            if not _is_number_or_words(result.get(name)):
                message = f"{name}: neither a number nor up to {MAX_WORDS} characters"
                raise CommandRejected(message)
        medians = {name: it["p50"] for name, it in lanes.items() if it.get("p50") is not None}
        with self._lock:
            run, number = self._run, result.get("run")
            if run is None or type(number) is not int or number != run.number:
                raise CommandRejected("run: not the last one")
            if result.get("experiment") != run.name:
                raise CommandRejected(f"experiment: not {run.name}, which this run is")
            if member.last_result == number:
                raise CommandRejected("result: there is one of this page already")
            if len(run.results) >= MAX_RESULTS:
                raise CommandRejected(f"result: {MAX_RESULTS} are there already")
            member.last_result = number
            if not member.is_teacher:
                run.results.append(Result(result.get("prediction"), result.get("value"), medians))


@lru_cache(maxsize=8)
def qr_code(url: str) -> str:
    """Return a URL as an SVG, dark on white."""
    svg: str = _code(url).svg_inline(light="#fff", omitsize=True, title=f"QR code of {url}")
    return svg


def _code(url: str) -> segno.QRCode:
    return segno.make_qr(url)


def _counted(values: Iterable[float | str | None]) -> list[tuple[float | str, int]]:
    """Return each value with how many there are of it."""
    return Counter(each for each in values if each is not None).most_common()


def _by_transport(all_medians: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in TRANSPORTS}
    for medians in all_medians:
        for name, median in medians.items():
            found[name].append(median)
    return {name: medians for name, medians in found.items() if medians}


def _is_figure(figure: object) -> bool:
    """Tell whether it is a number from 0 on."""
    return type(figure) in (int, float) and 0 <= figure < MAX_FIGURE  # type: ignore[operator]


def _is_medians(lanes: dict[str, Any]) -> bool:
    return lanes.keys() <= TRANSPORTS.keys() and all(map(_is_figure, lanes.values()))


def _is_lane_result(item: tuple[str, Any]) -> bool:
    name, figures = item
    return name in TRANSPORTS and isinstance(figures, dict) and all(
        figure is None or _is_figure(figure) for figure in figures.values()
    )  # fmt: skip


def _is_number_or_words(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_WORDS
    return value is None or (type(value) in (int, float) and abs(value) < MAX_FIGURE)  # type: ignore[arg-type]
