"""Every timeout and limit of the library.

A module reads them when it uses them, as `limits.HEARTBEAT`, so that a program may change one;
docs/reference/limits.rst names those that have an option, too. This module imports nothing.
"""

# Readings.
MAX_VALUE = 16 * 1024  #: bytes of a reading's value as compact JSON
MAX_TOPICS = 32  #: topics that one connection may follow
MAX_TOPIC_NAME = 200  #: bytes of a topic's name
CATCH_UP = 16 * 1024  #: bytes of a log that are sent at once to a subscriber that is behind

# WebSocket connections (RFC 6455).
MAX_MESSAGE = 64 * 1024  #: bytes of a message from the browser, whole or in fragments
PING_INTERVAL = 20.0  #: seconds between two pings of the server
PONG_TIMEOUT = 20.0  #: seconds that the browser may take for the pong
MESSAGE_TIMEOUT = 20.0  #: seconds that the browser may take to accept a message
CLOSE_TIMEOUT = 2.0  #: seconds that the browser may take to reply to a close frame
CLOSE_ALL_TIMEOUT = 1.0  #: seconds in which a stopping server closes conversations

# The hub.
SEND_BUFFER = 32 * 1024  #: bytes that the kernel may hold for one connection
ACKNOWLEDGE_TIMEOUT = 30.0  #: seconds until a connection without acknowledgements ends
BROADCAST_CHUNK = 512  #: connections that are sent to before other work gets its turn
POLL_CHUNK = 192  #: long polls that get a response, or return, before other work gets its turn

# Transports.
POLL_TIMEOUT = 25.0  #: seconds that a long poll is held when the browser names none
MAX_POLL_TIMEOUT = 60.0  #: seconds that a browser may ask a long poll to be held
POLL_GRACE = 5.0  #: seconds between two polls until their browser counts as gone
LOOK_INTERVAL = 0.5  #: seconds between looks whether a waiting client is gone
HEARTBEAT = 15.0  #: seconds of silence until an event stream sends a comment
RETRY = 1000  #: milliseconds until a browser reopens an event stream
PREFLIGHT_AGE = 600  #: seconds that a browser may remember what a page elsewhere may send

# Redis.
REDIS_TIMEOUT = 1.0  #: seconds that Redis may take to respond
REDIS_CONNECTIONS = 32  #: of a process for readings, and as many for everything else
REDIS_RETRY = 0.8  #: seconds, at most, between two tries while Redis is away
REDIS_TICK = 1.0  #: seconds between looks whether Redis is there
REDIS_TAIL = 1000  #: readings of all topics, about, that a process may be behind, or reads its logs
REDIS_TAIL_VALUE = 4096  #: bytes of a value that the tail has; a longer one is read in the log
REDIS_PAUSE = 0.0015  #: seconds until a process reads the tail again when much comes, or twice that
REDIS_EXPIRY = 864_000  #: seconds that Redis keeps a topic that nothing is published to
REDIS_PROCESS = 5  #: seconds after which a process counts as gone that says nothing
REDIS_DISCONNECTED = 10_000  #: disconnected identities that a process may have missed
REDIS_IDLE = 60.0  #: seconds that a process keeps a topic that nobody follows

# HTTP requests.
HEADER_TIMEOUT = 10.0  #: seconds that a request's headers may take
BODY_TIMEOUT = 60.0  #: seconds that a request with a body may take in all
RESPONSE_TIMEOUT = 60.0  #: seconds that a client may take to accept a piece of a response
IDLE_TIMEOUT = 75.0  #: seconds that a kept-alive connection may be idle
LINGER = 2.0  #: seconds that a client may take to close after its response
MAX_REQUEST_LINE = 8192  #: bytes of a request line
MAX_HEADER_LINES = 100  #: lines of a request's headers
MAX_HEADER_BYTES = 32 * 1024  #: bytes of a request's headers
MAX_PIECE = 4096  #: bytes that are read at once of a connection without a greenlet
REMEMBERED = 512  #: request lines, and headers, whose meaning is remembered
REMEMBERED_LENGTH = 1024  #: characters of a text whose meaning is remembered
IDLE_GREENLETS = 32  #: greenlets that are kept for the next request
MAX_EMPTY_LINES = 4  #: empty lines before a request
MAX_BODY = 16 * 1024  #: bytes of a request body
MAX_DISCARDED = 64 * 1024  #: bytes of a body that are read and thrown away

# Servers.
BACKLOG = 1024  #: connections that may wait to be accepted
MAX_LOG_LINES = 1000  #: log lines that wait to be written
ACCEPT_WARNING = 60.0  #: seconds between two warnings that no connection can be accepted
UNLIMITED = 100_000  #: descriptors or connections where the system sets no limit
SPARE_DESCRIPTORS = 200  #: kept for files, pipes, and for rejecting clients
MAX_REJECTING = 100  #: clients that are being rejected with 503 at a time
REJECT_TIMEOUT = 1.0  #: seconds that rejecting one may take
WORKER_PAUSE = 0.5  #: seconds until a process that has ended is started again
SHUTDOWN_TIMEOUT = 3.5  #: seconds that requests and connections get to end at a stop
TIME_SLICE = 0.0005  #: seconds that a connection may run before others
SWITCH_INTERVAL = 0.001  #: seconds that a native thread may compute while others wait
