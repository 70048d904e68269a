"""The old name of `pushlab.hosting.gunicorn`, for configurations that have it."""

from pushlab.hosting.gunicorn import Worker

__all__ = ["Worker"]
