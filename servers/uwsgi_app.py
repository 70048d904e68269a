"""What uwsgi*.ini load: the app that APP names."""

import os

import uwsgi

from lab.settings import parse
from pushlab.hosting.uwsgi import host

application = host(os.environ.get("APP") or uwsgi.opt["app"].decode(), parse([]))
