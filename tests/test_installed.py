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
        command=(str(python),), before=f"cd {tmp_path}", environment={"PYTHONPATH": ""},
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
