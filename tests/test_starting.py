"""A server that is started to be measured is the one that is measured."""

import pytest

from bench import servers
from bench.processes import NotRunning
from bench.servers import started


def test_who_has_the_port_already_is_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with started("serve.py") as first:
        assert first.is_alive
        monkeypatch.setattr(servers, "free_port", lambda: first.port)
        with pytest.raises(NotRunning, match=f"Port {first.port} is in use"), started("serve.py"):
            pass
