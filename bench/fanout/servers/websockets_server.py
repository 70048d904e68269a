"""websockets' broadcast(); a message to /publish publishes."""

import asyncio

from readings import listen, next_signal
from websockets.asyncio.server import ServerConnection, broadcast, serve

sockets: set[ServerConnection] = set()


async def handle(ws: ServerConnection) -> None:
    if ws.request is not None and ws.request.path == "/publish":
        async for _ in ws:
            signal = next_signal()
            broadcast(sockets, signal)
            await ws.send(signal)
        return
    sockets.add(ws)
    try:
        await ws.wait_closed()
    finally:
        sockets.discard(ws)


async def main() -> None:
    async with serve(handle, sock=listen(), compression=None):
        await asyncio.Event().wait()


asyncio.run(main())
