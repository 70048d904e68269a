"""What the results say, in at most ten sentences, each of which follows from the data.

Like is compared with like: transports that bring the same payload. What carrying saves is a
sentence of its own.
"""

from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any, Literal

from bench.report import formatting
from bench.report.tables import Comparison, comparisons, headline
from bench.results import CPU_PERCENTILE, Result, Results
from bench.scenarios import FLASK, Variant
from bench.statistics import median, quantile
from pushlab.transports import TRANSPORTS

#: Findings in a report, at most; alarms are not counted.
MOST = 10
#: The two transports that are compared first; then all others, the last in the registry first.
MAIN = ("websocket", "longpoll")
ORDER = [*MAIN, *(name for name in reversed(TRANSPORTS) if name not in MAIN)]
#: Medians that are fewer milliseconds apart make no difference that a person sees.
SAME_TIME = 2.0
#: Bytes are counted exactly, but a header more or less is no difference.
SAME_SIZE = 1.05
#: CPU is compared by few rounds on a machine that may be busy: two runs agree to this factor.
SAME_CPU = 1.15
#: The age of what slow readers see, likewise.
SAME_AGE = 1.10
#: From this share of a core on, the headless browsers may be what is slow.
BUSY = 0.85

#: How one result compares with another; a draw is a difference that does not count.
Outcome = Literal["wins", "draws", "loses"]
#: What fills in a sentence; None where the data does not say it.
Facts = dict[str, Any] | None
#: Returns the facts of a sentence, from the results of one server and their headline group.
Condition = Callable[[Results, Comparison], Facts]


def sentences(results: Results) -> list[str]:
    """Return the alarms, then the findings, the most important first."""
    found = alarms(results)
    if not results.entries:
        return found if results.extra else [*found, "Nothing was measured."]
    servers = list(dict.fromkeys(result.server for result in results.entries))
    for server in servers:
        own = Results("", {}, {}, [result for result in results.entries if result.server == server])
        group = headline(own) or Comparison(server, 0.0, 0, 0.0, 0.0, ())
        facts = ((condition(own, group), template) for condition, template in FINDINGS)
        said = [template.format(**known) for known, template in facts if known is not None]
        prefix = f"On {server}: " if len(servers) > 1 else ""
        each = (MOST - 1) // len(servers) or 1
        found += [f"{prefix}{one[0].upper()}{one[1:]}" for one in said[:each]]
    return [*found, *_nothing_lost(results)]


def alarms(results: Results) -> list[str]:
    """Return what casts doubt on all findings."""
    found = []
    rest = "what follows is from what was measured until then."
    if results.failure:
        found.append(f"This run failed: {results.failure.rstrip('.')}; {rest}")
    elif results.interrupted:
        found.append(f"This run was interrupted; {rest}")
    for result in (result for result in results.entries if result.lost):
        were = "update was" if result.lost == 1 else "updates were"
        where = f"{formatting.clients(result.clients)} {formatting.away(result.rtt_ms)}"
        found.append(
            f"{result.lost:,} {were} lost: {result.title}, {where}. This run proves nothing."
        )
    most = max((result.worker_cpu for result in results.entries), default=0.0)
    if most > BUSY:
        found.append(
            f"The headless browsers took up to {most:.0%} of a core: some times are partly theirs, "
            "not the server's."
        )
    return found


# The rules of comparison.


def sooner(one: Result, other: Result) -> Outcome:
    """Tell whether one has the data sooner than the other.

    It is a draw if the medians are less than SAME_TIME apart, or if the middle halves overlap.
    """
    apart = median(other.received_ms) - median(one.received_ms)
    if abs(apart) < SAME_TIME:
        return "draws"
    first, second = (one, other) if apart > 0 else (other, one)
    if quantile(first.received_ms, 0.75) >= quantile(second.received_ms, 0.25):
        return "draws"
    return "wins" if apart > 0 else "loses"


def less(one: float, other: float, same: float) -> Outcome:
    """Tell whether one is less than the other by more than the factor that is still the same."""
    if one * same < other:
        return "wins"
    return "loses" if other * same < one else "draws"


def cheaper(one: Result, other: Result) -> Outcome:
    """Tell whether one takes less of the server's CPU: by more than SAME_CPU, and the spread."""
    costs = [sorted(max(cost, 0.1) for cost in result.cpu_samples) for result in (one, other)]
    least, other_least = (quantile(cost, CPU_PERCENTILE) for cost in costs)
    outcome = less(least, other_least, SAME_CPU)
    low, high = costs if outcome == "wins" else costs[::-1]
    return "draws" if quantile(low, 0.75) >= quantile(high, 0.25) else outcome


def smaller(one: Result, other: Result) -> Outcome:
    """Tell whether an update takes fewer bytes by one than by the other."""
    return less(one.bytes_per_update, other.bytes_per_update, SAME_SIZE)


# The conditions: each returns the facts of its sentence.


class Words:
    """A result in words, for a sentence."""

    def __init__(self, result: Result) -> None:
        short = TRANSPORTS[result.transport].short
        self.result = result
        self.title = result.title
        self.name = short if any(map(str.isupper, short[1:])) else short.lower()
        self.bytes = formatting.size(result.bytes_per_update)
        self.rate = formatting.size(result.bytes_per_second or 0)
        self.cpu = formatting.cpu(max(result.cpu_per_update or 0, 0.1))
        if result.received_ms:
            self.after = formatting.duration(median(result.received_ms))
            self.age = formatting.duration(_age(result))


def _age(result: Result) -> float:
    """Return how old data was on the screen, at most, in 95 of 100 cases."""
    return quantile(result.received_ms, 0.95)


def _compared(
    group: Comparison,
    measured: Callable[[Result], object],
    rule: Callable[[Result, Result], Outcome],
) -> Facts:
    """Compare the first two transports in ORDER with the same payload, preferably carrying."""
    for carry, names in product((True, False), combinations(ORDER, 2)):
        one, other = (_of(group, Variant(name, carry)) for name in names)
        if one and other and measured(one) and measured(other):
            return {
                "one": Words(one),
                "other": Words(other),
                "both": f"both {'carrying the data' if carry else 'only signalling'}",
                "draw": ": a draw" if rule(one, other) == "draws" else "",
                "where": _where(group),
            }
    return None


def _of(group: Comparison, variant: Variant) -> Result | None:
    return next((one for one in group.entries if one.variant == variant and one.seen), None)


def _where(group: Comparison) -> str:
    return f"{formatting.away(group.rtt_ms)} ({formatting.clients(group.clients)})"


def _bytes(_: Results, group: Comparison) -> Facts:
    return _compared(group, lambda result: result.seen, smaller)


def _time(_: Results, group: Comparison) -> Facts:
    return _compared(group, lambda result: result.received_ms, sooner)


def _cpu(results: Results, _: Comparison) -> Facts:
    found = [group for group in comparisons(results) if not group.processing_time]
    # Nearby and with the most browsers, where most of the CPU is the server's own.
    for group in sorted(found, key=lambda group: (group.rtt_ms, -group.clients)):
        if facts := _compared(group, lambda result: result.knows_cpu, cheaper):
            dispatch = {name: _dispatch(facts[name].result, group) for name in ("one", "other")}
            return facts | {f"{name}_dispatch": how for name, how in dispatch.items()}
    return None


def _dispatch(result: Result, group: Comparison) -> str:
    """Say what dispatched the requests, and what they cost if Flask does."""
    if not result.variant.has_choice or result.dispatch == FLASK:
        return " (dispatched by Flask)" if result.variant.has_choice else ""
    by_flask = Variant(result.transport, result.carry, FLASK)
    cost = [f"; {Words(one).cpu} if by Flask" for one in group.entries if one.variant == by_flask]
    return f" (dispatched in front of Flask{''.join(cost)})"


def _unknown_cpu(results: Results, _: Comparison) -> Facts:
    return None if any(result.knows_cpu for result in results.entries) else {}


def _alone(results: Results, group: Comparison) -> Facts:
    """Return what there is to say where nothing can be compared."""
    found = [result for result in group.entries if result.received_ms]
    nothing = _time(results, group) or not found
    return None if nothing else {"one": Words(found[0]), "where": _where(group)}


def _carrying(_: Results, group: Comparison) -> Facts:
    """Compare both payloads of the transport with which carrying saves the most bytes."""
    saved = {}
    for transport in TRANSPORTS:
        carry, signal = (_of(group, Variant(transport, to)) for to in (True, False))
        if not carry or not signal or not carry.received_ms or not signal.received_ms:
            continue
        if smaller(carry, signal) == "wins":
            saved[carry.bytes_per_update / signal.bytes_per_update] = Words(carry), Words(signal)
    return dict(zip(("carry", "signal"), saved[min(saved)], strict=True)) if saved else None


def _signal_costs_a_poll(_: Results, group: Comparison) -> Facts:
    push, poll = _of(group, Variant(MAIN[0], False)), _of(group, Variant(MAIN[1], True))
    if push and poll and 0.75 <= push.bytes_per_update / poll.bytes_per_update <= 1 / 0.75:
        return {"push": Words(push), "poll": Words(poll)}
    return None


def _nothing_new(_: Results, group: Comparison) -> Facts:
    found = [result for result in group.entries if result.traffic.empty]
    return {"one": max(found, key=lambda result: result.carry)} if found else None


def _distances(results: Results, main: Comparison) -> Facts:
    """Compare how far apart those are that push or wait, nearby and far away."""
    ranges = {}
    for group in comparisons(results):
        after = [median(r.received_ms) for r in group.entries if r.received_ms and not r.period]
        if len(after) > 1 and (group.clients, group.processing_time) == (main.clients, 0):
            ranges[group.rtt_ms] = min(after), max(after)
    if len(ranges) < 2:
        return None
    (near, close), *_, (far, apart) = sorted(ranges.items())
    spread = close[1] - close[0]
    if spread > 10 * SAME_TIME or apart[1] - apart[0] < spread + SAME_TIME:
        return None
    return {
        "near": formatting.away(near),
        "close": " to ".join(map(formatting.duration, close)),
        "far": formatting.away(far),
        "apart": " to ".join(map(formatting.duration, apart)),
    }


def _slow_readers(results: Results, _: Comparison) -> Facts:
    for group in (group for group in comparisons(results) if group.processing_time):
        found = [one for one in group.entries if one.carry and one.received_ms and one.seconds]
        if len(found) > 1:
            fresh, stale = min(found, key=_age), max(found, key=_age)
            queued = sum(result.queued for result in group.entries)
            return {
                "group": group,
                "fresh": Words(fresh),
                "stale": Words(stale),
                "small": Words(min(found, key=lambda result: result.bytes_per_second or 0)),
                "draw": ": a draw" if less(_age(fresh), _age(stale), SAME_AGE) == "draws" else "",
                "queued": f" {queued:,} updates were received but not yet shown." * bool(queued),
            }
    return None


#: Each condition with its sentence, the most important first.
FINDINGS: tuple[tuple[Condition, str], ...] = (
    (
        _bytes,
        "Like with like, {both}: an update takes {one.bytes} by {one.name} against "
        "{other.bytes} by {other.name}{draw}.",
    ),
    (
        _time,
        "{where}, {both}: {one.name} has the data {one.after} after the change, {other.name} "
        "{other.after} after it{draw} (medians).",
    ),
    (
        _cpu,
        "{where}, {both}: an update for one browser takes the server {one.cpu} of CPU by "
        "{one.name}{one_dispatch} against {other.cpu} by {other.name}{other_dispatch}{draw}.",
    ),
    (_unknown_cpu, "The server's CPU per update is not known from this run."),
    (
        _alone,
        "{where}, {one.title}: the data is there {one.after} after the change (median), and "
        "an update takes {one.bytes}.",
    ),
    (
        _carrying,
        "Carrying instead of signalling saves {carry.name} a request: an update takes "
        "{carry.bytes} instead of {signal.bytes}, and the data is there {carry.after} after the "
        "change instead of {signal.after}.",
    ),
    (
        _signal_costs_a_poll,
        "{push.name} that only signals takes {push.bytes} an update, as much as "
        "{poll.name} that carries ({poll.bytes}): it is the request that costs.",
    ),
    (
        _nothing_new,
        "{one.title}: {one.traffic.empty:,} of {one.traffic.requests:,} requests found "
        "nothing new.",
    ),
    (
        _distances,
        "{near}, all that push or wait look alike: they have the data {close} after the "
        "change. {far}, it takes them {apart}.",
    ),
    (
        _slow_readers,
        "Slow readers (a change every {group.pace:g} s, {group.processing_time:g} s to "
        "show it), all carrying: {fresh.name} shows data at most {fresh.age} old, {stale.name} "
        "{stale.age} (in 95 of 100 cases){draw}. The fewest bytes go by {small.name}: "
        "{small.rate} a second.{queued}",
    ),
)


def _nothing_lost(results: Results) -> Iterator[str]:
    seen, coalesced, lost = (
        sum(getattr(result, name) for result in results.entries)
        for name in ("seen", "coalesced", "lost")
    )
    if seen and not lost:
        yield (
            f"No update was lost: browsers saw {seen:,}, and {coalesced:,} were coalesced, "
            "that is skipped on purpose because a newer one was there."
        )
