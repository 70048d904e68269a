"""Listings: /code/<transport> shows both halves of a transport, from the very files that run.

Each function is a link target, and each line. The text of a listing is that of the file, to the
last character: numbers and colours come from static/code.css.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from flask import Blueprint, Response, abort, render_template, request
from markupsafe import Markup
from pygments.lexer import include, inherit
from pygments.lexers.javascript import JavascriptLexer
from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String

from pushlab.transports import TRANSPORTS

ROOT = Path(__file__).resolve().parent.parent

#: A listing needs less than the page: no script, no connection.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

#: The colours, by the name of their CSS class; the first group that a token belongs to counts.
COLOURS = {
    "comment": (Comment, String.Doc),
    "string": (String,),
    "number": (Number, Keyword.Constant),
    "keyword": (Keyword, Operator.Word),
    "name": (Name.Function, Name.Class),
}

_Token = tuple[Any, str]  # its type, of which Pygments makes no Python type, and its text

blueprint = Blueprint("listing", __name__)


class Function(NamedTuple):
    """A function, method or class, and its lines."""

    name: str
    first: int
    last: int
    id: str


class Half(NamedTuple):
    """One of the two files of a transport, ready to be shown."""

    place: str
    file: str
    functions: list[Function]
    html: Markup


@blueprint.get("/code/", defaults={"transport": ""}, strict_slashes=False)
@blueprint.get("/code/<path:transport>")
def code(transport: str) -> Response:
    """The code of a transport, as a page; static/code.js shows the same within the main page."""
    if transport not in TRANSPORTS:
        abort(404, f"there is no transport {transport!r}; there are: {', '.join(TRANSPORTS)}")
    known = {"transport": transport, "transports": TRANSPORTS, "halves": halves(transport)}
    page = Response(render_template("code.html", **known))
    page.headers["Content-Security-Policy"] = POLICY
    page.headers["Cache-Control"] = "no-cache"
    page.add_etag()
    page.make_conditional(request)
    return page


def halves(transport: str) -> tuple[Half, Half]:
    """Read both halves, as they are now."""
    server = f"pushlab/transports/{transport}.py"
    browser = f"pushlab/static/transports/{transport}.js"
    return (
        Half("On the server", server, *listing((ROOT / server).read_text("utf-8"), "server")),
        Half("In the browser", browser, *listing((ROOT / browser).read_text("utf-8"), "browser")),
    )


@lru_cache(maxsize=2 * len(TRANSPORTS))  # files change rarely, but are looked at often
def listing(text: str, prefix: str) -> tuple[list[Function], Markup]:
    if prefix == "server":
        tokens = list(PythonLexer(stripnl=False, ensurenl=False).get_tokens(text))
        found = python_functions(text)
    else:
        tokens = list(JavaScriptLexer(stripnl=False, ensurenl=False).get_tokens(text))
        found = javascript_functions(tokens)
    functions = list(_with_ids(found, prefix))
    return functions, _html(_lines(tokens), functions, prefix)


# Which functions there are.


def python_functions(text: str) -> list[tuple[str, int, int]]:
    """Find the name, first and last line of every function and class, in the order of the text."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # somebody is working on it
        return []
    found = [
        (node.name, node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    return sorted(found, key=lambda function: function[1])


class JavaScriptLexer(JavascriptLexer):  # type: ignore[misc]  # Pygments has no types
    """Pygments' lexer, and what it does not know: 10_000, and braces within those of `${}`."""

    tokens: ClassVar[dict[str, Any]] = {
        "root": [(r"\d+(?:_\d+)+", Number.Integer), inherit],
        "interp-inside": [(r"\{", Punctuation, ("braces", "slashstartsregex")), inherit],
        "braces": [(r"\}", Punctuation, "#pop"), include("interp-inside")],
    }


#: What stands before a parenthesis and a block without being the name of a function.
_NO_NAMES = {"if", "for", "while", "switch", "catch", "with", "function", "await"}
_NAME = re.compile(r"#?[\w$]+")


def javascript_functions(tokens: list[_Token]) -> list[tuple[str, int, int]]:
    """Find every class, function, method, and arrow function with a name; name these tokens so.

    A parser is not needed for code with semicolons: `name(...) {` can be nothing else there.
    """
    words, places, lines, line = [], [], [], 1
    for place, (kind, text) in enumerate(tokens):
        if text.strip() and kind not in Comment:
            words.append("''" if kind in String else text)  # a bracket in a string is none
            places.append(place)
            lines.append(line)
        line += text.count("\n")
    words += [""] * 4  # so that one may look ahead
    partner, opened = {}, []
    for i, word in enumerate(words):
        if word and word in "([{":
            opened.append(i)
        elif word and word in ")]}" and opened:
            partner[opened.pop()] = i

    def end_of(name: int) -> int | None:
        """Return where the function with this name ends, or None if it is another name."""
        after = name + 1
        if words[name - 1] == "class":
            return partner.get(words.index("{", name))
        if words[after] == "(" and words[name] not in _NO_NAMES:
            body = partner.get(after, after) + 1
            return partner.get(body) if words[body] == "{" else None
        if words[after] == "=" and words[name - 1] in ("const", "let", "var", ";", "}"):
            after += 2 if words[after + 1] == "async" else 1
            arrow = partner.get(after, after) + 1
            if words[arrow] == "=>":
                end = arrow + 1
                while words[end] and words[end] != ";":
                    end = partner.get(end, end) + 1
                return end if words[end] else None
        return None

    found = []
    for i, place in enumerate(places):
        end = end_of(i) if _NAME.fullmatch(words[i]) else None
        if end is not None:
            found.append((words[i], lines[i], lines[end]))
            tokens[place] = (Name.Function, words[i])
    return found


def _with_ids(found: Iterable[tuple[str, int, int]], prefix: str) -> Iterator[Function]:
    taken: dict[str, int] = {}
    for name, first, last in found:
        id_ = f"{prefix}-{name.lstrip('#')}"
        taken[id_] = taken.get(id_, 0) + 1
        yield Function(name, first, last, id_ if taken[id_] == 1 else f"{id_}-{taken[id_]}")


# What it looks like.


def _lines(tokens: Iterable[_Token]) -> list[Markup]:
    """Return the HTML of each line, without its end."""
    span = Markup('<span class="{}">{}</span>').format
    lines = [Markup()]
    for colour, group in groupby(tokens, key=lambda token: _colour(token[0])):
        first, *others = "".join(text for _, text in group).split("\n")
        for i, piece in enumerate([first, *others]):
            if i:
                lines.append(Markup())
            if piece:
                lines[-1] += span(colour, piece) if colour else piece
    return lines if lines[-1] else lines[:-1]  # the end of the last line begins no other


def _colour(kind: Any) -> str:
    """Return the CSS class of a token, empty for none."""
    return next((name for name, kinds in COLOURS.items() if any(kind in k for k in kinds)), "")


def _html(lines: list[Markup], functions: list[Function], prefix: str) -> Markup:
    """Number the lines, and wrap those of each function, and of functions within functions."""
    begin = Markup('<span class="function" id="{}">').format
    numbered = Markup('<span class="numbered" id="{}-{}">{}\n</span>').format
    end = Markup("</span>")
    html: list[Markup] = []
    open_: list[int] = []  # the last lines of the functions that the line is in
    for number, line in enumerate(lines, 1):
        for function in functions:
            if function.first == number:
                html.append(begin(function.id))
                # None outlasts the one that it is in, or the HTML would not nest.
                open_.append(min([function.last, *open_[-1:]]))
        html.append(numbered(prefix, number, line))
        while open_ and open_[-1] == number:
            html.append(end)
            open_.pop()
    return Markup().join(html)
