"""A real Redis, or Valkey, on a free port, for tests."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import redis

from bench.servers import free_port
from tests.conftest import eventually

#: Those that are installed; Redis must be.
SERVERS = ["redis-server", *filter(shutil.which, ["valkey-server"])]


class RedisServer:
    """A Redis whose data is in a folder."""

    def __init__(self, folder: Path, *options: str, server: str = SERVERS[0]) -> None:
        self._server = server
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._options = options
        self.start()

    def start(self, *options: str) -> None:
        """Start it with the data that it had, and wait until it has loaded it."""
        self.launch(*options)
        eventually(self._responds)

    def launch(self, *options: str) -> None:
        """Start it with the data that it had."""
        command = [self._server, "--port", str(self.port), "--bind", "127.0.0.1",
                   "--dir", str(self.folder), "--save", "", "--appendonly", "yes",
                   "--appendfsync", "always", *self._options, *options]  # fmt: skip
        with (self.folder / "redis.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def _responds(self) -> bool:
        try:
            return bool(self.do("PING"))
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def do(self, *command: str | bytes) -> Any:
        """Send a command on a connection of its own."""
        with redis.Redis(port=self.port, socket_timeout=60) as client:
            return client.execute_command(*command)

    def cut(self) -> None:
        """Close all connections to it."""
        self.do("CLIENT", "KILL", "TYPE", "normal")

    def stop(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
