"""Exercise 11: python solution.py TEXT says it, without Flask."""

import os
import sys

from pushlab import Push

url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
Push.publisher(url).publish("match/final", {"text": sys.argv[1]})
