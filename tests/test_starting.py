"""The server that is measured is the one that was started for it."""

import pytest

from bench import servers
from bench.processes import NotRunning
from bench.servers import started


def test_another_server_on_the_port_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    with started("serve.py") as first:
        assert first.is_alive
        monkeypatch.setattr(servers, "free_port", lambda: first.port)
        with pytest.raises(NotRunning, match=f"Port {first.port} is in use"), started("serve.py"):
            pass
