"""python examples/json_echo.py: the app of the blog "Websocket with Flask and Gevent" of 2012.

What changed: Flask routes the socket, so that nothing has to dispatch on the path; what is not
JSON is told so, and does not end the conversation; the answer is text and no HTML, which ran
whatever somebody had sent; and the page closes its socket on `pagehide`, which comes where
`onbeforeunload` does not. The page shows how many have left, and with which goodbye.
"""

if __name__ == "__main__":
    import on_gevent  # first of all: from here on, whatever waits lets others run

import json
from collections import Counter

from flask import Flask, Response, jsonify, render_template, request

from pushlab.websocket.connection import Connection
from pushlab.wsgi.policy import configure

app = configure(Flask(__name__))
goodbyes: Counter[str] = Counter()  # by the code of the close frame


@app.route("/websocket", websocket=True)
def websocket() -> str:
    """Answer each message of JSON with another, until the browser leaves."""
    socket: Connection = request.environ["wsgi.websocket"]
    try:
        while (message := socket.receive()) is not None:
            socket.send(json.dumps(answer_to(message)))
    finally:
        goodbyes[str(socket.close_code or "none")] += 1
    return ""  # Flask wants an answer, but the browser has had its own


def answer_to(message: str | bytes) -> dict[str, str]:
    """Return what the server says to this."""
    try:
        said = json.dumps(json.loads(message), ensure_ascii=False)
    except (ValueError, RecursionError):  # nested too deep is no JSON of ours
        return {"error": "that is not JSON"}
    return {"output": f"I have received this message from you: {said}"}


@app.get("/goodbyes")
def how_they_left() -> Response:
    """Return how often each code was the last word: 1000 and 1001 are clean, "none" is a cut."""
    return jsonify(goodbyes)


@app.get("/")
def page() -> str:
    """Return the page; its script closes the socket when it is left."""
    return render_template("json_echo.html")


if __name__ == "__main__":
    on_gevent.serve(app)
