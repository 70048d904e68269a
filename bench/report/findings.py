"""The verdict in words: each sentence follows from the data, or is not said."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from bench.report import formatting as units
from bench.report.tables import Group, groups, headline
from bench.results import UNDISTURBED, Cell, Results
from bench.statistics import median, quantile
from bench.variants import WAYS, Variant

#: Nobody sees a difference of fewer milliseconds.
SAME_TIME = 2.0
#: Bytes are counted exactly, but a header more or less is no difference.
SAME_SIZE = 1.05
#: CPU is compared by few turns on a machine that may be busy: two runs agree to so much.
SAME_CPU = 1.15
#: The age of what slow readers see, likewise.
SAME_AGE = 1.10
#: A round trip that counts as near, and one that counts as far, in milliseconds.
NEAR, FAR = 5.0, 20.0
#: From this share of a core on, the audience may be what is slow.
BUSY = 0.85

#: How one compares with another: it is better, worse, or the difference does not count.
Outcome = Literal["wins", "draws", "loses"]

_NAMES = {"poll": "short polling", "longpoll": "long polling"}

WEBSOCKET = Variant("websocket", True)
#: What the one that carries on a WebSocket is set against: first how the seeds' examples did it.
RIVALS = (
    Variant("longpoll", False),
    Variant("longpoll", True),
    Variant("poll", True),
    Variant("sse", True),
)


def sentences(results: Results) -> list[str]:
    """Return the verdict, the most important first."""
    found = alarms(results)
    if not results.cells:
        return (
            found if results.extra else [*found, "Nothing was measured: there is nothing to tell."]
        )
    servers = list(dict.fromkeys(cell.server for cell in results.cells))
    for server in servers:
        own = Results("", {}, {}, [cell for cell in results.cells if cell.server == server])
        prefix = f"On {server}: " if len(servers) > 1 else ""
        found += [prefix + sentence for sentence in _on_one_server(own)]
    found += [*_nothing_lost(results.cells), *_audience(results.cells)]
    return found


def alarms(results: Results) -> list[str]:
    """Return those of the sentences that come first, as they cast doubt on all others."""
    return [*_ending(results), *_losses(results.cells)]


def _on_one_server(results: Results) -> Iterator[str]:
    group = headline(results)
    if group:
        yield from _first(group)
        yield from _rivals(group)
        yield from _bytes(group)
        yield from _signals(group)
        yield from _cpu(results)
        yield from _in_vain(group)
        yield from _distances(results)
        yield from _polling(group)
    for slow in groups(results):
        if slow.handling:
            yield from _slow(slow)


# How cells compare.


def sooner(one: Cell, other: Cell) -> Outcome:
    """Tell whether one has the data sooner than the other.

    It is a draw if the medians are less than SAME_TIME apart, or if the middle halves overlap.
    """
    apart = median(other.had) - median(one.had)
    if abs(apart) < SAME_TIME:
        return "draws"
    first, second = (one, other) if apart > 0 else (other, one)
    if quantile(first.had, 0.75) >= quantile(second.had, 0.25):
        return "draws"
    return "wins" if apart > 0 else "loses"


def less(one: float, other: float, same: float) -> Outcome:
    """Tell whether one is less than the other by more than the factor that is still the same."""
    if one * same < other:
        return "wins"
    return "loses" if other * same < one else "draws"


def cheaper(one: Cell, other: Cell) -> Outcome:
    """Tell whether one takes less of the server's CPU: by more than SAME_CPU, and the spread."""
    costs = [sorted(max(cost, 0.1) for cost in cell.cpu_samples) for cell in (one, other)]
    least, other_least = (quantile(cost, UNDISTURBED) for cost in costs)
    outcome = less(least, other_least, SAME_CPU)
    low, high = costs if outcome == "wins" else costs[::-1]
    return "draws" if quantile(low, 0.75) >= quantile(high, 0.25) else outcome


# The sentences.


def _ending(results: Results) -> Iterator[str]:
    rest = "what follows is from what was measured until then."
    if results.failure:
        yield f"This run failed: {results.failure.rstrip('.')}; {rest}"
    elif results.interrupted:
        yield f"This run was interrupted; {rest}"


def _losses(cells: Sequence[Cell]) -> Iterator[str]:
    for cell in cells:
        if cell.lost:
            yield (
                f"{_count(cell.lost, 'update')} lost: {_name(cell)}, "
                f"{units.clients(cell.clients)} {units.away(cell.distance)}. "
                "That must never happen, so this run proves nothing."
            )


def _nothing_lost(cells: Sequence[Cell]) -> Iterator[str]:
    seen, coalesced = sum(cell.seen for cell in cells), sum(cell.coalesced for cell in cells)
    if any(cell.lost for cell in cells) or not seen:
        return
    if coalesced:
        yield (
            f"No update was lost: browsers saw {seen:,}; {coalesced:,} were coalesced, that is "
            "skipped on purpose, as a newer one was there before they could be told."
        )
    else:
        yield f"No update was lost, and none skipped: browsers saw all {seen:,}."


def _first(group: Group) -> Iterator[str]:
    cells = sorted((cell for cell in group.cells if cell.had), key=lambda cell: median(cell.had))
    if not cells:
        return
    best = cells[0]
    equal = _in_order(cell for cell in cells if sooner(best, cell) == "draws")
    after = units.duration(median(best.had))
    where = _where(group)
    if len(cells) == 1:
        yield f"{where}, {_name(best)} had the data {after} after the change (median)."
    elif len(equal) == len(cells):
        yield (
            f"{where}, nobody was first: every way had the data so much at the same time that it "
            f"is a draw ({after} after the change, by the median of {_name(best)})."
        )
    elif len(equal) == 1:
        second = units.duration(median(cells[1].had) - median(best.had))
        yield (
            f"{where}, {_name(best)} had the data first: {after} after the change (median), "
            f"{second} sooner than the next, {_name(cells[1])}."
        )
    else:
        longest = units.duration(max(median(cell.had) for cell in equal))
        took = after if longest == after else f"{after} to {longest}"
        yield (
            f"{where}, {_names(equal)} had the data first, "
            f"{took} after the change (medians): a draw between them."
        )


def _rivals(group: Group) -> Iterator[str]:
    """Say how much sooner the WebSocket is, by what it brings."""
    one = _only(group, WEBSOCKET)
    if not one or not one.had:
        return
    for outcome, words in (("wins", "sooner than"), ("loses", "later than")):
        told = []
        for other in _rivals_in(group):
            if other.had and sooner(one, other) == outcome:
                apart = units.duration(abs(median(other.had) - median(one.had)))
                told.append(f"{apart} {words} {_name(other)}")
        if told:
            yield f"{_where(group)}, {_name(one)} had it {_list(told)}."
    best = min((cell for cell in group.cells if cell.had), key=lambda cell: median(cell.had))
    draws = [
        cell
        for cell in _rivals_in(group)
        # That those who were first are a draw has been said.
        if cell.had and sooner(one, cell) == "draws" and sooner(best, cell) != "draws"
    ]
    if draws:
        yield (
            f"Between {_name(one)} and {_names(draws)}, it is a draw: "
            "no difference beyond the spread."
        )


def _bytes(group: Group) -> Iterator[str]:
    cells = [cell for cell in group.cells if cell.seen and cell.bill.bytes]
    if len(cells) < 2:
        if cells:
            took = units.size(cells[0].bytes_per_update)
            yield f"An update took {took} by {_name(cells[0])}."
        return
    best = cells[0]
    equal = [c for c in cells
             if less(best.bytes_per_update, c.bytes_per_update, SAME_SIZE) == "draws"]  # fmt: skip
    if len(equal) == len(cells):
        yield f"Bytes are a draw: every way took about {units.size(best.bytes_per_update)}."
        return
    by = _names(_in_order(equal))
    told = [
        f"{_times(cell.bytes_per_update, best.bytes_per_update)} fewer than {_name(cell)} "
        f"({units.size(cell.bytes_per_update)})"
        for cell in _contrasts(group, best)
        if cell not in equal and cell.seen
    ]
    yield (
        f"An update took the fewest bytes by {by}: {units.size(best.bytes_per_update)}"
        + (f", which is {_list(told)}." if told else ".")
    )
    worst = cells[-1]
    if best.bill.packets and worst.bill.packets:
        few, many = best.bytes_with_headers_per_update, worst.bytes_with_headers_per_update
        yield (
            f"With the headers of TCP and IP, which are estimated, that is {units.size(few)} "
            f"against {units.size(many)} by {_name(worst)}: {_times(many, few)} fewer, and "
            f"{_times(worst.bytes_per_update, best.bytes_per_update)} without them."
        )


def _signals(group: Group) -> Iterator[str]:
    """Say what it costs that news only signals, by the WebSocket if it was measured."""
    pushed = [_only(group, Variant(transport, False)) for transport in ("websocket", "sse")]
    signal = next((cell for cell in pushed if cell and cell.seen), None)
    if not signal:
        return
    carry = _only(group, Variant(signal.transport, True))
    words = []
    if carry and carry.seen:
        if signal.had and carry.had and sooner(carry, signal) == "wins":
            more = units.duration(median(signal.had) - median(carry.had))
            words.append(f"takes {more} more until the data is there")
        if less(carry.bytes_per_update, signal.bytes_per_update, SAME_SIZE) == "wins":
            factor = _times(signal.bytes_per_update, carry.bytes_per_update)
            words.append(f"costs {factor} the bytes")
    if words:
        yield (
            f"{_capital(_plain(signal))} that only signals, so that the browser fetches the data, "
            f"{_list(words)}, compared with one that carries it."
        )
    poll = _only(group, Variant("longpoll", True))
    if poll and poll.seen:
        share = signal.bytes_per_update / poll.bytes_per_update
        if 0.75 <= share <= 1 / 0.75:
            yield (
                f"{_capital(_name(signal))} pays a poll's worth of bytes, as its fetch is a "
                f"request like any other: {units.size(signal.bytes_per_update)} an update, against "
                f"{units.size(poll.bytes_per_update)} by {_name(poll)}."
            )


def _in_vain(group: Group) -> Iterator[str]:
    told = []
    for cell in group.cells:
        asked, vain = cell.bill.requests, cell.bill.empty
        if vain:
            told.append(f"{_name(cell)} {vain:,} of {asked:,} ({100 * vain / asked:.0f} %)")
        elif cell.transport == "poll" and asked:
            yield f"{_capital(_name(cell))} made no request in vain."
    if told:
        yield f"Requests in vain, as there was nothing new: {_list(told)}."


def _cpu(results: Results) -> Iterator[str]:
    ordinary = [group for group in groups(results) if not group.handling]
    known = [group for group in ordinary if sum(cell.knows_cpu for cell in group.cells)]
    if not known:
        yield "What it costs the server in CPU is not known from this run."
        return
    # Nearby and with the most clients, where the most of it is the server's own.
    group = min(known, key=lambda group: (-len(group.cells), group.distance, -group.clients))
    costs = {cell.title: (cell, max(cell.cpu_per_update or 0, 0.1))
             for cell in group.cells if cell.knows_cpu}  # fmt: skip
    (best, least), *rest = sorted(costs.values(), key=lambda cost: cost[1])
    equal = [best, *(cell for cell, _ in rest if cheaper(best, cell) == "draws")]
    circumstances = f"With {units.clients(group.clients)} {units.away(group.distance)}"
    if not rest:
        took = f"took the server {units.cpu(least)} of CPU by {_name(best)}"
        yield f"{circumstances}, an update for one of them {took}."
        return
    if len(equal) == len(costs):
        yield f"{circumstances}, the server's CPU is a draw: about {units.cpu(least)} per update."
        return
    told = [
        f"{_times(costs[cell.title][1], least)} less than {_name(cell)} "
        f"({units.cpu(costs[cell.title][1])})"
        for cell in _contrasts(group, best)
        if cell.title in costs and cell not in equal
    ]
    yield (
        f"{circumstances}, an update for one of them took the server the least CPU by "
        f"{_names(_in_order(equal))}: {units.cpu(least)}"
        + (f", which is {_list(told)}." if told else ".")
    )


def _distances(results: Results) -> Iterator[str]:
    """Say what distance does: nearby, all that push or wait look alike."""
    ordinary = [group for group in groups(results) if not group.handling]
    distances = sorted({group.distance for group in ordinary})
    if distances[0] > NEAR:
        return
    near = _waiting(_like_headline(ordinary, distances[0], results))
    if len(near) < 2:
        return
    low, high = near
    alike = high - low < 10 * SAME_TIME
    if not alike:
        return
    here = (
        f"{_capital(units.away(distances[0]))}, all that push or wait look alike: "
        f"{_range(low, high)} to the data"
    )
    if len(distances) == 1:
        yield f"{here}. What distance does, this run cannot tell: it has only this one."
        return
    far = _waiting(_like_headline(ordinary, distances[-1], results))
    if distances[-1] >= FAR and len(far) == 2 and far[1] - far[0] > max(SAME_TIME, high - low):
        yield (
            f"{here}. {_capital(units.away(distances[-1]))}, they do not: {_range(*far)}, "
            "for the ways there and back that they take."
        )
    else:
        yield f"{here}."


def _polling(group: Group) -> Iterator[str]:
    """Say where polling wins or draws, as plainly as where it does not."""
    wins: list[str] = []
    draws: list[str] = []
    for poll in group.cells:
        push = _only(group, Variant("websocket", poll.carry))
        if poll.transport not in _NAMES or not push or not poll.seen or not push.seen:
            continue
        outcomes: dict[str, Outcome] = {}
        if poll.had and push.had:
            outcomes["time"] = sooner(poll, push)
        outcomes["bytes"] = less(poll.bytes_per_update, push.bytes_per_update, SAME_SIZE)
        if poll.knows_cpu and push.knows_cpu:
            outcomes["the server's CPU"] = cheaper(poll, push)
        for outcome, into in (("wins", wins), ("draws", draws)):
            what = [measure for measure, found in outcomes.items() if found == outcome]
            if what:
                into.append(f"{_name(poll)} by {_list(what)}")
    where = _where(group)
    if wins:
        yield f"{where}, polling wins against the WebSocket that brings as much: {_list(wins)}."
    if draws:
        yield f"{where}, polling draws with the WebSocket that brings as much: {_list(draws)}."
    has_both = _only(group, WEBSOCKET) and any(c.transport in _NAMES for c in group.cells)
    if has_both and not wins and not draws:
        yield f"{where}, polling neither wins nor draws in anything that was measured."


def _slow(group: Group) -> Iterator[str]:
    """Say who serves a slow reader best, by age, bytes and CPU."""
    cells = [cell for cell in group.cells if cell.had and cell.seconds]
    if len(cells) < 2:
        return
    measures: list[tuple[str, Callable[[Cell], float | None], Callable[[float], str], float, str]]
    measures = [
        ("freshness", lambda cell: quantile(cell.had, 0.95), units.duration, SAME_AGE,
         "old on the screen at most in 95 of 100 cases"),
        ("bytes", lambda cell: cell.bytes_per_second, units.size, SAME_SIZE,
         "a second and browser"),
        ("the server's CPU", lambda cell: cell.cpu_per_second, units.cpu, SAME_CPU,
         "a second and browser"),
    ]  # fmt: skip
    updates = sum(cell.seen + cell.coalesced + cell.waiting for cell in cells)
    skipped = sum(cell.coalesced for cell in cells)
    behind = [cell for cell in cells if cell.waiting]
    if behind:
        left = f"{sum(cell.waiting for cell in behind):,} had arrived and still waited to be shown"
        end = f", and {left} in the end, by {_names(behind)}."
    else:
        end = ", and nobody was shown a backlog." if skipped else "."
    yield (
        f"Slow readers ({units.clients(group.clients)}, {units.away(group.distance)}, each busy "
        f"for {group.handling:g} s with every piece of news, while there is one every "
        f"{group.pace:g} s): {skipped:,} of {updates:,} updates were coalesced{end}"
    )
    wins: dict[str, list[str]] = {}
    for what, of, unit, same, per in measures:
        known = [(cell, value) for cell in cells if (value := of(cell)) is not None]
        if len(known) < 2:
            continue
        known.sort(key=lambda pair: pair[1])
        least = known[0][1]
        equal = [cell for cell, value in known if less(least, value, same) == "draws"]
        figures = _list([f"{_name(cell)} {unit(value)}" for cell, value in known])
        if len(equal) == len(known):
            yield f"Slow readers, {what}: a draw. {_capital(figures)} {per}."
        else:
            names = _names(equal)
            win = "wins" if len(equal) == 1 else "win"
            yield f"Slow readers, {what}: {names} {win}. {_capital(figures)} {per}."
            for cell in equal:
                wins.setdefault(cell.transport, []).append(what)
    for transport in _NAMES:
        if transport in wins and "websocket" not in wins:
            yield (
                f"So for slow readers {_NAMES[transport]} wins by {_list(wins[transport])}, and "
                "the WebSocket by nothing."
            )


def _audience(cells: Sequence[Cell]) -> Iterator[str]:
    busy = [cell for cell in cells if cell.audience_cpu > BUSY]
    if busy:
        most = max(cell.audience_cpu for cell in busy)
        which = "one measurement" if len(busy) == 1 else f"{len(busy)} measurements"
        yield (
            f"Mind that in {which} the audience itself took up to {most:.0%} of a core: "
            "the times there are partly its own."
        )


# Words.


def _only(group: Group, way: Variant) -> Cell | None:
    return next((cell for cell in group.cells if cell.way == way), None)


def _rivals_in(group: Group) -> list[Cell]:
    return [cell for way in RIVALS for cell in group.cells if cell.way == way]


def _in_order(cells: Iterable[Cell]) -> list[Cell]:
    """Return them as they are listed everywhere, the last first: what is pushed."""
    return sorted(cells, key=lambda cell: -WAYS.index(cell.way) if cell.way in WAYS else 0)


def _contrasts(group: Group, best: Cell) -> list[Cell]:
    """Return what the best is set against: first those that people know."""
    order = {way: place for place, way in enumerate(RIVALS[:3])}
    known = [cell for cell in group.cells if cell.way in order and cell is not best]
    return sorted(known, key=lambda cell: order[cell.way]) or [
        cell for cell in group.cells if cell is not best
    ]


def _like_headline(found: Sequence[Group], distance: float, results: Results) -> Group:
    """Return the group at that distance that is most like the one that the verdict is about."""
    head = headline(results)
    clients = head.clients if head else 0
    near = [group for group in found if group.distance == distance]
    return min(near, key=lambda group: (abs(group.clients - clients), -len(group.cells)))


def _waiting(group: Group) -> tuple[float, float] | tuple[()]:
    """Return the least and the most median of all that push or wait; nothing if there is one."""
    found = [median(c.had) for c in group.cells if c.had and c.transport != "poll"]
    return (min(found), max(found)) if len(found) > 1 else ()


def _range(low: float, high: float) -> str:
    return f"{units.duration(low)} to {units.duration(high)}"


def _plain(cell: Cell) -> str:
    name = _NAMES.get(cell.transport, cell.way.title.split(",")[0])
    asks = "" if cell.period is None else f" every {cell.period:g} s"
    return (f"the {name}" if cell.transport == "websocket" else name) + asks


def _name(cell: Cell) -> str:
    """Return it as in "the WebSocket that carries", "short polling every 1 s that signals"."""
    return f"{_plain(cell)} that {'carries' if cell.carry else 'signals'}"


def _names(cells: Sequence[Cell]) -> str:
    """Return them as in "the WebSocket and SSE that carry"."""
    payloads = {
        carry: list(dict.fromkeys(_plain(cell) for cell in cells if cell.carry == carry))
        for carry in (True, False)
    }
    both = [f"{_list(names)} that {'carry' if carry else 'signal'}" if len(names) > 1
            else f"{names[0]} that {'carries' if carry else 'signals'}"
            for carry, names in payloads.items() if names]  # fmt: skip
    if len(both) > 1 and payloads[True] == payloads[False]:
        return f"{_list(payloads[True])}, whether news carries or signals,"
    return _list(both)


def _where(group: Group) -> str:
    return f"{_capital(units.away(group.distance))} ({units.clients(group.clients)})"


def _times(more: float, fewer: float) -> str:
    return f"{units.three(more / fewer)} times" if fewer else "any number of times"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{' was' if number == 1 else 's were'}"


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _list(words: Sequence[str]) -> str:
    """Return a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
