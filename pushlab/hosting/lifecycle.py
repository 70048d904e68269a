"""Hosted: what the app needs when another program than serve.py or serve2.py runs it.

Such a program imports the app and calls it, in as many processes as it likes: some import it in one
that never serves (reloaders, gunicorn with --preload), some fork afterwards (uWSGI). So what
runs in the background is started by the first request, in the process that answers it; and there
the feed begins, with an epoch of its own.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask

from pushlab.websocket import handshake

_SEVERAL = handshake.reject(
    "503 Service Unavailable",
    "this server runs several processes, each of which would show other data; start it with one",
)


def start_with_first_request(app: Flask, run: Callable[[], None]) -> None:
    """Have the app's first request start `run` in the background, once.

    A server of several processes is refused with a 503: each would have data of its own.
    """
    wsgi_app = app.wsgi_app
    starting, started = threading.Lock(), False

    def start() -> None:
        nonlocal started
        with starting:
            if not started:
                app.extensions["pushlab"].feed.reset()
                started = True
                threading.Thread(target=run, name="source", daemon=True).start()

    def hosted(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("wsgi.multiprocess"):
            return _SEVERAL.answer(environ, start_response)
        if not started:
            start()
        return wsgi_app(environ, start_response)

    app.wsgi_app = hosted  # type: ignore[method-assign]


def shutdown_at_exit(on_shutdown: Iterable[Callable[[], None]]) -> None:
    """Call all these when the program ends: by itself, by Ctrl-C, or by SIGTERM under `flask run`.

    SIGTERM ends a Python program without a word. `flask run` leaves it at that, unless it reloads;
    what other servers do with it is theirs.
    """

    def close_all() -> None:
        for goodbye in on_shutdown:
            goodbye()

    atexit.register(close_all)
    is_ours = (
        os.environ.get("FLASK_RUN_FROM_CLI") == "true"
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
