"""The same feed, shared by processes over Redis.

Redis, or Valkey, numbers the readings and keeps them. A script appends a reading to its topic's log
with the next sequence, so cursors are the same in every process. Then it appends the same to the
tail, one short stream of all topics, at whose end each process waits. An entry of the tail says
what came before it. So a process notices when it has missed one, and reads on in the log, where
nothing is lost.

Per topic there are two keys: `PREFIX:{TOPIC}:meta`, a hash of the epoch, the last sequence, its
time and how many readings are kept; and `PREFIX:{TOPIC}:log`, a stream whose entries have the
sequence as id. `PREFIX:tail` is the tail.
"""

import hashlib
import json
import logging
import math
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

try:
    import hiredis
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as error:
    raise ImportError("Redis needs redis-py: pip install 'pushlab[redis]'") from error

from pushlab import counts, limits
from pushlab.feed import Feed, NotPublished, Reading, encode_value, make_reading
from pushlab.forked import PerProcess
from pushlab.polls import Turns

logger = logging.getLogger(__name__)

#: The system's, as forked processes would have the same numbers of any other.
_jitter = random.SystemRandom()

#: Every script begins with this. KEYS: meta, log, lease, tail; and the meta of `RedisFeeds.first`,
#: whose newest reading is returned. ARGV: topic, and seconds until it is forgotten; about how many
#: entries the tail has, and how long a value in it may be; a random token, which is the epoch of a
#: log that is not there.
#: An entry of the tail is: the id of the one before; topic; epoch, sequence, time, and the time of
#: the reading before; the value, unless it is long. Without a value, one reads on in the log.
#: What others may have put there does no harm: a tail that is gone is noticed, too.
_BEGIN = """
local epoch, last, before = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'last', 'at'))
if not epoch then
    epoch, last, before = ARGV[5], 0, ''
    redis.call('DEL', KEYS[2])
    redis.call('HSET', KEYS[1], 'epoch', epoch, 'last', 0, 'at', '')
end
last, before = tonumber(last), before or ''
local first = KEYS[5] and redis.call('HMGET', KEYS[5], 'epoch', 'last', 'at') or {}
local function wake(at, value)
    local newest = redis.pcall('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)[1]
    newest = newest and newest[1] or '0-0'
    local place = table.concat({epoch, last, at, before}, ' ')
    local added = redis.pcall('XADD', KEYS[4], 'MAXLEN', '~', ARGV[3], '*', 'after',
        newest, 'topic', ARGV[1], 'place', place, unpack(value))
    if added.err then redis.call('DEL', KEYS[4]) end
    redis.call('EXPIRE', KEYS[4], ARGV[2])
    return added.err and {} or {newest, added}
end
"""

#: ARGV[6]...: keep, value; and where they are needed, whether only to an empty log, the lease's
#: token or "", and its milliseconds.
#: Returns the reading's epoch, sequence and time, the time of the one before, and the ids of the
#: tail's entry before and of its own.
_APPEND = (
    _BEGIN
    + """
if ARGV[8] == '1' and last > 0 then return {epoch, last, '', '', first, {}} end
if ARGV[9] and ARGV[9] ~= '' then
    local holder = redis.call('GET', KEYS[3])
    if holder and holder ~= ARGV[9] then
        return redis.error_reply('LEASE another process is the source')
    end
    redis.call('SET', KEYS[3], ARGV[9], 'PX', ARGV[10])
end
local now = redis.call('TIME')
local at = now[1] .. '.' .. string.format('%06d', now[2])
last = last + 1
redis.call('XADD', KEYS[2], 'MAXLEN', '=', ARGV[6], last .. '-0', 'at', at, 'value', ARGV[7])
redis.call('HSET', KEYS[1], 'last', last, 'at', at, 'keep', ARGV[6])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
local tail = wake(at, #ARGV[7] <= tonumber(ARGV[4]) and {'value', ARGV[7]} or {})
return {epoch, last, at, before, first, tail}
"""
)

#: ARGV[6]...: the epoch, sequence and time of the last reading that is known.
#: Where the log does not have that reading, a server took over that was behind, or has lost its
#: last seconds: numbers could be used twice, so the log begins anew. Of a state, what was published
#: since then is kept: nobody has anything newer.
_READ = (
    _BEGIN
    + """
local known = tonumber(ARGV[7])
if epoch ~= ARGV[6] then
    known = 0
elseif known > 0 then
    local its = redis.call('XRANGE', KEYS[2], known .. '-0', known .. '-0')
    if last < known or (its[1] and its[1][2][2] ~= ARGV[8]) then
        local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
        local is_state = redis.call('HGET', KEYS[1], 'keep') == '1'
        local at = ''
        epoch, last, known = ARGV[5], 0, 0
        redis.call('DEL', KEYS[2])
        if is_state and newest and newest[2][2] > ARGV[8] then
            last, at = 1, newest[2][2]
            redis.call('XADD', KEYS[2], '1-0', 'at', at, 'value', newest[2][4])
            redis.call('EXPIRE', KEYS[2], ARGV[2])
        end
        redis.call('HSET', KEYS[1], 'epoch', epoch, 'last', last, 'at', at)
        wake(at, {})
    end
end
if last == 0 then redis.pcall('EXPIRE', KEYS[1], ARGV[2]) end
return {epoch, redis.call('XRANGE', KEYS[2], '(' .. known .. '-0', '+'), first}
"""
)


#: KEYS: the totals of all processes, and each one's gauges. ARGV: the process, the number of this
#: addition, its gauges, seconds until it counts as gone; a name and an increment for each total.
#: An addition that is repeated, as its response was lost, adds nothing.
_SUM = """
local now = tonumber(redis.call('TIME')[1])
local before = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^%d+ (%d+) ')
if before ~= ARGV[2] then
    for i = 5, #ARGV, 2 do redis.call('HINCRBYFLOAT', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
redis.call('HSET', KEYS[2], ARGV[1], now .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
local all, gauges = redis.call('HGETALL', KEYS[2]), {}
for i = 1, #all, 2 do
    local at, its = string.match(all[i + 1], '^(%d+) %d+ (.*)$')
    if not at or now - at > tonumber(ARGV[4]) then
        redis.call('HDEL', KEYS[2], all[i])
    else
        table.insert(gauges, its)
    end
end
return {redis.call('HGETALL', KEYS[1]), gauges}
"""

_decode = json.JSONDecoder().decode

#: What hiredis returns while it has a part of a response.
_INCOMPLETE = object()
#: Bytes of a response that are read at once.
_PIECE = 64 * 1024

#: Feeds that read on in their logs until the tail is looked at.
_SOME = 100

#: Seconds after which an idle connection is looked at before it is used: it may be closed.
_FRESH = 0.1


class LeaseLost(NotPublished):
    """Another process is the source now."""


class _Script(NamedTuple):
    """A script, and the name that Redis gives it."""

    source: str
    digest: str

    @classmethod
    def of(cls, source: str) -> "_Script":
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


_APPENDING, _READING, _SUMMING = map(_Script.of, (_APPEND, _READ, _SUM))


@lru_cache(limits.REMEMBERED)
def _pack(*arguments: str | bytes | int) -> bytes:
    """Return arguments of a command as Redis receives them."""
    encoded = [each if isinstance(each, bytes) else str(each).encode() for each in arguments]
    return b"".join([b"$%d\r\n%b\r\n" % (len(each), each) for each in encoded])


def _receive(socket: Any) -> bytes:
    data: bytes = socket.recv(_PIECE)
    if not data:
        raise ConnectionError("Connection closed by server")
    return data


class _Wire:
    """A connection to Redis, for one command at a time.

    It is redis-py's, which connects, logs in and knows TLS. But its ways to send and to receive
    take several times the CPU time, and a process does both for each reading.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._reader: Any = None
        self.connected_at = math.inf

    def ask(self, command: bytes) -> Any:
        """Return the response to a packed command; raises RedisError.

        After any other error than one in the response it is not connected.
        """
        connection = self._connection
        if connection._sock is None:
            self._connect()
        socket, reader = connection._sock, self._reader
        try:
            if (sent := socket.send(command)) < len(command):
                socket.sendall(command[sent:])
            while (response := reader.gets()) is _INCOMPLETE:
                reader.feed(_receive(socket))
        except BaseException as error:  # else the response would be taken for the next one's
            self.disconnect()
            if isinstance(error, TimeoutError):
                raise redis.TimeoutError("Timeout: Redis does not respond") from error
            if isinstance(error, OSError):
                raise redis.ConnectionError(f"Connection lost: {error}") from error
            raise
        if isinstance(response, Exception):
            if isinstance(response, redis.ReadOnlyError):  # by now its name may be another server's
                self.disconnect()
            raise response
        return response

    def connect_again_if_closed(self) -> None:
        """Look whether it is still connected."""
        if self._connection._sock is not None:
            with suppress(redis.ConnectionError):
                if not self._connection.can_read(0):
                    return
            self.disconnect()

    def _connect(self) -> None:
        connection = self._connection
        self.connected_at = time.monotonic()
        try:
            connection.connect()
        except BaseException:  # also the end of a greenlet, after which a response would be left
            self.disconnect()
            raise
        errors = {
            "replyError": connection._parser.parse_error,
            "protocolError": redis.InvalidResponse,
        }
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE, **errors)

    def disconnect(self) -> None:
        """Close it; the next command connects it."""
        self._connection.disconnect()


class _State:
    """A process's connections."""

    def __init__(self) -> None:
        self.idle: list[tuple[float, _Wire]] = []  #: since when, and the connection
        self.others = threading.BoundedSemaphore(limits.REDIS_CONNECTIONS)  #: to be made
        self.waiting = 0
        self.returned = threading.Semaphore(0)  #: for those that wait


class _Connections:
    """Connections on which scripts run.

    While Redis hangs, all requests share a few.
    """

    def __init__(self, connect: Callable[[], _Wire]) -> None:
        self._connect = connect
        self._renewed_at = -math.inf
        self._state = PerProcess(lambda: _State())

    def renew(self) -> None:
        """Connect again: by now the name may be another server's."""
        self._renewed_at = time.monotonic()

    def run(self, script: _Script, constants: tuple[Any, ...], *arguments: Any) -> Any:
        """Return a script's response; raises RedisError.

        The arguments begin with the number of keys. Those that are constant are packed once.
        """
        state = self._state.get()
        try:
            since, connection = state.idle.pop()
        except IndexError:
            since, connection = self._another(state)
        try:
            if connection.connected_at < self._renewed_at:
                connection.disconnect()
            elif time.monotonic() > since + _FRESH:
                connection.connect_again_if_closed()
            size, rest = 2 + len(constants) + len(arguments), _pack.__wrapped__(*arguments)
            head = _pack("EVALSHA", script.digest, *constants)
            try:
                return connection.ask(b"*%d\r\n%b%b" % (size, head, rest))
            except redis.exceptions.NoScriptError:  # Redis has started since
                head = _pack("EVAL", script.source, *constants)
                return connection.ask(b"*%d\r\n%b%b" % (size, head, rest))
        finally:  # after an error it is not connected, and is again when it is used
            state.idle.append((time.monotonic(), connection))
            if state.waiting:
                state.returned.release()

    def _another(self, state: _State) -> tuple[float, _Wire]:
        """Return a new connection, or one that another thread returns."""
        if state.others.acquire(blocking=False):
            return math.inf, self._connect()
        deadline = time.monotonic() + limits.REDIS_TIMEOUT
        state.waiting += 1
        try:
            while True:  # one may have been returned before this one waited
                with suppress(IndexError):
                    return state.idle.pop()
                if not state.returned.acquire(timeout=max(0.0, deadline - time.monotonic())):
                    raise redis.TimeoutError("Timeout: all connections wait for a response")
        finally:
            state.waiting -= 1


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
        elif after not in (None, self.latest.cursor) and self._is_ahead(after):
            self.refresh()

    def _is_ahead(self, after: str | None) -> bool:
        epoch, _, sequence = (after or "").rpartition("-")
        is_number = sequence.isdecimal() and len(sequence) < 19  # `int` refuses thousands
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
        each would wait for it, one after another. Raises BlockingIOError in an event loop, before a
        connection is used, which would be lost.
        """
        if not Feed.can_wait():
            raise BlockingIOError("Redis would have to be waited for")
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
        epoch, entries = self._redis.read(self, *known)
        if epoch != self.epoch or entries:
            self._apply(epoch, entries)

    def is_at(self, epoch: str, sequence: int, at: str) -> bool:
        """Tell whether it has this reading of Redis's log.

        After a failover the same numbers come with later times.
        """
        return epoch == self.epoch and sequence <= self.latest.sequence and at <= self._at

    def is_newest(self, epoch: bytes | None, sequence: bytes | None, at: bytes | None) -> bool:
        """Tell whether its newest reading is this one."""
        known = self.epoch.encode(), b"%d" % self.latest.sequence, self._at.encode()
        return known == (epoch, sequence, at or b"")

    def take(self, reading: Reading, at: str, before: str) -> None:
        """Have a reading that Redis has appended.

        `at` is its time, and `before` that of the one before, as Redis has them. If this feed does
        not have the one before, it reads on.
        """
        epoch = reading.cursor.rpartition("-")[0]
        if not self._take_next(reading, epoch, reading.sequence, at, before):
            self.refresh()

    def _take_next(self, reading: Reading, epoch: str, sequence: int, at: str, before: str) -> bool:
        """Have a reading that is next.

        Returns False if others come before it.
        """
        with self._publishing():
            if (self.epoch, self.latest.sequence + 1, self._at) != (epoch, sequence, before):
                return self.is_at(epoch, sequence, at)
            self._at = at
            self._append(reading)
            return True

    def follow(self, epoch: str, sequence: int, at: str, before: str, value: bytes) -> bool:
        """Have a reading of the tail, if it is next.

        Raises ValueError if the value is no JSON.
        """
        cursor, changed_at = f"{epoch}-{sequence}", float(at)
        fields = _decode(value.decode())
        reading = make_reading(self.topic, cursor, changed_at, fields, value, self)
        lag = self.now() - changed_at
        if not self._take_next(reading, epoch, sequence, at, before):
            return False
        counts.redis_lag.observe(lag)
        return True

    def _apply(self, epoch: str, entries: Sequence[tuple[bytes, Sequence[bytes]]]) -> None:
        readings, newest_at = list[Reading](), ""
        for identifier, fields in entries:
            number, _, zero = identifier.decode().partition("-")
            # Of another program: our scripts append no such thing. Or nested too deeply for this.
            with suppress(ValueError, RecursionError):
                _, at, _, text = fields
                value, changed_at = json.loads(text), float(at)
                if zero == "0":
                    cursor = f"{epoch}-{number}"
                    readings.append(make_reading(self.topic, cursor, changed_at, value, text, self))
                    newest_at = at.decode()
        if epoch == self.epoch and not readings:
            return
        self._at = newest_at
        if readings and self._loaded_in == os.getpid():  # not what was there before this process
            counts.redis_lag.observe(self.now() - readings[0].changed_at)
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

    def now(self) -> float:
        return self._redis.now()

    @property
    def problem(self) -> str:
        return self._redis.problem

    @property
    def redis(self) -> "RedisFeeds":
        return self._redis


def _place_of(identifier: bytes) -> tuple[int, ...]:
    """Return a stream's id as numbers, to be compared."""
    return tuple(map(int, identifier.split(b"-")))


class RedisFeeds:
    """What this process follows in one Redis.

    A thread, or greenlet, waits at the end of the tail. It starts with the first feed, also in a
    process that was forked. While Redis is away, `problem` says so. Raises ValueError for what is
    no URL of a Redis.
    """

    def __init__(self, url: str, *, prefix: str = "pushlab") -> None:
        self.url = url
        self._prefix = prefix
        self._tail = f"{prefix}:tail"
        self._name = secrets.token_hex(8)
        try:
            pool = redis.BlockingConnectionPool.from_url(
                url,
                max_connections=limits.REDIS_CONNECTIONS,
                timeout=limits.REDIS_TIMEOUT,
                socket_timeout=limits.REDIS_TIMEOUT,
                socket_connect_timeout=limits.REDIS_TIMEOUT,
                retry=Retry(NoBackoff(), 0),  # who publishes decides; what follows tries by itself
            )
            # Whatever the URL says. With protocol 3, a missing password is a riddle about HELLO.
            pool.connection_kwargs.update(protocol=2, decode_responses=False)
            pool.connection_class(**pool.connection_kwargs)
        except (TypeError, ValueError) as error:  # without the URL, which may have a password
            message = "this is not the URL of a Redis, like redis://127.0.0.1:6379"
            raise ValueError(f"{message}: {error}") from None
        self._client = redis.Redis.from_pool(pool)
        self._connections = _Connections(self._connect)
        self._followed: dict[str, RedisFeed] = {}
        self._lock = PerProcess(lambda: threading.Lock())
        self._thread: threading.Thread | None = None
        self._stopped = PerProcess(lambda: threading.Event())
        #: The newest entry of the tail up to which this process has all.
        self._known = b""
        self._counted: Mapping[str, int] = {}  # what this process has written down
        self._ahead = 0.0  # seconds by which Redis's clock is ahead of this process's
        self.problem = ""  #: why readings do not come, or nothing
        #: What is read before the news of any other feed that came later.
        self.first: RedisFeed | None = None
        #: Called about once a second while Redis is there.
        self.on_tick: list[Callable[[], object]] = []

    def _connect(self, **options: Any) -> _Wire:
        """Return a connection that is not of the client's."""
        pool = self._client.connection_pool
        return _Wire(pool.connection_class(**{**pool.connection_kwargs, **options}))

    def feed(self, topic: str, keep: int) -> RedisFeed:
        """Return a feed; `load` it before its first use."""
        return RedisFeed(self, keep, topic)

    def _run_script(self, script: _Script, topic: str, *arguments: Any) -> Any:
        """Return a script's response for a topic."""
        its = f"{self._prefix}:{{{topic}}}:"
        keys: tuple[str, ...] = f"{its}meta", f"{its}log", f"{its}lease", self._tail
        if self.first is not None:
            keys += (f"{self._prefix}:{{{self.first.topic}}}:meta",)
        options = topic, limits.REDIS_EXPIRY, limits.REDIS_TAIL, limits.REDIS_TAIL_VALUE
        constants = len(keys), *keys, *options
        return self._connections.run(script, constants, secrets.token_hex(4), *arguments)

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
        """Append a reading to a topic's log and the tail.

        With a `token`, only if no other token has the lease, which is this one's then for `lease`
        seconds. Raises as `Feed.publish` does, NotPublished if Redis cannot be asked, and LeaseLost
        if another token has the lease.
        """
        encoded = encode_value(value)
        arguments: tuple[Any, ...] = keep, encoded
        if only_first or token:
            arguments += int(only_first), token, max(1, int(1000 * lease))
        try:
            epoch, last, at, before, first, tail = self._run_script(_APPENDING, topic, *arguments)
        except redis.RedisError as error:
            if "LEASE" in str(error):
                raise LeaseLost("another process is the source") from None
            raise NotPublished(f"Redis has not published: {self._reason(error)}") from error
        followed = self._followed.get(topic)
        cursor, changed_at = f"{epoch.decode()}-{last}", float(at or 0)
        reading = make_reading(topic, cursor, changed_at, value, encoded, followed or feed)
        with suppress(NotPublished):  # it is published, and is in the tail
            if followed is not None and at:
                self._read_first(followed, first)
                followed.take(reading, at.decode(), before.decode())
            if tail and tail[0] == self._known:
                self._known = tail[1]
        return reading

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

    def read(self, feed: RedisFeed, epoch: str, sequence: int, at: str) -> tuple[str, Any]:
        """Return a log's epoch, and its entries after this one.

        Raises NotPublished if Redis cannot be asked.
        """
        try:
            found, entries, first = self._run_script(_READING, feed.topic, epoch, sequence, at)
        except redis.RedisError as error:
            raise NotPublished(f"Redis cannot be asked: {self._reason(error)}") from error
        if entries or found != epoch.encode():
            self._read_first(feed, first)
        return found.decode(), entries

    def _read_first(self, feed: RedisFeed, place: Sequence[bytes | None]) -> None:
        """Read on in `first`, if Redis has news of it."""
        first = self.first
        if first is None or first is feed:
            return
        with first._publishing():  # its listeners have seen what it has
            is_newest = first.is_newest(*place)
        if not is_newest:
            first.refresh()

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

    def set_counts(self, counts: Mapping[str, int]) -> bool:
        """Write down how many follow topics in this process.

        Returns whether Redis knew this process.
        """
        key = self._process()

        def write() -> bool:
            is_known = bool(self._client.expire(key, limits.REDIS_PROCESS))
            if not is_known:
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
            return is_known

        return bool(self._ask(write))

    def agree(self, name: str, value: str, *, replace: bool = False) -> str:
        """Return the value that all processes have for a name.

        The first process's counts until one replaces it. To be called at every tick: it is
        forgotten soon after the last process. Raises NotPublished if Redis cannot be asked.
        """
        key = f"{self._prefix}:agreed:{name}"

        def ask() -> str:
            with self._client.pipeline() as pipeline:
                pipeline.set(key, value, nx=not replace, ex=limits.REDIS_PROCESS)
                pipeline.expire(key, limits.REDIS_PROCESS)
                pipeline.get(key)
                found: bytes = pipeline.execute()[-1]
                return found.decode()

        agreed: str = self._ask(ask)
        return agreed

    def sum_up(
        self, number: int, increments: Mapping[str, float], gauges: str
    ) -> tuple[dict[str, float], list[str]]:
        """Add to the totals; return them, and all processes' gauges.

        Another number is another addition; with the same one it is added once. Gauges of a process
        that has ended are gone soon after it.
        """
        keys = [f"{self._prefix}:totals", f"{self._prefix}:gauges"]
        arguments: list[Any] = [self._process(), number, gauges, limits.REDIS_PROCESS]
        for name, increment in increments.items():
            arguments += [name, increment]
        totals, all_gauges = self._ask(
            lambda: self._connections.run(_SUMMING, (2, *keys), *arguments)
        )
        found = {
            name.decode(): float(number)
            for name, number in zip(totals[::2], totals[1::2], strict=True)
        }
        return found, [each.decode() for each in all_gauges]

    def now(self) -> float:
        """Return the time by Redis's clock, seconds since the epoch."""
        return time.time() + self._ahead

    def _learn_clock(self) -> None:
        begun = time.time()
        seconds, microseconds = self._client.time()
        there = seconds + microseconds / 1e6
        # It was read meanwhile. What is consistent with that stays: on one machine, that is 0.
        self._ahead = min(max(self._ahead, there - time.time()), there - begun)

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
        with self._lock.get():
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
        """Whether it waits for what is appended."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """End the thread."""
        self._stopped.get().set()

    def _run(self) -> None:
        cap = 0.0
        while not self._stopped.get().is_set():
            try:
                self._listen()
            except Exception as error:
                if not isinstance(error, redis.RedisError | NotPublished | OSError):
                    logger.exception("The tail cannot be read")  # and nobody else would read it
                cap = min(2 * cap, limits.REDIS_RETRY) if self.problem else limits.REDIS_RETRY / 16
                self._note(f"Redis is away: {error}")
                # Full jitter: processes do not all return at once.
                self._stopped.get().wait(cap * _jitter.random())

    def _listen(self) -> None:
        """Read on in all feeds, and in the tail.

        Returns where that may be in another server's tail.
        """
        connection = self._connect(socket_timeout=2 * limits.REDIS_TICK)
        stopped, tail = self._stopped.get(), _pack("STREAMS", self._tail)
        at_once = b"*4\r\n" + _pack("XREAD") + tail
        block = b"*6\r\n" + _pack("XREAD", "BLOCK", int(1000 * limits.REDIS_TICK)) + tail

        def read(known: bytes, command: bytes = at_once) -> Sequence[Any]:
            found = connection.ask(b"%b$%d\r\n%b\r\n" % (command, len(known), known))
            return found[0][1] if found else ()

        try:
            self._learn_clock()
            known = self._newest(lambda *words: connection.ask(b"*6\r\n" + _pack(*words)))
            self._connections.renew()  # a replica would be read without an error
            known = self._catch_up(known, read)
            self._tick()
            expected, tick = _place_of(known), time.monotonic() + limits.REDIS_TICK
            self._known = known
            while not stopped.is_set():
                known, begun = self._known, time.monotonic()
                entries = read(known, block)
                now = time.monotonic()
                if entries:
                    has_all = self._follow(entries, known)
                    known = entries[-1][0]
                    if not has_all:
                        known = self._catch_up(known, read)
                    self._known = known
                if now >= tick:
                    is_well_again = self._tick()
                    newest = _place_of(self._newest(self._client.execute_command))
                    if is_well_again or newest < _place_of(known) or _place_of(known) < expected:
                        return
                    tick, expected = now + limits.REDIS_TICK, newest
                elif now < begun + limits.REDIS_PAUSE:  # much comes: several at a time
                    self._pause(len(entries), tick)
        finally:
            connection.disconnect()

    def _pause(self, entries: int, deadline: float) -> None:
        """Let several readings come.

        A process that goes on publishing learns from the responses that it has all, and need not
        read the tail.
        """
        known, times = self._known, min(2, entries)
        time.sleep(times * limits.REDIS_PAUSE)
        while known != self._known and time.monotonic() < deadline:
            known = self._known
            time.sleep(2 * limits.REDIS_PAUSE)

    def _catch_up(self, known: bytes, read: Callable[[bytes], Sequence[Any]]) -> bytes:
        """Read on in all feeds; return the tail's place.

        It follows the tail between some feeds and the next: where there are many, the tail would be
        trimmed past this process meanwhile, and all would have to be read once more.
        """
        feeds = list(self._followed.values())
        while feeds:
            self._refresh(feeds[-_SOME:])
            del feeds[-_SOME:]
            if entries := read(known):
                if not self._follow(entries, known):
                    feeds = list(self._followed.values())
                known = entries[-1][0]
        return known

    def _newest(self, ask: Callable[..., Any]) -> bytes:
        """Return the id of the tail's newest entry."""
        found = ask("XREVRANGE", self._tail, "+", "-", "COUNT", 1)
        newest: bytes = found[0][0] if found else b"0-0"
        return newest

    def _follow(self, entries: Sequence[Any], known: bytes) -> bool:
        """Have what was appended to the tail after this entry.

        Returns False where entries are missing: then all feeds have to read on. A feed that reads
        on does so once: what is in these entries is in its log by then.
        """
        _, fields = entries[0]
        if fields[:2] != [b"after", known]:  # or it is of another program
            return False
        have_read_on, turns = set(), Turns(limits.POLL_CHUNK)
        for _, fields in entries:
            turns.count(1)
            try:
                _, _, _, topic, _, place, *value = fields
                feed = self._followed.get(topic.decode())
                if feed is None or feed in have_read_on:
                    continue
                epoch, number, at, before = place.decode().split(" ")
                sequence = int(number)
                if feed.is_at(epoch, sequence, at):
                    if feed is self.first:
                        with feed._publishing():  # its listeners have seen it
                            pass
                    continue
                if value and feed.follow(epoch, sequence, at, before, value[1]):
                    continue
            except (ValueError, RecursionError):  # another program's; or nested too deeply here
                continue
            feed.refresh()
            have_read_on.add(feed)
        return True

    def _tick(self) -> bool:
        """Find out whether Redis accepts readings.

        It may be full, or read-only, or refuse a command to this user. Returns whether it
        accepts them again.
        """
        problem = ""
        try:
            self._learn_clock()
            for call in self.on_tick:
                call()
            self._try_to_append()
        except (redis.RedisError, NotPublished) as error:
            problem = f"Redis accepts nothing: {error}"
            if isinstance(error, redis.ReadOnlyError):  # by now its name may be another server's
                self._client.connection_pool.disconnect(inuse_connections=False)
        is_well_again = bool(self.problem) and not problem
        self._note(problem)
        return is_well_again

    def _try_to_append(self) -> None:
        """Append to a log that nobody reads."""
        keys = [f"{self._prefix}:tried:{name}" for name in ("meta", "log", "lease", "tail")]
        options = "", limits.REDIS_PROCESS, 1, 0
        self._connections.run(_APPENDING, (len(keys), *keys, *options), "tried", 1, "{}")

    def _note(self, problem: str) -> None:
        """Keep a problem; log where one begins and ends."""
        if problem and not self.problem:
            logger.error("The data stands still: %s", problem)
        elif self.problem and not problem:
            logger.error("Redis is there again")
        self.problem = problem

    @staticmethod
    def _refresh(feeds: Iterable[RedisFeed]) -> None:
        for feed in feeds:
            feed.refresh()
