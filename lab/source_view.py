"""Source view: /code/TRANSPORT shows a transport's two files.

They are the files that run: first the idea, the function that is the transport, then all of it.
Each line of the files is a link target, such as `#server-12`. The text is that of the file; line
numbers and colours come from static/code.css.
"""

import re
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from flask import Blueprint, Response, abort, render_template, request
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename

import pushlab
from pushlab.transports import TRANSPORTS

LIBRARY = Path(pushlab.__file__).parent

#: This page needs less than the main page: no script, no connection.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

blueprint = Blueprint("source_view", __name__)


class Half(NamedTuple):
    """One of a transport's two files, as HTML."""

    place: str  #: where it runs
    anchor: str  #: of its lines, such as `server`
    file: str
    html: Markup
    idea: Markup  #: the function that is the transport
    begins: int  #: its first line


@blueprint.get("/code/", defaults={"transport": ""}, strict_slashes=False)
@blueprint.get("/code/<path:transport>")
def code(transport: str) -> Response:
    """The page; static/code.js shows it in a dialog."""
    if transport not in TRANSPORTS:
        abort(404, f"there is no transport {transport!r}; there are: {', '.join(TRANSPORTS)}")
    page = Response(
        render_template(
            "code.html",
            transport=transport,
            transports=TRANSPORTS,
            halves=tuple(_halves(transport)),
        )
    )
    page.headers["Content-Security-Policy"] = POLICY
    page.headers["Cache-Control"] = "no-cache"
    page.add_etag()
    page.make_conditional(request)
    return page


#: The function that a half is: `update` on the server, `connect` in the browser.
_IDEA = {
    ".py": re.compile(r"^def update\(.*?(?=\n\n\n|\Z)", re.DOTALL | re.MULTILINE),
    ".js": re.compile(r"^\t(async )?connect\(.*?^\t}$", re.DOTALL | re.MULTILINE),
}


def _halves(transport: str) -> Iterator[Half]:
    for place, anchor, file in (
        ("On the server", "server", f"transports/{transport}.py"),
        ("In the browser", "browser", f"static/transports/{transport}.js"),
    ):
        path = LIBRARY / file
        text = path.read_text("utf-8")
        found = _IDEA[path.suffix].search(text)
        idea, start = (found[0], found.start()) if found else (text, 0)  # it is being edited
        yield Half(
            place,
            anchor,
            f"pushlab/{file}",
            _as_html(text, file, anchor),
            _as_html(textwrap.dedent(idea.strip("\n")), file),
            text.count("\n", 0, start) + 1,
        )


@lru_cache(maxsize=4 * len(TRANSPORTS))  # files rarely change, but readers come often
def _as_html(text: str, file: str, anchor: str = "") -> Markup:
    """Return the text as HTML; an anchor makes lines targets."""
    lexer = get_lexer_for_filename(file, stripnl=False, ensurenl=False)
    lines = highlight(text, lexer, HtmlFormatter(nowrap=True)).removesuffix("\n").split("\n")
    if not anchor:
        return Markup().join(Markup(f"<span>{html}\n</span>") for html in lines)  # noqa: S704
    line = Markup('<span id="{}-{}">{}\n</span>').format
    return Markup().join(line(anchor, i, Markup(html)) for i, html in enumerate(lines, 1))  # noqa: S704
