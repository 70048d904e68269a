"""JSON text from outside, parsed strictly (RFC 8259)."""

import json
from typing import Any

SHOWN = 40  #: characters of a number in a message


def loads(text: str | bytes) -> Any:
    """Parse JSON text; bytes may be UTF-8, UTF-16 or UTF-32.

    Python's parser takes NaN and the infinities for numbers, which JSON does not have, and makes an
    infinity of a number that is too large. Raises ValueError, whose message says what is wrong with
    the text.
    """
    try:
        return json.loads(text, parse_constant=_constant, parse_float=_float, parse_int=_int)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not JSON, as it is not text: {error.reason}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def loads_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object in the text.

    Raises ValueError, whose message says what is wrong with it.
    """
    value = loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - as for any other wrong text
    return value


def _constant(name: str) -> float:
    raise ValueError(f"not JSON: {name} is no number there")


def _float(text: str) -> float:
    if (number := float(text)) in (float("inf"), float("-inf")):
        raise ValueError(f"a number too large to be kept: {_shortened(text)}")
    return number


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # more digits than `sys.get_int_max_str_digits` allows
        raise ValueError(f"a number of {len(text)} characters: {_shortened(text)}") from None


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
