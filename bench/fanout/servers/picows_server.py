"""picows on uvloop; a message to /publish publishes."""

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server
from readings import listen, next_signal

sockets: set[WSTransport] = set()


class Browser(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        sockets.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        sockets.discard(transport)


class Publisher(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            signal = next_signal().encode()
            for browser in sockets:
                browser.send(WSMsgType.TEXT, signal)
            transport.send(WSMsgType.TEXT, signal)


def listener_for(request: WSUpgradeRequest) -> WSListener:
    return Publisher() if request.path == b"/publish" else Browser()


async def main() -> None:
    server = await ws_create_server(listener_for, sock=listen(), backlog=1024)
    await server.serve_forever()


uvloop.run(main())
