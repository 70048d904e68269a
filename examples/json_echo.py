"""python examples/json_echo.py: a blog's "Websocket with Flask and Gevent" (2012).

What changed: Flask routes the WebSocket, so that no code dispatches on the path. A message that is
not JSON gets an error that says why, and does not end the connection. The reply is shown as text;
as HTML it ran any script in a message. The page closes its WebSocket on `pagehide`, which comes
where `onbeforeunload` does not, and shows with which close codes browsers have disconnected.
"""

if __name__ == "__main__":
    import on_gevent  # first: from here on, code that waits lets other greenlets run

import json
from collections import Counter

from flask import Flask, Response, jsonify, render_template, request

from pushlab.websocket.middleware import connection_of
from pushlab.wsgi.json_text import loads
from pushlab.wsgi.policy import configure

app = configure(Flask(__name__))
close_codes: Counter[str] = Counter()


@app.route("/websocket", websocket=True)
def websocket() -> str:
    """Reply to each message, until the browser disconnects."""
    socket = connection_of(request.environ)
    try:
        while (message := socket.receive()) is not None:
            socket.send(json.dumps(reply_to(message)))
    finally:
        close_codes[str(socket.close_code or "none")] += 1
    return ""  # Flask wants a response, but the browser has its own


def reply_to(message: str | bytes) -> dict[str, str]:
    """Return the reply: the message itself, or an error."""
    try:
        text = json.dumps(loads(message), ensure_ascii=False)
    except ValueError as problem:
        return {"error": f"that is {problem}"}
    return {"output": f"I have received this message from you: {text}"}


@app.get("/close-codes")
def counts() -> Response:
    """Return the number of closed connections by close code.

    1000 and 1001 are normal (RFC 6455 section 7.4.1); "none" is a connection that broke.
    """
    return jsonify(close_codes)


@app.get("/")
def page() -> str:
    """Return the page; its script closes the WebSocket on `pagehide`."""
    return render_template("json_echo.html")


if __name__ == "__main__":
    on_gevent.serve(app)
