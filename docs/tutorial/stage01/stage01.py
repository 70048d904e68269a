"""Stage 1: the page loads itself again."""

from flask import Flask, redirect, render_template_string, request
from werkzeug.wrappers import Response

PAGE = """<!doctype html><title>Live ticker</title><h1>{{ text }}</h1>
<meta http-equiv="refresh" content="2">
<form method="post"><input name="text" autocomplete="off" autofocus><button>Say</button></form>"""

app = Flask(__name__)
texts = ["The match begins."]  # all that was said, the newest last


@app.get("/")
def page() -> str:
    return render_template_string(PAGE, text=texts[-1])


@app.post("/")
def say() -> Response:
    texts.append(request.form["text"])
    return redirect("/")  # the browser loads the page again at once
