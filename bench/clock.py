"""The server's clock: how far it is from ours."""

import json
import time
from contextlib import closing

from bench.clients.frames import TEXT, BlockingWebSocket, masked
from bench.clients.http import WrongResponse

#: Questions.
COUNT = 15
#: Seconds that all of them may take.
TIMEOUT = 10.0


def offset(host: str, port: int, *, name: str) -> float:
    """Return the seconds by which the server's clock is ahead.

    The shortest of several round trips counts, on the page's WebSocket for its instruments. Raises
    WrongResponse if there is none.
    """
    found: list[tuple[float, float]] = []
    deadline = time.monotonic() + TIMEOUT
    try:
        with closing(BlockingWebSocket(host, port, name=name, timeout=TIMEOUT)) as lab:
            lab.open("/lab")
            while len(found) < COUNT and time.monotonic() < deadline:
                lab.send(masked(TEXT, b'{"do":"clock","sent":%f}' % (time.time() * 1e3)))
                while "clock" not in (message := json.loads(lab.text())):
                    if time.monotonic() > deadline:
                        raise TimeoutError("no response")
                sent, at, now = *(message["clock"][of] / 1e3 for of in ("sent", "at")), time.time()
                found.append((now - sent, at - (sent + now) / 2))
    except (OSError, ValueError, WrongResponse) as error:
        raise WrongResponse(f"/lab does not tell the time: {error}") from error
    return min(found)[1]
