"""gevent-websocket as documented: a loop of ws.send."""

# isort: skip_file
from gevent import monkey

monkey.patch_all()

from collections.abc import Callable, Iterable
from typing import Any

from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler
from readings import listen, next_signal

sockets: set[Any] = set()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    ws = environ.get("wsgi.websocket")
    if ws is not None:
        sockets.add(ws)
        try:
            while ws.receive() is not None:
                pass
        finally:
            sockets.discard(ws)
        return []
    signal = next_signal()
    for browser in tuple(sockets):
        browser.send(signal)
    body = signal.encode()
    start_response("201 Created", [("Content-Length", str(len(body)))])
    return [body]


WSGIServer(listen(), app, handler_class=WebSocketHandler, log=None).serve_forever()
