"""What telling thousands costs: fanout.json, by `python -m bench.fanout --update-docs`."""

from collections.abc import Callable, Sequence

from bench.fanout.report import GOALS, OURS, Report, number
from bench.figures.pages import Claim, Part, Raw

_GOALS = {target.what: target for target in GOALS}
_TELLING, _HANDSHAKE = "notification / floor", "handshake / floor"
_SPEED = "docs/explanation/speed.rst"


def _report(raw: Raw) -> Report:
    return Report.from_json(raw.text("fanout"))


def _median(what: str, clients: int | None = None) -> Callable[[Raw], str]:
    return lambda raw: number(_report(raw).figure(what, clients).median)


def _aim(what: str) -> Callable[[Raw], str]:
    return lambda raw: number(_GOALS[what].most).removesuffix(".0")


def _medians(raw: Raw, what: str, *servers: str) -> list[float]:
    """Return these servers' medians for every number of clients."""
    return [figure.median for server in servers for figure in _report(raw).all(what, server)]


def _between(values: Sequence[float], digits: int = 0) -> str:
    least, most = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


def _is_met(raw: Raw, what: str) -> bool:
    """Say whether an aim is met with every number of clients that it is for."""
    aim = _GOALS[what]
    return all(aim.is_met(figure) for figure in _report(raw).all(what) if aim.aims_at(figure))


def _missed(what: str) -> Callable[[Raw], bool]:
    return lambda raw: not _is_met(raw, what)


PART = Part(
    pages={"docs/results/fanout.rst": lambda raw: _report(raw).as_rst()},
    numbers={
        "bytes per idle socket": _median("memory", _GOALS["memory"].clients),
        "floor samples": lambda raw: _between(
            [sample for figure in _report(raw).all("floor") for sample in figure.samples], 1
        ),
        "broadcast": lambda raw: _between(_medians(raw, _TELLING, OURS), 2),
        "broadcast p90": lambda raw: _between(
            [figure.quantile(0.9) for figure in _report(raw).all(_TELLING)], 2
        ),
        "broadcast aim": _aim(_TELLING),
        "handshake": lambda raw: _between(_medians(raw, _HANDSHAKE, OURS)),
        "handshake aim": _aim(_HANDSHAKE),
        "handshake of picows": lambda raw: _between(_medians(raw, _HANDSHAKE, "picows")),
        "handshake of aiohttp and websockets": lambda raw: _between(
            _medians(raw, _HANDSHAKE, "aiohttp", "websockets.broadcast")
        ),
        "event": _median("event / floor"),
        "event aim": _aim("event / floor"),
        "cycle": _median("long-poll cycle"),
        "cycle aim": _aim("long-poll cycle"),
        "cycle in floors": _median("long-poll cycle / floor"),
        "cycle aim in floors": _aim("long-poll cycle / floor"),
    },
    claims=[
        Claim(
            _SPEED,
            "**A WebSocket handshake** costs |handshake| floors, and the aim was |handshake aim|",
            _missed(_HANDSHAKE),
        ),
        Claim(
            _SPEED,
            "picows stays below the aim",
            lambda raw: max(_medians(raw, _HANDSHAKE, "picows")) < _GOALS[_HANDSHAKE].most,
        ),
        Claim(
            _SPEED,
            "**A server-sent event** costs |event| floors, and the aim was |event aim|.",
            _missed("event / floor"),
        ),
        Claim(
            _SPEED,
            "**A long-poll cycle** took |cycle| µs, and the aim was |cycle aim|; in floors it "
            "reaches its aim",
            lambda raw: _missed("long-poll cycle")(raw) and _is_met(raw, "long-poll cycle / floor"),
        ),
        Claim(
            _SPEED,
            "Median: |broadcast|, reached.",
            lambda raw: _is_met(raw, _TELLING),
        ),
        Claim(
            _SPEED,
            "90th percentile: |broadcast p90|, missed.",
            lambda raw: all(
                figure.quantile(0.9) > _GOALS[_TELLING].most
                for figure in _report(raw).all(_TELLING)
            ),
        ),
    ],
)
