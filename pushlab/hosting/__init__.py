"""Servers that host an app.

RULE: one server per module; no other folder imports server libraries. Beside the servers is what
they share: settings, listener, lifecycle, request_parser, request_body, metering.
"""


class StartupError(Exception):
    """A server cannot start; the message is one line."""
