"""The same feed, shared by processes over Redis.

Redis, or Valkey, numbers the readings and keeps them. A script appends a reading with the next
sequence, and wakes the processes; each then reads on from where it was. So cursors are the same in
every process, and nothing is lost when a wake-up is: pub/sub carries no reading.

Per topic there are two keys: `PREFIX:{TOPIC}:meta`, a hash of the epoch, the last sequence and how
many readings are kept; and `PREFIX:{TOPIC}:log`, a stream whose entries have the sequence as id.
"""

import json
import logging
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as error:
    raise ImportError("Redis needs redis-py: pip install 'pushlab[redis]'") from error

from pushlab import limits
from pushlab.feed import Feed, NotPublished, Reading, encode_value, make_reading

logger = logging.getLogger(__name__)

#: The system's, as forked processes would have the same numbers of any other.
_jitter = random.SystemRandom()

#: Every script begins with this. KEYS: meta, log. ARGV[1]: the epoch of a log that is not there.
_BEGIN = """
local epoch, last = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'last'))
if not epoch then
    epoch, last = ARGV[1], 0
    redis.call('DEL', KEYS[2])
    redis.call('HSET', KEYS[1], 'epoch', epoch, 'last', 0)
end
last = tonumber(last)
"""

#: ARGV: epoch, channel, topic, keep, value, whether only to an empty log, the lease's token or "",
#: seconds until it all is forgotten, milliseconds of the lease.
_APPEND = (
    _BEGIN
    + """
if ARGV[6] == '1' and last > 0 then return {epoch, last, ''} end
if ARGV[7] ~= '' then
    local holder = redis.call('GET', KEYS[3])
    if holder and holder ~= ARGV[7] then
        return redis.error_reply('LEASE another process is the source')
    end
    redis.call('SET', KEYS[3], ARGV[7], 'PX', ARGV[9])
end
local now = redis.call('TIME')
local at = now[1] .. '.' .. string.format('%06d', now[2])
last = last + 1
redis.call('XADD', KEYS[2], 'MAXLEN', '=', ARGV[4], last .. '-0', 'at', at, 'value', ARGV[5])
redis.call('HSET', KEYS[1], 'last', last, 'keep', ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[8])
redis.call('EXPIRE', KEYS[2], ARGV[8])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return {epoch, last, at}
"""
)

#: ARGV: epoch, channel, topic; the epoch, sequence and time of the last reading that is known; and
#: seconds until a topic without a reading is forgotten.
#: Where the log does not have that reading, a server took over that was behind, or has lost its
#: last seconds: numbers could be used twice, so the log begins anew.
_READ = (
    _BEGIN
    + """
local known = tonumber(ARGV[5])
if epoch ~= ARGV[4] then
    known = 0
elseif known > 0 then
    local its = redis.call('XRANGE', KEYS[2], known .. '-0', known .. '-0')
    if last < known or (its[1] and its[1][2][2] ~= ARGV[6]) then
        epoch, last, known = ARGV[1], 0, 0
        redis.call('DEL', KEYS[2])
        redis.call('HSET', KEYS[1], 'epoch', epoch, 'last', 0)
        redis.call('PUBLISH', ARGV[2], ARGV[3])
    end
end
if last == 0 then redis.call('EXPIRE', KEYS[1], ARGV[7]) end
return {epoch, redis.call('XRANGE', KEYS[2], '(' .. known .. '-0', '+')}
"""
)


class LeaseLost(NotPublished):
    """Another process is the source now."""


class RedisFeed(Feed):
    """A feed in Redis; has what `Feed` has.

    Its readings come from Redis alone, also those that this process has published.
    """

    __slots__ = ("_at", "_failed_at", "_loaded_in", "_read_at", "_redis", "used_at")

    is_shared = True

    def __init__(self, shared: "RedisFeeds", keep: int, topic: str) -> None:
        super().__init__(keep, topic=topic)
        self._redis = shared
        self._at = ""  # the time of the newest reading, as Redis has it
        self._loaded_in = 0  # the process; a child has no thread
        # When the last reading began that succeeded, and when the last one failed.
        self._read_at = self._failed_at = 0.0
        self.used_at = time.monotonic()

    def load(self, after: str | None = None) -> None:
        """Have what a subscriber with this cursor may ask for.

        Another process may have seen readings a moment before this one. Raises NotPublished if
        Redis cannot be asked. To be called before the first use.
        """
        self.used_at = time.monotonic()
        if self._loaded_in != os.getpid():
            self._redis.follow(self)
            self.refresh()
            self._loaded_in = os.getpid()
        elif after is not None and self._is_ahead(after):
            self.refresh()

    def _is_ahead(self, after: str) -> bool:
        epoch, _, sequence = after.rpartition("-")
        is_number = sequence.isdecimal()
        return epoch != self.epoch or (is_number and int(sequence) > self.latest.sequence)

    def release(self) -> bool:
        if self._loaded_in and time.monotonic() < self.used_at + limits.REDIS_IDLE:
            return False
        self._redis.unfollow(self)
        self._loaded_in = 0
        return True

    def refresh(self) -> None:
        """Read on in Redis, from where this feed is.

        Those that ask meanwhile share what one has read, and that Redis cannot be asked: otherwise
        each would wait for it, one after another.
        """
        asked_at = time.monotonic()
        with self._publishing():
            if self._failed_at >= asked_at:
                raise NotPublished("Redis does not respond")
            if self._read_at > asked_at:
                return
            begun = time.monotonic()
            try:
                self._read_on()
            except NotPublished:
                self._failed_at = time.monotonic()
                raise
            self._read_at = begun

    def _read_on(self) -> None:
        known = self.epoch, self.latest.sequence, self._at
        epoch, entries = self._redis.read(self.topic, *known)
        if epoch != self.epoch or entries:
            self._redis.before_news(self)
            self._apply(epoch, entries)

    def _apply(self, epoch: str, entries: Sequence[tuple[bytes, Sequence[bytes]]]) -> None:
        readings = [
            make_reading(
                self.topic,
                f"{epoch}-{number.partition(b'-')[0].decode()}",
                float(at),
                json.loads(value),
                value,
                self,
            )
            for number, (_, at, _, value) in entries
        ]
        self._at = entries[-1][1][1].decode() if entries else ""
        if epoch == self.epoch and readings[0].sequence == self.latest.sequence + 1:
            for reading in readings:
                self._append(reading)
        else:  # another log, or Redis does not keep all that this process lacks
            self._restart(epoch, readings)

    def publish(self, value: Mapping[str, Any] | None = None) -> Reading:
        return self.append(value)

    def append(self, value: Mapping[str, Any] | None, **options: Any) -> Reading:
        """Publish with the options of `RedisFeeds.append`."""
        value = self.latest.value if value is None else value
        return self._redis.append(self.topic, self.keep, value, feed=self, **options)

    def begin(self, value: Mapping[str, Any]) -> None:
        if not self.latest.sequence:
            self._redis.append(self.topic, self.keep, value, only_first=True)
            self.refresh()

    def reset(self) -> None:
        """Have what Redis has: its epoch is not this process's."""
        with suppress(NotPublished):  # it is tried again
            self.load()

    @property
    def problem(self) -> str:
        return self._redis.problem


class RedisFeeds:
    """What this process follows in one Redis.

    A thread, or greenlet, waits for wake-ups, and reads on. It starts with the first feed, also in
    a process that was forked. While Redis is away, `problem` says so.
    """

    def __init__(self, url: str, *, prefix: str = "pushlab") -> None:
        self.url = url
        self._prefix = prefix
        self._channel = f"{prefix}:wake"
        self._name = secrets.token_hex(8)
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=limits.REDIS_TIMEOUT,
            socket_connect_timeout=limits.REDIS_TIMEOUT,
            protocol=2,  # with 3, a missing password is a riddle about HELLO
            retry=Retry(NoBackoff(), 0),  # who publishes decides; what follows tries by itself
        )
        self._append_script = self._client.register_script(_APPEND)
        self._read_script = self._client.register_script(_READ)
        self._followed: dict[str, RedisFeed] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._counted: Mapping[str, int] = {}  # what this process has written down
        self.problem = ""  #: why readings do not come, or nothing
        #: Called with a feed whose news has been read, before anybody is told.
        self.before_news: Callable[[RedisFeed], None] = lambda feed: None
        #: Called about once a second while Redis is there.
        self.on_tick: Callable[[], None] = lambda: None

    def feed(self, topic: str, keep: int) -> RedisFeed:
        """Return a feed; `load` it before its first use."""
        return RedisFeed(self, keep, topic)

    def _keys(self, topic: str) -> list[str]:
        return [f"{self._prefix}:{{{topic}}}:{name}" for name in ("meta", "log", "lease")]

    def append(
        self,
        topic: str,
        keep: int,
        value: Mapping[str, Any],
        *,
        only_first: bool = False,
        token: str = "",
        lease: float = 0,
        feed: Feed | None = None,
    ) -> Reading:
        """Append a reading to a topic's log, and wake everybody.

        With a `token`, only if no other token has the lease, which is this one's then for `lease`
        seconds. Raises as `Feed.publish` does, NotPublished if Redis cannot be asked, and LeaseLost
        if another token has the lease.
        """
        encoded = encode_value(value)
        arguments = (secrets.token_hex(4), self._channel, topic, keep, encoded, int(only_first),
                     token, limits.REDIS_EXPIRY, max(1, int(1000 * lease)))  # fmt: skip
        try:
            epoch, last, at = self._append_script(self._keys(topic), arguments)
        except redis.RedisError as error:
            if "LEASE" in str(error):
                raise LeaseLost("another process is the source") from None
            raise NotPublished(f"Redis has not published: {self._reason(error)}") from error
        return make_reading(topic, f"{epoch.decode()}-{last}", float(at or 0), value, encoded, feed)

    def _reason(self, error: redis.RedisError) -> str:
        """Return what is wrong, in plain words."""
        if isinstance(error, redis.ResponseError):
            # Without its password, Redis calls a long command a protocol error.
            try:
                self._client.ping()
            except redis.AuthenticationError as plain:
                return str(plain)
            except redis.RedisError:
                pass
        return str(error)

    def read(self, topic: str, epoch: str, sequence: int, at: str) -> tuple[str, Any]:
        """Return a log's epoch, and its entries after this one.

        Raises NotPublished if Redis cannot be asked.
        """
        arguments = (secrets.token_hex(4), self._channel, topic, epoch, sequence, at,
                     limits.REDIS_EXPIRY)  # fmt: skip
        try:
            found, entries = self._read_script(self._keys(topic)[:2], arguments)
        except redis.RedisError as error:
            raise NotPublished(f"Redis cannot be asked: {error}") from error
        return found.decode(), entries

    def rules(self) -> dict[str, int]:
        """Return how many readings topics keep, by their rules.

        Raises NotPublished if Redis cannot be asked.
        """
        found = self._ask(lambda: self._client.hgetall(f"{self._prefix}:topics"))
        return {name.decode(): int(keep) for name, keep in found.items()}

    def declare(self, rules: Mapping[str, int]) -> None:
        """Write rules down, for publishers that are no app."""
        if rules:
            mapping: dict[Any, Any] = dict(rules)
            self._ask(lambda: self._client.hset(f"{self._prefix}:topics", mapping=mapping))

    # Each process has a hash of its followers by topic, which is gone soon after the process.

    def count(self, topic: str) -> int:
        """Return how many follow a topic in other processes."""
        processes = f"{self._prefix}:processes"
        own = self._process()
        keys = [key for key in self._ask(lambda: self._client.smembers(processes)) if key != own]

        def ask() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.hmget(key, "", topic)
                return pipeline.execute()

        found = dict(zip(keys, self._ask(ask), strict=True))
        if gone := [key for key, (exists, _) in found.items() if exists is None]:
            self._ask(lambda: self._client.srem(processes, *gone))
        return sum(int(number or 0) for _, number in found.values())

    def set_counts(self, counts: Mapping[str, int]) -> None:
        """Write down how many follow topics in this process."""
        key = self._process()

        def write() -> None:
            if not self._client.expire(key, limits.REDIS_PROCESS):  # Redis has lost it
                self._counted = {}
            changed: dict[Any, Any] = dict(counts.items() - self._counted.items())
            with self._client.pipeline(transaction=False) as pipeline:
                pipeline.sadd(f"{self._prefix}:processes", key)
                pipeline.hset(key, mapping={"": 0, **changed})
                if gone := self._counted.keys() - counts.keys():
                    pipeline.hdel(key, *gone)
                pipeline.expire(key, limits.REDIS_PROCESS)
                pipeline.execute()
            self._counted = counts

        self._ask(write)

    def topics(self) -> list[str]:
        """Return the names of topics that Redis keeps."""
        pattern = f"{self._prefix}:{{*}}:log"
        found = self._ask(lambda: list(self._client.scan_iter(pattern, count=1000)))
        names = [key.decode()[len(self._prefix) + 2 : -len("}:log")] for key in found]
        return [name for name in names if name.isprintable()]

    def _process(self) -> bytes:
        """Return this process's key; it may be forked."""
        return f"{self._prefix}:process:{self._name}-{os.getpid()}".encode()

    @staticmethod
    def _ask(what: Callable[[], Any]) -> Any:
        try:
            return what()
        except redis.RedisError as error:
            raise NotPublished(f"Redis cannot be asked: {error}") from error

    def follow(self, feed: RedisFeed) -> None:
        """Keep a feed up to date from now on."""
        self._followed[feed.topic] = feed
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="redis", daemon=True)
                self._thread.start()

    def unfollow(self, feed: RedisFeed) -> None:
        """Do not keep it up to date any more."""
        # Without a lock: garbage that has followed may be collected while `follow` holds it.
        if self._followed.get(feed.topic) is feed:
            del self._followed[feed.topic]

    @property
    def is_running(self) -> bool:
        """Whether it waits for wake-ups."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """End the thread."""
        self._stopped.set()

    def _run(self) -> None:
        cap = 0.0
        while not self._stopped.is_set():
            try:
                self._listen()
            except (redis.RedisError, NotPublished, OSError) as error:
                if self.problem:
                    cap = min(2 * cap, limits.REDIS_RETRY)
                else:
                    cap = limits.REDIS_RETRY / 16
                    logger.error(  # noqa: TRY400 - one line says it
                        "Redis is away, and the data stands still: %s", error
                    )
                self.problem = f"Redis is away: {error}"
                # Full jitter: processes do not all return at once.
                self._stopped.wait(cap * _jitter.random())

    def _listen(self) -> None:
        """Listen; read on in all feeds, then in those woken."""
        with self._client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
            pubsub.subscribe(self._channel)
            confirmed = pubsub.get_message(timeout=limits.REDIS_TIMEOUT)
            if confirmed is None:
                raise redis.TimeoutError("it does not respond")
            self._refresh(tuple(self._followed.values()))
            if self.problem:
                logger.error("Redis is there again")
                self.problem = ""
            tick, responds = time.monotonic(), True
            while not self._stopped.is_set():
                topics: dict[str, None] = {}
                message = pubsub.get_message(timeout=limits.REDIS_TICK)
                while message is not None:
                    responds = True
                    if message["type"] == "message":
                        topics[message["data"].decode()] = None
                    message = pubsub.get_message(timeout=0) if len(topics) < 1000 else None
                self._refresh([f for t in topics if (f := self._followed.get(t)) is not None])
                if time.monotonic() >= tick + limits.REDIS_TICK:
                    if not responds:  # a connection may be dead, and another one not
                        raise redis.TimeoutError("it does not respond")
                    tick, responds = time.monotonic(), False
                    pubsub.ping()
                    self.on_tick()

    @staticmethod
    def _refresh(feeds: Iterable[RedisFeed]) -> None:
        for feed in feeds:
            feed.refresh()
