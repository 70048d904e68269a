"""Every way to host the app, started as its first line says, for tests that hold on all of them."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

from bench.servers import HOSTED, free_port, nginx
from tests.clients import Http
from tests.conftest import PROGRAMS, ROOT, Program, Server, eventually

_BIN = Path(sys.executable).parent

#: How to ask those for TLS that take nothing of it from us.
TLS_ARGUMENTS = {
    "flask_sockets.worker": ("--certfile", "--keyfile"),
    "flask run": ("--cert", "--key"),
}
#: With whom TLS ends in the server itself.
WITH_TLS = (*PROGRAMS, "servers/threads.py", "gunicorn", *TLS_ARGUMENTS)


class Hosted(Server):
    """The app on a server that is not ours: options in the environment, a port of our choice."""

    def __init__(self, way: str, *options: str, port: int = 0, **more: Any) -> None:
        self.port = port or free_port()
        executable, *arguments = (part.format(port=self.port) for part in HOSTED[way])
        if "--certfile" in options and way in TLS_ARGUMENTS:
            *rest, _, certfile, _, keyfile = options  # as `host` has it
            certificate, key = TLS_ARGUMENTS[way]
            arguments += [certificate, certfile, key, keyfile]
            options = (*rest,)
            tls = True
        else:
            tls = "--certfile" in options
        environment = {"PORT": str(self.port), "PUSHLAB_OPTIONS": shlex.join(options)}
        Program.__init__(
            self, *arguments, command=[str(_BIN / executable)], environment=environment, **more
        )
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.http = Http("127.0.0.1", self.port, tls=self.tls)
        eventually(self._answers, timeout=30)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return self.http.get("/data").status == 200
        except OSError:
            return False


class Nginx(Program):
    """The committed configuration, on other ports."""

    def __init__(self, folder: Path, *, listen: int, backend: int, tls: bool) -> None:
        text = (ROOT / "servers" / "nginx.conf").read_text()
        assert text.count("listen 127.0.0.1:8080;") == text.count("server 127.0.0.1:5000;") == 1
        text = text.replace("127.0.0.1:5000", f"127.0.0.1:{backend}")
        if tls:  # as its comments say
            text = re.sub(r"# (listen .* ssl;|ssl_certificate.*;)", r"\1", text)
            text = text.replace("127.0.0.1:8443", f"127.0.0.1:{listen}")
            text = text.replace("listen 127.0.0.1:8080;", "")
        text = text.replace("127.0.0.1:8080", f"127.0.0.1:{listen}")
        (folder / "nginx.conf").write_text(text)
        executable = nginx()
        assert executable, "nginx is not installed"
        super().__init__("-p", str(folder), "-c", "nginx.conf", command=[executable])


class Proxied(Server):
    """serve.py behind nginx."""

    def __init__(self, folder: Path, *options: str, port: int = 0, tls: bool = False) -> None:
        super().__init__("serve.py", "--trusted-proxies", "127.0.0.1", *options)
        self.port = port or free_port()
        self.nginx = Nginx(
            folder, listen=self.port, backend=int(self.url.rpartition(":")[2]), tls=tls
        )
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.http = Http("127.0.0.1", self.port, tls=self.tls)
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self.nginx.process.poll() is None, self.nginx.log
        try:
            return self.http.get("/data").status == 200
        except OSError:
            return False

    def stop(self) -> int:
        """Stop the server, then nginx: sockets are told 1001 through it."""
        status = super().stop()
        return self.nginx.stop() or status


#: Every way. With TLS those that have code of their own for it; test_servers.py asks the others.
WAYS = (
    *PROGRAMS,
    "servers/threads.py",
    *HOSTED,
    "nginx",
    "serve.py tls",
    "servers/threads.py tls",
    "gunicorn tls",
    "nginx tls",
)


def host(way: str, folder: Path, *options: str, port: int = 0) -> Server:
    """Start the app in one of WAYS; for TLS, cert.pem and key.pem are in the folder."""
    tls, way = way.endswith(" tls"), way.removesuffix(" tls")
    if way == "nginx":
        return Proxied(folder, *options, port=port, tls=tls)
    if tls:
        files = ("--certfile", str(folder / "cert.pem"), "--keyfile", str(folder / "key.pem"))
        options = (*options, *files)
    if way in HOSTED:
        return Hosted(way, *options, port=port)
    return Server(way, *options, port=port)
