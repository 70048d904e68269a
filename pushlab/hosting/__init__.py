"""Servers that host an app.

RULE: one server per module; no other folder imports server libraries. Beside the servers is what
they share: settings, listener, lifecycle, header_parser, metering.
"""


class StartupError(Exception):
    """A server cannot start; the message is one line."""
