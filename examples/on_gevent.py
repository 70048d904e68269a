"""Run an example on gevent: `python examples/on_gevent.py threads`, if it is not made for that.

Others import this before all else, and call `serve` last, so that they run by themselves.
"""

import sys
from pathlib import Path

# As if the example had been started in the directory that has pushlab/.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lab import requirements_check

requirements_check.check("requirements.txt")  # a missing package is one clear line

# From here on, whatever waits (a socket, a lock, time.sleep) lets other greenlets run. It must
# come before the modules that it changes are used, and so before Flask.
from gevent import monkey

monkey.patch_all()

from importlib import import_module

from flask import Flask

from pushlab.hosting import gevent_server
from pushlab.hosting.lifecycle import Hosting
from pushlab.hosting.settings import from_command_line


def serve(app: Flask) -> None:
    """Serve the app where the command line says, until Ctrl-C or SIGTERM."""
    example = Path(sys.argv[0]).stem
    settings = from_command_line(f"Run Pushlab's example {example} on gevent.")
    name = f"Pushlab example `{example}`"
    app.extensions["pushlab"] = Hosting(name, settings)
    gevent_server.run(app, settings)


if __name__ == "__main__":
    texts = {path.stem: path.read_text() for path in Path(__file__).parent.glob("[!o]*.py")}
    names = sorted(name for name, text in texts.items() if "Flask(__name__)" in text)
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"on_gevent.py: which one? {', '.join(names)}")
    del sys.argv[0]  # from here on, the example is the program
    serve(import_module(f"examples.{sys.argv[0]}").app)
