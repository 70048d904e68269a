"""The server half of each transport, a file each; static/transports/ has the browser half."""

#: Every transport by its name in URLs and files, with what people call it.
TRANSPORTS = {
    "poll": "Short polling",
    "longpoll": "Long polling",
    "sse": "Server-sent events",
    "websocket": "WebSocket",
}
