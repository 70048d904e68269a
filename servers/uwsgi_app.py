"""What uWSGI loads by the .ini files beside this: the app that APP names, with its WebSockets."""

import os

import uwsgi

from lab.settings import parse
from pushlab.hosting.uwsgi import host

application = host(os.environ.get("APP") or uwsgi.opt["app"].decode(), parse([]))
