"""Run an example on gevent: `python examples/on_gevent.py threads`, if it is not made for that.

Others import this before all else, and call `serve` last, so that they run by themselves.
"""

import sys
from pathlib import Path

# As if the example had been started in the directory that has pushlab/.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lab import installed  # so that a missing package is one clear line

# From here on, whatever waits (a socket, a lock, time.sleep) lets other greenlets run. It must
# come before the modules that it changes are used, and so before Flask.
from gevent import monkey

monkey.patch_all()

import logging
from importlib import import_module

from flask import Flask

from lab import settings as options
from pushlab.hosting.gevent_server import Server
from pushlab.hosting.listener import listen


def serve(app: Flask) -> None:
    """Serve the app where the command line says, until Ctrl-C or SIGTERM; then close with 1001."""
    example = Path(sys.argv[0]).stem
    settings = options.parse_serving(sys.argv[1:], f"Run Pushlab's example {example} on gevent.")
    logging.basicConfig(level=settings.log_level.upper())
    listener = listen(settings.host, settings.port)
    server = Server(listener, app, **settings.server())
    server.start()
    url = settings.url(listener.getsockname()[1])
    print(f"Pushlab example `{example}` is at {url} (Ctrl-C stops it)", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    names = sorted(path.stem for path in Path(__file__).parent.glob("[!o]*.py"))
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"on_gevent.py: which one? {', '.join(names)}")
    del sys.argv[0]  # from here on, the example is the program
    serve(import_module(f"examples.{sys.argv[0]}").app)
