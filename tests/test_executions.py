"""What one reads is what runs: each request of a lane executes its transport's one function."""

from collections import Counter

from tests.browsing import LANES, Browser
from tests.clients import LabPage
from tests.conftest import Start, eventually


def test_every_request_of_the_page_executes_its_transports_function(
    start: Start, browser: Browser
) -> None:
    """All four lanes, both payloads, on the server with its default dispatch."""
    server = start("tests/executions.py", "--source", "http")
    browser.visit(server)
    for carry in (True, False):
        for transport in LANES:
            browser.lane(transport).set_carry(carry)
        for number in range(3):
            browser.publish(f"reading {number}, {carry}")
    for transport in LANES:
        browser.lane(transport).press("stop")
        browser.lane(transport).until(lambda lane: lane.state == "stopped")

    requests = browser.requests
    lanes = {each.lane: each.transport for each in requests}  # another one for each payload
    assert len(lanes) == 2 * len(LANES)
    with LabPage(server.ws) as page:

        def executed() -> dict[str, Counter[str]] | None:
            """The executions by lane, once they are as many as the lane's requests."""
            counts = server.http.get("/executions").json
            metered = {lane: page.sums(lane)["requests"] for lane in lanes}
            same = metered == {lane: sum(counts[lane].values()) for lane in lanes}
            return {lane: Counter(counts[lane]) for lane in lanes} if same else None

        executions = eventually(executed)

    for lane, transport in lanes.items():
        # What a signal announces is fetched from /data, whose function is the short poll's.
        assert executions[lane].keys() <= {transport, "poll"}, executions
        sent = sum(each.lane == lane and "/update" in each.url for each in requests)
        if transport in ("sse", "websocket"):
            assert executions[lane][transport] == sent == 1, "one for each connection"
        elif transport == "longpoll":
            assert 3 <= executions[lane][transport] <= sent
        else:
            assert executions[lane][transport] >= 3
