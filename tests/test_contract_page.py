"""The page in Chromium on each kind of server."""

from pathlib import Path

import pytest

from tests.browsing import Browser
from tests.conftest import PROGRAMS, eventually
from tests.hosting import SERVERS, start_server

#: One of those that share the code of their connections; on serve.py are the page's other tests.
PAGED = [
    name
    for name in SERVERS
    if name not in (*PROGRAMS, "flask_sockets.worker") and not name.endswith(" tls")
]

#: Servers that hide their requests, so that they are not counted.
UNCOUNTED = ("uwsgi gevent", "uwsgi threads", "flask run")


@pytest.mark.parametrize("server_name", PAGED)
def test_contract_the_page_works(server_name: str, browser: Browser, tmp_path: Path) -> None:
    browser.visit(start_server(server_name, tmp_path, "--source", "http"))
    for number in range(3):
        browser.publish(f"reading {number}")
    counts = [*browser.each("requests").values(), *browser.each("bytes-up").values()]
    assert {isinstance(count, int) for count in counts} == {server_name not in UNCOUNTED}, counts
    assert ("not counted here" in browser.find("footer").text) is (server_name in UNCOUNTED)
    assert browser.lost == 0
    if server_name in UNCOUNTED:
        browser.lane("websocket").press("cut")
        eventually(lambda: "refused: cut:" in browser.notice)
    assert browser.complaints() == []
    browser.open("about:blank")
    assert browser.server.stop() == 0, browser.server.log
    assert "Traceback" not in browser.server.log, browser.server.log
