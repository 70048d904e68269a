"""python examples/threads.py: Flask-Threaded-Sockets' echo, on native threads, without gevent.

What changed: it runs on today's Flask, and loses no long message. Beside the socket there is work
that nobody has rewritten for it, in a thread of its own, so the echo goes on. Greenlets go on
while one sleeps, but not while one works: `python examples/on_gevent.py threads`.
"""

if __name__ == "__main__":
    import on_threads  # nothing is patched here: what waits, waits in a thread of its own

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing

from flask import Flask, abort, render_template
from flask.typing import ResponseReturnValue

from pushlab.sockets import Sockets
from pushlab.websocket.connection import Connection
from pushlab.wsgi.policy import configure

app = configure(Flask(__name__))
sockets = Sockets(app)


@sockets.route("/echo")
def echo(socket: Connection) -> None:
    """Send back whatever comes, whatever else is going on."""
    while (message := socket.receive()) is not None:
        socket.send(message)


# Two million steps, all of them in C.
COUNT = "WITH a AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM a WHERE n < 2e6) SELECT max(n) FROM a"


def query() -> None:
    """Ask a database for what takes it a while."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(COUNT).fetchone()


JOBS: dict[str, Callable[[], object]] = {
    "sleep": lambda: time.sleep(0.5),
    "query": query,
    "compute": lambda: all(True for _ in range(5_000_000)),
}


@app.post("/jobs/<job>")
def work(job: str) -> ResponseReturnValue:
    """Do it, and return how long that took."""
    if job not in JOBS:
        abort(404, f"there is no work {job!r}, only {', '.join(JOBS)}")
    began = time.perf_counter()
    JOBS[job]()
    return {"seconds": time.perf_counter() - began}


@app.get("/")
def page() -> str:
    """Return a page that asks for work, and measures the echo meanwhile."""
    return render_template("threads.html", jobs=JOBS)


if __name__ == "__main__":
    on_threads.serve(app)
