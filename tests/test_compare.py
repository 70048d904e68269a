"""compare.py as users run it: output, refusals, exit status."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bench import cli, scenarios
from bench.results import Result, Results
from bench.scenarios import DIRECT, FLASK, UNKNOWN, VARIANTS, Variant
from bench.servers import SERVERS, command, missing
from tests.conftest import ROOT, Program, Start, eventually

#: Seconds for a whole run, at most.
RUN_TIMEOUT = 240

FEW = ["--clients", "2", "--pace", "0.2", "--changes", "4"]


@contextmanager
def comparing(*arguments: str | Path) -> Iterator[Program]:
    """Run it; what it started must end with it."""
    program = Program("compare.py", *map(str, arguments))
    family: list[psutil.Process] = []
    try:
        yield program
    finally:
        if program.process.poll() is None:
            family = psutil.Process(program.process.pid).children(recursive=True)
            program.process.terminate()
            program.wait()
        assert not [one for one in family if one.is_running() and one.status() != "zombie"]


def compare(*arguments: str | Path) -> tuple[int, Program]:
    """Run it; return the exit status and the program."""
    with comparing(*arguments) as program:
        return program.wait(RUN_TIMEOUT), program


def children(program: Program, named: str) -> list[psutil.Process]:
    """Return its child processes with this in their command."""
    return [
        child
        for child in psutil.Process(program.process.pid).children(recursive=True)
        if named in " ".join(child.cmdline())
    ]


def results_in(folder: Path) -> Results:
    return Results.load(folder / "results.json")


def test_a_run(tmp_path: Path) -> None:
    """Two distances, each variant with a server of its own."""
    variants = ("--transports", "poll,websocket", "--payloads", "carry")
    status, program = compare(*variants, *FEW, "--rtt", "0,60", "--output", tmp_path / "new")
    assert status == 0, program.log
    found = results_in(tmp_path / "new")
    assert [(c.transport, c.rtt_ms) for c in found.entries] == [
        ("poll", 0), ("websocket", 0), ("poll", 60), ("websocket", 60),
    ]  # fmt: skip
    assert len(found.verified) == 2
    for result in found.entries:
        assert result.published == 4
        assert result.seen == 8 - result.coalesced
        assert result.lost == 0
        assert len(result.received_ms) == result.seen
        assert len(result.cpu) == 4
        assert min(result.cpu) > 0
        assert len(result.publish_cpu) == 2 * 4
        assert result.cpu_per_update is None  # of two browsers, it would be noise
        assert min(result.notified_ms) >= result.rtt_ms / 2
    assert found.is_complete
    assert found.about["versions"]["rich"]
    out = "".join(program.out)
    assert out.index("WebSocket, carry") < out.index("Short polling, carry")
    assert str(tmp_path / "new" / "report.html") in re.sub(r"\s", "", out)
    assert "verifying that each variant brings the right readings" in program.log
    assert "2 browsers, 60 ms away" in program.log
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"results.json", "results.csv", "report.html", "plots"}


def test_a_server_that_is_running(start: Start, tmp_path: Path) -> None:
    """Its own pace; measuring changes nothing."""
    server = start("serve.py", "--source", "clock", "--every", "0.1")
    options = ("--payloads", "carry", "--clients", "2", "--changes", "4", "--output", tmp_path)
    status, program = compare("--url", server.url, *options)
    assert status == 0, program.log
    entries = results_in(tmp_path).entries
    assert {result.transport for result in entries} == {"poll", "longpoll", "sse", "websocket"}
    for result in entries:
        assert result.published >= 4
        assert result.lost == 0
        assert result.cpu == []
        assert result.memory is None
        assert result.dispatch == UNKNOWN
        assert "Flask" not in result.title
        assert 0.05 < result.pace < 2


def test_a_running_server_that_may_be_posted_to(start: Start, tmp_path: Path) -> None:
    server = start("serve.py", "--source", "http")
    variants = ("--transports", "longpoll", "--payloads", "signal")
    status, program = compare("--url", server.url, "--post", *variants, *FEW, "--output", tmp_path)
    assert status == 0, program.log
    assert results_in(tmp_path).entries[0].published == 4


def test_a_server_that_dies_is_reported(tmp_path: Path) -> None:
    variants = ("--transports", "websocket,longpoll", "--payloads", "carry")
    many = ("--clients", "2", "--pace", "0.05", "--changes", "200", "--rtt", "0,60")
    with comparing(*variants, *many, "--output", tmp_path) as program:
        eventually(lambda: "turn 2" in program.log, timeout=RUN_TIMEOUT)
        children(program, "serve.py")[0].kill()
        assert program.wait(RUN_TIMEOUT) == 1
    assert program.err[-1].startswith("compare.py: ")
    assert "2 browsers, near: the server died" in program.err[-1]
    assert "Traceback" not in program.log
    found = results_in(tmp_path)
    assert found.failure
    assert found.failure in program.log
    assert found.entries
    assert all(50 <= result.published < 200 for result in found.entries)
    assert "the server died" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_keeps_what_was_measured(
    stop: signal.Signals, tmp_path: Path
) -> None:
    variants = ("--transports", "websocket", "--payloads", "carry")
    many = ("--clients", "2", "--pace", "0.02", "--changes", "400")
    with comparing(*variants, *many, "--output", tmp_path) as program:
        eventually(lambda: "turn 2" in program.log, timeout=RUN_TIMEOUT)
        started = psutil.Process(program.process.pid).children(recursive=True)
        program.process.send_signal(stop)
        assert program.wait(RUN_TIMEOUT) == 130
    assert "Traceback" not in program.log
    assert not [one for one in started if one.is_running() and one.status() != "zombie"]
    found = results_in(tmp_path)
    assert found.interrupted
    assert 100 <= found.entries[0].published < 400
    assert "interrupted" in "".join(program.out)


REFUSED = [
    ("--transports pigeon", "'pigeon' is not one of 'poll', 'longpoll', 'sse', 'websocket'"),
    ("--payloads both", "'both' is not one of 'signal', 'carry'"),
    ("--clients 0", "'--clients': 0 is not in the range 1<=x<="),
    ("--clients ten", "'ten' is not a valid integer"),
    ("--clients 10,,20", "'' is not a valid integer"),
    ("--rtt -1", "-1.0 is not in the range 0<=x"),
    ("--distance nan", "'nan' is not a number"),
    ("--pace 0", "0.0 is not in the range 0.01<=x"),
    ("--changes 1.5", "'1.5' is not a valid integer"),
    ("--server apache", "'apache' is not one of 'serve.py'"),
    ("--quick --clients 5", "--quick has its own --clients"),
    ("--quick --full", "not allowed with"),
    ("--study kaazing --transports sse", "--study has its own --transports"),
    ("--study nobody", "'nobody' is not one of"),
    ("--other-servers nobody", "'nobody' is not one of"),
    ("--workers 0", "0 is not in the range 1<=x<=64"),
    ("--workers 1,2 --server gunicorn", "--workers has its own --server"),
    ("--url http://localhost:5000 --server gunicorn", "--url is a server already"),
    ("--url https://localhost:5000", "must be http, without TLS"),
    ("--url localhost:5000", "is not like http://localhost:5000"),
    ("--url http://localhost:port", "is not like http://localhost:5000"),
    ("--url http://192.0.2.1 --rtt 50", "--rtt needs a server on this machine"),
    ("--post", "--post is for the server at --url"),
    ("--colour red", "No such option"),
]


@pytest.mark.parametrize(("arguments", "why"), REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line(
    arguments: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        cli.parse(arguments.split())
    assert refusal.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert why in said


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--paper kaazing --write", "--study kaazing --update-docs"),
        ("--distance 0,50", "--rtt 0,50"),
        ("--peers", "--other-servers all"),
        ("--peers aiohttp Tornado --clients 5", "--other-servers aiohttp Tornado --clients 5"),
    ],
)
def test_old_spellings_are_understood(old: str, new: str) -> None:
    first, second = (cli.parse(arguments.split()) for arguments in (old, new))
    assert first.chosen == second.chosen
    assert first.chosen
    assert first.update_docs == second.update_docs


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.parse(["--help"])
    assert not end.value.code
    shown = capsys.readouterr().out
    for option in (
        "--quick",
        "--study, --paper",
        "--rtt, --distance",
        "--url URL",
        "--update-docs",
    ):
        assert option in shown


def test_what_sends_requests_is_measured_with_both_dispatches() -> None:
    most, others, _ = scenarios.usual("serve.py", VARIANTS)
    only_flask = Variant("websocket", carry=True)  # whose only request is its handshake
    again = {replace(one, dispatch=FLASK) for one in VARIANTS if one != only_flask}
    assert len(most.variants) == len({*most.variants})
    assert {*most.variants} == {*VARIANTS, *again}
    assert others.variants == VARIANTS
    for server in (server for server in SERVERS if server != "nginx"):  # serve.py behind it
        arguments, environment = command(server, 5000, dispatch=FLASK)
        assert "--no-direct" in " ".join([*arguments, *environment.values()])
    assert Variant("websocket", carry=True).dispatch == FLASK  # its handshake
    assert Variant("sse", carry=True).dispatch == DIRECT  # the request that opens it
    assert Variant("sse", carry=True, dispatch=FLASK).title == "SSE, carry, Flask"


def test_what_cannot_be_done_here_is_said_in_one_line(tmp_path: Path) -> None:
    """Before anything starts."""
    (tmp_path / "file").touch()
    for arguments, why in (
        (["--output", str(tmp_path / "file" / "below")], "Cannot write to"),
        (["--clients", "1000"], "open files in one process"),
        (["--other-servers", "--clients", "1000"], "open files in one process"),
        (["--url", "http://127.0.0.1:9\n"], "cannot be measured: GET /data: Connection refused"),
        (["--url", "http://a..b"], "cannot be reached: there is no a..b"),
    ):
        limited = ("sh", "-c", 'ulimit -n 1000; exec "$@"', "sh", sys.executable)
        assert why in refused("--output", tmp_path / "out", *arguments, python=limited)


def refused(
    *arguments: str | Path, python: Sequence[str] = (sys.executable,), **environment: str
) -> str:
    """Run compare.py, which must end with one line; return that."""
    done = subprocess.run(
        [*python, "compare.py", *map(str, arguments)], env={**os.environ, **environment},
        cwd=ROOT, capture_output=True, text=True, timeout=RUN_TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_another_web_server_is_not_measured(tmp_path: Path) -> None:
    serving = [sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1"]
    web = Program(command=serving)
    try:
        port = re.search(r"port (\d+)", eventually(lambda: web.out)[0])
        assert port
        said = refused("--output", tmp_path, "--url", f"http://127.0.0.1:{port[1]}")
    finally:
        web.stop()
    assert said.endswith("cannot be measured: GET /data: 404, and no reading.\n")


def test_a_server_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {server: missing(server) for server in SERVERS} == dict.fromkeys(SERVERS)
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    assert missing("gunicorn") == "gunicorn (pip install -r servers/requirements.txt)"
    with pytest.raises(cli.CannotMeasure, match="To measure uwsgi gevent, install uwsgi"):
        cli.parse(["--server", "uwsgi gevent"]).check()


def test_a_lost_reading_fails_the_run() -> None:
    """Whatever else was right."""

    def result(**found: int) -> Result:
        return Result("serve.py", "sse", True, clients=2, pace=1.0, rtt_ms=0.0, **found)  # type: ignore[arg-type]

    results = Results("", {}, {}, [result(published=3), result(published=3, lost=2), result()])
    results.finish()
    assert len(results.entries) == 2  # what was not reached is left out
    assert results.failure
    assert results.failure.startswith("2 readings were lost, most of them by SSE, carry")


def test_a_missing_package_is_one_clear_line(tmp_path: Path) -> None:
    """As with -S, which hides what is installed."""
    said = refused("--output", tmp_path, python=(sys.executable, "-S"), PYTHONPATH="")
    assert "rich" in said
    assert "matplotlib" in said
    assert said.endswith("-m pip install -r bench/requirements.txt\n")
