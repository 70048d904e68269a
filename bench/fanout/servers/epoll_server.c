/* The limit: a server in C, on epoll, for the requests of this benchmark and no others.
 *
 * GET /data, the long poll, the event stream, the push WebSocket, POST /data. A request's headers
 * must come in one piece, and nothing is kept for a client that is slow: such a server is faster
 * than any that may be used. Linux only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define FILES 65536
#define GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

enum kind { IDLE, POLL, STREAM, SOCKET, KINDS };

/* By descriptor: what it waits for, its place in that list, bytes of a body that are to come. */
static unsigned char kinds[FILES];
static int places[FILES], bodies[FILES];
static struct { int count, fds[FILES]; } lists[KINDS];
static char signal_text[64], cursor[40];
static unsigned epoch, number = 1;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void to_list(int fd, enum kind kind) {
    int *fds = lists[kinds[fd]].fds;
    if (kinds[fd] != IDLE) {
        int last = fds[--lists[kinds[fd]].count];
        fds[places[fd]] = last;
        places[last] = places[fd];
    }
    kinds[fd] = kind;
    if (kind != IDLE) {
        places[fd] = lists[kind].count;
        lists[kind].fds[lists[kind].count++] = fd;
    }
}

static void send_all(int fd, const char *data, int size) {
    if (send(fd, data, size, 0) != size && errno != EPIPE && errno != ECONNRESET)
        fail("send");
}

static int response(char *into, const char *status, const char *body) {
    return sprintf(into,
                   "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                   status, strlen(body), body);
}

static void respond(int fd, const char *status, const char *body) {
    char data[512];
    send_all(fd, data, response(data, status, body));
}

static void name_reading(void) {
    sprintf(cursor, "%08x-%u", epoch, number);
    sprintf(signal_text, "{\"cursor\":\"%s\"}", cursor);
}

static void publish(int fd) {
    char frame[128], event[256], chunk[300], poll[512];
    number++;
    name_reading();
    int framed = sprintf(frame, "\x81%c%s", (char)strlen(signal_text), signal_text);
    int size = sprintf(event, "id: %s\ndata: %s\n\n", cursor, signal_text);
    int chunked = sprintf(chunk, "%x\r\n%s\r\n", size, event);
    int responded = response(poll, "200 OK", signal_text);
    for (int i = 0; i < lists[SOCKET].count; i++)
        send_all(lists[SOCKET].fds[i], frame, framed);
    for (int i = 0; i < lists[STREAM].count; i++)
        send_all(lists[STREAM].fds[i], chunk, chunked);
    for (int i = 0; i < lists[POLL].count; i++) {
        send_all(lists[POLL].fds[i], poll, responded);
        kinds[lists[POLL].fds[i]] = IDLE;
    }
    lists[POLL].count = 0;
    respond(fd, "201 Created", signal_text);
}

static uint32_t rotated(uint32_t x, int by) { return x << by | x >> (32 - by); }

/* SHA-1 (RFC 3174) of a text of 60 bytes, which takes two blocks; as base64. */
static void accept_key(const char *key, char *into) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0}, w[80];
    _Alignas(4) unsigned char text[128] = {0};
    unsigned char digest[21] = {0};
    memcpy(text, key, 24);
    memcpy(text + 24, GUID, 36);
    text[60] = 0x80;
    text[126] = 480 >> 8, text[127] = 480 & 255;
    for (unsigned char *block = text; block < text + 128; block += 64) {
        for (int i = 0; i < 16; i++)
            w[i] = ntohl(((uint32_t *)block)[i]);
        for (int i = 16; i < 80; i++)
            w[i] = rotated(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20   ? ((b & c) | (~b & d)) + 0x5A827999
                         : i < 40 ? (b ^ c ^ d) + 0x6ED9EBA1
                         : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDC
                                  : (b ^ c ^ d) + 0xCA62C1D6;
            uint32_t next = rotated(a, 5) + f + e + w[i];
            e = d, d = c, c = rotated(b, 30), b = a, a = next;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++)
        digest[i] = h[i / 4] >> (24 - i % 4 * 8);
    for (int i = 0; i < 21; i += 3) {
        uint32_t group = digest[i] << 16 | digest[i + 1] << 8 | digest[i + 2];
        for (int j = 0; j < 4; j++)
            *into++ = digits[group >> (18 - 6 * j) & 63];
    }
    into[-1] = '=';
    *into = 0;
}

static void upgrade(int fd, const char *key) {
    char accepted[32], data[256];
    accept_key(key, accepted);
    send_all(fd, data, sprintf(data, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                               "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accepted));
    to_list(fd, SOCKET);
}

static void request(int fd, char *text) {
    static const char stream[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                                 "Transfer-Encoding: chunked\r\n\r\nd\r\nretry: 1000\n\n\r\n";
    char *end = strchr(text, '\r'), *body = strstr(text, "\r\n\r\n"), *found;
    if (!end || !body)
        fail("a request in pieces");
    if (!strncmp(text, "POST ", 5)) {
        found = strcasestr(end, "\r\ncontent-length: ");
        bodies[fd] = found ? atoi(found + 18) - (int)strlen(body + 4) : 0;
        if (!bodies[fd])
            publish(fd);
    } else if (!strncmp(text, "GET /data", 9)) {
        char reading[256];
        sprintf(reading, "{\"cursor\":\"%s\",\"changed_at\":1790000000.123456,"
                         "\"value\":{\"number\":1}}", cursor);
        respond(fd, "200 OK", reading);
    } else if ((found = strstr(end, "\r\nSec-WebSocket-Key: "))) {
        upgrade(fd, found + 21);
    } else if (strstr(end, "\r\nAccept: text/event-stream\r\n")) {
        send_all(fd, stream, sizeof stream - 1);
        to_list(fd, STREAM);
    } else {
        found = strstr(text, "after=");
        size_t size = strlen(cursor);
        int has_it = found && found < end && !strncmp(found + 6, cursor, size);
        if (has_it && strchr(" &", found[6 + size]))
            to_list(fd, POLL);
        else
            respond(fd, "200 OK", signal_text);
    }
}

static void readable(int fd) {
    static char data[65536];
    ssize_t size = recv(fd, data, sizeof data - 1, 0);
    if (size < 0 && errno == EAGAIN)
        return;
    if (size <= 0) {
        to_list(fd, IDLE);
        close(fd);
        bodies[fd] = 0;
        return;
    }
    data[size] = 0;
    if (bodies[fd]) {
        bodies[fd] -= size;
        if (bodies[fd] <= 0)
            publish(fd);
    } else if (kinds[fd] == IDLE) { /* else a WebSocket's frame, such as a pong */
        request(fd, data);
    }
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    struct rlimit files;

    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < FILES ? files.rlim_max : FILES;
    setrlimit(RLIMIT_NOFILE, &files);
    epoch = getpid() * 2654435761u;
    name_reading();

    int loop = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096))
        fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("The server is at http://127.0.0.1:%d \n", ntohs(address.sin_port));
    fflush(stdout);

    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(loop, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd != listener) {
                readable(events[i].data.fd);
                continue;
            }
            for (int one = 1, fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event.data.fd = fd;
                epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
            }
        }
    }
}
