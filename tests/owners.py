"""serve.py as it is, and at /owners whose each connection is.

A connection belongs to the server's wheel, to a request's greenlet, or to the hub: always to one.
"""

from gevent import monkey

monkey.patch_all()

import runpy
from typing import Any
from weakref import WeakSet

import lab.app
from pushlab.hosting import gevent_server
from pushlab.hosting.gevent_connections import ClientConnection, TLSConnection
from pushlab.hosting.gevent_sockets import WRITE

connections: WeakSet[Any] = WeakSet()
servers: list[gevent_server.Server] = []
hubs: list[Any] = []
create_app: Any = lab.app.create_app


class Plain(ClientConnection):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        connections.add(self)


class TLS(TLSConnection):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        connections.add(self)


class Server(gevent_server.Server):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        servers.append(self)


def owners() -> dict[str, Any]:
    """Return how many each owner has, and what is wrong."""
    (server,) = servers
    (hub,) = hubs
    groups = {group for groups in hub._polls._groups.values() for group in groups}
    held = {each for group in groups for each in group.held.values()}
    owned: dict[str, set[Any]] = {
        "wheel": set(server.wheel),
        # A handler whose connection was detached is about to end.
        "greenlets": {each.client for each in server.handlers if each.socket is not None},
        "hub": {subscriber.channel for subscriber in hub._subscribers()},
    }
    wrong = []
    for each in tuple(connections):
        is_open = each.socket is not None or each in owned["greenlets"]
        names = [name for name, those in owned.items() if each in those]
        if len(names) != is_open:
            wrong.append(f"{'an open' if is_open else 'a closed'} connection of {names}")
        if (each.tick != 0) != ("wheel" in names):
            wrong.append(f"a connection's tick is {each.tick}, but it is of {names}")
        is_held = each.group is not None and not each.group.responded_at
        if is_held != (each in held):
            wrong.append("a held poll is in no group, or a group has one that is not held")
    if held - owned["wheel"]:
        wrong.append("a held poll has no deadline")
    if any(not group.held for group in groups):
        wrong.append("a group is empty")
    count = sum(map(len, owned.values()))
    if server.connections != count:
        wrong.append(f"{server.connections} connections, but {count} have an owner")
    sizes = {name: len(those) for name, those in owned.items()}
    writing = sum(each._watcher.events == WRITE for each in owned["wheel"])
    sizes |= {"held": len(held), "waiting": len(server.waiting), "writing": writing}
    return {**sizes, "wrong": wrong}


def create_app_with_owners(*arguments: Any) -> Any:
    app = create_app(*arguments)
    hubs.append(arguments[1])
    app.add_url_rule("/owners", "owners", owners)
    return app


if __name__ == "__main__":
    for place, name, replacement in (
        (gevent_server, "ClientConnection", Plain),
        (gevent_server, "TLSConnection", TLS),
        (gevent_server, "Server", Server),
        (lab.app, "create_app", create_app_with_owners),
    ):
        setattr(place, name, replacement)
    runpy.run_path("serve.py", run_name="__main__")
