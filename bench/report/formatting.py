"""Numbers with their units, rounded to three significant digits."""

import math


def significant(value: float) -> str:
    """Return three significant digits: 0.123, 1.23, 12.3, 123, 1,230."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    rounded = float(f"{value:.2e}")  # which may add a digit: 9.996 is 10.0
    if abs(rounded) >= 100:
        return f"{rounded:,.0f}"
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def duration(milliseconds: float) -> str:
    """Return 850 µs, 1.23 ms, 203 ms, 1.52 s."""
    return _scaled(milliseconds, ("µs", 1e-3), ("ms", 1), ("s", 1e3))


def size(number: float) -> str:
    """Return 121 bytes, 1,514 bytes, 34.5 kB, 1.2 MB."""
    if 99.5 <= number < 9_999.5:
        return f"{number:,.0f} bytes"
    return _scaled(number, ("bytes", 1), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9))


def _scaled(value: float, *units: tuple[str, float]) -> str:
    """Return the value in the unit that suits its size."""
    unit, scale = next((one for one in units if abs(value) < 999.5 * one[1]), units[-1])
    return f"{significant(value / scale)} {unit}"


def away(milliseconds: float) -> str:
    """Return the distance of a server, given its round trip."""
    return f"{milliseconds:g} ms away" if milliseconds else "on the same machine"


def clients(number: int) -> str:
    """Return 1 browser, 1,000 browsers."""
    return "1 browser" if number == 1 else f"{number:,} browsers"
