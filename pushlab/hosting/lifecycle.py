"""An app's life on a server, from start to shutdown.

Some servers import the app in a process that never serves (reloaders, gunicorn with --preload),
some fork after the import (uWSGI). So the first request starts what runs in the background, in the
process that serves it; and there the feed begins a new epoch.
"""

import atexit
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from flask import Flask

from pushlab.feed import Feed
from pushlab.hosting import StartupError
from pushlab.hosting.listener import listen
from pushlab.hosting.log_lines import NonBlockingHandler
from pushlab.hosting.metering import Meters
from pushlab.hosting.settings import ServerSettings
from pushlab.hub import Hub
from pushlab.wsgi.responses import Environ, error

__all__ = ["Hosting", "StartupError", "announce", "hosting_of", "serve", "shutdown_at_exit",
           "start_with_first_request"]  # fmt: skip

_SEVERAL_PROCESSES = error(
    "503 Service Unavailable",
    "this server runs several processes, each of which would show other data; start it with one",
)


#: What else a server closes when it stops.
also_close: set[Callable[[], None]] = set()


def close_feeds_and_hubs() -> None:
    """End every wait, and close every hub's sockets with 1001."""
    Feed.close_all()
    closing = []
    for close in (*(hub.close for hub in tuple(Hub.instances)), *also_close):
        thread = threading.Thread(target=close)
        try:
            thread.start()
        except RuntimeError:  # Python 3.12 starts none while it ends
            close()
        else:
            closing.append(thread)
    for thread in closing:
        thread.join()


@dataclass(frozen=True)
class Hosting:
    """What a server asks of an app: `app.extensions["pushlab"]`."""

    name: str
    settings: ServerSettings
    #: Called when the server stops: the app closes what it has opened.
    on_shutdown: tuple[Callable[[], None], ...] = (close_feeds_and_hubs,)
    meters: Meters | None = None


def hosting_of(app: Any, settings: ServerSettings, name: str = "The app") -> Hosting:
    """Return the app's own Hosting, or one of these."""
    found = getattr(app, "extensions", {}).get("pushlab")
    return found if isinstance(found, Hosting) else Hosting(name, settings)


def announce(name: str, settings: ServerSettings, address: Any, stdout: Any = None) -> None:
    """Print a server's address: (host, port) or a path."""
    where = settings.url(address[1]) if isinstance(address, tuple) else address
    say(f"{name} is at {where} (Ctrl-C stops it)", stdout)


def say(line: str, stdout: Any = None) -> None:
    """Print a line, if that is possible.

    A reader that is gone, or a full disk, does not stop the server.
    """
    try:
        print(line, flush=True, file=stdout)
    except OSError:
        sys.stdout = None  # or Python would try again at its end


def stop_signals() -> list[signal.Signals]:
    """Return the signals that end a server gracefully.

    SIGHUP is not one of them where it is ignored, as by `nohup`.
    """
    names = ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP")  # they differ between systems
    found = [signal.Signals[name] for name in names if name in signal.Signals.__members__]
    return [each for each in found if signal.getsignal(each) is not signal.SIG_IGN]


def serve(
    server_class: Callable[..., Any],
    app: Any,
    settings: ServerSettings,
    start_background: Callable[[], object] | None,
    on_shutdown: Iterable[Callable[[], None]],
    while_serving: Callable[[int], AbstractContextManager[object]],
) -> None:
    """Start a server and serve; exit on StartupError."""
    logging.basicConfig(level=settings.log_level.upper(), handlers=[NonBlockingHandler()])
    try:
        listener = listen(settings.host, settings.port, reuse_port=settings.reuse_port)
        server = server_class(listener, app, settings, on_shutdown=on_shutdown)
        # What is there by now stays. Looking for garbage in it takes tens of milliseconds, in which
        # everything waits.
        gc.collect()
        gc.freeze()
        if start_background is not None:
            start_background()
        server.start()  # accepts connections, and takes Ctrl-C, from here on
        address = listener.getsockname()
        announce(hosting_of(app, settings).name, settings, address)
        with while_serving(address[1]):
            server.serve_forever()
    except StartupError as error:
        sys.exit(str(error) or 1)


def start_with_first_request(app: Flask, feed: Feed, background: Callable[[], None]) -> None:
    """Have the app's first request start `background` in a thread.

    A server of several processes gets 503 for every request: each would have data of its own.
    """
    wsgi_app = app.wsgi_app
    starting, started = threading.Lock(), False

    def start() -> None:
        nonlocal started
        with starting:
            if not started:
                feed.reset()
                started = True
                if app.wsgi_app is dispatch:  # nothing has been put in front of it
                    app.wsgi_app = wsgi_app  # type: ignore[method-assign]
                threading.Thread(target=background, name="source", daemon=True).start()

    def dispatch(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("wsgi.multiprocess") and not feed.is_shared:
            return _SEVERAL_PROCESSES(environ, start_response)
        if not started:
            start()
        return wsgi_app(environ, start_response)

    app.wsgi_app = dispatch  # type: ignore[method-assign]


def shutdown_at_exit(on_shutdown: Iterable[Callable[[], None]]) -> None:
    """Call these when the program ends.

    SIGTERM ends a Python program without calling anything, also under `flask run` without the
    reloader: there this handles the signal. Other servers handle it themselves.
    """

    def shut_down() -> None:
        for close in on_shutdown:
            close()

    atexit.register(shut_down)
    handles_sigterm = (
        os.environ.get("FLASK_RUN_FROM_CLI") == "true"
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if handles_sigterm:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
