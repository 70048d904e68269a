"""The lab: the WebSocket of the instruments, at /lab. It tells the truth, what each lane costs and
what time it is, and takes the page's controls.

To the page, as JSON objects with one of these names:

- `lab`: once, at first: the feed's epoch, whether the page may steer, the paces that there are.
- `reading`: the truth, the newest reading, as soon as it changes.
- `meters`: once a second, per lane that the page watches: the sums, and the exchanges that are over
  since the last time, as in `meter.Record`; with it comes `pace`. Where nobody counts there are
  none, and `lab` has `"metered": false`.
- `clock`: the server's time, with the time that the browser sent to ask for it.
- `frozen`: for how many seconds nothing more will be heard.
- `error`: what was wrong with the last message from the page. The lab goes on.

From the page, an object with `do`, one of the controls below.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lab.far_ports import FarPort, far_ports
from lab.meter import Meter, Meters, is_lane
from lab.pace import BURST_GAP, Pace
from lab.settings import Settings
from lab.sources import PACED, SOURCES, Value
from pushlab.feed import Feed
from pushlab.websocket.connection import Connection, ConnectionClosed
from pushlab.websocket.frames import CloseReason
from pushlab.wsgi.access import is_loopback_request

logger = logging.getLogger(__name__)

#: Seconds between two reports.
REPORT_EVERY = 1.0
#: Bytes that a message from the page may have.
MAX_CONTROL = 2048
#: Pages whose instruments may run at once, and lanes that one of them may watch.
MAX_PAGES = 250
MAX_LANES = 8
#: What no clock says; there are integers that no float can hold.
HUGE = 1e18
#: Changes of a burst.
BURST = 50
#: Seconds for which the server is frozen.
FREEZE = 5.0


class Refused(Exception):
    """A message from the page that is not done; the message says why."""


class Lab:
    """The instruments and the controls of all pages."""

    def __init__(self, feed: Feed, settings: Settings, *, freeze: Callable[[float], None]) -> None:
        self.feed = feed
        self.settings = settings
        self.pace = Pace(settings.pace)
        self.meters = Meters()
        #: The ports of the server, by the milliseconds that a round trip takes.
        self.ports: dict[float, int] = {}
        self.is_paced = settings.source in PACED
        self._controls = settings.controls
        self._pages = 0
        self._coming = threading.Lock()
        self._freeze = freeze
        self._thawed_at = -math.inf

    def source_values(self) -> Iterator[Value]:
        """Yield the source's values, at the pace that the page sets."""
        return SOURCES[self.settings.source](self.pace)

    @contextmanager
    def far_ports(self, port: int) -> Iterator[None]:
        """Open the far ports of a server on this port, and print where."""
        with far_ports(self.settings.far, host=self.settings.host, port=port) as opened:
            for far in opened:
                print(f"{far.milliseconds:g} ms away: {self.settings.url(far.port)}", flush=True)
            self.set_ports(port, opened)
            yield

    def set_ports(self, port: int, relays: Iterable[FarPort]) -> None:
        """Note the server's port and its far ports, for the page's links."""
        self.ports = {0: port, **{relay.milliseconds: relay.port for relay in relays}}

    def converse(self, socket: Connection, environ: Mapping[str, Any]) -> None:
        """Serve one page's instruments until it leaves."""
        with self._coming:
            is_full = self._pages >= MAX_PAGES
            self._pages += not is_full
        if is_full:
            socket.close(CloseReason.TRY_AGAIN_LATER)
            return
        try:
            Page(self, socket, may_steer=self.may_steer(environ)).converse()
        finally:
            with self._coming:
                self._pages -= 1

    def may_steer(self, environ: Mapping[str, Any]) -> bool:
        """Tell whether a page may change what all pages see."""
        return is_loopback_request(environ) if self._controls is None else self._controls

    def change(self, times: int) -> None:
        """Change the data now; what is not ours to change becomes a new reading as it is."""
        if self.is_paced:
            self.pace.hurry(times)
            return
        for _ in range(times):
            self.feed.publish()
            time.sleep(BURST_GAP)

    @property
    def has_just_thawed(self) -> bool:
        """True for a second: who clicked again while nothing moved is not granted all of it."""
        return time.monotonic() < self._thawed_at + 1

    def freeze(self) -> None:
        """Hold up the server for FREEZE seconds."""
        logger.warning("frozen for %s s, as a page asked", FREEZE)
        self._freeze(FREEZE)
        self._thawed_at = time.monotonic()


class Page:
    """One page's conversation with the lab."""

    def __init__(self, lab: Lab, socket: Connection, *, may_steer: bool) -> None:
        self._lab = lab
        self._socket = socket
        self._may_steer = may_steer
        #: By lane: its meter, and the number of its last exchange that was told.
        self._reported: dict[str, tuple[Meter, int]] = {}
        self._reporting = threading.Lock()
        self._controls: dict[str, Callable[[dict[str, Any]], None]] = {
            "clock": self._clock,
            "watch": self._watch,
            "cut": self._cut,
            "change": self._change,
            "burst": self._burst,
            "pace": self._pace,
            "freeze": self._freeze,
        }

    def converse(self) -> None:
        """Report in the background, and listen."""
        lab = self._lab
        paces = list(lab.pace.names) if lab.is_paced else []
        about = {"epoch": lab.feed.epoch, "may_steer": self._may_steer, "paces": paces}
        if not lab.meters.are_counting:
            about["metered"] = False
        try:
            self._tell(lab=about, pace=lab.pace.name)
        except ConnectionClosed:
            return
        threading.Thread(target=self._report_on, name="lab", daemon=True).start()
        try:
            while (message := self._socket.receive()) is not None and not lab.feed.closed:
                try:
                    self._do(message)
                except Refused as refusal:
                    self._tell(error=str(refusal))
        finally:
            self._look_at([])
            self._controls.clear()  # they refer to this page: without them it is gone at once

    # What it tells.

    def _tell(self, **message: Any) -> None:
        self._socket.send(json.dumps(message, separators=(",", ":")))

    def _report_on(self) -> None:
        """Tell every reading at once and the meters once a second, until the page leaves."""
        feed, after, due = self._lab.feed, None, time.monotonic()
        try:
            while not self._socket.closed and not feed.closed:
                reading = feed.wait(after, timeout=max(0.0, due - time.monotonic()))
                if reading is not None:
                    after = reading.cursor
                    self._socket.send(f'{{"reading":{reading.carry.decode()}}}')
                if time.monotonic() >= due:
                    due = time.monotonic() + REPORT_EVERY
                    self._report()
        except ConnectionClosed:
            pass  # it has left, which `receive` finds out, too

    def _report(self) -> None:
        if not self._lab.meters.are_counting:
            self._tell(meters={}, pace=self._lab.pace.name)
            return
        with self._reporting:  # once a second, and when the page asks, but nothing twice
            self._tell(
                meters={lane: self._measured(lane) for lane in self._reported},
                pace=self._lab.pace.name,
            )

    def _measured(self, lane: str) -> dict[str, Any]:
        meter, last = self._reported[lane]
        records = meter.records_after(last)
        if records:
            self._reported[lane] = meter, max(record.number for record in records)
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

    # What it is told to do.

    def _do(self, message: str | bytes) -> None:
        size = len(message.encode() if isinstance(message, str) else message)
        if size > MAX_CONTROL:
            raise Refused(f"a message of {size} bytes; {MAX_CONTROL} are allowed")
        try:
            wish = json.loads(message)
        except (ValueError, RecursionError):
            raise Refused("the message is not JSON") from None
        control = self._controls.get(str(wish.get("do"))) if isinstance(wish, dict) else None
        if control is None:
            raise Refused(f"do: none of {', '.join(self._controls)}")
        control(wish)

    def _clock(self, wish: dict[str, Any]) -> None:
        sent = wish.get("sent")
        if isinstance(sent, bool) or not isinstance(sent, int | float) or not abs(sent) < HUGE:
            raise Refused(f"sent: not a number below {HUGE:g}")
        self._tell(clock={"sent": sent, "at": time.time() * 1000})

    def _watch(self, wish: dict[str, Any]) -> None:
        lanes = wish.get("lanes")
        if not isinstance(lanes, list) or not all(map(is_lane, lanes)) or len(lanes) > MAX_LANES:
            raise Refused(f"lanes: not a list of at most {MAX_LANES} names like k3j5-websocket")
        self._look_at(lanes)
        self._report()

    def _look_at(self, lanes: list[str]) -> None:
        """Watch these lanes and no others: what is watched is not forgotten."""
        with self._reporting:
            before = self._reported
            self._reported = {
                lane: before.get(lane) or (self._lab.meters.watch(lane), 0) for lane in lanes
            }
            for lane in before.keys() - self._reported.keys():
                self._lab.meters.unwatch(before[lane][0])

    def _cut(self, wish: dict[str, Any]) -> None:
        lane = wish.get("lane")
        if not isinstance(lane, str) or lane not in self._reported:
            raise Refused(f"lane: {lane!r:.40} is none that this page watches")
        if not self._lab.meters.are_counting:
            raise Refused("cut: this server does not count, and so does not know whose a line is")
        self._reported[lane][0].cut()

    def _change(self, wish: dict[str, Any]) -> None:
        self._check_right()
        self._lab.change(1)

    def _burst(self, wish: dict[str, Any]) -> None:
        self._check_right()
        self._lab.change(BURST)

    def _pace(self, wish: dict[str, Any]) -> None:
        self._check_right()
        pace = self._lab.pace
        if not self._lab.is_paced:
            raise Refused("pace: this source has a pace of its own")
        try:
            pace.set(str(wish.get("pace")))
        except KeyError:
            raise Refused(f"pace: none of {', '.join(pace.names)}") from None
        self._report()

    def _freeze(self, wish: dict[str, Any]) -> None:
        self._check_right()
        if self._lab.has_just_thawed:
            raise Refused("freeze: the server has only just thawed")
        self._tell(frozen=FREEZE)
        self._lab.freeze()

    def _check_right(self) -> None:
        if not self._may_steer:
            raise Refused("only this machine may steer; --controls lets everybody")
