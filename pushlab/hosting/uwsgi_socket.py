"""How a connection is taken from uWSGI, so that only our frames are on it.

uWSGI has frames of its own, but it answers pings with empty pongs and a close without its code,
cannot tell text from binary, and keeps a request open for every browser. None of that concerns a
copy of the socket: uWSGI may end its request, and the connection lives on.

What a client sends before it has seen the 101, which it must not (RFC 6455 section 4.1), uWSGI may
have read along with the request. It does not give that out.
"""

import os

import uwsgi

#: What uWSGI gets for a socket that is taken from it.
_NOTHING = os.open(os.devnull, os.O_RDWR)


def take_socket() -> int:
    """Return a descriptor of the current request's connection; from now on it is only ours.

    uWSGI closes its own when the request is over, which would not end the connection. But with
    `http11-socket` it keeps it instead, for a next request, and would read what is meant for us.
    """
    its_own: int = uwsgi.connection_fd()
    ours = os.dup(its_own)
    os.dup2(_NOTHING, its_own, inheritable=False)
    return ours
