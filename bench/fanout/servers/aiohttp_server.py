"""aiohttp: WebSockets, /data, long polls and event streams, without compression."""

import asyncio

from aiohttp import web
from readings import event, listen, next_signal, reading

streams: set[web.StreamResponse] = set()
sockets: set[web.WebSocketResponse] = set()
waiting: set[asyncio.Future[None]] = set()
signal = next_signal()


async def update(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Accept") == "text/event-stream":
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"retry: 1000\n\n")
        streams.add(stream)
        try:
            await asyncio.get_running_loop().create_future()  # until the client is gone
        finally:
            streams.discard(stream)
    if "Upgrade" not in request.headers:
        if request.query.get("after", "") in signal:
            waiting.add(news := asyncio.get_running_loop().create_future())
            await news
        return web.Response(text=signal, content_type="application/json")
    ws = web.WebSocketResponse(compress=False)
    await ws.prepare(request)
    sockets.add(ws)
    try:
        async for _ in ws:
            pass
    finally:
        sockets.discard(ws)
    return ws


async def publish(request: web.Request) -> web.Response:
    global signal
    await request.read()
    signal = next_signal()
    for ws in tuple(sockets):
        await ws.send_str(signal)
    data = event(signal).encode()
    for stream in tuple(streams):
        await stream.write(data)
    for news in waiting:
        news.set_result(None)
    waiting.clear()
    return web.Response(text=signal, status=201, content_type="application/json")


async def data(request: web.Request) -> web.Response:
    return web.Response(text=reading(signal), content_type="application/json")


app = web.Application()
app.add_routes([web.get("/update", update), web.get("/data", data), web.post("/data", publish)])
web.run_app(app, sock=listen(), print=None, access_log=None)
