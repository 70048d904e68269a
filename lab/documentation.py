"""Documentation: the built site, else the pages as written.

`make docs` builds the site.
"""

from pathlib import Path

from flask import Blueprint, Response, redirect, send_from_directory, url_for
from flask.typing import ResponseReturnValue

ROOT = Path(__file__).resolve().parent.parent
WRITTEN = ROOT / "docs"
BUILT = ROOT / "build" / "docs"

#: The site's theme has scripts and styles in its pages, and all of it is ours.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

blueprint = Blueprint("documentation", __name__, url_prefix="/docs")


@blueprint.get("/")
def index() -> ResponseReturnValue:
    """The first page of the docs."""
    return redirect(url_for(".page", path="index.rst"))


@blueprint.get("/<path:path>")
def page(path: str) -> ResponseReturnValue:
    """A page by its source; a file of the site."""
    if path.endswith(".rst"):
        html = str(Path(path).with_suffix(".html"))
        if (BUILT / "index.html").exists():
            return redirect(url_for(".page", path=html))
        return send_from_directory(WRITTEN, path, mimetype="text/plain")
    return send_from_directory(BUILT, path)


@blueprint.after_request
def add_policy(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = POLICY
    return response
