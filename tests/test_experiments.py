"""Experiments: each ends with what its protocol dictates, and all is as before."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from tests.browsing import (
    DESK,
    LANES,
    OLD_PROJECTOR,
    PHONE,
    SIDEWAYS,
    Browser,
    check_looks,
    in_another_tab,
)
from tests.clients import HANG_TIMEOUT, LabPage
from tests.conftest import Server, eventually, starting, until_same

#: Sets what is said of experiments, by their ids, for this page.
CHANGE = """
const [changes, done] = arguments;
import("/static/experiments.js").then(({ experiments }) => {
  for (const each of experiments) {
    const { seconds, ...more } = changes[each.id] ?? {};
    Object.assign(each, more);
    for (const phase of each.phases) phase.seconds = seconds ?? phase.seconds;
  }
  done();
});
"""
IS_OPEN = """
const button = document.querySelector(`[data-action=experiment][value="${arguments[0]}"]`);
return button?.ariaPressed === "true"
  && document.querySelector("[data-truth]").dataset.state === "live";
"""
PREDICT = """
const input = document.querySelector(`.prediction [value="${arguments[0]}"]`)
  ?? document.querySelector(".prediction [type=range]");
if (input.type === "range") input.value = arguments[0];
else input.checked = true;
input.dispatchEvent(new Event("input", { bubbles: true }));
"""
#: A trip takes half of it. It is longer than whatever a busy machine adds.
ROUND_TRIP = 1000


@pytest.fixture
def far(kept: Server) -> Iterator[Server]:
    """A server with a port that is far away; a test that fails may have paused it."""
    yield kept
    with LabPage(kept.ws) as lab:
        lab.do("pace", pace="every 3 s")
        lab.wait_for("pace", "every 3 s".__eq__)


@pytest.fixture(scope="module")
def kept() -> Iterator[Server]:
    with starting() as start:
        server = start("serve.py", "--source", "clock", "--every", "3", "--far", str(ROUND_TRIP))
        eventually(lambda: len(server.out) == 2)
        yield server


def part(browser: Browser, name: str) -> str:
    return str(browser.find(f"[data-part={name}]").text)


def press(browser: Browser, action: str) -> None:
    browser.find(f".experiments [data-action={action}]").click()


def results(browser: Browser) -> list[dict[str, Any]]:
    return browser.execute_script("return history.state?.results ?? []")  # type: ignore[no-any-return]


def open_experiment(browser: Browser, experiment: str, **changes: Any) -> None:
    """Open its question, at the distance that it needs."""
    browser.find(f'[data-action=experiment][value="{experiment}"]').click()

    def is_open() -> bool:
        with suppress(WebDriverException):  # the page at another port is on its way
            return bool(browser.execute_script(IS_OPEN, experiment))
        return False

    eventually(is_open)
    browser.execute_async_script(CHANGE, {experiment: changes})


def begin(browser: Browser, experiment: str, predict: str, **changes: Any) -> None:
    """Open an experiment, predict, and let it begin."""
    open_experiment(browser, experiment, **changes)
    browser.execute_script(PREDICT, predict)
    eventually(lambda: browser.find("[data-action=run]").is_enabled())
    press(browser, "run")


def until_measured(browser: Browser) -> dict[str, Any]:
    """Wait until it has ended; return the result."""
    eventually(lambda: browser.find("[data-part=result]").is_displayed(), timeout=4 * HANG_TIMEOUT)
    return results(browser)[-1]


def run(browser: Browser, experiment: str, predict: str, **changes: Any) -> dict[str, Any]:
    begin(browser, experiment, predict, **changes)
    return until_measured(browser)


# What the protocols dictate.


def test_near_short_polling_is_last(far: Server, browser: Browser) -> None:
    browser.visit(far)
    period = Select(browser.lane("poll").find("[data-action=period]"))
    period.select_by_value("2000")
    result = run(browser, "near", "poll", seconds=6)
    assert result["lanes"]["poll"]["requests"] > 6, "every half second, as it explains"
    assert period.first_selected_option.text == "2 s", "and as it was, afterwards"
    p50s = {name: lane["p50"] for name, lane in result["lanes"].items()}
    assert max(p50s, key=lambda name: p50s[name]) == "poll"
    assert result["value"] in {"same", min(p50s, key=lambda name: p50s[name])}
    assert (result["prediction"], result["distance"]) == ("poll", 0)
    assert part(browser, "prediction") == "You predicted: Short polling."


def test_a_signal_makes_three_trips_and_a_reading_one(far: Server, browser: Browser) -> None:
    browser.visit(far)

    def is_within_15_percent() -> bool:
        """Whether it is; a busy machine gets as many attempts as it needs."""
        result = run(browser, "payload", "3", seconds=10, pace="every 3 s")
        assert result["distance"] == ROUND_TRIP
        signal, carry = (
            [phase["lanes"][lane]["p50"] / result["oneWay"] for lane in ("websocket", "sse")]
            for phase in result["phases"]
        )
        assert min(signal) > 2.5
        assert min(carry) > 0.85
        assert abs(result["value"] - signal[0]) < 0.01
        return bool(max(signal) < 3 * 1.15 and max(carry) < 1.15)

    eventually(is_within_15_percent, timeout=8 * HANG_TIMEOUT)


def test_long_polling_skips_what_is_faster_than_the_round_trip(
    far: Server, browser: Browser
) -> None:
    browser.visit(far)
    result = run(browser, "pace", "50", seconds=6)
    lanes = result["lanes"]
    assert result["value"] > 50
    skipped = {name: lane["coalesced"] / lane["seen"] for name, lane in lanes.items()}
    assert skipped["longpoll"] > 1
    assert max(skipped["websocket"], skipped["sse"]) < 0.5, "only what a busy machine skips"
    assert [lane["lost"] for lane in lanes.values()] == [0] * 4
    assert browser.lost == 0


def test_bytes_are_counted_exactly_while_nothing_happens(far: Server, browser: Browser) -> None:
    browser.visit(far)
    begin(browser, "quiet", "20000", seconds=6)
    with LabPage(far.ws) as lab:
        eventually(lambda: browser.find("progress").get_property("value") > 0)
        names = browser.lane_ids
        lab.do("watch", lanes=list(names.values()))
        result = until_measured(browser)
        lab.clock()
        sums: dict[str, set[int]] = {name: set() for name in LANES}
        for message in lab.received:
            for name in LANES:
                if meter := message.get("meters", {}).get(names[name]):
                    sums[name].add(meter["up"] + meter["down"])
    # An open connection may have sent a ping, no more; also between the start and our first look:
    # a frame of 2 bytes and its reply of 6, or a comment of 3 in a chunk of 8.
    for name in ("longpoll", "sse", "websocket"):
        differences = {b - a for a in sums[name] for b in sums[name]}
        differences |= set() if name == "longpoll" else {8}
        assert result["lanes"][name]["bytes"] in differences, name
    poll = result["lanes"]["poll"]
    assert poll["requests"] > 6, "two each second"
    sizes = [up + down for *_, up, down in lab.exchanges[names["poll"]]]
    windows = [sum(sizes[at : at + poll["requests"]]) for at in range(len(sizes))]
    assert poll["bytes"] in windows
    assert result["value"] == poll["bytes"]
    assert 80e3 < poll["bytes"] / poll["requests"] * 120 < 100e3, "90 kB a minute, in answers.rst"


def test_nothing_is_missing_after_a_cut(far: Server, browser: Browser) -> None:
    browser.visit(far)
    result = run(browser, "cut", "same", seconds=8)
    for name, lane in result["lanes"].items():
        assert lane["lost"] == 0
        assert lane["back"] > 1990, f"{name} is refused for two seconds"
        assert lane["coalesced"] > 0, "what was superseded meanwhile"
    browser.control("pause").click()
    eventually(lambda: pace(browser) == "paused")  # a click that comes sooner asks for it once more
    until_same(lambda: ({part["sequence"] for part in browser.parts}, {browser.truth["sequence"]}))
    browser.control("pause").click()
    eventually(lambda: pace(browser) == "every 3 s")


def test_a_slow_screen_has_a_backlog_of_what_is_pushed(far: Server, browser: Browser) -> None:
    browser.visit(far)
    result = run(browser, "slow", "longpoll", seconds=8)
    ages = {name: lane["age"] for name, lane in result["lanes"].items()}
    assert min(ages["websocket"], ages["sse"]) > 2 * max(ages["longpoll"], ages["poll"])
    assert result["value"] in {"longpoll", "poll", "same"}
    assert result["lanes"]["longpoll"]["coalesced"] > result["lanes"]["longpoll"]["seen"]
    # Nothing waits for the screen any more.
    eventually(
        lambda: all("0 s" in lane["since"] or "1 s" in lane["since"] for lane in browser.lanes)
    )


def test_six_of_ten_tabs_have_a_stream(far: Server, browser: Browser) -> None:
    browser.visit(far)
    result = run(browser, "tabs", "10", seconds=8)
    assert result["value"] == 6
    assert [phase["lanes"] for phase in result["phases"]] == [
        {"sse": result["phases"][0]["lanes"]["sse"]}, {"websocket": result["lanes"]["websocket"]}
    ]  # fmt: skip
    assert result["lanes"]["websocket"]["received"] == 10
    browser.until_live()


# Before, during and after a run.


def keys(browser: Browser, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def pace(browser: Browser) -> str:
    """The pace at which the data changes."""
    return str(browser.find("[data-controls] button[value][aria-pressed=true]").text)


def until_it_runs(browser: Browser) -> None:
    eventually(lambda: browser.find("progress").get_property("value") > 0)


def check_it_is_as_before(browser: Browser) -> None:
    eventually(lambda: pace(browser) == "every 3 s")
    assert [lane.state == "stopped" for lane in browser.lanes] == [False, False, True, False]
    assert [lane.carries for lane in browser.lanes] == [True, False, True, True]
    assert results(browser) == []
    browser.until_live(":is([data-transport=poll], [data-transport=longpoll])")


def test_stop_and_escape_put_everything_back(far: Server, browser: Browser) -> None:
    browser.visit(far)
    browser.lane("longpoll").set_carry(False)
    browser.lane("sse").press("stop")
    ways: dict[str, Callable[[], None]] = {
        "button": lambda: press(browser, "end"),
        "Escape": lambda: keys(browser, Keys.ESCAPE),
    }
    for stop in ways.values():
        begin(browser, "slow", "poll", seconds=600)
        until_it_runs(browser)
        assert pace(browser) == "20 per s"
        assert [lane.carries for lane in browser.lanes] == [True] * 4
        assert browser.lane("sse").state == "live"
        stop()
        assert part(browser, "status") == "It was stopped: nothing is measured."
        check_it_is_as_before(browser)
    begin(browser, "slow", "poll", seconds=600)
    until_it_runs(browser)
    with in_another_tab(browser):
        pass
    assert "The page was hidden" in part(browser, "status")
    check_it_is_as_before(browser)
    press(browser, "end")
    assert not browser.find(".panel").is_displayed()


#: What the page sends from now on is dropped.
SEND_NOTHING = "WebSocket.prototype.send = () => {}"


def test_a_page_need_not_say_that_an_experiment_has_ended(far: Server, browser: Browser) -> None:
    """Its connection to the instruments ends, which the server notices."""
    browser.visit(far)
    begin(browser, "slow", "poll", seconds=600)
    until_it_runs(browser)
    browser.execute_script(SEND_NOTHING)
    browser.visit(far)
    eventually(lambda: pace(browser) == "every 3 s")


#: Closes the connection to the instruments, and opens no other until CONNECT.
DISCONNECT = """
const { send } = WebSocket.prototype;
window.realWebSocket = WebSocket;
WebSocket.prototype.send = function (data) {
  if (!this.url.endsWith("/lab")) send.call(this, data);
  else this.close();
};
window.WebSocket = class extends WebSocket {
  constructor() {
    throw new Error("not now");
  }
};
window.connect = () => {
  realWebSocket.prototype.send = send;
  window.WebSocket = realWebSocket;
};
"""
CONNECT = "connect()"


def test_an_experiment_keeps_its_pace(far: Server, browser: Browser) -> None:
    """Over a new connection, and whatever the page before it gives back late."""
    with LabPage(far.ws) as late:
        late.do("borrow", pace="20 per s")
        browser.visit(far)
        eventually(lambda: pace(browser) == "20 per s")
        begin(browser, "slow", "poll", seconds=600)
        until_it_runs(browser)
        late.do("give_back")
        late.clock()
        assert late.wait_for("pace") == "20 per s"
        browser.execute_script(DISCONNECT)
        late.wait_for("pace", "every 3 s".__eq__)
        browser.execute_script(CONNECT)
        late.wait_for("pace", "20 per s".__eq__)
        browser.execute_script(DISCONNECT)
        late.wait_for("pace", "every 3 s".__eq__)
        press(browser, "end")
        assert browser.notice == "", "the server knows that it has ended"
        browser.execute_script(CONNECT)


def test_a_lesson_by_keys_alone(far: Server, browser: Browser) -> None:
    browser.visit(far)
    is_held: Callable[[], bool] = lambda: (  # noqa: E731
        browser.find("[data-action=hold]").get_attribute("aria-pressed") == "true"
    )
    keys(browser, Keys.SPACE)
    assert is_held()
    keys(browser, "6", Keys.SPACE)
    assert part(browser, "title") == "A slow screen"
    assert browser.execute_script("return document.activeElement.checked"), "Space has chosen"
    assert is_held()
    browser.execute_async_script(CHANGE, {"slow": {"seconds": 3}})
    keys(browser, Keys.ARROW_DOWN, Keys.SPACE)
    until_it_runs(browser)
    keys(browser, "1", Keys.SPACE)
    assert part(browser, "title") == "A slow screen", "what runs is not ended by a slip"
    assert not is_held(), "while it runs, Space is for the pictures"
    assert until_measured(browser)["prediction"] == "longpoll"
    keys(browser, "7", Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert part(browser, "title") == "Ten tabs"
    assert browser.find("output").text == "5 of 10"
    keys(browser, Keys.ESCAPE)
    assert not browser.find(".panel").is_displayed()

    # Where keys mean something else, they keep doing so.
    for selector in ("[data-action=period]", "[name=name]"):
        if selector == "[name=name]":
            press(browser, "results")
        browser.find(selector).send_keys("1")
        assert not browser.find(".panel").is_displayed()
    keys(browser, Keys.ESCAPE)
    browser.execute_script("arguments[0].focus()", browser.lane("sse").find(".picture"))
    keys(browser, Keys.SPACE)
    assert is_held(), "once, not twice"
    browser.find(".experiments [type=checkbox]").click()
    keys(browser, "1", Keys.SPACE)
    assert not browser.find(".panel").is_displayed()


def test_a_page_says_why_it_cannot(page_server: Server, browser: Browser) -> None:
    """It has no controls, no far port, or data without a pace."""

    def why(experiment: str) -> str:
        open_experiment(browser, experiment)
        browser.execute_script(
            PREDICT, "same" if browser.find_all(".prediction [value=same]") else 1
        )
        can_run = browser.find("[data-action=run]").is_enabled()
        assert can_run == (not part(browser, "status"))
        return part(browser, "status")

    browser.visit(page_server)
    assert why("near") == (
        "The data has no pace that can be set: start serve.py with another --source."
    )
    with starting() as start:
        server = start("serve.py", "--source", "clock", "--every", "1", "--no-controls")
        hidden = "This page does not show the {} that the question is about: open it with all four."
        browser.visit(server, "/?present=websocket")
        for experiment, about in (("near", "lanes"), ("cut", "lanes"), ("quiet", "lane")):
            assert why(experiment) == hidden.format(about)
        browser.visit(server)
        assert why("slow") == (
            "The data changes at “1 per s”; this experiment needs “20 per s”. "
            "The teacher sets the pace."
        )
        assert why("payload") == (
            "There is no port that is far away: start serve.py with --far 200, "
            "and open its own address."
        )
        assert why("near") == ""
        assert run(browser, "near", "same", seconds=3)["prediction"] == "same"
        assert pace(browser) == "1 per s"
        browser.get("about:blank")


#: As somebody may have written it into a link.
JUNK = [
    {"experiment": "near"},
    *(7, None, "<img>"),
    {"experiment": "<b>", "phases": []},
    {"experiment": "near", "phases": [{"seconds": 1, "lanes": {"sse": {"n": "<b>"}}}]},
]


def test_results_go_along_to_other_ports(far: Server, browser: Browser) -> None:
    browser.visit(far)
    measured = run(browser, "near", "same", seconds=2)
    browser.find("[aria-label=Distance] a:not([aria-current])").click()
    eventually(lambda: str(far.port) not in browser.current_url)
    eventually(lambda: results(browser) == [measured])
    assert "#" not in browser.current_url
    browser.refresh()
    eventually(lambda: results(browser) == [measured])
    for junk in (json.dumps(JUNK), "[[", "{}", "7"):
        browser.open("about:blank")
        browser.open(f"{far.url}/#experiment=near&results={quote(junk)}")
        browser.until_live("[data-truth]")
        assert part(browser, "title") == "Which is soonest?"
        assert results(browser) == []
        assert not browser.find("[data-action=results]").is_displayed()


def test_an_experiment_is_started_for_all(modules: Browser) -> None:
    """After the time for predictions; a page that comes late has the time that is left."""
    modules.execute_async_script(CHANGE, {"near": {"seconds": 2}})
    finished, seconds, running = modules.execute_async_script(
        """
        const [done] = arguments;
        import("/static/experiment.js").then(({ makeExperiments, PREDICTING }) => {
          const element = document.querySelector(".experiments");
          const commands = [];
          const all = makeExperiments(element, {
            lanes: [], send: (command) => commands.push(command), hold() {},
          });
          const report = () => all.onMessage({
            lab: { may_steer: false, paces: ["1 per s"] }, pace: "1 per s", meters: {},
          });
          const reporting = setInterval(report, 100);
          const running = [];
          all.onFinished = ({ experiment, phases: [{ seconds }] }) => {
            running.push(all.running);
            clearInterval(reporting);
            done([experiment, seconds, running]);
          };
          all.start("near", { forAll: true, age: PREDICTING + 1.5 });
          running.push(all.running);
        }, (error) => done([String(error)]));
        """
    )
    assert (finished, seconds, running) == ("near", 0.5, ["near", ""])


# What is handed in.


def test_the_results_are_one_page_and_one_table(
    far: Server, browser: Browser, tmp_path: Path
) -> None:
    browser.visit(far)
    first = run(browser, "near", "same", seconds=3)
    run(browser, "tabs", "10", seconds=6)
    press(browser, "results")
    name = '=1+1, "Zoë" <b>'
    browser.find("[name=name]").send_keys(name)
    downloads = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
    page, table = tmp_path / "pushlab-results.html", tmp_path / "pushlab-results.csv"
    for kind in ("html", "csv"):
        browser.find(f"[data-action=save-{kind}]").click()
    eventually(lambda: page.exists() and table.exists())

    header, *rows = csv.reader(io.StringIO(table.read_text("utf-8"), newline=""))
    records = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(row["experiment"], row["lane"]) for row in records] == [
        *(("near", lane) for lane in LANES), ("tabs", "sse"), ("tabs", "websocket")
    ]  # fmt: skip
    assert {row["name"] for row in records} == {f"'{name}"}, "not a formula"
    assert records[0]["p50_ms"] == str(first["lanes"]["poll"]["p50"])
    assert [row["measured"] for row in records[4:]] == ["6 of 10"] * 2
    assert records[0]["prediction"] == "several, closer than a frame of the screen"

    browser.open(page.as_uri())
    urls = [params["request"]["url"] for event, params in browser.network_log()
            if event == "requestWillBeSent"]  # fmt: skip
    assert urls == [page.as_uri()]
    assert browser.complaints() == []
    text = browser.find("body").text
    assert name in text
    for said in ("Which is soonest?", "Predicted: 10 of 10. Measured: 6 of 10.", "pace 1 per s",
                 "Short polling carry", "WebSocket signal 10 of 10"):  # fmt: skip
        assert said in text
    assert len(browser.find_all("tr")) == 2 + 4 + 2
    browser.look(width=PHONE[0], height=PHONE[1])
    assert browser.execute_script(SIDEWAYS) == []
    browser.look_as_before()
    assert browser.execute_cdp_cmd("Page.printToPDF", {})["data"]


LAPTOP = (1280, 720)


@pytest.mark.parametrize("path", ["/", "/?present"])
def test_it_can_be_seen_and_understood(far: Server, browser: Browser, axe: str, path: str) -> None:
    browser.look(width=LAPTOP[0], height=LAPTOP[1])
    browser.visit(far, path)
    looks = [(LAPTOP, "light"), (OLD_PROJECTOR, "dark"), (DESK, "dark"), (PHONE, "light")]
    if "present" in path:
        looks.pop()
    name = "experiment" + path.replace("/?", ", ").rstrip("/")
    open_experiment(browser, "tabs")
    check_looks(browser, axe, f"{name}, question", *looks)
    browser.look(width=LAPTOP[0], height=LAPTOP[1])
    begin(browser, "cut", "same", seconds=8)
    until_it_runs(browser)
    browser.picture(f"{name}, running")
    until_measured(browser)
    check_looks(browser, axe, f"{name}, result", *looks)
    browser.look(width=LAPTOP[0], height=LAPTOP[1])
    press(browser, "end")
    press(browser, "results")
    check_looks(browser, axe, f"{name}, hand-in", (LAPTOP, "light"), (PHONE, "dark"))
