"""The page in a real Chromium, on every server: all lanes follow, and nothing complains."""

from pathlib import Path

import pytest

from tests.browsing import LANES, Browser
from tests.hosting import WAYS, host


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
    assert [figures[lane]["lost"] for lane in LANES] == [0] * len(LANES)
    assert browser.complaints() == []
    browser.open("about:blank")
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log, server.log
