"""Serve an example by name, for on_gevent.py and on_threads.py."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from flask import Flask

from pushlab.hosting.lifecycle import Hosting
from pushlab.hosting.settings import ServerSettings, from_command_line


def serve(app: Flask, run: Callable[[Flask, ServerSettings], None], where: str) -> None:
    """Serve the app until Ctrl-C or SIGTERM."""
    example = Path(sys.argv[0]).stem
    settings = from_command_line(f"Run Pushlab's example {example} on {where}.")
    app.extensions["pushlab"] = Hosting(f"Pushlab example `{example}`", settings)
    run(app, settings)


def named() -> Flask:
    """Return the app of the example named in `sys.argv`."""
    texts = {path.stem: path.read_text() for path in Path(__file__).parent.glob("*.py")}
    names = sorted(name for name, text in texts.items() if "\napp = " in text)
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"{Path(sys.argv[0]).name}: which example? {', '.join(names)}")
    del sys.argv[0]  # from here on, the example is the program
    app = import_module(f"examples.{sys.argv[0]}").app
    assert isinstance(app, Flask)  # noqa: S101 - a module's attribute has no type
    return app
