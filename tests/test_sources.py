"""Sources: what they yield, when, and what they skip; and a value in a few words."""

import json
import logging
import subprocess
from datetime import datetime, timezone
from typing import Any

import psutil
import pytest

from lab import sources, summary
from lab.pace import Pace
from pushlab.limits import MAX_VALUE
from tests.conftest import Server, Start, eventually


def lines(*pieces: bytes) -> list[sources.Value]:
    left = iter(pieces)
    return list(sources.lines(lambda: next(left, b"")))


@pytest.mark.parametrize(
    ("pieces", "values"),
    [
        ([], []),
        ([b"one\n", b"two\n"], [{"line": "one"}, {"line": "two"}]),
        ([b"one\ntwo\n"], [{"line": "two"}]),  # of lines that come together, the newest counts
        ([b"one\ntwo"], [{"line": "one"}, {"line": "two"}]),
        ([b"one\rtwo\r"], [{"line": "two"}]),
        ([b"one\r", b"\ntwo\n"], [{"line": "one"}, {"line": "two"}]),
        ([b'\xef\xbb\xbf{"a": 1}\r\n'], [{"a": 1}]),  # a byte order mark
        ([b"one\n\xff\n"], [{"line": "one"}]),
        ([b"o", b"ne\n", b"tw", b"o\nthr", b"ee"], [{"line": x} for x in ("one", "two", "three")]),
        ([b"dos\r\n", b"\r\n", b"\n"], [{"line": "dos"}, {"line": ""}, {"line": ""}]),
        (["zwölf €\n".encode()], [{"line": "zwölf €"}]),
        ([b"\xe2\x82", b"\xac\n"], [{"line": "€"}]),
        ([b'{"a": 1}\n', b"{}\n"], [{"a": 1}, {}]),
        (
            [b"[1]\n", b"1\n", b"null\n", b'"x"\n'],
            [{"line": x} for x in ("[1]", "1", "null", '"x"')],
        ),
        ([b'{"a": NaN}\n', b'{"a": 1e999}\n'], [{"line": '{"a": NaN}'}, {"line": '{"a": 1e999}'}]),
        ([b"[" * 16000 + b"\n"], [{"line": "[" * 16000}]),  # deeper than any parser goes
        ([b"x" * 16000 + b"\n"], [{"line": "x" * 16000}]),
    ],
)
def test_lines(pieces: list[bytes], values: list[sources.Value]) -> None:
    assert lines(*pieces) == values


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"x" * 1_000_000, "more than 16384 bytes"),
        (b"x" * MAX_VALUE, "more than 16384 bytes as JSON"),
        (b"\x00" * 4000, "more than 16384 bytes as JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"caf\xe9", "not UTF-8"),
    ],
)
def test_a_bad_line_is_logged_and_the_next_one_works(
    bad: bytes, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = bad + b"\n"
    pieces = [whole[i : i + 65536] for i in range(0, len(whole), 65536)]
    assert lines(b"before\n", *pieces, b"after\n") == [{"line": "before"}, {"line": "after"}]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert says in caplog.text


def test_junk_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    assert lines(*[b"\xff\n" * 100] * 100, b"after\n") == [{"line": "after"}]
    assert 1 <= len(caplog.records) < 10


def test_load_yields_this_machines_load() -> None:
    value = next(sources.load(Pace(60.0)))
    assert 0 <= value["cpu_percent"] <= 100
    assert value["memory_percent"] == pytest.approx(psutil.virtual_memory().percent, abs=10)
    assert value["load_average"] == pytest.approx(psutil.getloadavg(), abs=1)


def test_clock_yields_the_time() -> None:
    moment = datetime.fromisoformat(next(sources.clock(Pace()))["time"])
    assert abs((datetime.now(timezone.utc) - moment).total_seconds()) < 5


def test_http_yields_nothing() -> None:
    assert list(sources.http(Pace())) == []


def test_standard_input_reaches_the_feed_line_by_line(start: Start) -> None:
    server = start("serve.py", "--source", "stdin", stdin=subprocess.PIPE)
    pipe = server.process.stdin
    assert pipe is not None

    def shows(value: object) -> None:
        eventually(lambda: server.http.get("/data").json["value"] == value)

    for line, value in [
        ("one", {"line": "one"}),
        (json.dumps({"answer": 42}), {"answer": 42}),
        ("x" * 1_000_000 + "\nafter a long line", {"line": "after a long line"}),
        ("last", {"line": "last"}),
    ]:
        pipe.write(line + "\n")
        pipe.flush()
        shows(value)
    pipe.close()  # the end of the input keeps the last reading
    assert server.http.get("/data").json["value"] == {"line": "last"}
    assert "The source stdin has ended" in eventually(lambda: ended(server))
    eventually(lambda: "The source stdin has ended" in server.log)


def ended(server: Server) -> str:
    """What /healthz says once the source has ended."""
    response = server.http.get("/healthz")
    return str(response.json["error"]) if response.json.get("source") == "ended" else ""


def test_printf_into_the_server(start: Start) -> None:
    with subprocess.Popen(["printf", r"one\ntwo\n"], stdout=subprocess.PIPE) as printf:
        assert printf.stdout is not None
        server = start("serve.py", "--source", "stdin", stdin=printf.stdout.fileno())
    eventually(lambda: server.http.get("/data").json["value"] == {"line": "two"})


@pytest.mark.parametrize("source", ["load", "clock"])
def test_a_source_with_its_own_pace_keeps_changing(start: Start, source: str) -> None:
    server = start("serve.py", "--source", source, "--every", "0.05")
    cursors: set[str] = set()

    def another() -> int:
        cursors.add(server.http.get("/data").json["cursor"])
        return len(cursors)

    eventually(lambda: another() >= 4)


@pytest.mark.parametrize(
    ("value", "headline", "details"),
    [
        (
            {"cpu_percent": 12.5, "memory_percent": 41.3, "load_average": [0.42, 0.3, 1.0]},
            "CPU 12.5 %",
            "memory 41 % · load average 0.42 0.30 1.00",
        ),
        ({"cpu_percent": 0, "memory_percent": 7.6}, "CPU 0.0 %", "memory 8 %"),
        ({"cpu_percent": 101}, '{"cpu_percent": 101}', ""),
        ({"cpu_percent": 10**400}, f'{{"cpu_percent": {10**400}}}', ""),
        ({"memory_percent": 41.3}, '{"memory_percent": 41.3}', ""),
        ({"line": "half \ud800"}, r"half \ud800", ""),
        ({"text": "half \ud800"}, r'{"text": "half \ud800"}', ""),
    ],
)
def test_a_value_is_shown_in_a_few_words(
    value: dict[str, Any], headline: str, details: str
) -> None:
    assert (summary.headline(value), summary.details(value)) == (headline, details)
