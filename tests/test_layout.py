"""The house: which folder imports which, and how docstrings begin."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from gevent.pywsgi import WSGIHandler
from geventwebsocket.handler import WebSocketHandler

from pushlab import limits
from pushlab.hosting.gevent_server import Handler
from tests.conftest import ROOT
from tests.test_programs import run

FOLDERS = ("pushlab", "lab", "bench", "examples", "servers")
PROGRAMS = ("serve.py", "serve2.py", "compare.py")

#: Which of our folders a folder or program imports, beside itself.
IMPORTS = {
    "pushlab": set[str](),
    "lab": {"pushlab"},
    "bench": {"pushlab", "lab"},
    "examples": {"pushlab", "lab"},
    "servers": {"pushlab", "lab"},
    "serve.py": {"pushlab", "lab"},
    "serve2.py": {"pushlab", "lab"},
    "compare.py": {"bench", "lab"},
}

#: The parts of the library: each imports only those after it.
PARTS = (
    "testing",
    "revived",
    "metrics",
    "push",
    "push_commands",
    "topics",
    "redis_feed",
    "presence",
    "sockets",
    "hosting",
    "transports",
    "hub",
    "polls",
    "wsgi",
    "feed",
    "websocket",
    "counts",
    "forked",
    "limits",
)

#: What only one folder of the library imports.
RESERVED = {
    "gevent": "hosting",
    "geventwebsocket": "hosting",
    "gunicorn": "hosting",
    "uwsgi": "hosting",
    "werkzeug.serving": "hosting",
    "wsproto": "websocket",
}


def python_files(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{each.name}" for each in node.names)


@pytest.mark.parametrize("place", IMPORTS)
def test_folders_import_downward(place: str) -> None:
    ours = {*FOLDERS, "tests", *(name.removesuffix(".py") for name in PROGRAMS)}
    for path in python_files(place):
        found = {name.partition(".")[0] for name in imports(path)} & ours - {place}
        assert found <= IMPORTS[place], path


def test_parts_of_the_library_import_downward() -> None:
    for path in python_files("pushlab"):
        part = path.relative_to(ROOT / "pushlab").parts[0].removesuffix(".py")
        if part in ("__init__", "gunicorn_worker"):  # names for what is elsewhere
            continue
        below = PARTS[PARTS.index(part) :]
        for name in imports(path):
            if name.startswith("pushlab."):
                assert name.split(".")[1] in below, path
            for reserved, folder in RESERVED.items():
                assert folder == part or not f"{name}.".startswith(f"{reserved}."), path


def test_each_folder_states_its_rule() -> None:
    found = [ROOT / place / "__init__.py" for place in ("pushlab", "lab", "bench")]
    found += (ROOT / "pushlab").glob("*/__init__.py")
    assert len(found) == 8
    for path in found:
        assert "RULE: " in str(ast.get_docstring(ast.parse(path.read_text()))), path


def test_every_module_can_be_imported_first() -> None:
    """No module is imported before it is there; no circles."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for place in ("pushlab", "lab")
        for path in python_files(place)
    ]
    # One process, so that what they need from elsewhere is imported once; none has its own parts.
    one_by_one = (
        "import importlib, sys, types\n"
        "sys.modules['uwsgi'] = types.ModuleType('uwsgi')\n"  # which exists within uWSGI alone
        "for name in sys.argv[1:]:\n"
        "    for ours in [it for it in sys.modules if it.startswith(('pushlab', 'lab.'))]:\n"
        "        del sys.modules[ours]\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ImportError as error:\n"
        "        sys.exit(f'{name}: {error}')\n"
    )
    assert len(names) > 40
    assert run("-c", one_by_one, *names) == (0, "")


def test_what_our_handler_overrides_is_in_its_base() -> None:
    """Private names of gevent are among them: an upgrade may take them away."""
    private = {name for name in vars(Handler) if re.match("_[^_]", name)} & set(dir(WSGIHandler))
    assert private == {
        "_handle_client_error", "_headers", "_sendall", "_write_with_headers"
    }  # fmt: skip
    for name in (
        "get_environ", "handle", "handle_error", "handle_one_response",
        "ignored_socket_errors", "log_request", "read_request", "read_requestline",
        "run_application",
    ):  # fmt: skip
        assert name in vars(Handler), name
        assert hasattr(WebSocketHandler, name), name
    for name in (  # used, not overridden
        "close_connection", "content_length", "finalize_headers", "format_request",
        "process_result", "start_response", "_write",
    ):  # fmt: skip
        assert hasattr(WSGIHandler, name), name


BANNED = re.compile(r"\b(who|whoever|whom|somebody|goodbye|farewell|deaf)\b", re.I)


@pytest.mark.parametrize("place", list(IMPORTS))
def test_docstrings_begin_in_ten_plain_words(place: str) -> None:
    wrong = []
    for path in python_files(place):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node) or ""
                first = docstring.partition("\n")[0]
                if len(first.split()) > 10 or BANNED.search(first):
                    wrong.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}: {first}")
    assert not wrong, "\n".join(wrong)


def test_every_limit_is_in_its_reference() -> None:
    """Name, default and meaning, in the order of the module."""
    source = (ROOT / "pushlab" / "limits.py").read_text()
    found = re.findall(r"^(\w+) = .+?  #: (.+)$", source, re.M)
    assert len(found) == len(re.findall(r"^\w+ = ", source, re.M)), "each with its unit"
    rows = [[f"``{name}``", f"{getattr(limits, name):,g}", text] for name, text in found]
    page = (ROOT / "docs" / "reference" / "limits.rst").read_text()
    assert [
        re.split(" {2,}", line) for line in re.findall("^``[A-Z_]+`` {2}.+", page, re.M)
    ] == rows
