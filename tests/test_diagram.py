"""The diagrams: every message is drawn, described and tabled."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browsing import LANES, Browser, Part
from tests.clients import LabPage
from tests.conftest import Server, eventually, until_same

HOLD = "[data-action=hold]"

#: What is drawn in each lane, held at that moment: of each stroke its classes, bar and arrow; and
#: the opacity of an empty stroke and of a reading.
DRAWN = """
const hold = document.querySelector("[data-action=hold]");
if (hold.ariaPressed !== "true") hold.click();
return Object.fromEntries([...document.querySelectorAll(".lane")].map((lane) => {
  const strokes = [...lane.querySelectorAll(".field svg g")].map((stroke) =>
    [stroke.getAttribute("class"), ...[...stroke.children].map((it) => it.getAttribute("d"))]);
  const opacities = [".empty", ".reading"].map((name) => lane.querySelector(`svg ${name}`))
    .map((stroke) => stroke && Number(getComputedStyle(stroke).opacity));
  return [lane.dataset.transport, [strokes, opacities]];
}));
"""

#: What a lane that shows one more reading has drawn. The first request of a long poll is not held:
#: its response may be empty. Its own message is a signal, here.
LOOKS = {
    "poll": {"dot", "empty", "reading"},
    "longpoll": {"dot", "empty", "signal", "reading"},
    "sse": {"dot", "reading"},
    "websocket": {"dot", "reading"},
}


def test_each_transport_draws_its_strokes(tab: Browser) -> None:
    tab.look(motion=True)
    longpoll = tab.lane("longpoll")
    longpoll.set_carry(False)

    def drawn() -> dict[str, Any] | None:
        """All strokes; None if some are out of sight."""
        if tab.find(HOLD).get_attribute("aria-pressed") == "true":
            tab.find(HOLD).click()
        for _ in range(2):
            longpoll.press("stop")  # and start: its first request is not held
        tab.until_live()
        tab.publish("drawn")
        lanes: dict[str, Any] = tab.execute_script(DRAWN)
        looks = {
            name: LOOKS["longpoll"].intersection(look for look, _, _ in strokes)
            for name, (strokes, _) in lanes.items()
        }
        # The newest strokes may wait for the next frame.
        bars = [bar for look, bar, _ in lanes["longpoll"][0] if look != "dot"]
        return lanes if looks == LOOKS and bars and bars[-1] else None

    lanes = eventually(drawn)
    for strokes, _ in lanes.values():
        assert all(arrow for _, _, arrow in strokes)
        assert "NaN" not in str(strokes)
    assert not any(bar for _, bar, _ in lanes["websocket"][0])
    empty, reading = lanes["poll"][1]
    assert empty < 0.6 * reading, "it is paler"
    assert tab.complaints() == []


#: Bytes that the browser does not show: a chunk with the retry time, then any number of chunks
#: with a comment; any number of pings.
UNSEEN = {
    "sse": (len(b"d\r\nretry: 1000\n\n\r\n"), len(b"3\r\n:\n\n\r\n")),
    "websocket": (0, len(b"\x89\x00")),
}


def test_the_strokes_have_the_servers_bytes(
    tab: Browser, lab_of: Callable[[Server], LabPage]
) -> None:
    lab = lab_of(tab.server)
    for number in range(2):
        tab.publish(f"table {number}")
    for transport, name in tab.lane_ids.items():
        lane = tab.lane(transport)
        least = 4 if transport in UNSEEN else 6
        eventually(partial(has_rows, lane, least))
        until_same(partial(tabled_and_reported, lane, lab, name))
        if transport in UNSEEN:
            *_, opening = lab.exchanges[name]
            brought = [row[2] for row in rows(lane) if is_message(row)]
            sizes = [int(size.removesuffix(" B")) for size in brought]
            assert len(sizes) == 2
            first, each = UNSEEN[transport]
            rest = lab.sums(name)["down"] - opening[4] - sum(sizes) - first
            assert rest >= 0
            assert rest % each == 0


def rows(lane: Part) -> list[list[str]]:
    """A table, newest first: time, what, bytes, milliseconds."""
    return lane.browser.execute_script(  # type: ignore[no-any-return]
        "return [...document.querySelectorAll(arguments[0])]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))",
        f"{lane.selector} tbody tr",
    )


def has_rows(lane: Part, least: int) -> bool:
    return len(rows(lane)) >= least


def is_message(row: list[str]) -> bool:
    return row[1].startswith(("event: ", "frame: "))


def tabled_and_reported(lane: Part, lab: LabPage, name: str) -> tuple[list[str], list[str]]:
    """Bytes of exchanges: in the table, and reported."""
    tabled = [row[2] for row in rows(lane) if row[2] != "bytes follow" and not is_message(row)]
    lab.sums(name)
    newest_first = reversed(lab.exchanges[name])
    reported = [text for *_, up, down in newest_first for text in (f"{down} B", f"{up} B up")]
    return tabled, reported[: len(tabled)]


#: Holds the pictures, once the bytes of some strokes in sight are known.
HOLD_STROKES = """
const rows = [...document.querySelectorAll("[data-transport=poll] tbody tr")];
if (rows.filter(({ cells }) => cells[2].textContent !== "bytes follow").length < 5) return false;
document.querySelector("[data-transport=poll] .picture").click();
return true;
"""

#: Where the first stroke of each lane is, in pixels.
PLACES = """
return [...document.querySelectorAll(".field svg")]
  .map((svg) => svg.firstElementChild?.getBoundingClientRect().x);
"""

#: Where the middle of a stroke is, on the screen.
MIDDLE = """
const { x, y, width, height } = arguments[0].getBoundingClientRect();
return [Math.round(x + width / 2), Math.round(y + height / 2)];
"""


def until_all_move(tab: Browser, line: str) -> None:
    """Wait until the first stroke of each lane has moved."""
    tab.publish(line)  # there is a stroke, for ten seconds
    before = tab.execute_script(PLACES)
    eventually(lambda: all(a != b for a, b in zip(tab.execute_script(PLACES), before, strict=True)))


#: Reads the preference all the time: Chromium then sends no event that it has changed.
READ = """
const done = arguments[arguments.length - 1];
const { reducedMotion } = await import("/static/dom.js");
const { port1, port2 } = new MessageChannel();
port1.onmessage = () => reducedMotion.matches && port2.postMessage("");
port2.postMessage("");
done();
"""


def test_pictures_move_once_motion_is_wanted(tab: Browser) -> None:
    tab.execute_async_script(READ)
    tab.look(motion=True)
    until_all_move(tab, "moving")


def test_a_held_picture_says_what_its_strokes_are(tab: Browser) -> None:
    tab.look(motion=True)
    lane, hold = tab.lane("poll"), tab.find(HOLD)

    def are_held() -> bool:
        """Whether all pictures are held, as their button shows."""
        script = (
            "return [...document.querySelectorAll('.diagram')].map((it) => 'held' in it.dataset)"
        )
        is_held = bool(hold.get_attribute("aria-pressed") == "true")
        assert tab.execute_script(script) == [is_held] * len(LANES)
        return is_held

    def words(*, spoken: bool = False) -> str:
        """The description below the diagram, seen or spoken."""
        return str(lane.find(".words [role=status]" if spoken else ".words span:first-child").text)

    until_all_move(tab, "moving")
    assert "hover" in words()
    eventually(lambda: tab.execute_script(HOLD_STROKES))
    assert are_held()
    # The layers of all strokes: what is known of a single stroke may still become more exact.
    layers = "return [...document.querySelectorAll('.field svg')].map((it) => it.style.transform)"
    still = tab.execute_script(layers)
    tab.publish("meanwhile")
    assert tab.execute_script(layers) == still

    # By mouse.
    mouse = ActionChains(tab)
    mouse.w3c_actions.pointer_action.move_to_location(
        *tab.execute_script(MIDDLE, lane.find(".field g:not(.dot) + g:not(.dot) path + path"))
    )
    mouse.perform()
    said = words()
    assert re.fullmatch(r"(response to )?GET /data: .*\d{3,} B( up)?, \d+(\.\d)? ms.*", said), said
    assert words(spoken=True) == "", "a pointer's user can see"
    assert tab.find_all(f"{lane.selector} .field g.chosen")
    mouse.move_to_element(tab.find("h1")).perform()
    assert words() == "held: a click, or Space, lets it run"
    tab.picture("held")

    # By keyboard.
    def press(key: str) -> str:
        ActionChains(tab).send_keys(key).perform()
        return words(spoken=True)

    tab.execute_script("arguments[0].focus()", lane.find(".picture"))
    press(Keys.ARROW_LEFT * 50)  # to the oldest in sight
    spoken, chosen = [], set()
    for _ in range(4):
        spoken.append(press(Keys.ARROW_RIGHT))
        chosen.add(lane.find(".field g.chosen path + path").get_attribute("d"))
    assert len(chosen) == 4, "two that took the same time read alike"
    assert spoken[0].startswith(("GET /data: ", "response to GET /data: "))
    assert all(re.search(r"\d{3,} B( up)?, \d+(\.\d)? ms", text) for text in spoken), spoken
    # Its milliseconds may change: the clocks are known better from second to second.
    assert press(Keys.ARROW_LEFT).partition(" B")[0] == spoken[2].partition(" B")[0]
    assert press(Keys.ESCAPE) == ""
    assert words() == "held: a click, or Space, lets it run"
    press(Keys.SPACE)
    assert not are_held()
    until_all_move(tab, "moving again")
    hold.click()
    assert are_held()


# With a clock of the test's.

#: A diagram of a given width; the test is its clock and its server.
ALONE = """
const done = arguments[arguments.length - 1];
const { makeDiagram } = await import("/static/diagram.js");
const { oneWay, toServer } = await import("/static/clock.js");
const root = document.querySelector(".diagram").cloneNode(true);
for (const filled of root.querySelectorAll("svg, tbody")) filled.replaceChildren();
root.style.width = WIDTH;
document.querySelector("main").prepend(root);
const diagram = makeDiagram(root);
await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
let sent = 1e12;
const exchange = (more) => {
  const [arrived, responded, received] = [toServer(sent + 20), toServer(sent + 21), sent + 40];
  const record = { kind: "exchange", what: "GET /data", sent, arrived, responded, received };
  diagram.wire(Object.assign(record, { empty: true, up: 500, down: 100 }, more));
  return record;
};
const paths = () => [...root.querySelectorAll("path")].map((path) => path.getAttribute("d"));
const elements = () => root.querySelectorAll("*").length;
"""


def alone(browser: Browser, script: str, *, width: str = "480px") -> Any:
    """Run a script with a diagram; return its result."""
    setup = ALONE.replace("WIDTH", f'"{width}"')
    return browser.execute_async_script(
        f"(async () => {{ {setup} {script} }})().then(arguments[0], (e) => arguments[0](`${{e}}`))"
    )


def test_minutes_of_traffic_leave_no_more_than_is_in_sight(modules: Browser) -> None:
    counts, held = alone(
        modules,
        """
        const poll = (milliseconds) => {
          const counts = [];
          for (const end = sent + milliseconds; sent < end; sent += 250) {
            exchange({});
            if (sent % 1000 === 0) diagram.wire({ kind: "change", at: sent });
            diagram.draw(sent + 50);
            counts.push(elements());
          }
          return counts;
        };
        const counts = poll(120_000);
        diagram.hold(true);
        return [counts, poll(60_000)];
        """,
    )
    assert len(counts) == 480
    # Four polls a second of two strokes each, and a dot: for ten seconds, and one until tidied.
    strokes_at_most = 12 * (4 * 2 + 1)
    assert max(counts) <= counts[0] + 3 * strokes_at_most + 5 * 12
    assert max(counts[48:]) - min(counts[60:]) < 5 * 9 * 3, "it still grows"
    assert held[-1] <= counts[-1] + 3 * strokes_at_most, "while it is held, they pile up"


@pytest.mark.parametrize("width", ["480px", "1px", "0px", "none"])
def test_every_shape_is_a_shape(modules: Browser, width: str) -> None:
    """Also off the screen, or before there is a layout."""
    paths = alone(
        modules,
        """
        const record = exchange({ responded: undefined, received: null, empty: false });
        diagram.draw(sent);
        exchange({ failed: true, received: sent + 100 });
        const message = { kind: "message", what: "frame", brings: "reading" };
        diagram.wire({ ...message, left: sent - 9, received: sent });
        diagram.wire({ kind: "change", at: sent });
        diagram.draw(sent + 20_000);
        diagram.wire(Object.assign(record, { received: sent + 20_040 }));
        diagram.draw(sent + 20_100);
        return [...paths(), root.querySelector("svg").style.transform];
        """,
        width=width,
    )
    assert not [path for path in paths if path and re.search("NaN|Infinity|undefined", path)]
    assert modules.complaints() == []


def test_what_is_held_is_a_bar_that_grows(modules: Browser) -> None:
    one_way, widths, last, classes, table = alone(
        modules,
        """
        const unknown = { arrived: undefined, responded: undefined, received: null };
        const record = exchange({ ...unknown, empty: false });
        const bar = () => {
          const path = root.querySelector(".bar").getBoundingClientRect();
          const field = root.querySelector(".field").getBoundingClientRect();
          return Math.min(path.right, field.right) - Math.max(path.left, field.left);
        };
        const widths = [1000, 5000, 9000].map((later) => (diagram.draw(sent + later), bar()));
        const [arrived, responded] = [toServer(sent + 20), toServer(sent + 9020)];
        Object.assign(record, { arrived, responded, received: sent + 9040 });
        diagram.wire(Object.assign(record, { brings: "signal", up: 500, down: 200 }));
        diagram.draw(sent + 10_000);
        const classes = [...root.querySelectorAll("g")].map((g) => g.classList[0]);
        const cells = (row) => [...row.cells].slice(1).map((cell) => cell.textContent);
        const table = [...root.querySelectorAll("tbody tr")].map(cells);
        return [oneWay(), widths, bar(), classes, table];
        """,
    )
    # 480 pixels are ten seconds. When the request arrived is at first an estimate.
    expected = [(later - one_way) * 480 / 10_000 for later in (1000, 5000, 9000)]
    assert widths == pytest.approx(expected, abs=1)
    assert last == pytest.approx(432, abs=1)
    assert classes == ["request", "signal"]
    assert table == [
        ["response to GET /data: a signal", "200 B", "20 ms"],
        ["GET /data: held 9.00 s", "500 B up", "20 ms"],
    ]


def test_the_clock_may_be_corrected(modules: Browser) -> None:
    """A stroke never arrives before it was sent."""
    heads = alone(
        modules,
        """
        const heads = [];
        for (const wrong of [0, 500, -500]) {
          sent += 11_000;
          const arrived = toServer(sent + 20 + wrong);
          exchange({ arrived, responded: arrived + 1 });
          diagram.draw(sent + 50);
          heads.push(...[...root.querySelectorAll("g")].slice(-2).map((g) => {
            const [, x1, x2] = g.lastChild.getAttribute("d").match(/^M(\\S+) .*M(\\S+) \\S+L/);
            return x2 - x1;
          }));
        }
        return heads;
        """,
    )
    assert len(heads) == 6
    assert all(-1e-6 <= length <= 40 * 480 / 10_000 + 1e-6 for length in heads), heads
