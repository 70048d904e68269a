"""Flask-uWSGI-WebSocket's AsyncioWebSocket: a chat of coroutines; `app.run` gets OPTIONS."""

import asyncio
import json
import os
import threading
from typing import Any

from flask import Flask, request

from pushlab.revived.flask_uwsgi_websocket import AsyncioWebSocket

app = Flask(__name__)
websocket = AsyncioWebSocket(app, timeout=600)
clients: dict[str, Any] = {}
ended: list[str] = []


@app.route("/")
def hello():  # type: ignore[no-untyped-def]
    return {"clients": len(clients), "ended": ended}


@websocket.route("/chat/<room>")
async def chat(ws, room):  # type: ignore[no-untyped-def]
    clients[ws.id] = ws
    await ws.send(f"{room} {request.args['name']} in {threading.current_thread().name}")
    while True:
        msg = await ws.receive()
        if msg is None:
            break
        for each in list(clients.values()):
            await each.a_send(msg)
    del clients[ws.id]


@websocket.route("/methods")
async def methods(ws):  # type: ignore[no-untyped-def]
    assert ws.connected
    assert ws.recv_nb() == ""
    ws.send_nb(b"not waited for")
    while not (message := ws.recv_nb()):
        await asyncio.sleep(0.01)
    await ws.send(message)
    for _ in range(100):
        await ws.a_send("x" * 60_000)
    await ws.send(await ws.a_recv())
    ws.close()
    assert not ws.connected
    assert await ws.recv() is None
    assert ws.recv_nb() is None


@websocket.route("/ticks")
async def ticks(ws):  # type: ignore[no-untyped-def]
    while ws.connected:
        await ws.send("tick")
        await asyncio.sleep(0.02)
    ended.append("ticks")


@websocket.route("/flood")
async def flood(ws):  # type: ignore[no-untyped-def]
    """Send without waiting, and so without an end."""
    try:
        while True:
            ws.send_nb("x" * 60_000)
    except OSError:
        ended.append("flood")


@websocket.route("/fail")
async def fail(ws):  # type: ignore[no-untyped-def]
    raise LookupError("on purpose")


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), **json.loads(os.environ["OPTIONS"]))
