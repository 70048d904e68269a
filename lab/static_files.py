"""Static files: the page's and the library's, below one URL."""

from pathlib import Path

from flask import Flask, Response, request, send_from_directory
from werkzeug.exceptions import NotFound

import pushlab
from pushlab.transports import TRANSPORTS

#: The page's own folder, and the library's, where the browser half of each transport is.
OWN = Path(__file__).resolve().parent.parent / "static"
LIBRARY = Path(pushlab.__file__).parent / "static"

#: Every JavaScript module of the page, as in its URL below /static/; push.js is for others.
MODULES = sorted(
    module.relative_to(folder).as_posix()
    for folder in (OWN, LIBRARY)
    for module in folder.rglob("*.js")
    if module.name != "push.js"
)

#: One hue per transport, for its lane and for its name in a sentence.
COLOURS = "".join(
    f"[data-transport={name}], .{name} {{ --transport: light-dark({light}, {dark}); }}\n"
    for name, (light, dark) in ((each.name, each.colour) for each in TRANSPORTS.values())
)


def add_to(app: Flask) -> None:
    """Serve both folders as /static/; the app needs `static_folder=None`."""

    @app.get("/static/<path:filename>")
    def static(filename: str) -> Response:
        try:
            return send_from_directory(OWN, filename)
        except NotFound:
            return send_from_directory(LIBRARY, filename)

    @app.get("/static/transports.css")
    def colours() -> Response:
        style = Response(COLOURS, mimetype="text/css")
        style.headers["Cache-Control"] = "no-cache"
        style.add_etag()
        style.make_conditional(request)
        return style
