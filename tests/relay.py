"""A TCP relay that counts bytes between browser and server.

It knows nothing of HTTP, and passes every byte on at once.

    with Relay(server.port) as relay:
        ...  # browse http://127.0.0.1:{relay.port}
        [connection] = relay.naming("lane=k3j5-poll")
        assert connection.up == ...
        connection.stall()
"""

import socket
import threading
from contextlib import suppress

_PIECE = 64 * 1024


class Connection:
    """A client's connection, and its connection to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.head = b""  #: the first bytes from the client: in HTTP, its first request
        self.up = 0  #: bytes from the client
        self.down = 0  #: bytes from the server
        self.closed = threading.Event()  #: by both sides
        self.server_side: int = server.getsockname()[1]  #: the port that the server sees
        self._sockets = (client, server)
        self._flowing = threading.Event()
        self._flowing.set()
        self._ended = 0
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to pass bytes on."""
        client, server = self._sockets
        for source, sink in ((client, server), (server, client)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def stall(self) -> None:
        """Pass nothing on, as a dead network."""
        self._flowing.clear()

    def resume(self) -> None:
        """Pass on what was held back, and later bytes."""
        self._flowing.set()

    def cut(self) -> None:
        """Close the connection on both sides."""
        for each in self._sockets:
            with suppress(OSError):  # it is closed already
                each.shutdown(socket.SHUT_RDWR)
        self.resume()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        client, server = self._sockets
        with suppress(OSError):  # a reset is an end
            while data := source.recv(_PIECE):
                if source is server:
                    self.down += len(data)
                else:
                    self.up += len(data)
                    self.head = self.head or data
                self._flowing.wait()
                sink.sendall(data)
        self._flowing.wait()
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        with self._lock:
            self._ended += 1
            if self._ended == 2:
                client.close()
                server.close()
                self.closed.set()


class Relay:
    """Relays each connection at `port` to the server's port."""

    def __init__(self, server_port: int) -> None:
        self.connections: list[Connection] = []
        self.server_port = server_port  #: of connections from now on
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def up(self) -> int:
        """Bytes from all clients so far."""
        return sum(connection.up for connection in self.connections)

    @property
    def down(self) -> int:
        """Bytes to all clients so far."""
        return sum(connection.down for connection in self.connections)

    def naming(self, text: str) -> list[Connection]:
        """Return the connections whose first request contains this, oldest first."""
        return [each for each in self.connections if text.encode() in each.head]

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is shut down
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.server_port))
                except OSError:  # the server does not listen any more
                    client.close()
                else:
                    self.connections.append(Connection(client, server))
                    self.connections[-1].start()

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # some systems wake `accept` only at a close
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(5)
        for connection in self.connections:
            connection.cut()
            connection.closed.wait(5)
