"""Numbers with their units, rounded to three significant digits."""

import math


def significant(value: float) -> str:
    """Return three significant digits: 0.123, 1.23, 12.3, 123, 1,230."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    if abs(rounded) >= 100:
        return f"{rounded:,.0f}"
    # Rounding may have added a digit: 9.996 is 10.0.
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def duration(milliseconds: float) -> str:
    """Return 850 µs, 1.23 ms, 203 ms, 1.52 s."""
    if abs(milliseconds) < 0.9995:
        return f"{significant(milliseconds * 1e3)} µs" if milliseconds else "0 ms"
    if abs(milliseconds) < 999.5:
        return f"{significant(milliseconds)} ms"
    return f"{significant(milliseconds / 1e3)} s"


def cpu(microseconds: float) -> str:
    """Return 12.3 µs, 1.23 ms."""
    if abs(microseconds) < 999.5:
        return f"{significant(microseconds)} µs"
    return duration(microseconds / 1e3)


def size(number: float) -> str:
    """Return 121 bytes, 1,514 bytes, 34.5 kB, 1.2 MB."""
    if number < 9_999.5:
        return f"{number:,.0f} bytes" if number >= 99.5 else f"{significant(number)} bytes"
    for unit, scale in (("kB", 1e3), ("MB", 1e6)):
        if number / scale < 999.5:
            return f"{significant(number / scale)} {unit}"
    return f"{significant(number / 1e9)} GB"


def away(milliseconds: float) -> str:
    """Return the distance of a server, given its round trip."""
    return f"{milliseconds:g} ms away" if milliseconds else "on the same machine"


def clients(number: int) -> str:
    """Return 1 browser, 1,000 browsers."""
    return "1 browser" if number == 1 else f"{number:,} browsers"
