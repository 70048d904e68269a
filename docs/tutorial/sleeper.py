"""A WebSocket client that reads nothing until you press Enter."""

import socket
import sys
from contextlib import suppress

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
REQUEST = f"""GET /news HTTP/1.1
Host: 127.0.0.1:{PORT}
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Version: 13
Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==

"""

connection = socket.socket()
connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # hardly any room at our side
connection.connect(("127.0.0.1", PORT))
connection.sendall(REQUEST.replace("\n", "\r\n").encode())
input("I am connected, and read nothing. Press Enter to make me read. ")
size = 0
with suppress(ConnectionError, KeyboardInterrupt):  # the server drops us, or you press Ctrl-C
    while data := connection.recv(65536):
        size += len(data)
        print(f"\r{size:,} bytes so far", end="", flush=True)
print(". The connection has ended.")
