"""WebSocket connections. RULE: RFC 6455 only; imports wsproto and nothing of ours but limits."""
