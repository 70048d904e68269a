"""Experiments: each ends with what its protocol dictates, and all is as before."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browsing import Browser
from tests.conftest import Server, eventually, starting

#: Shorter runs than a class has: seconds by experiment.
SHORTEN = """
const [seconds, done] = arguments;
import("/static/experiments.js").then(({ experiments }) => {
  for (const { id, phases } of experiments)
    for (const phase of phases) phase.seconds = seconds[id] ?? phase.seconds;
  done();
});
"""


@pytest.fixture(scope="module")
def far() -> Iterator[Server]:
    with starting() as start:
        server = start("serve.py", "--source", "clock", "--far", "600")
        eventually(lambda: len(server.out) == 2)
        yield server


def far_port(server: Server) -> int:
    return int(server.out[1].rpartition(":")[2])


def last_result(browser: Browser) -> dict[str, Any]:
    return browser.execute_script("return history.state.results.at(-1)")  # type: ignore[no-any-return]


def run(browser: Browser, experiment: str, predict: str, **seconds: float) -> dict[str, Any]:
    """Open an experiment, predict, run it; return its result."""
    browser.find(f'[data-action=experiment][value="{experiment}"]').click()
    eventually(lambda: browser.find("[data-part=title]").is_displayed())
    browser.execute_async_script(SHORTEN, seconds)
    browser.execute_script(
        """
        const input = document.querySelector(`.prediction [value="${arguments[0]}"]`)
          ?? document.querySelector(".prediction [type=range]");
        if (input.type === "range") input.value = arguments[0];
        else input.checked = true;
        input.dispatchEvent(new Event("input", { bubbles: true }));
        """,
        predict,
    )
    eventually(lambda: browser.find("[data-action=run]").is_enabled())
    browser.find("[data-action=run]").click()
    eventually(lambda: browser.find("[data-part=result]").is_displayed(), timeout=120)
    return last_result(browser)


def test_near_short_polling_is_last(far: Server, browser: Browser) -> None:
    browser.visit(far)
    result = run(browser, "near", "poll", near=6)
    p50s = {name: lane["p50"] for name, lane in result["lanes"].items()}
    assert max(p50s, key=lambda name: p50s[name]) == "poll"
    assert result["value"] in {"same", min(p50s, key=lambda name: p50s[name])}
    assert result["prediction"] == "poll"
