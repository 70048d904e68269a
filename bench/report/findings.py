"""What the results say, in at most ten sentences.

Like is compared with like: transports that bring the same payload. What carrying saves is a
sentence of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, product

from bench.report.formatting import away, clients, duration, size
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


def sentences(results: Results) -> list[str]:
    """Return the alarms, then the findings, the most important first."""
    found = alarms(results)
    if not results.entries:
        return found if results.extra else [*found, "Nothing was measured."]
    servers = list(dict.fromkeys(result.server for result in results.entries))
    for server in servers:
        own = replace(results, entries=[one for one in results.entries if one.server == server])
        prefix = f"On {server}: " if len(servers) > 1 else ""
        said = [f"{prefix}{one[0].upper()}{one[1:]}" for one in _of_server(own)]
        found += said[: (MOST - 1) // len(servers) or 1]
    counts = ("seen", "coalesced", "lost")
    seen, coalesced, lost = (sum(getattr(one, of) for one in results.entries) for of in counts)
    if seen and not lost:
        found.append(
            f"No update was lost: browsers saw {seen:,}, and {coalesced:,} were coalesced, that is "
            "skipped on purpose because a newer one was there."
        )
    return found


def alarms(results: Results) -> list[str]:
    """Return what casts doubt on all findings."""
    found = []
    rest = "what follows is from what was measured until then."
    if results.failure:
        found.append(f"This run failed: {results.failure.rstrip('.')}; {rest}")
    elif results.interrupted:
        found.append(f"This run was interrupted; {rest}")
    for one in (result for result in results.entries if result.lost):
        were = "update was" if one.lost == 1 else "updates were"
        where = f"{clients(one.clients)} {away(one.rtt_ms)}"
        found.append(f"{one.lost:,} {were} lost: {one.title}, {where}. This run proves nothing.")
    most = max((result.worker_cpu for result in results.entries), default=0.0)
    if most > BUSY:
        found.append(
            f"The headless browsers took up to {most:.0%} of a core: some times are partly theirs, "
            "not the server's."
        )
    return found


# What makes no difference.


def same(one: float, other: float, factor: float) -> bool:
    """Tell whether neither exceeds the other by this factor."""
    return max(one, other) <= factor * min(one, other)


def same_time(one: Result, other: Result) -> bool:
    """Tell whether medians are near, or middle halves overlap."""
    first, second = sorted((one.received_ms, other.received_ms), key=median)
    return median(second) - median(first) < SAME_TIME or _overlap(first, second)


def same_cpu(one: Result, other: Result) -> bool:
    """Tell whether CPU is within SAME_CPU, or middle halves overlap."""
    costs = [[max(cost, 0.1) for cost in result.cpu_samples] for result in (one, other)]
    low, high = sorted(costs, key=lambda samples: quantile(samples, CPU_PERCENTILE))
    least, most = (quantile(samples, CPU_PERCENTILE) for samples in (low, high))
    return same(least, most, SAME_CPU) or _overlap(low, high)


def draw(is_draw: bool) -> str:
    return ": a draw" if is_draw else ""


def _overlap(low: list[float], high: list[float]) -> bool:
    return quantile(low, 0.75) >= quantile(high, 0.25)


# A result in words.


def _name(result: Result) -> str:
    short = TRANSPORTS[result.transport].short
    return short if any(map(str.isupper, short[1:])) else short.lower()


def _bytes(result: Result) -> str:
    return size(result.bytes_per_update)


def _after(result: Result) -> str:
    return duration(median(result.received_ms))


def _cpu(result: Result) -> str:
    return duration(max(result.cpu_per_update or 0, 0.1) / 1e3)


def _dispatch(result: Result, group: Comparison) -> str:
    """Say what dispatched the requests, and Flask's cost."""
    if not result.variant.has_choice or result.dispatch == FLASK:
        return " (dispatched by Flask)" if result.variant.has_choice else ""
    by_flask = group.by_variant.get(replace(result.variant, dispatch=FLASK))
    cost = f"; {_cpu(by_flask)} if by Flask" if by_flask else ""
    return f" (dispatched in front of Flask{cost})"


def _where(group: Comparison) -> str:
    return f"{away(group.rtt_ms)} ({clients(group.clients)})"


# The findings, where the data says them.


def _of_server(results: Results) -> Iterator[str]:
    """Yield what the results of one server say."""
    every = comparisons(results)
    fast = [group for group in every if not group.processing_time]
    if main := headline(results):
        yield from _transports(main, fast)
        yield from _payloads(main)
        yield from _distances([group for group in fast if group.clients == main.clients])
    yield from _slow_readers([group for group in every if group.processing_time])


def _of(group: Comparison, transport: str, carry: bool) -> Result | None:
    found = group.by_variant.get(Variant(transport, carry))
    return found if found and found.seen else None


def _pair(
    group: Comparison, measured: Callable[[Result], object]
) -> tuple[Result, Result, str] | None:
    """Return the first two in ORDER with one payload."""
    for carry, names in product((True, False), combinations(ORDER, 2)):
        one, other = (_of(group, name, carry) for name in names)
        if one and other and measured(one) and measured(other):
            return one, other, f"both {'carrying the data' if carry else 'only signalling'}"
    return None


def _transports(main: Comparison, fast: list[Comparison]) -> Iterator[str]:
    """Compare bytes, time and CPU of two transports."""
    if pair := _pair(main, lambda result: result.seen):
        one, other, both = pair
        is_draw = same(one.bytes_per_update, other.bytes_per_update, SAME_SIZE)
        yield (
            f"Like with like, {both}: an update takes {_bytes(one)} by {_name(one)} against "
            f"{_bytes(other)} by {_name(other)}{draw(is_draw)}."
        )
    if pair := _pair(main, lambda result: result.received_ms):
        one, other, both = pair
        yield (
            f"{_where(main)}, {both}: {_name(one)} has the data {_after(one)} after the change, "
            f"{_name(other)} {_after(other)} after it{draw(same_time(one, other))} (medians)."
        )
    # Nearby and with the most browsers, where most of the CPU is the server's own.
    for group in sorted(fast, key=lambda group: (group.rtt_ms, -group.clients)):
        if pair := _pair(group, lambda result: result.knows_cpu):
            one, other, both = pair
            cost, its = (f"{_name(each)}{_dispatch(each, group)}" for each in (one, other))
            yield (
                f"{_where(group)}, {both}: an update for one browser takes the server {_cpu(one)} "
                f"of CPU by {cost} against {_cpu(other)} by {its}{draw(same_cpu(one, other))}."
            )
            break


def _payloads(main: Comparison) -> Iterator[str]:
    """Compare carrying with signalling, and polls with polls in vain."""
    pairs = [(_of(main, name, carry=True), _of(main, name, carry=False)) for name in TRANSPORTS]
    known = [(a, b) for a, b in pairs if a and b and a.received_ms and b.received_ms]
    shares = [carry.bytes_per_update / signal.bytes_per_update for carry, signal in known]
    if known and min(shares) * SAME_SIZE < 1:
        carry, signal = known[shares.index(min(shares))]
        yield (
            f"Carrying instead of signalling saves {_name(carry)} a request: an update takes "
            f"{_bytes(carry)} instead of {_bytes(signal)}, and the data is there {_after(carry)} "
            f"after the change instead of {_after(signal)}."
        )
    push, poll = _of(main, MAIN[0], carry=False), _of(main, MAIN[1], carry=True)
    if push and poll and same(push.bytes_per_update, poll.bytes_per_update, 1 / 0.75):
        yield (
            f"{_name(push)} that only signals takes {_bytes(push)} an update, as much as "
            f"{_name(poll)} that carries ({_bytes(poll)}): it is the request that costs."
        )
    if vain := [result for result in main.entries if result.traffic.empty]:
        one = max(vain, key=lambda result: result.carry)
        yield (
            f"{one.title}: {one.traffic.empty:,} of {one.traffic.requests:,} requests found "
            "nothing new."
        )


def _distances(groups: list[Comparison]) -> Iterator[str]:
    """Compare the spread of medians nearby and far away."""
    ranges = {}
    for group in groups:
        after = [median(r.received_ms) for r in group.entries if r.received_ms and not r.period]
        if len(after) > 1:
            ranges[group.rtt_ms] = min(after), max(after)
    if len(ranges) < 2:
        return
    (near, close), *_, (far, apart) = sorted(ranges.items())
    spread = close[1] - close[0]
    if spread <= 10 * SAME_TIME and apart[1] - apart[0] >= spread + SAME_TIME:
        yield (
            f"{away(near)}, all that push or wait look alike: they have the data "
            f"{' to '.join(map(duration, close))} after the change. {away(far)}, it takes them "
            f"{' to '.join(map(duration, apart))}."
        )


def _slow_readers(groups: list[Comparison]) -> Iterator[str]:
    """Compare those whose data is freshest and stalest."""
    for group in groups:
        found = [one for one in group.entries if one.carry and one.received_ms and one.seconds]
        if len(found) > 1:
            ages = [quantile(one.received_ms, 0.95) for one in found]
            least, most = min(ages), max(ages)
            fresh, stale = (found[ages.index(age)] for age in (least, most))
            small = min(found, key=lambda result: result.bytes_per_second or 0)
            queued = sum(result.queued for result in group.entries)
            yield (
                f"Slow readers (a change every {group.pace:g} s, {group.processing_time:g} s to "
                f"show it), all carrying: {_name(fresh)} shows data at most "
                f"{duration(least)} old, {_name(stale)} {duration(most)} (in 95 of 100 cases)"
                f"{draw(same(least, most, SAME_AGE))}. The fewest bytes go by {_name(small)}: "
                f"{size(small.bytes_per_second or 0)} a second."
                + f" {queued:,} updates were received but not yet shown."
                * bool(queued)
            )
            return
