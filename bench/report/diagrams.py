"""Space-time diagrams of recorded transports, as SVG and in words.

Time runs to the right. The server is the upper line, the browser the lower one, and each message
is a stroke from where it left to where it arrived. `python -m bench.report.diagrams` draws again,
with other colours perhaps, what is recorded.
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from typing import Any, NamedTuple

from bench.processes import ROOT
from pushlab.transports import TRANSPORTS

RECORDING = ROOT / "docs" / "explanation" / "transports" / "recording.json"


class Kind(NamedTuple):
    """A transport, and whether its messages carry readings."""

    transport: str
    carry: bool

    @property
    def name(self) -> str:
        """Its name, also of its file."""
        return self.transport + ("" if self.carry else "-signal")

    @property
    def title(self) -> str:
        """The title of its diagram."""
        return f"{TRANSPORTS[self.transport].title}, {'carry' if self.carry else 'signal'}"


_ALL = (
    Kind("poll", carry=True),
    Kind("longpoll", carry=True),
    Kind("longpoll", carry=False),
    Kind("sse", carry=True),
    Kind("websocket", carry=True),
)
#: Every diagram by its name.
KINDS = {kind.name: kind for kind in _ALL}

#: Pixels.
_LEFT, _RIGHT, _SERVER, _BROWSER, _WIDTH, _HEIGHT = 72, 12, 44, 150, 720, 222
#: Seconds that a request waits at the server before it counts as held.
_HELD = 0.02

#: An image of its own sees the system's colours and not the page's: so it has a background.
_STYLE = """
  svg { --back: #fff; --ink: #1f2328; --pale: #59636e; --held: #d0d7de; --news: %s }
  @media (prefers-color-scheme: dark) {
    svg { --back: #16191d; --ink: #e6edf3; --pale: #9198a1; --held: #3d444d; --news: %s }
  }
  text { font: 12px system-ui, sans-serif; fill: var(--ink) }
  .tick { fill: var(--pale); text-anchor: middle }
  .number { font-weight: bold; text-anchor: middle }
  .side { stroke: var(--pale) }
  .held { stroke: var(--held); stroke-width: 9 }
  .request { stroke: var(--ink); stroke-dasharray: 6 3 }
  .nothing { stroke: var(--pale); stroke-dasharray: 1.5 3; stroke-width: 1.5 }
  .news { stroke: var(--news); stroke-width: 2.5 }
  circle { fill: var(--news) }
"""


@cache
def recording() -> Any:
    """Return what bench.diagrams has recorded."""
    return json.loads(RECORDING.read_text())


def _class(message: Any) -> str:
    if message["from"] == "browser":
        return "request"
    return "news" if "reading" in message else "nothing"


def _stays_open(found: Any) -> bool:
    return any(re.search("stream|^101", each["what"]) for each in found["messages"])


def held(found: Any) -> Iterator[tuple[float, float | None]]:
    """Yield when the server held a request or connection.

    The second time is None where that had no end.
    """
    responses = [message["sent"] for message in found["messages"] if message["from"] == "server"]
    for message in found["messages"]:
        if message["what"].startswith("GET /update"):
            begin = message["received"]
            end = (
                None
                if _stays_open(found)
                else min((at for at in responses if at >= begin), default=None)
            )
            if end is None or end - begin > _HELD:
                yield begin, end


def svg(name: str) -> str:
    """Return a diagram; its text alternative is in it, too."""
    kind, found, seconds = KINDS[name], recording()["kinds"][name], recording()["seconds"]
    colour = TRANSPORTS[kind.transport].colour

    def x(at: float) -> float:
        return float(round(_LEFT + at / seconds * (_WIDTH - _LEFT - _RIGHT), 1))

    def stroke(of: str, x1: float, y1: float, x2: float, y2: float) -> str:
        return f'<line class="{of}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'

    def text(of: str, left: float, top: float, words: str) -> str:
        return f'<text class="{of}" x="{left:g}" y="{top:g}">{escape(words)}</text>'

    parts = [text("", 8, _SERVER + 4, "server"), text("", 8, _BROWSER + 4, "browser")]
    parts += [
        stroke("held", x(begin), _SERVER, x(seconds if end is None else end), _SERVER)
        for begin, end in held(found)
    ]
    for y in (_SERVER, _BROWSER):
        parts.append(stroke("side", _LEFT, y, _WIDTH - _RIGHT, y))
    for tick in range(int(seconds * 2) + 1):
        parts.append(text("tick", x(tick / 2), _BROWSER + 40, f"{tick / 2:g} s"))
    for message in found["messages"]:
        ends = (_BROWSER, _SERVER) if message["from"] == "browser" else (_SERVER, _BROWSER)
        begin, end = x(message["sent"]), x(message["received"])
        parts.append(stroke(_class(message), begin, ends[0], end, ends[1]))
    for row, y, above in (("changes", _SERVER, -10), ("shown", _BROWSER, 20)):
        last = -1e9  # numbers that would lie on each other move up or down
        for number, at in found[row]:
            shift = 0 if x(at) - last > 11 else above * 0.9
            last = x(at)
            parts.append(f'<circle cx="{x(at):g}" cy="{y}" r="4.5"/>')
            parts.append(text("number", x(at) + (shift and 4), y + above, str(number)))
    legend, at = _HEIGHT - 8, 72
    labels = [("request", "request"), ("news", "brings a reading" if kind.carry else "news")]
    is_open = _stays_open(found)
    if "nothing" in map(_class, found["messages"]):
        labels.append(("nothing", "opened" if is_open else "nothing new"))
    if any(held(found)):
        labels.append(("held", "connection open" if is_open else "held at the server"))
    for of, label in labels:
        parts.append(stroke(of, at, legend - 4, at + 30, legend - 4))
        parts.append(text("", at + 36, legend, label))
        at += 150
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-labelledby="t d">\n<title id="t">{escape(kind.title)}</title>\n'
        f'<desc id="d">{escape(words(name))}</desc>\n<style>{_STYLE % colour}</style>\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="6" style="fill: var(--back)"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def words(name: str) -> str:
    """Return what a diagram shows, in two sentences."""
    found = recording()["kinds"][name]
    kinds = [_class(message) for message in found["messages"]]
    changed, shown = dict(found["changes"]), dict(found["shown"])
    delays = ", ".join(f"{1000 * (at - changed[number]):.0f}" for number, at in shown.items())
    missing = ", ".join(str(number) for number in changed if number not in shown)
    skipped = f" Skipped, as a newer one was there: {missing}." if missing else ""
    return (
        f"{len(changed)} readings in {recording()['seconds']:g} s, {recording()['rtt_ms']:g} ms "
        f"away. Requests: {kinds.count('request')}; messages with news: {kinds.count('news')}; "
        f"others: {kinds.count('nothing')}. Readings {', '.join(map(str, shown))} were shown "
        f"{delays} ms after their change.{skipped}"
    )


def rows(name: str) -> list[Sequence[str]]:
    """Return every message of a recording, for a table."""
    found: list[Sequence[str]] = [("sent, ms", "received, ms", "by", "message", "bytes")]
    for each in recording()["kinds"][name]["messages"]:
        what = f"``{each['what']}``" if each["from"] == "browser" else each["what"]
        reading = f": reading {each['reading']}" if "reading" in each else ""
        times = [f"{1000 * each[when]:,.0f}" for when in ("sent", "received")]
        found.append((*times, each["from"], what + reading, f"{each['bytes']:,}"))
    return found


def draw_all() -> None:
    """Write every diagram beside the recording."""
    recording.cache_clear()
    for name in KINDS:
        RECORDING.with_name(f"{name}.svg").write_text(svg(name))


if __name__ == "__main__":
    draw_all()
