"""Opens standard streams that are closed, when it is imported.

Imported before everything else: a program may be started with descriptors 0 to 2 closed. The first
sockets would get these numbers, and what a library prints would go to a browser.
"""

import os

for _descriptor in range(3):
    try:
        os.fstat(_descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
