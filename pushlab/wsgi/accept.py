"""Which media type a browser prefers (RFC 9110 section 12.5.1)."""

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from pushlab.wsgi.remembered import remembered
from pushlab.wsgi.responses import Environ


def prefers(environ: Environ, media_type: str) -> bool:
    """Tell whether the browser prefers a media type to JSON.

    At equal weight it does if it names the type, as an EventSource names its own.
    """
    accept = environ.get("HTTP_ACCEPT", "").lower()
    if f"{media_type.partition('/')[0]}/" not in accept:
        return False  # as nearly always, without parsing
    return _prefers(accept, media_type)


@remembered  # every EventSource of a browser sends the same
def _prefers(accept: str, media_type: str) -> bool:
    ranges = parse_accept_header(accept, MIMEAccept)
    weight, json = ranges.quality(media_type), ranges.quality("application/json")
    return weight > json or (media_type in accept and weight == json > 0)
