"""Run an example on native threads, without gevent: `python examples/on_threads.py echo`.

The example that is made for it, `threads.py`, imports this before all else, and calls `serve` last.
"""

import sys
from pathlib import Path

# As if the example had been started in the directory that has pushlab/.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lab import requirements_check as needed

needed.demand(gevent=False)  # a missing package is one clear line

import logging
from importlib import import_module

from flask import Flask

from lab import settings as options
from pushlab.hosting.listener import listen
from pushlab.hosting.threaded_server import Server
from pushlab.hosting.werkzeug import WerkzeugUpgrade


def serve(app: Flask) -> None:
    """Serve the app where the command line says, until Ctrl-C or SIGTERM; then close with 1001."""
    example = Path(sys.argv[0]).stem
    settings = options.parse_serving(sys.argv[1:], f"Run Pushlab's example {example} on threads.")
    logging.basicConfig(level=settings.log_level.upper())
    upgrade = WerkzeugUpgrade(app.wsgi_app, settings)  # Werkzeug's server knows no WebSockets
    listener = listen(settings.host, settings.port)
    server = Server(
        listener,
        upgrade,
        on_shutdown=[upgrade.close],
        max_clients=settings.max_clients,
        head_timeout=settings.head_timeout,
        ssl_context=settings.tls(),
    )
    server.start()
    url = settings.url(listener.getsockname()[1])
    print(f"Pushlab example `{example}` is at {url} (Ctrl-C stops it)", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    names = sorted(path.stem for path in Path(__file__).parent.glob("[!o]*.py"))
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"on_threads.py: which one? {', '.join(names)}")
    del sys.argv[0]  # from here on, the example is the program
    serve(import_module(f"examples.{sys.argv[0]}").app)
