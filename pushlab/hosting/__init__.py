"""Servers that host an app. RULE: one server per module; only here server libraries are imported.

Beside them is what they share: settings, listener, lifecycle, header_parser, metering.
"""
