"""The floor: the least that a broadcast costs.

`floor.c` says what it does. Run as a program, this is the same in Python, for machines without a
compiler.
"""

import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.processes import Process, running
from pushlab.hosting.listener import raise_descriptor_limit

SOURCE = Path(__file__).with_name("floor.c")


@contextmanager
def floor() -> Iterator[tuple[Process, str]]:
    """Run the floor; yields its process and its language."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder, "floor"))
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if (
            compiler
            and not subprocess.run(  # noqa: S603 - our own source
                [compiler, "-O2", "-o", program, str(SOURCE)], capture_output=True, check=False
            ).returncode
        ):
            command, language = [program], "C"
        else:
            command, language = [sys.executable, "-m", "bench.fanout.floor"], "Python"
        with running(command) as process:
            yield process, language


def main() -> None:
    """Send the first connection's bytes to all others, then back."""
    raise_descriptor_limit()
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(f"The floor is at http://127.0.0.1:{listener.getsockname()[1]} ", flush=True)
    control, _ = listener.accept()
    listener.setblocking(False)
    sockets: list[socket.socket] = []
    while True:
        select.select([listener, control], [], [])
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                break
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            sockets.append(sock)
        if select.select([control], [], [], 0)[0]:
            if not (frame := control.recv(4096)):
                return
            for number in [sock.fileno() for sock in sockets]:
                os.write(number, frame)
            control.sendall(frame)


if __name__ == "__main__":
    main()
