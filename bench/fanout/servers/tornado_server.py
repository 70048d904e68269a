"""Tornado: WebSockets, /data, long polls and event streams, without compression."""

import asyncio
import logging
from typing import Any

from readings import event, listen, next_signal, reading
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

streams: set["Update"] = set()
sockets: set["Update"] = set()
waiting: set[asyncio.Future[None]] = set()
signal = next_signal()


class Data(RequestHandler):
    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.write(reading(signal))

    def post(self) -> None:
        global signal
        signal = next_signal()
        for ws in sockets:
            ws.write_message(signal)
        for stream in streams:
            stream.write(event(signal))
            stream.flush()
        for news in waiting:
            news.set_result(None)
        waiting.clear()
        self.set_status(201)
        self.write(signal)


class Update(WebSocketHandler):
    async def get(self, *args: Any, **kwargs: Any) -> None:
        if "Upgrade" in self.request.headers:
            await super().get(*args, **kwargs)
            return
        if self.request.headers.get("Accept") == "text/event-stream":
            self.set_header("Content-Type", "text/event-stream")
            self.write("retry: 1000\n\n")
            self.flush()
            streams.add(self)
            await asyncio.Event().wait()  # until the client is gone
        if self.get_argument("after", "") in signal:
            waiting.add(news := asyncio.get_running_loop().create_future())
            await news
        self.set_header("Content-Type", "application/json")
        self.write(signal)

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)
        sockets.add(self)

    def on_message(self, message: str | bytes) -> None:
        pass

    def on_connection_close(self) -> None:
        streams.discard(self)
        super().on_connection_close()

    def on_close(self) -> None:
        sockets.discard(self)


async def main() -> None:
    logging.getLogger("tornado.access").setLevel(logging.WARNING)
    server = HTTPServer(Application([("/data", Data), ("/update", Update)]))
    listener = listen()
    listener.setblocking(False)
    server.add_sockets([listener])
    await asyncio.Event().wait()


asyncio.run(main())
