"""WebSocket connections.

RULE: RFC 6455 only; the only folder that imports wsproto, and of ours it imports only limits.
"""
