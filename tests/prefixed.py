"""The app of serve.py below /push, as a part of another app."""

from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from serve import app as pushlab

app = DispatcherMiddleware(NotFound(), {"/push": pushlab})
