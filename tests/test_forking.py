"""Programs that are forked for tests."""

import os
import signal

from tests import forking
from tests.conftest import Server


def test_ctrl_c_ends_programs_and_no_fork_server() -> None:
    """The terminal sends it to all; these tests then end what still runs."""
    server = Server("servers/threads.py")
    fork_server = forking._fork_servers["threads"]
    os.kill(fork_server._process.pid, signal.SIGINT)
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0
    assert fork_server._process.poll() is None
