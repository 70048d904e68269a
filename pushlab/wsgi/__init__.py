"""WSGI: an environ in, a response out.

RULE: no socket, no server, no feed.
"""
