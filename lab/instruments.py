"""Instruments: reports and commands on a page's WebSocket at /lab.

To the page the server sends JSON objects with one or more of these names:

- `lab`, at first: the feed's epoch, whether the page may control the data, the paces to choose
  from; `"metered": false` where the server counts no bytes; with --class the page's role in
  `class`. Once more when the page has become the teacher's.
- `reading`: the newest reading, as soon as it changes, with its `age` in seconds, which does not
  depend on how the clock is set.
- `source`: in words, why the data does not change any more.
- `meters`, once a second, with `pace`, and `resume`, the one from before a pause: for each lane
  that the page watches the sums, and the exchanges that have finished since the last report, as in
  `meter.Record`.
- `clock`: the server's time, with the time that the page sent.
- `frozen`: for how many seconds the server now does nothing.
- `experiment`: the run that the teacher has started for all, with its `age` in seconds, or null
  when it has ended; `class`, to the teacher, with `meters`: the class's pages, medians, results.
- `error`: why the page's last message was rejected. The session goes on.

The page sends objects with `do`, one of COMMANDS, or with --class of classroom.COMMANDS.
"""

import json
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from lab import classroom, network
from lab.classroom import Classroom, CommandRejected, Member
from lab.far_ports import far_ports
from lab.meter import Meter, Meters, is_lane
from lab.pace import BURST_GAP, Pace, Setting
from lab.settings import Settings
from lab.sources import PACED, SOURCES, Value
from pushlab.feed import Feed, NotPublished
from pushlab.forked import PerProcess
from pushlab.hosting.lifecycle import say
from pushlab.websocket.connection import Connection, ConnectionClosed
from pushlab.websocket.frames import CloseReason
from pushlab.wsgi.access import is_loopback_request

logger = logging.getLogger(__name__)

COMMANDS = (
    "clock", "watch", "cut", "change", "burst", "pace", "borrow", "give_back", "freeze",
)  # fmt: skip

REPORT_INTERVAL = 1.0  #: seconds between two reports
MAX_COMMAND = 2048  #: bytes of a message from the page
MAX_PAGES = 300  #: pages whose instruments may run at once
MAX_LANES = 8  #: lanes that one page may watch
MAX_TIME = 1e18  #: milliseconds: no clock reaches it, and there are integers that no float can hold
BURST = 50  #: changes of a burst
FREEZE = 5.0  #: seconds for which the server is frozen
#: Seconds, beside those between two changes, after which no other process is the source either.
REPLACED = 5.0


class Lab:
    """The instruments and the controls of all pages."""

    def __init__(self, feed: Feed, settings: Settings, *, freeze: Callable[[float], None]) -> None:
        self.feed = feed
        self.settings = settings
        self.pace = Pace(settings.pace)
        self.meters = Meters(feed.now)
        #: The server's ports by round trip in milliseconds.
        self.ports: dict[float, int] = {0: settings.port}
        self.is_paced = settings.source in PACED
        #: The class, with --class.
        self.classroom = Classroom(settings) if settings.classroom else None
        self.source_state = "running"  #: or "ended" or "failed"
        self._problem = ""  # the same in words, unless it is running
        self._sessions = threading.BoundedSemaphore(MAX_PAGES)
        self._setting = PerProcess(lambda: threading.Lock())
        #: The connections that have borrowed a pace, by name, until they end.
        self.borrowers: set[str] = set()
        self._freeze = freeze
        #: Has a command carried out, with Redis by every process; NotPublished if Redis is away.
        self.command: Callable[[Mapping[str, Any]], object] = self.carry_out
        #: Learns what other processes have set; raises NotPublished, too.
        self.agree: Callable[[], object] = lambda: None
        self._unfrozen_at = -math.inf

    def source_values(self) -> Iterator[Value]:
        """Yield the source's values at the pace that pages set.

        Whatever ends the source is logged, and shown by the page and by /healthz.
        """
        name = self.settings.source
        try:
            yield from SOURCES[name](self.pace)
        except GeneratorExit:  # its last value could not be published
            self._source_stopped("failed")
            raise
        except Exception:
            self._source_stopped("failed")
            logger.exception("the source %s failed", name)
        else:
            if name != "http":
                self._source_stopped("ended")

    def _source_stopped(self, state: str) -> None:
        self.source_state = state
        what = f"The source {self.settings.source} has {state}"
        self._problem = f"{what}: the data does not change any more."
        logger.warning("%s", self._problem)

    @property
    def source_problem(self) -> str:
        """Why the data stands still, in words; or nothing."""
        if problem := self.feed.problem:
            return f"The data stands still: {problem}"
        # With Redis, another process may be the source.
        is_replaced = self.feed.is_shared and self.feed.age < REPLACED + self.pace.longest
        return "" if is_replaced else self._problem

    @contextmanager
    def far_ports(self, port: int) -> Iterator[None]:
        """Open the server's far ports, and print their URLs."""
        with far_ports(self.settings.far, host=self.settings.host, port=port) as opened:
            self.ports = {0: port, **{far.milliseconds: far.port for far in opened}}
            if self.classroom:
                self.classroom.announce(port)
            else:
                for far in opened:
                    say(f"{far.milliseconds:g} ms away: {self.settings.url(far.port)}")
                for host in network.addresses(self.settings.host):
                    if host != self.settings.host:
                        say(f"From other machines: {self.settings.url(port, host)}")
            yield

    def serve(self, socket: Connection, environ: Mapping[str, Any]) -> None:
        """Serve one page until it disconnects; 1013 beyond MAX_PAGES."""
        if not self._sessions.acquire(blocking=False):
            socket.close(CloseReason.TRY_AGAIN_LATER)
            return
        allowed = self.settings.controls
        may_control = is_loopback_request(environ) if allowed is None else allowed
        try:
            with self.classroom.joined() if self.classroom else nullcontext() as member:
                LabSession(self, socket, may_control=may_control, member=member).serve()
        finally:
            self._sessions.release()

    def change(self, times: int) -> None:
        """Change the data now.

        A source without a pace has nothing new to say: its current value is published again.
        """
        if self.is_paced:
            self.command({"changes": times})
            return
        for _ in range(times):
            self.feed.publish()
            time.sleep(BURST_GAP)

    def set_pace(self, change: Callable[[Setting], Setting]) -> None:
        """Change what pages have set, in all processes."""
        with self._setting.get():
            self.agree()
            before = self.pace.setting
            if (setting := change(before)) != before:
                self.command({"setting": setting})

    def carry_out(self, command: Mapping[str, Any]) -> None:
        """Do in this process what pages command."""
        match command:
            case {"setting": [str(), str(), str(), str()] as parts}:  # or of another program
                self.pace.set(Setting(*parts))
            case {"changes": int(times)}:
                self.pace.hurry(times)
            case {"freeze": True}:
                self.freeze()

    @property
    def just_unfroze(self) -> bool:
        """True for a second after a freeze.

        Commands that were sent during a freeze arrive then, and must not freeze it again.
        """
        return time.monotonic() < self._unfrozen_at + 1

    def freeze(self) -> None:
        """Stop this whole process for FREEZE seconds."""
        logger.warning("frozen for %s s, as a page asked", FREEZE)
        self._freeze(FREEZE)
        self._unfrozen_at = time.monotonic()


class LabSession:
    """One page's connection to the lab."""

    def __init__(
        self, lab: Lab, socket: Connection, *, may_control: bool, member: Member | None = None
    ) -> None:
        self._lab = lab
        self._socket = socket
        self._may_control_alone = may_control
        self._member = member  #: of the class, if there is one
        #: By lane: its meter, and the number of the last exchange that was reported.
        self._watched: dict[str, tuple[Meter, int]] = {}
        self._reporting = threading.Lock()
        #: Under which it borrows a pace.
        self._name = secrets.token_hex(8)

    def serve(self) -> None:
        """Report in the background, and carry out the page's commands."""
        lab = self._lab
        try:
            self._send(lab=self._about(), **self._state())
        except ConnectionClosed:
            return
        threading.Thread(target=self._report_until_closed, name="lab", daemon=True).start()
        try:
            while (message := self._socket.receive()) is not None and not lab.feed.closed:
                try:
                    self._carry_out(_parse(message))
                except (CommandRejected, NotPublished) as rejection:
                    self._send(error=str(rejection))
        finally:
            self._set_watched([])
            with suppress(NotPublished):  # with Redis, processes look for what has ended
                self._give_back()

    @property
    def _may_control(self) -> bool:
        return self._member.is_teacher if self._member else self._may_control_alone

    # Reports.

    def _about(self) -> dict[str, Any]:
        lab = self._lab
        about = {
            "epoch": lab.feed.epoch,
            "may_steer": self._may_control,
            "paces": list(lab.pace.names) if lab.is_paced else [],
        }
        if not lab.meters.are_counting:
            about["metered"] = False
        if member := self._member:
            role = "teacher" if member.is_teacher else "student"
            about["class"] = {"role": role, "address": member.room.urls(lab.ports[0])[0]}
        return about

    def _send(self, **message: Any) -> None:
        self._socket.send(json.dumps(message, separators=(",", ":")))

    def _report_until_closed(self) -> None:
        """Send each reading at once, the meters once a second."""
        feed, after, due = self._lab.feed, None, time.monotonic()
        try:
            while not self._socket.closed and not feed.closed:
                reading = feed.wait(after, timeout=max(0.0, due - time.monotonic()))
                if reading is not None:
                    after = reading.cursor
                    carry = reading.carry.decode()
                    self._socket.send(f'{{"reading":{carry},"age":{reading.age:.6f}}}')
                if time.monotonic() >= due:
                    due = time.monotonic() + REPORT_INTERVAL
                    self._report()
        except ConnectionClosed:
            pass  # `receive` ends, too

    def _state(self) -> dict[str, Any]:
        lab = self._lab
        setting = lab.pace.setting
        state: dict[str, Any] = {"pace": setting.name, "resume": setting.resume}
        if problem := lab.source_problem:
            state["source"] = problem
        if self._member:
            state.update(self._member.room.news(self._member))
        return state

    def _report(self) -> None:
        with self._reporting:  # two threads report, and each exchange is reported once
            lanes = self._watched if self._lab.meters.are_counting else ()
            meters = {lane: self._measured(lane) for lane in lanes}
            self._send(meters=meters, **self._state())

    def _measured(self, lane: str) -> dict[str, Any]:
        meter, last = self._watched[lane]
        records = meter.records_after(last)
        if records:
            self._watched[lane] = meter, max(record.number for record in records)
        return {
            "requests": meter.requests,
            "empty": meter.empty,
            "up": meter.up,
            "down": meter.down,
            "exchanges": [
                [round(record.asked_at * 1000, 1), round(record.held * 1000, 1), *record[3:]]
                for record in records
            ],
        }

    # Commands.

    def _carry_out(self, command: dict[str, Any]) -> None:
        """Do what the page asks for; raises CommandRejected."""
        lab = self._lab
        match command:
            case {"do": "clock", "sent": int() | float() as sent} if _is_time(sent):
                self._send(clock={"sent": sent, "at": lab.feed.now() * 1000})
            case {"do": "clock"}:
                raise CommandRejected(f"sent: not a number below {MAX_TIME:g}")
            case {"do": "watch", "lanes": list(lanes)} if (
                all(map(is_lane, lanes)) and len(lanes) <= MAX_LANES
            ):
                self._set_watched(lanes)
                self._report()
            case {"do": "watch"}:
                message = f"lanes: not a list of at most {MAX_LANES} names like k3j5-websocket"
                raise CommandRejected(message)
            case {"do": "cut", "lane": str(lane)} if lane in self._watched:
                if not lab.meters.are_counting:
                    message = "cut: this server does not count, so it cannot tell lanes apart"
                    raise CommandRejected(message)
                self._watched[lane][0].cut()
            case {"do": "cut"}:
                raise CommandRejected("lane: not one that this page watches")
            case {"do": "give_back"}:
                self._give_back()
                self._report()
            case {"do": "change" | "burst" | "pace" | "borrow" | "freeze"} if not self._may_control:
                raise CommandRejected(
                    "the teacher has the controls"
                    if self._member
                    else "only a browser on the server's own machine may use this; see --controls"
                )
            case {"do": "change" | "burst" as what}:
                lab.change(BURST if what == "burst" else 1)
            case {"do": "pace" | "borrow"} if not lab.is_paced:
                raise CommandRejected("pace: this source has none to set")
            case {"do": "pace", "pace": str(name)} if name in lab.pace.names:
                lab.set_pace(lambda setting: setting.choose(name))
                self._report()
            case {"do": "borrow", "pace": str(name)} if name in lab.pace.names:
                lab.borrowers.add(self._name)
                lab.set_pace(lambda setting: setting.borrow(name, self._name))
                self._report()
            case {"do": "pace" | "borrow"}:
                raise CommandRejected(f"pace: none of {', '.join(lab.pace.names)}")
            case {"do": "freeze"} if lab.just_unfroze:
                raise CommandRejected("freeze: the server was frozen just now")
            case {"do": "freeze"}:
                self._send(frozen=FREEZE)
                lab.command({"freeze": True})
            case {"do": str(what)} if self._member and what in classroom.COMMANDS:
                self._take_part(self._member, command)
            case _:
                commands = COMMANDS + (classroom.COMMANDS if self._member else ())
                raise CommandRejected(f"do: none of {', '.join(commands)}")

    def _give_back(self) -> None:
        """Let the pace be what it is without this page."""
        borrowers = self._lab.borrowers
        if self._name in borrowers:
            borrowers.discard(self._name)
            self._lab.set_pace(lambda setting: setting.give_back(self._name))

    def _take_part(self, member: Member, command: dict[str, Any]) -> None:
        """Carry out a command of the class's."""
        member.room.carry_out(member, command)
        if command["do"] == "teach":
            self._send(lab=self._about())
        if member.is_teacher:
            self._report()

    def _set_watched(self, lanes: list[str]) -> None:
        """Watch these lanes, whose meters are kept, and no others."""
        meters = self._lab.meters
        with self._reporting:
            before = self._watched
            self._watched = {
                lane: before.get(lane) or (meters.get(lane, watchers=1), 0)
                for lane in dict.fromkeys(lanes)
            }
            for lane in before.keys() - self._watched.keys():
                meters.get(lane, watchers=-1)


def _is_time(number: float) -> bool:
    return type(number) is not bool and abs(number) < MAX_TIME


def _parse(message: str | bytes) -> dict[str, Any]:
    size = len(message.encode() if isinstance(message, str) else message)
    if size > MAX_COMMAND:
        raise CommandRejected(f"a message of {size} bytes; {MAX_COMMAND} are allowed")
    try:
        command = json.loads(message)
    except (ValueError, RecursionError):
        raise CommandRejected("the message is not JSON") from None
    return command if isinstance(command, dict) else {}
