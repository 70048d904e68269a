"""The page in a real Chromium, on every server: all lanes follow, and nothing complains."""

from pathlib import Path

import pytest

from tests.browsing import LANES, Browser, notice
from tests.conftest import eventually
from tests.hosting import WAYS, host

#: Whose requests are not ours to see.
UNCOUNTED = ("uwsgi gevent", "uwsgi threads", "flask run")


@pytest.mark.parametrize("way", [way for way in WAYS if not way.endswith(" tls")])
def test_contract_the_page_works(way: str, browser: Browser, tmp_path: Path) -> None:
    server = host(way, tmp_path, "--source", "http")
    server.publish({"n": 0})
    browser.visit(server)
    for number in range(1, 4):
        server.publish({"n": number})
        for lane in LANES:
            browser.lane(lane).until(lambda part: part.shows(server))
    figures = browser.figures
    counts = [figures[lane][name] for lane in LANES for name in ("requests", "bytes-up")]
    assert {isinstance(count, int) for count in counts} == {way not in UNCOUNTED}, counts
    assert ("not counted here" in browser.find("footer").text) is (way in UNCOUNTED)
    assert [figures[lane]["lost"] for lane in LANES] == [0] * len(LANES)
    if way in UNCOUNTED:
        browser.lane("websocket").press("cut")
        eventually(lambda: "refused: cut:" in notice(browser))
    assert browser.complaints() == []
    browser.open("about:blank")
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log, server.log
