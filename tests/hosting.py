"""Every server that hosts the app, for tests of all."""

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from bench.servers import HOSTED, free_port, nginx, nginx_configuration
from tests.conftest import PROGRAMS, Program, Server, eventually
from tests.redis_server import RedisServer

BIN = Path(sys.executable).parent
GUNICORN = ("gunicorn", "-c", "servers/gunicorn.conf.py")

#: Those with our parser, reader of bodies, limits and deadlines.
OWN = ("serve.py", "gunicorn", "servers/threads.py")

#: The options for TLS of servers that do not read ours.
TLS_OPTIONS = {
    "flask_sockets.worker": ("--certfile", "--keyfile"),
    "flask run": ("--cert", "--key"),
}
#: Where TLS ends in the server itself.
WITH_TLS = (*PROGRAMS, "servers/threads.py", "gunicorn", *TLS_OPTIONS)

#: All servers. With TLS only those that have code for it; test_servers.py tests the others' TLS.
SERVERS = (*PROGRAMS, "servers/threads.py", *HOSTED, "nginx",
           "serve.py tls", "servers/threads.py tls", "gunicorn tls", "nginx tls")  # fmt: skip
#: Two processes of serve.py with Redis, behind nginx.
CLUSTER = "cluster"


class Hosted(Server):
    """An app on another server; options in the environment."""

    def __init__(
        self,
        *command: str,
        options: Sequence[str] = (),
        port: int = 0,
        tls: bool = False,
        environment: Mapping[str, str] = MappingProxyType({}),
        path: str = "/data",
        **more: Any,
    ) -> None:
        """Start it, and wait until it responds at `path`; `more` is for a Program."""
        self.port = port or free_port()
        executable, *arguments = (part.replace("{port}", str(self.port)) for part in command)
        environment = {
            "PORT": str(self.port), "PUSHLAB_OPTIONS": shlex.join(options), **environment,
        }  # fmt: skip
        Program.__init__(
            self, *arguments, command=[str(BIN / executable)], environment=environment,
            **more,
        )  # fmt: skip
        self.is_at(f"{'https' if tls else 'http'}://127.0.0.1:{self.port}")
        eventually(lambda: self.responds(path))


def start_nginx(
    folder: Path, backend: int, port: int, *, tls: bool = False, prefix: str = ""
) -> Program:
    """Start nginx in front of a port; the folder has cert.pem and key.pem."""
    text = nginx_configuration(listen=port, server=backend)
    if tls:  # as the comments in the file say
        text = text.replace(f"listen 127.0.0.1:{port};", "")
        text = re.sub(r"# (listen .* ssl;|ssl_certificate.*;)", r"\1", text)
        text = text.replace("127.0.0.1:8443", f"127.0.0.1:{port}")
    if prefix:
        text = re.sub(r"(?s)location / .* instead[^\n]*\n", "", text)
        text = text.replace("# location", "location").replace('Prefix ""', f"Prefix {prefix}")
        text = re.sub(r"/push\b", prefix, text)
    (folder / "nginx.conf").write_text(text)
    executable = nginx()
    assert executable, "nginx is not installed"
    return Program("-p", str(folder), "-c", "nginx.conf", command=[executable])


class Proxied(Server):
    """serve.py behind nginx."""

    def __init__(
        self, folder: Path, *options: str, port: int = 0, tls: bool = False, prefix: str = ""
    ) -> None:
        super().__init__("serve.py", "--trusted-proxies", "127.0.0.1", *options)
        backend, self.port = self.port, port or free_port()
        self.nginx = start_nginx(folder, backend, self.port, tls=tls, prefix=prefix)
        self.is_at(f"{'https' if tls else 'http'}://127.0.0.1:{self.port}")
        eventually(lambda: self.responds(f"{prefix}/data"))

    @property
    def children(self) -> list[psutil.Process]:
        return [*super().children, psutil.Process(self.nginx.process.pid), *self.nginx.children]

    def stop(self) -> int:
        """Stop the server, then nginx, which passes its close frames."""
        status = super().stop()
        return self.nginx.stop() or status


class Cluster(Proxied):
    """Two processes of serve.py with Redis, whose data is in the folder, behind nginx."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        self.redis = RedisServer(folder)
        super().__init__(folder, "--workers", "2", "--redis", self.redis.url, *options, port=port)

    def stop(self) -> int:
        status = super().stop()
        self.redis.stop()
        return status


def with_limits(**limits: float) -> dict[str, str]:
    """Return the environment for a server with other limits, also such as "lab.meter.CUT".

    A limit of an hour shows that something else ends what a test waits for.
    """
    return {"LIMITS": json.dumps(limits)}


def start_server(name: str, folder: Path, *options: str, port: int = 0, **more: Any) -> Server:
    """Start one of SERVERS; the folder has cert.pem and key.pem.

    `more` is for a Program, such as its `environment`.
    """
    tls, name = name.endswith(" tls"), name.removesuffix(" tls")
    if name == CLUSTER:
        return Cluster(folder, *options, port=port)
    if name == "nginx":
        return Proxied(folder, *options, port=port, tls=tls)
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    if tls and name in TLS_OPTIONS:
        cert_option, key_option = TLS_OPTIONS[name]
        command = (*HOSTED[name], cert_option, cert, key_option, key)
        return Hosted(*command, options=options, port=port, tls=True, **more)
    if tls:
        options += ("--certfile", cert, "--keyfile", key)
    if name in HOSTED:
        return Hosted(*HOSTED[name], options=options, port=port, tls=tls, **more)
    return Server(name, *options, port=port, **more)
