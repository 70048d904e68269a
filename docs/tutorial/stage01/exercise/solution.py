"""Exercise 1: how often the page was loaded."""

from itertools import count

from flask import Flask, redirect, render_template_string, request
from werkzeug.wrappers import Response

PAGE = """<!doctype html><title>Live ticker</title><h1>{{ text }}</h1>
<p>Loaded {{ loads }} times</p>
<meta http-equiv="refresh" content="2">
<form method="post"><input name="text" autocomplete="off" autofocus><button>Say</button></form>"""

app = Flask(__name__)
texts = ["The match begins."]  # all that was said, the newest last
loads = count(1)


@app.get("/")
def page() -> str:
    return render_template_string(PAGE, text=texts[-1], loads=next(loads))


@app.post("/")
def say() -> Response:
    texts.append(request.form["text"])
    return redirect("/")  # the browser loads the page again at once
