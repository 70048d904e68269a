"""docs/reference/close-codes.rst, compared with the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushlab.websocket.frames import CloseConnection, CloseReason, Decoder
from tests.clients import BINARY, TEXT, frame
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "reference" / "close-codes.rst").read_text()
FOLDERS = {"library": "pushlab", "lab": "lab", "examples": "examples"}


def rows() -> dict[int, tuple[str, set[str]]]:
    """Return the table: by code, the name and what sends it."""
    lines = PAGE.splitlines()
    first, _, last = (place for place, line in enumerate(lines) if line.startswith("====  ="))
    columns = [slice(*edge.span()) for edge in re.finditer("=+", lines[first])]
    found: dict[int, tuple[str, set[str]]] = {}
    code = 0
    for line in lines[first + 3 : last]:
        number, its_name, its_senders, _ = (line[column].strip() for column in columns)
        code = int(number or code)  # of a row's second line there is none
        name, senders = found.get(code, ("", set()))
        found[code] = f"{name} {its_name}".strip(), senders | {*its_senders.split()}
    return found


def sent_in(path: Path) -> Iterator[int]:
    """Yield the codes that a module names where it closes, or refuses a frame."""
    tree = ast.parse(path.read_text())
    compared = {id(part) for each in ast.walk(tree) if isinstance(each, ast.Compare)
                for part in ast.walk(each)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("CloseReason."):
            if id(node) not in compared:
                yield CloseReason[node.attr]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
            "close", "close_and_wait", "CloseConnection"
        ):  # fmt: skip
            for value in node.args:
                if isinstance(value, ast.Constant) and isinstance(value.value, int):
                    yield value.value
        elif ast.unparse(node).startswith("LOGGED_OUT = "):  # of examples/logins.py
            yield int(ast.unparse(node).partition(" = ")[2])


#: Frames that break a rule, and the code for each: the decoder's event is what is sent.
WRONG = {
    CloseReason.PROTOCOL_ERROR: frame(TEXT, b"x", masked=False),
    CloseReason.INVALID_FRAME_PAYLOAD_DATA: frame(TEXT, b"\xff"),
    CloseReason.MESSAGE_TOO_BIG: frame(BINARY, length=2**33),
}


@pytest.mark.parametrize("code", WRONG)
def test_the_decoder_closes_with(code: CloseReason) -> None:
    *_, last = Decoder().feed(WRONG[code])
    assert isinstance(last, CloseConnection)
    assert last.code == code


def test_the_page_names_every_code_that_is_sent() -> None:
    sent = {int(code): {"library"} for code in WRONG}
    for sender, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            if path.name in ("testing.py", "test_app.py"):
                continue  # clients
            for code in sent_in(path):
                sent.setdefault(int(code), set()).add(sender)
    names = {int(code): code.name.replace("_", " ").lower() for code in CloseReason}
    assert rows() == {code: (names.get(code, ""), senders) for code, senders in sent.items()}


def test_what_push_js_takes_for_a_refusal() -> None:
    script = (ROOT / "pushlab" / "static" / "push.js").read_text()
    refusals = re.search(r"const REFUSALS = \[(.*?)\]; // also in close codes, as 4400", script)
    assert refusals
    codes = [str(4000 + int(status)) for status in refusals[1].split(", ")]
    assert f"**push.js** takes {', '.join(codes[:-1])} and {codes[-1]} for the statuses" in PAGE
