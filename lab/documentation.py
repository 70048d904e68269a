"""Documentation: the built site, else the pages as written.

`make docs` builds the site.
"""

from pathlib import Path

from flask import Blueprint, redirect, send_from_directory, url_for
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
    if not path.endswith(".rst"):
        response = send_from_directory(BUILT, path)
    elif (BUILT / "index.html").exists():
        return redirect(url_for(".page", path=f"{path.removesuffix('.rst')}.html"))
    else:
        response = send_from_directory(WRITTEN, path, mimetype="text/plain")
    # Not in an after_request function, with which the server would leave every request to Flask.
    response.headers["Content-Security-Policy"] = POLICY
    return response
