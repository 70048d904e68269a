"""The diagrams: every message is drawn, described and listed in a table."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browsing import LANES, Browser, Part, until_same
from tests.clients import LabPage
from tests.conftest import Server, eventually, starting


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with starting() as start:
        yield start("serve.py", "--source", "http")


#: What is drawn in a lane: the classes of each stroke, and whether it has a bar and an arrow.
STROKES = """
const [selector] = arguments;
return [...document.querySelectorAll(`${selector} .field svg g`)].map((stroke) => {
  const [bar, arrow] = [...stroke.children].map((path) => path.getAttribute("d"));
  return { look: stroke.getAttribute("class"), bar: Boolean(bar), arrow };
});
"""


#: Where the middle of a stroke is, on the screen.
MIDDLE = """
const { x, y, width, height } = arguments[0].getBoundingClientRect();
return [Math.round(x + width / 2), Math.round(y + height / 2)];
"""


def strokes(lane: Part) -> list[dict[str, Any]]:
    return lane.browser.execute_script(STROKES, lane.selector)  # type: ignore[no-any-return]


def looks(lane: Part) -> list[str]:
    return [stroke["look"] for stroke in strokes(lane)]


def held(browser: Browser) -> list[bool]:
    """Whether each diagram stands still."""
    return browser.execute_script(  # type: ignore[no-any-return]
        "return [...document.querySelectorAll('.diagram')].map((it) => 'held' in it.dataset)"
    )


def words(lane: Part, spoken: bool = False) -> str:
    """The description below the diagram, seen or spoken."""
    return str(lane.find(".words [role=status]" if spoken else ".words span:first-child").text)


def test_each_transport_draws_its_strokes(server: Server, browser: Browser) -> None:
    browser.look(motion=True)
    browser.visit(server)
    lanes = {transport: browser.lane(transport) for transport in LANES}
    lanes["longpoll"].set_carry(False)
    before = {transport: len(strokes(lane)) for transport, lane in lanes.items()}
    server.publish({"line": "drawn"})
    for lane in lanes.values():
        lane.until_it_shows("drawn")
        lane.until(lambda lane: "dot" in looks(lane))
    for transport, lane in lanes.items():
        assert len(strokes(lane)) > before[transport]
        assert all(stroke["arrow"] for stroke in strokes(lane))
        assert "NaN" not in "".join(stroke["arrow"] for stroke in strokes(lane))
        assert "reading" in looks(lane), "the message with the data, whatever the payload"
        # The first request of a long poll is not held: its response may be empty.
        assert ("empty" in looks(lane)) == (transport in ("poll", "longpoll"))
        assert ("signal" in looks(lane)) == (transport == "longpoll")
    lanes["longpoll"].until(lambda lane: strokes(lane)[-1]["bar"])
    assert not any(stroke["bar"] for stroke in strokes(lanes["websocket"]))
    # An empty response is paler than one that brings something.
    opacity = "return getComputedStyle(document.querySelector(arguments[0])).opacity"
    empty, full = (
        float(browser.execute_script(opacity, f"[data-transport=poll] .field .{look}"))
        for look in ("empty", "reading")
    )
    assert empty < 0.6 * full
    assert browser.complaints() == []


def test_the_strokes_have_the_servers_bytes(
    server: Server, browser: Browser, lab_of: Callable[[Server], LabPage]
) -> None:
    browser.visit(server)
    lab = lab_of(server)
    for number in range(2):
        server.publish({"line": f"table {number}"})
        for part in browser.parts:
            part.until_it_shows(f"table {number}")
    for transport, name in browser.lane_ids.items():
        lane = browser.lane(transport)
        least = 4 if transport in ("sse", "websocket") else 6
        eventually(partial(has_rows, lane, least))
        until_same(partial(tabled_and_reported, lane, lab, name))
        if transport in ("sse", "websocket"):
            *_, opening = lab.exchanges[name]
            brought = [row[2] for row in rows(lane) if row[1].startswith(("event: ", "frame: "))]
            sizes = [int(size.removesuffix(" B")) for size in brought]
            assert len(sizes) == 2
            rest = lab.sums(name)["down"] - opening[4] - sum(sizes)
            assert rest in FORWARDED_MISSING[transport]


#: Bytes that the browser does not show: a chunk with the retry time, then maybe one with a
#: comment; and maybe a ping.
RETRY, COMMENT, PING = len(b"d\r\nretry: 1000\n\n\r\n"), len(b"3\r\n:\n\n\r\n"), 2
FORWARDED_MISSING = {"sse": (RETRY, RETRY + COMMENT), "websocket": (0, PING)}


def rows(lane: Part) -> list[list[str]]:
    """The table below a diagram, newest first: time, what, bytes, milliseconds."""
    return lane.browser.execute_script(  # type: ignore[no-any-return]
        "return [...document.querySelectorAll(arguments[0])]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))",
        f"{lane.selector} tbody tr",
    )


def has_rows(lane: Part, least: int) -> bool:
    return len(rows(lane)) >= least


def tabled_and_reported(lane: Part, lab: LabPage, name: str) -> tuple[list[str], list[str]]:
    """The bytes of requests and responses, in the table and as the server reports them."""
    tabled = [
        row[2]
        for row in rows(lane)
        if row[2] != "bytes follow" and not row[1].startswith(("event: ", "frame: "))
    ]
    lab.sums(name)
    newest_first = reversed(lab.exchanges[name])
    reported = [text for *_, up, down in newest_first for text in (f"{down} B", f"{up} B up")]
    return tabled, reported[: len(tabled)]


def test_who_points_at_a_stroke_reads_its_bytes(server: Server, browser: Browser) -> None:
    browser.look(motion=True)
    browser.visit(server)
    lane = browser.lane("poll")
    lane.until(lambda lane: sum("bytes follow" not in row[2] for row in rows(lane)) > 4)
    assert "hover" in words(lane)
    browser.find("[data-action=hold]").click()
    assert held(browser) == [True] * len(LANES)
    mouse = ActionChains(browser)
    mouse.w3c_actions.pointer_action.move_to_location(
        *browser.execute_script(MIDDLE, lane.find(".field g:not(.dot) + g:not(.dot) path + path"))
    )
    mouse.perform()
    said = words(lane)
    assert re.fullmatch(r"(response to )?GET /data: .*\d{3,} B( up)?, \d+(\.\d)? ms.*", said), said
    assert words(lane, spoken=True) == "", "a pointer's user can see"
    assert [look for look in looks(lane) if "chosen" in look]
    mouse.move_to_element(browser.find("h1")).perform()
    assert words(lane) == "held: a click, or Space, lets it run"
    browser.picture("held")


def test_the_keyboard_reads_the_strokes_bytes(server: Server, browser: Browser) -> None:
    browser.visit(server)
    lane = browser.lane("poll")
    lane.until(lambda lane: sum("bytes follow" not in row[2] for row in rows(lane)) > 4)
    keys = ActionChains(browser)
    browser.execute_script("arguments[0].focus()", lane.find(".picture"))
    keys.send_keys(Keys.SPACE).perform()
    assert held(browser) == [True] * len(LANES)
    assert browser.find("[data-action=hold]").get_attribute("aria-pressed") == "true"

    def press(key: str) -> str:
        ActionChains(browser).send_keys(key).perform()
        return words(lane, spoken=True)

    press(Keys.ARROW_LEFT * 50)  # to the oldest in sight
    heard = [press(Keys.ARROW_RIGHT) for _ in range(4)]
    assert len(set(heard)) == 4
    assert heard[0].startswith(("GET /data: ", "response to GET /data: "))
    assert all(re.search(r"\d{3,} B( up)?, \d+(\.\d)? ms", text) for text in heard), heard
    # Its milliseconds may change: the clocks are known better from second to second.
    assert press(Keys.ARROW_LEFT).partition(" B")[0] == heard[2].partition(" B")[0]
    assert press(Keys.ESCAPE) == ""
    assert words(lane) == "held: a click, or Space, lets it run"
    ActionChains(browser).send_keys(Keys.SPACE).perform()
    assert held(browser) == [False] * len(LANES)
    assert browser.find("[data-action=hold]").get_attribute("aria-pressed") == "false"


def where(browser: Browser) -> list[str]:
    """Where the layers of the strokes are."""
    return browser.execute_script(  # type: ignore[no-any-return]
        "return [...document.querySelectorAll('.field svg')].map((svg) => svg.style.transform)"
    )


def test_a_click_holds_all_of_them(server: Server, browser: Browser) -> None:
    browser.look(motion=True)
    browser.visit(server)
    moving = where(browser)
    eventually(lambda: all(a != b for a, b in zip(where(browser), moving, strict=True)))
    browser.lane("websocket").find(".picture").click()
    assert held(browser) == [True] * len(LANES)
    still = where(browser)
    server.publish({"line": "meanwhile"})
    for part in browser.parts:
        part.until_it_shows("meanwhile")
    assert where(browser) == still
    browser.lane("poll").find(".picture").click()
    assert held(browser) == [False] * len(LANES)
    eventually(lambda: all(a != b for a, b in zip(where(browser), still, strict=True)))


# By a clock of its own.

#: A diagram of a given width, whose clock and whose server are the test's.
ALONE = """
const done = arguments[arguments.length - 1];
const { makeDiagram } = await import("/static/diagram.js");
const root = document.querySelector(".diagram").cloneNode(true);
for (const filled of root.querySelectorAll("svg, tbody")) filled.replaceChildren();
root.style.width = WIDTH;
document.querySelector("main").prepend(root);
const diagram = makeDiagram(root);
await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
let sent = 1e12;
const exchange = (more) => {
  const [arrived, responded, received] = [sent + 20, sent + 21, sent + 40];
  const record = { kind: "exchange", what: "GET /data", sent, arrived, responded, received };
  diagram.wire(Object.assign(record, { empty: true, up: 500, down: 100 }, more));
  return record;
};
const paths = () => [...root.querySelectorAll("path")].map((path) => path.getAttribute("d"));
"""


def alone(browser: Browser, script: str, *, width: str = "480px") -> Any:
    """Run a script with a diagram of its own; return its result."""
    setup = ALONE.replace("WIDTH", f'"{width}"')
    return browser.execute_async_script(
        f"(async () => {{ {setup} {script} }})().then(arguments[0], (e) => arguments[0](`${{e}}`))"
    )


@pytest.fixture(scope="module")
def on_the_page(chromium: Browser, server: Server) -> Browser:
    """The file's browser, with the page open, for its modules."""
    chromium.open(server.url)
    return chromium


def test_minutes_of_traffic_leave_no_more_than_is_in_sight(on_the_page: Browser) -> None:
    counts = alone(
        on_the_page,
        """
        const counts = [];
        for (const end = sent + 120_000; sent < end; sent += 250) {
          exchange({});
          if (sent % 1000 === 0) diagram.wire({ kind: "change", at: sent });
          diagram.draw(sent + 50);
          counts.push(root.querySelectorAll("*").length);
        }
        return counts;
        """,
    )
    assert len(counts) == 480
    # Four polls a second of two strokes each, and a dot: for ten seconds, and one until tidied.
    strokes_at_most = 12 * (4 * 2 + 1)
    assert max(counts) <= counts[0] + 3 * strokes_at_most + 5 * 12
    assert max(counts[48:]) - min(counts[60:]) < 5 * 9 * 3, "it still grows"


def test_while_it_is_held_nothing_piles_up(on_the_page: Browser) -> None:
    before, after = alone(
        on_the_page,
        """
        exchange({});
        diagram.draw(sent + 50);
        diagram.hold(true);
        const before = root.querySelectorAll("*").length;
        for (const end = sent + 60_000; sent < end; sent += 250) {
          exchange({});
          diagram.draw(sent + 50);
        }
        return [before, root.querySelectorAll("*").length];
        """,
    )
    assert after <= before + 12 * 4 * 2 * 3


@pytest.mark.parametrize("width", ["480px", "1px", "0px", "none"])
def test_every_shape_is_a_shape(on_the_page: Browser, width: str) -> None:
    """Also off the screen, or while the page is being laid out."""
    paths = alone(
        on_the_page,
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
    assert on_the_page.complaints() == []


def test_what_is_held_is_a_bar_that_grows(on_the_page: Browser) -> None:
    looks = alone(
        on_the_page,
        """
        const unknown = { arrived: undefined, responded: undefined, received: null };
        const record = exchange({ ...unknown, empty: false });
        const bar = () => {
          const path = root.querySelector(".bar").getBoundingClientRect();
          const field = root.querySelector(".field").getBoundingClientRect();
          return Math.min(path.right, field.right) - Math.max(path.left, field.left);
        };
        const widths = [1000, 5000, 9000].map((later) => (diagram.draw(sent + later), bar()));
        Object.assign(record, { arrived: sent + 20, responded: sent + 9020 });
        Object.assign(record, { received: sent + 9040 });
        diagram.wire(Object.assign(record, { brings: "signal", up: 500, down: 200 }));
        diagram.draw(sent + 10_000);
        const cells = (row) => [...row.cells].slice(1).map((cell) => cell.textContent);
        const table = [...root.querySelectorAll("tbody tr")].map(cells);
        return [widths, bar(), [...root.querySelectorAll("g")].map((g) => g.classList[0]), table];
        """,
    )
    widths, last, classes, table = looks
    # 480 pixels are ten seconds.
    assert widths == pytest.approx([47, 239, 431], abs=2)
    assert last == pytest.approx(432, abs=2)
    assert classes == ["request", "signal"]
    assert [row[:2] for row in table] == [
        ["response to GET /data: a signal", "200 B"],
        ["GET /data: held 9.00 s", "500 B up"],
    ]
    # The page knows its own server's clock, more or less.
    assert [float(took.removesuffix(" ms")) for *_, took in table] == pytest.approx([20, 20], abs=5)


def test_the_clock_may_be_corrected(on_the_page: Browser) -> None:
    """A stroke never arrives before it was sent, however wrong the clocks are."""
    heads = alone(
        on_the_page,
        """
        const heads = [];
        for (const wrong of [0, 500, -500]) {
          sent += 11_000;
          exchange({ arrived: sent + 20 + wrong, responded: sent + 21 + wrong });
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
