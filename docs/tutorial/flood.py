"""Say 400 long texts; print how long each hundred took."""

import sys
import time
from http.client import HTTPConnection
from urllib.parse import urlencode

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
FORM = {"Content-Type": "application/x-www-form-urlencoded"}  # as a browser sends a form

started = time.monotonic()
for number in range(1, 401):
    connection = HTTPConnection("127.0.0.1", PORT)
    connection.request("POST", "/", urlencode({"text": str(number) + " " * 15_000}), FORM)
    connection.getresponse().read()
    if number % 100 == 0:
        print(f"{number} texts: {time.monotonic() - started:.1f} seconds", flush=True)
