"""The chat of coroutines on native threads, without uWSGI."""

import os

from pushlab.hosting import threaded_server
from tests.revived.asyncio_chat import app

if __name__ == "__main__":
    threaded_server.run(app, port=int(os.environ["PORT"]))
