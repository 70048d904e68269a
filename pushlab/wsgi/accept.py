"""Which media type a browser prefers (RFC 9110 section 12.5.1)."""

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header


def prefers(media_type: str, accept: str) -> bool:
    """Tell whether an Accept header prefers a type to JSON.

    At equal weight it does if it names the type, as an EventSource names its own.
    """
    accept = accept.lower()
    if f"{media_type.partition('/')[0]}/" not in accept:
        return False  # as nearly always, without parsing
    ranges = parse_accept_header(accept, MIMEAccept)
    weight, json = ranges.quality(media_type), ranges.quality("application/json")
    return weight > json or (media_type in accept and weight == json > 0)
