"""What the results say, in at most ten sentences, each of which follows from the data.

Like is compared with like: transports that bring the same payload. What carrying saves is a
sentence of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Literal

from bench.report import formatting
from bench.report.tables import Comparison, comparisons, headline
from bench.results import CPU_PERCENTILE, Result, Results
from bench.scenarios import FLASK, Variant
from bench.statistics import median, quantile
from pushlab.transports import TRANSPORTS

#: The two transports that are compared first; then come all others, the last registered first.
MAIN = ("websocket", "longpoll")
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
#: What fills a template; None where the data does not say the sentence.
Facts = dict[str, str] | None


def sentences(results: Results) -> list[str]:
    """Return the alarms, then the findings, the most important first."""
    found = alarms(results)
    if not results.entries:
        return found if results.extra else [*found, "Nothing was measured."]
    servers = list(dict.fromkeys(result.server for result in results.entries))
    for server in servers:
        own = Results("", {}, {}, [result for result in results.entries if result.server == server])
        prefix = f"On {server}: " if len(servers) > 1 else ""
        facts = ((condition(own), template) for condition, template in FINDINGS)
        said = [template.format(**known) for known, template in facts if known is not None]
        found += [f"{prefix}{each[0].upper()}{each[1:]}" for each in said][: 9 // len(servers) or 1]
    return [*found, *_nothing_lost(results.entries)]


def alarms(results: Results) -> list[str]:
    """Return what casts doubt on all findings."""
    return [*_ending(results), *_losses(results.entries), *_busy_clients(results.entries)]


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


# The facts: what fills a finding's template, or None where the data does not say it.


def _pair(of: Comparison | None, known: Callable[[Result], object]) -> tuple[Result, Result] | None:
    """Return two results with the same payload: those of MAIN if they are there, carrying."""
    order = [*MAIN, *(name for name in reversed(TRANSPORTS) if name not in MAIN)]
    entries = {result.variant: result for result in (of.entries if of else ()) if known(result)}
    for carry in (True, False):
        for one, other in combinations(order, 2):
            pair = entries.get(Variant(one, carry)), entries.get(Variant(other, carry))
            if pair[0] and pair[1]:
                return pair[0], pair[1]
    return None


def _bytes(results: Results) -> Facts:
    if pair := _pair(headline(results), lambda result: result.seen):
        draw = less(pair[0].bytes_per_update, pair[1].bytes_per_update, SAME_SIZE)
        return _compared(pair, [formatting.size(result.bytes_per_update) for result in pair], draw)
    return None


def _time(results: Results) -> Facts:
    group = headline(results)
    if group and (pair := _pair(group, lambda result: result.received_ms)):
        after = [formatting.duration(median(result.received_ms)) for result in pair]
        return _compared(pair, after, sooner(*pair)) | {"where": _where(group)}
    return None


def _cpu(results: Results) -> Facts:
    found = [group for group in comparisons(results) if not group.processing_time]
    # Nearby and with the most browsers, where most of the CPU is the server's own.
    for group in sorted(found, key=lambda group: (group.rtt_ms, -group.clients)):
        if pair := _pair(group, lambda result: result.knows_cpu):
            costs = [formatting.cpu(max(result.cpu_per_update or 0, 0.1)) for result in pair]
            names = [_name(result) + _dispatch(result, group) for result in pair]
            return _compared(pair, costs, cheaper(*pair)) | {
                "where": _where(group), "one": names[0], "other": names[1],
            }  # fmt: skip
    return None


def _dispatch(result: Result, group: Comparison) -> str:
    """Say what dispatched the requests, and what they cost with the other dispatch."""
    if not result.variant.has_choice:
        return ""
    costs = {
        other.dispatch: f"{formatting.cpu(other.cpu_per_update or 0)} "
        for other in group.entries
        if (other.transport, other.carry) == (result.transport, result.carry)
    }
    if result.dispatch == FLASK:
        return " (dispatched by Flask)"
    by_flask = f"; {costs[FLASK]}if by Flask" if FLASK in costs else ""
    return f" (dispatched in front of Flask{by_flask})"


def _unknown_cpu(results: Results) -> Facts:
    return None if any(result.knows_cpu for result in results.entries) else {}


def _compared(
    pair: tuple[Result, Result], figures: Sequence[str], outcome: Outcome
) -> dict[str, str]:
    return {
        "both": f"both {'carrying the data' if pair[0].carry else 'only signalling'}",
        "one": _name(pair[0]), "other": _name(pair[1]), "first": figures[0], "second": figures[1],
        "draw": ": a draw" if outcome == "draws" else "",
    }  # fmt: skip


def _carrying(results: Results) -> Facts:
    """Compare the payloads of the transport with which carrying saves most."""
    saved = {}
    for transport in TRANSPORTS:
        carry, signal = (_of(results, Variant(transport, to)) for to in (True, False))
        if carry and signal and carry.received_ms and signal.received_ms:
            saved[carry.bytes_per_update / signal.bytes_per_update] = (carry, signal)
    if not saved or less(min(saved), 1, SAME_SIZE) != "wins":
        return None
    carry, signal = saved[min(saved)]
    return {
        "name": _name(carry), "carried": formatting.size(carry.bytes_per_update),
        "fetched": formatting.size(signal.bytes_per_update),
        "sooner": formatting.duration(median(carry.received_ms)),
        "later": formatting.duration(median(signal.received_ms)),
    }  # fmt: skip


def _costs_a_poll(results: Results) -> Facts:
    push, poll = _of(results, Variant(MAIN[0], False)), _of(results, Variant(MAIN[1], True))
    if not push or not poll or not 0.75 <= push.bytes_per_update / poll.bytes_per_update <= 4 / 3:
        return None
    return {
        "push": _name(push), "signal": formatting.size(push.bytes_per_update),
        "poll": _name(poll), "carry": formatting.size(poll.bytes_per_update),
    }  # fmt: skip


def _in_vain(results: Results) -> Facts:
    group = headline(results)
    for result in sorted(group.entries if group else (), key=lambda result: not result.carry):
        if result.traffic.empty:
            requests = f"{result.traffic.empty:,} of {result.traffic.requests:,} requests"
            return {"title": result.title, "requests": requests}
    return None


def _distances(results: Results) -> Facts:
    """Return how far apart those are that push or wait, nearby and far away."""
    main, ranges = headline(results), {}
    for group in comparisons(results):
        after = [
            median(result.received_ms)
            for result in group.entries
            if result.received_ms and result.period is None
        ]
        if len(after) > 1 and main and (group.clients, group.processing_time) == (main.clients, 0):
            ranges[group.rtt_ms] = min(after), max(after)
    if len(ranges) < 2:
        return None
    near, far = min(ranges), max(ranges)
    spreads = [ranges[rtt_ms][1] - ranges[rtt_ms][0] for rtt_ms in (near, far)]
    if spreads[0] > 10 * SAME_TIME or spreads[1] < spreads[0] + SAME_TIME:
        return None
    close, apart = (" to ".join(map(formatting.duration, ranges[away])) for away in (near, far))
    near_by, far_off = formatting.away(near), formatting.away(far)
    return {"near": near_by, "close": close, "far": far_off, "apart": apart}


def _slow_readers(results: Results) -> Facts:
    for group in (group for group in comparisons(results) if group.processing_time):
        entries = [
            result
            for result in group.entries
            if result.carry and result.received_ms and result.seconds
        ]
        if len(entries) < 2:
            continue
        fresh, stale = min(entries, key=_age), max(entries, key=_age)
        small = min(entries, key=lambda result: result.bytes_per_second or 0)
        queued = sum(result.queued for result in group.entries)
        return {
            "pace": f"a change every {group.pace:g} s, {group.processing_time:g} s to show it",
            "fresh": _name(fresh), "stale": _name(stale),
            "age": formatting.duration(_age(fresh)), "most": formatting.duration(_age(stale)),
            "draw": ": a draw" if less(_age(fresh), _age(stale), SAME_AGE) == "draws" else "",
            "small": _name(small), "size": formatting.size(small.bytes_per_second or 0),
            "queued": f" {queued:,} updates were received but not yet shown." if queued else "",
        }  # fmt: skip
    return None


def _alone(results: Results) -> Facts:
    """Return what there is to say where nothing can be compared."""
    group = headline(results)
    result = (
        next((result for result in group.entries if result.received_ms), None) if group else None
    )
    if not result or not group or _pair(group, lambda result: result.received_ms):
        return None
    return {
        "title": result.title,
        "where": _where(group),
        "size": formatting.size(result.bytes_per_update),
        "after": formatting.duration(median(result.received_ms)),
    }


#: Each condition with the sentence that it makes true, the most important first.
FINDINGS: tuple[tuple[Callable[[Results], Facts], str], ...] = (
    (_bytes, "Like with like, {both}: an update takes {first} by {one} against {second} by "
     "{other}{draw}."),
    (_time, "{where}, {both}: {one} has the data {first} after the change, {other} {second} "
     "after it{draw} (medians)."),
    (_cpu, "{where}, {both}: an update for one browser takes the server {first} of CPU by {one} "
     "against {second} by {other}{draw}."),
    (_unknown_cpu, "The server's CPU per update is not known from this run."),
    (_alone, "{where}, {title}: the data is there {after} after the change (median), and an update "
     "takes {size}."),
    (_carrying, "Carrying instead of signalling saves {name} a request: an update takes {carried} "
     "instead of {fetched}, and the data is there {sooner} after the change instead of {later}."),
    (_costs_a_poll, "{push} that only signals takes {signal} an update, as much as {poll} that "
     "carries ({carry}): it is the request that costs."),
    (_in_vain, "{title}: {requests} found nothing new."),
    (_distances, "{near}, all that push or wait look alike: they have the data {close} after the "
     "change. That takes them {apart} {far}."),
    (_slow_readers, "Slow readers ({pace}), all carrying: {fresh} shows data at most {age} old, "
     "{stale} {most} (in 95 of 100 cases){draw}. The fewest bytes go by {small}: {size} a second."
     "{queued}"),
)  # fmt: skip


# The alarms, and the last sentence.


def _ending(results: Results) -> Iterator[str]:
    rest = "what follows is from what was measured until then."
    if results.failure:
        yield f"This run failed: {results.failure.rstrip('.')}; {rest}"
    elif results.interrupted:
        yield f"This run was interrupted; {rest}"


def _losses(entries: Sequence[Result]) -> Iterator[str]:
    for result in entries:
        if result.lost:
            yield (
                f"{result.lost:,} update{'s were' if result.lost > 1 else ' was'} lost: "
                f"{result.title}, {formatting.clients(result.clients)} "
                f"{formatting.away(result.rtt_ms)}. "
                "That must never happen, so this run proves nothing."
            )


def _busy_clients(entries: Sequence[Result]) -> Iterator[str]:
    most = max((result.worker_cpu for result in entries), default=0.0)
    if most > BUSY:
        yield (
            f"The headless browsers took up to {most:.0%} of a core: some times are partly theirs, "
            "not the server's."
        )


def _nothing_lost(entries: Sequence[Result]) -> Iterator[str]:
    seen, coalesced = (
        sum(result.seen for result in entries),
        sum(result.coalesced for result in entries),
    )
    if seen and not any(result.lost for result in entries):
        yield (
            f"No update was lost: browsers saw {seen:,}, and {coalesced:,} were coalesced, "
            "that is skipped on purpose because a newer one was there."
        )


# Words.


def _of(results: Results, variant: Variant) -> Result | None:
    group = headline(results)
    entries = group.entries if group else ()
    return next((result for result in entries if result.variant == variant and result.seen), None)


def _age(result: Result) -> float:
    """Return how old data was on the screen, at most, in 95 of 100 cases."""
    return quantile(result.received_ms, 0.95)


def _name(result: Result) -> str:
    """Return the transport as in the middle of a sentence: "long polling", "SSE"."""
    known = TRANSPORTS.get(result.transport)
    name = known.short if known else result.transport
    return name if any(map(str.isupper, name[1:])) else name.lower()


def _where(of: Comparison) -> str:
    return f"{formatting.away(of.rtt_ms)} ({formatting.clients(of.clients)})"
