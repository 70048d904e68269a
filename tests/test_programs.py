"""The programs as a user meets them: options, mistakes, starting, stopping."""

import os
import re
import signal
import socket
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import trustme

from lab import settings as options
from lab.requirements_check import packages
from pushlab.hosting.lifecycle import StartupError
from tests.clients import HANG_TIMEOUT, RawSocket
from tests.conftest import PROGRAMS, ROOT, Program, Server, Start, eventually
from tests.hosting import with_limits


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run to the end; return the exit status and what was on stderr."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True,
        timeout=HANG_TIMEOUT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def is_one_clear_line(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith("\n") and "Traceback" not in text


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("--nonsense", "--nonsense"),
        ("--hos 127.0.0.1", "--hos"),
        ("extra", "extra"),
        ("--port x", "not a port"),
        ("--port -1", "--port"),
        ("--port 65536", "not a port"),
        ("--source nowhere", "'nowhere'"),
        ("--every 0", "'0' is not a number of seconds"),
        ("--every -1", "--every"),
        ("--every nan", "'nan'"),
        ("--every inf", "'inf'"),
        ("--every x", "'x'"),
        ("--every", "--every"),
        ("--source stdin --every 1", "--pace"),
        ("--source http --every 1", "--pace"),
        ("--allow-origin example.org", "'example.org'"),
        ("--allow-origin https://example.org/path", "origin"),
        ("--keyfile key.pem", "--certfile"),
        ("--source http --host 0.0.0.0", "PUSHLAB_TOKEN"),
        ("--source http --host ::", "PUSHLAB_TOKEN"),
        ("--log-level loud", "'loud'"),
    ],
)
def test_a_bad_option_is_one_line_and_status_2(
    mistake: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PUSHLAB_TOKEN", raising=False)
    error = rejection(mistake.split(), capsys)
    assert is_one_clear_line(error), error
    assert message in error
    assert "--help" in error


def rejection(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `parse` prints to stderr, as the programs do.

    Starting a program for each mistake would take half a second each.
    """
    with pytest.raises(SystemExit) as ended:
        options.parse(arguments)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


def test_a_bad_option_ends_each_program(program: str) -> None:
    status, error = run(program, "--port", "0", "--every", "0")
    assert status == 2
    assert error.startswith(f"{program}: ")
    assert is_one_clear_line(error), error
    assert "'0' is not a number of seconds" in error


def test_help_names_every_option(program: str) -> None:
    done = subprocess.run([sys.executable, program, "--help"], cwd=ROOT, capture_output=True,
                          text=True, timeout=HANG_TIMEOUT, check=True)  # fmt: skip
    for option in ("host", "port", "source", "every", "allow-origin", "certfile", "keyfile",
                   "token", "log-level"):  # fmt: skip
        assert f"--{option}" in done.stdout
    page = (ROOT / "docs" / "reference" / "options.rst").read_text()
    for option in re.findall(r"--[a-z-]+", done.stdout):
        assert f"``{option}" in page or option == "--help", f"options.rst lacks {option}"


def test_a_taken_port_is_one_line(program: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, error = run(program, "--port", str(taken.getsockname()[1]))
    assert status == 1
    assert is_one_clear_line(error), error
    assert "in use" in error
    assert "--port" in error


@pytest.mark.parametrize(
    ("program", "host"),
    [("serve.py", "192.0.2.1"), ("serve2.py", "no.such.host.invalid"), ("serve.py", "300.1.1.1")],
)
def test_an_address_that_is_not_here_is_one_line(program: str, host: str) -> None:
    status, error = run(program, "--host", host, "--port", "0")
    assert status == 1
    assert is_one_clear_line(error), error
    assert host in error


def test_an_unreadable_certificate_is_one_line(
    tmp_path: Path,
) -> None:
    certificate, nonsense = tmp_path / "cert.pem", tmp_path / "nonsense.pem"
    trustme.CA().issue_cert("localhost").cert_chain_pems[0].write_to_path(certificate)
    nonsense.write_text("nonsense")
    mistakes = (
        ["--certfile", str(tmp_path / "missing.pem")],
        ["--certfile", str(nonsense)],
        ["--certfile", str(certificate)],  # without its key
        ["--certfile", str(certificate), "--keyfile", str(tmp_path / "missing.pem")],
        ["--certfile", str(tmp_path)],
    )
    for mistake in mistakes:
        with pytest.raises(StartupError, match=f"{re.escape(mistake[-1])}.*") as ended:
            options.parse(mistake).ssl_context()
        assert "\n" not in str(ended.value)
    for program, mistake in zip(PROGRAMS, mistakes, strict=False):  # as a user sees it
        status, error = run(program, "--port", "0", *mistake)
        assert status == 1
        assert is_one_clear_line(error), error
        assert mistake[-1] in error


@pytest.mark.parametrize(
    ("program", "package"),
    [*product(["serve.py"], packages("requirements.txt")), ("serve2.py", "flask")],
)
def test_a_missing_package_is_one_line(program: str, package: str, tmp_path: Path) -> None:
    """An interpreter without the package, as if it had never been installed."""
    (tmp_path / "sitecustomize.py").write_text(
        "from importlib import metadata\n"
        "find = metadata.distribution\n"
        "def distribution(name):\n"
        f"    if name == {package!r}:\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return find(name)\n"
        "metadata.distribution = distribution\n"
    )
    status, error = run(program, "--port", "0", PYTHONPATH=str(tmp_path))
    assert status == 1
    assert is_one_clear_line(error), error
    assert package in error
    assert "pip install -r requirements.txt" in error


def test_requirements_that_are_included_are_checked_too() -> None:
    ours = packages("requirements.txt")
    assert {"flask", "gevent", "wsproto"} <= set(ours)
    assert {*ours, "rich", "matplotlib"} <= set(packages("bench/requirements.txt"))


def test_the_ready_line_comes_when_connections_are_accepted(program: str) -> None:
    server = Server(program)
    assert server.http.get("/data").status == 200
    assert len(server.out) == 1
    assert server.stop() == 0
    assert server.log == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1"])
def test_hosts(start: Start, host: str) -> None:
    if host == "::1" and not socket.has_ipv6:
        pytest.fail("this machine has no IPv6")
    server = start("serve.py", "--host", host)
    name = server.url.removeprefix("http://").rpartition(":")[0]
    with socket.create_connection((name.strip("[]"), server.port), HANG_TIMEOUT) as connection:
        connection.sendall(f"GET /data HTTP/1.1\r\nHost: {name}:{server.port}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


#: So that a stop waits for ever, if it waits for a timeout at all.
HOUR = with_limits(SHUTDOWN_TIMEOUT=3600, CLOSE_ALL_TIMEOUT=3600)


@pytest.mark.parametrize(("program", "name"), [("serve.py", "SIGTERM"), ("serve2.py", "SIGINT")])
def test_without_connections_it_stops_at_once(program: str, name: str) -> None:
    server = Server(program, environment=HOUR)
    server.http.get("/data")
    server.process.send_signal(getattr(signal, name))
    assert server.wait() == 0
    assert server.log == ""


def test_ctrl_c_while_standard_input_is_silent(program: str) -> None:
    server = Server(program, "--source", "stdin", stdin=subprocess.PIPE, environment=HOUR)
    server.http.get("/data")
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0
    assert server.log == ""


def test_idle_and_unfinished_requests_do_not_hold_it_up() -> None:
    for sent, environment in ((b"", HOUR), (b"GET /data HTTP/1.1\r\nHos", {})):
        server = Server("serve.py", environment=environment)
        with server.open_socket() as idle, server.open_socket() as unfinished:
            idle.sendall(b"GET /data HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert idle.recv(10)
            unfinished.sendall(sent)
            assert server.stop() == 0
        assert server.log == ""


def test_killed_and_started_again_on_the_same_port(program: str) -> None:
    server = Server(program)
    with RawSocket(server.port) as socket_:
        socket_.json()
        server.process.kill()
        assert server.wait() == -signal.SIGKILL
        again = Server(program, port=server.port)
        assert again.http.get("/data").status == 200
    assert again.stop() == 0


def test_log_level_info_logs_requests(start: Start) -> None:
    server = start("serve.py", "--log-level", "info")
    server.http.get("/healthz")
    eventually(lambda: "GET /healthz" in server.log)


def test_the_programs_can_be_imported_by_another_server(program: str) -> None:
    """As gunicorn does, with its own command line."""
    code = f"import {program[:-3]} as program; print(type(program.app).__name__)"
    importer = Program("-c", code, "--workers", "1")
    assert importer.wait() == 0, importer.log
    assert importer.out == ["Flask\n"]


def test_the_programs_differ_only_in_how_the_route_is_declared() -> None:
    import difflib

    one, two = ((ROOT / name).read_text().splitlines() for name in ("serve.py", "serve2.py"))
    changed = [line for line in difflib.ndiff(one, two) if line[0] in "+-" and line[2:].strip()]
    assert len(changed) <= 15
    for line in changed:
        assert re.search(r"import|route|direct|update|[sS]ocket", line), line
    assert len(one) <= 55
    assert len(two) <= 55


def test_what_other_systems_run() -> None:
    """The smoke test of the workflow file, which runs it on Windows and macOS."""
    done = subprocess.run(
        [sys.executable, "servers/smoke.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "It starts, serves, pushes and stops.\n",
        "",
    )
