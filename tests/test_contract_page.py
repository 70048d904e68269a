"""The page in Chromium on every server: all lanes follow, nothing is logged."""

from pathlib import Path

import pytest

from tests.browsing import LANES, Browser, notice
from tests.conftest import eventually
from tests.hosting import SERVERS, start_server

#: Servers whose requests we cannot count.
UNCOUNTED = ("uwsgi gevent", "uwsgi threads", "flask run")


@pytest.mark.parametrize("server_name", [name for name in SERVERS if not name.endswith(" tls")])
def test_contract_the_page_works(server_name: str, browser: Browser, tmp_path: Path) -> None:
    server = start_server(server_name, tmp_path, "--source", "http")
    server.publish({"n": 0})
    browser.visit(server)
    for number in range(1, 4):
        server.publish({"n": number})
        for lane in LANES:
            browser.lane(lane).until(lambda part: part.shows(server))
    figures = browser.figures
    counts = [figures[lane][name] for lane in LANES for name in ("requests", "bytes-up")]
    assert {isinstance(count, int) for count in counts} == {server_name not in UNCOUNTED}, counts
    assert ("not counted here" in browser.find("footer").text) is (server_name in UNCOUNTED)
    assert [figures[lane]["lost"] for lane in LANES] == [0] * len(LANES)
    if server_name in UNCOUNTED:
        browser.lane("websocket").press("cut")
        eventually(lambda: "refused: cut:" in notice(browser))
    assert browser.complaints() == []
    browser.open("about:blank")
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log, server.log
