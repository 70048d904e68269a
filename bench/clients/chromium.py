"""Chromium's requests, byte for byte.

As sent by Chromium 156 on Linux, past its cache. A test compares them with the browser's own.
"""

import base64
import hashlib
import os
from functools import lru_cache

#: {etag} is If-None-Match, which the page adds once it has a reading.
FETCH = """\
{method} {path} HTTP/1.1\r
Host: {host}\r
Connection: keep-alive\r
Pragma: no-cache\r
Cache-Control: no-cache\r
{etag}sec-ch-ua-platform: "Linux"\r
User-Agent: {agent}\r
sec-ch-ua: "Not:A-Brand";v="8", "Chromium";v="156"\r
sec-ch-ua-mobile: ?0\r
Accept: */*\r
Sec-Fetch-Site: same-origin\r
Sec-Fetch-Mode: cors\r
Sec-Fetch-Dest: empty\r
Referer: http://{host}/\r
Accept-Encoding: gzip, deflate, br, zstd\r
Accept-Language: en-US,en;q=0.9\r
\r
"""
EVENT_SOURCE = """\
GET {path} HTTP/1.1\r
Host: {host}\r
Connection: keep-alive\r
Pragma: no-cache\r
Cache-Control: no-cache\r
sec-ch-ua-platform: "Linux"\r
User-Agent: {agent}\r
Accept: text/event-stream\r
sec-ch-ua: "Not:A-Brand";v="8", "Chromium";v="156"\r
sec-ch-ua-mobile: ?0\r
Sec-Fetch-Site: same-origin\r
Sec-Fetch-Mode: cors\r
Sec-Fetch-Dest: empty\r
Referer: http://{host}/\r
Accept-Encoding: gzip, deflate, br, zstd\r
Accept-Language: en-US,en;q=0.9\r
\r
"""
HANDSHAKE = """\
GET {path} HTTP/1.1\r
Host: {host}\r
Connection: Upgrade\r
Pragma: no-cache\r
Cache-Control: no-cache\r
User-Agent: {agent}\r
Upgrade: websocket\r
Origin: http://{host}\r
Sec-WebSocket-Version: 13\r
Accept-Encoding: gzip, deflate, br, zstd\r
Accept-Language: en-US,en;q=0.9\r
Sec-WebSocket-Key: {key}\r
Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r
\r
"""
#: Reloading the page.
NAVIGATE = """\
GET {path} HTTP/1.1\r
Host: {host}\r
Connection: keep-alive\r
Cache-Control: max-age=0\r
sec-ch-ua: "Not:A-Brand";v="8", "Chromium";v="156"\r
sec-ch-ua-mobile: ?0\r
sec-ch-ua-platform: "Linux"\r
Upgrade-Insecure-Requests: 1\r
User-Agent: {agent}\r
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/jxl,image/avif,image/webp,\
image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7\r
Sec-Fetch-Site: none\r
Sec-Fetch-Mode: navigate\r
Sec-Fetch-User: ?1\r
Sec-Fetch-Dest: document\r
Accept-Encoding: gzip, deflate, br, zstd\r
Accept-Language: en-US,en;q=0.9\r
{etag}\r
"""
AGENT = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/156.0.0.0 Safari/537.36"
)


@lru_cache(maxsize=1000)  # every client sends the same
def request(
    host: str, path: str, *, method: str = "GET", known: str = "", template: str = FETCH
) -> bytes:
    """Return a request.

    `known` is the cursor of the reading that the page has.
    """
    etag = f'If-None-Match: "{known}"\r\n' if known else ""
    return template.format(method=method, path=path, host=host, agent=AGENT, etag=etag).encode()


def handshake(host: str, path: str) -> tuple[bytes, bytes]:
    """Return a WebSocket's opening request, and what accepts it.

    See RFC 6455 section 4.2.2.
    """
    key = base64.b64encode(os.urandom(16)).decode()
    request = HANDSHAKE.format(path=path, host=host, agent=AGENT, key=key).encode()
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode())  # noqa: S324
    return request, base64.b64encode(digest.digest())
