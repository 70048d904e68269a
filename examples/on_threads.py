"""Run an example on native threads, without gevent: `python examples/on_threads.py echo`.

The example that is made for it, `threads.py`, imports this before all else, and calls `serve` last.
"""

import sys
from pathlib import Path

# As if the example had been started in the directory that has pushlab/.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lab import requirements_check

requirements_check.check("requirements.txt", without=("gevent", "gevent-websocket"))

from importlib import import_module

from flask import Flask

from pushlab.hosting import threaded_server
from pushlab.hosting.lifecycle import Hosting
from pushlab.hosting.settings import from_command_line


def serve(app: Flask) -> None:
    """Serve the app where the command line says, until Ctrl-C or SIGTERM."""
    example = Path(sys.argv[0]).stem
    settings = from_command_line(f"Run Pushlab's example {example} on threads.")
    name = f"Pushlab example `{example}`"
    app.extensions["pushlab"] = Hosting(name, settings)
    threaded_server.run(app, settings)


if __name__ == "__main__":
    texts = {path.stem: path.read_text() for path in Path(__file__).parent.glob("[!o]*.py")}
    names = sorted(name for name, text in texts.items() if "Flask(__name__)" in text)
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"on_threads.py: which one? {', '.join(names)}")
    del sys.argv[0]  # from here on, the example is the program
    serve(import_module(f"examples.{sys.argv[0]}").app)
