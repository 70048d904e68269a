"""Exercise 11: python solution.py TEXT says it, without Flask."""

import os
import sys

from pushlab import Push

Push.publisher(os.environ["REDIS_URL"]).publish("match/final", {"text": sys.argv[1]})
