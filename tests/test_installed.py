"""The library, installed from a wheel, without the checkout around it."""

import os
import re
import signal
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

import pushlab
from bench.servers import free_port
from tests.clients import Http, RawSocket
from tests.conftest import ROOT, Program, eventually

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}


def run(*command: str | Path, cwd: Path) -> str:
    """Run to the end; return what was printed."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but pip."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def wheel(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder)
    (found,) = folder.iterdir()
    return found


def test_the_wheel_has_the_library_alone(wheel: Path) -> None:
    library = ROOT / "pushlab"
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in library.rglob("*")
        if path.suffix in (".py", ".js") or path.name in ("py.typed", "push.d.ts")
    }
    assert {"pushlab/py.typed", "pushlab/static/transports/websocket.js"} < expected
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == expected
    assert f"-{pushlab.__version__}-py3-" in wheel.name


def test_without_gevent_it_needs_only_flask_and_wsproto(
    python: Path, wheel: Path, tmp_path: Path
) -> None:
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    code = (
        "import importlib.metadata, importlib.util, pushlab\n"
        "import pushlab.hosting.threaded_server\n"
        "from pushlab import Feed, Hub, Sockets\n"
        "assert importlib.metadata.version('pushlab') == pushlab.__version__\n"
        "for name in ('gevent', 'psutil', 'lab', 'bench', 'examples', 'servers', 'tests'):\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
    )
    assert run(python, "-c", code, cwd=tmp_path) == ""


def test_the_readmes_app_runs_from_an_empty_folder(
    python: Path, wheel: Path, tmp_path: Path
) -> None:
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    readme = (ROOT / "README.rst").read_text()
    block = re.search(
        r"^In your own app\n-+\n(?s:.*?)^\.\. code:: python\n\n((?:(?: {3}.*)?\n)+)", readme, re.M
    )
    assert block, "README.rst has no Python code under 'In your own app'"
    code = re.sub(r"^ {3}", "", block[1], flags=re.M)
    assert "flask --app hello run --port 8020" in readme
    (tmp_path / "hello.py").write_text(code)
    port = free_port()
    app = Program(
        "-W", "error", "-m", "flask", "--app", "hello", "run", "--port", str(port),
        command=(str(python),), folder=tmp_path, environment={"PYTHONPATH": ""},
    )  # fmt: skip
    http = Http("127.0.0.1", port)
    eventually(lambda: "Running on" in app.log or app.process.poll() is not None)
    page = http.get("/").body.decode()
    assert http.get(re.findall(r'from "(.*?)"', page)[0]).status == 200
    with RawSocket(port, "/push/update?topic=greetings&carry=1") as browser:
        assert browser.json()["cursor"].endswith("-0")
        assert http.post("/greet", {}).status == 200
        assert browser.json()["value"] == {"text": "hello"}
        app.process.send_signal(signal.SIGINT)
        assert browser.close_code() == 1001
    app.wait()
    assert "Traceback" not in app.log


#: Everything that the library's public face has, in 25 lines.
WISHED = """\
from flask import Flask, abort, session
from pushlab import Push

app = Flask(__name__)
app.secret_key = "secret"
push = Push(app, url_prefix="/push", redis=None, identify=lambda: session.get("user"))

@push.topic("stock/<sku>")
def stock(sku):
    return {"left": 3}

@push.topic("orders/<int:user>", keep=1000)
def orders(user):
    if user != session.get("user"):
        abort(403)

@app.post("/login/<int:user>")
def log_in(user):
    session["user"] = user
    return {"count": push.count(f"orders/{user}"), "topics": push.topics()}

@app.post("/logout")
def log_out():
    return {"ended": push.disconnect(str(session.pop("user")))}

push.publish("orders/7", {"order": 1})
"""
GEVENT = """\
from gevent import monkey
monkey.patch_all()
from pushlab.hosting import gevent_server
from wished import app
gevent_server.run(app, port={port})
"""


@pytest.mark.parametrize("server", ["flask run", "gevent"])
def test_the_wished_program_runs_from_an_empty_folder(
    python: Path, wheel: Path, tmp_path: Path, server: str
) -> None:
    assert len([line for line in WISHED.splitlines() if line]) <= 25
    extra = "[gevent]" if server == "gevent" else ""
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}{extra}", cwd=tmp_path)
    (tmp_path / "wished.py").write_text(WISHED)
    port = free_port()
    (tmp_path / "on_gevent.py").write_text(GEVENT.format(port=port))
    arguments: tuple[str, ...] = ("-m", "flask", "--app", "wished", "run", "--port", str(port))
    if server == "gevent":
        arguments = ("on_gevent.py",)
    app = Program(
        "-W", "error", *arguments,
        command=(str(python),), folder=tmp_path, environment={"PYTHONPATH": ""},
    )  # fmt: skip
    ready = re.compile("Running on|Ctrl-C stops it")
    eventually(lambda: ready.search(app.log + "".join(app.out)) or app.process.poll() is not None)
    http = Http("127.0.0.1", port)
    assert http.get("/push/data?topic=stock/tea").json["value"] == {"left": 3}
    login = http.post("/login/7", {})
    assert login.json == {"count": 0, "topics": ["orders/7"]}
    cookie = {"Cookie": login.headers["Set-Cookie"].partition(";")[0]}
    path = "/push/update?topic=orders/7&topic=stock/tea&carry=1"
    with RawSocket(port, path, changes=cookie) as browser:
        values = {each["topic"]: each["value"] for each in (browser.json(), browser.json())}
        assert values == {"orders/7": {"order": 1}, "stock/tea": {"left": 3}}
        again = http.post("/login/7", {}).json
        assert again == {"count": 1, "topics": ["orders/7", "stock/tea"]}
        assert http.post("/logout", {}, headers=cookie).json == {"ended": 1}
        assert browser.close_code() == 4401
    for refused, status in ((path, 403), ("/push/update?topic=unknown", 404)):
        with RawSocket(port, refused) as browser:
            assert browser.status == status
    app.process.send_signal(signal.SIGINT)
    app.wait()
    assert "Traceback" not in app.log, app.log
