"""aiohttp: WebSockets, /data and the long poll, without compression."""

import asyncio

from aiohttp import web
from readings import listen, next_signal, reading

sockets: set[web.WebSocketResponse] = set()
waiting: set[asyncio.Future[None]] = set()
signal = next_signal()


async def update(request: web.Request) -> web.StreamResponse:
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
    for news in waiting:
        news.set_result(None)
    waiting.clear()
    return web.Response(text=signal, status=201, content_type="application/json")


async def data(request: web.Request) -> web.Response:
    return web.Response(text=reading(signal), content_type="application/json")


app = web.Application()
app.add_routes([web.get("/update", update), web.get("/data", data), web.post("/data", publish)])
web.run_app(app, sock=listen(), print=None, access_log=None)
