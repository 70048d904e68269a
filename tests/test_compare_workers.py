"""The benchmark of several processes works; what it finds is not tested here."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import docutils.core
import pytest

import compare
from bench import cluster, command_line
from bench.clients.http import WrongResponse
from bench.cluster import ALONE, Posts


def test_a_small_run_is_plausible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "PUBLISHED", tmp_path)
    # Fewer than what makes a sample steady: what is tested is how it comes about.
    monkeypatch.setattr(cluster, "PUBLISHES", 5)
    monkeypatch.setattr(cluster, "NOTIFICATIONS", 40)
    cluster.main(["--workers", "1,2", "--clients", "20", "--rounds", "2", "--update-docs"])
    found = json.loads((tmp_path / "workers.json").read_text())
    assert found["command"] == "python compare.py --workers 1,2 --update-docs"
    for kind in found["publishing"].values():
        for name, samples in kind.items():
            assert -10_000 < min(samples) < 100_000, name
    sides = ["1 process without Redis", "1 process with Redis", "2 processes with Redis"]
    for kind in found["notifications"].values():
        assert list(kind) == sides
        for samples in kind.values():
            assert {len(samples["cpu"]), len(samples["busiest"])} == {2}
            assert min(samples["last_ms"]) > 0
            assert min(samples["busiest"]) > 0
    shown = capsys.readouterr().out
    for table in cluster.tables(found):
        assert table in shown
        docutils.core.publish_string(table, settings_overrides={"halt_level": 2, "report_level": 2})


def test_a_refused_publish_is_not_timed() -> None:
    with cluster.arranged(ALONE) as server:
        posts = Posts(server)
        posts.send(b"POST /data HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n\r\nnull")
        with pytest.raises(WrongResponse, match="POST /data: 4"):
            posts.wait(1)
        posts.close()


def test_it_says_that_redis_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "shutil", SimpleNamespace(which=lambda _: None))
    monkeypatch.setattr(sys, "argv", ["compare.py", "--workers", "1,2"])
    with pytest.raises(SystemExit) as exit_:
        compare.main(["--workers", "1,2"])
    assert "install redis-server or valkey-server" in f"{exit_.value}{capsys.readouterr().err}"
