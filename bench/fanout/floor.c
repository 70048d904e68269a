/* The floor: the least that a broadcast costs, a loop of send() and nothing else.
 *
 * Listens on a free port of 127.0.0.1 and prints it. The first connection is the control: what
 * comes on it is sent to all other connections, then back on the control. Ends when that closes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    struct rlimit files;
    char frame[4096];
    int *sockets = NULL, count = 0, room = 0, control = -1;

    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    int listener = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096))
        fail("listen");
    fcntl(listener, F_SETFL, O_NONBLOCK);
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("The floor is at http://127.0.0.1:%d \n", ntohs(address.sin_port));
    fflush(stdout);

    for (;;) {
        struct pollfd watched[] = {{listener, POLLIN, 0}, {control, POLLIN, 0}};
        if (poll(watched, 2, -1) < 0)
            fail("poll");
        /* Sockets that connected before the control sends are in the listener's queue by now. */
        for (int one = 1, fd; (fd = accept(listener, NULL, NULL)) >= 0;) {
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            fcntl(fd, F_SETFL, O_NONBLOCK);
            if (control < 0) {
                control = fd;
                continue;
            }
            if (count == room) {
                room = room ? 2 * room : 1024;
                if (!(sockets = realloc(sockets, room * sizeof *sockets)))
                    fail("realloc");
            }
            sockets[count++] = fd;
        }
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            fail("accept");
        if (!watched[1].revents)
            continue;
        ssize_t length = recv(control, frame, sizeof frame, 0);
        if (length <= 0)
            return 0;
        for (int i = 0; i < count; i++)
            if (send(sockets[i], frame, length, 0) != length)
                fail("send");
        if (send(control, frame, length, 0) != length)
            fail("send");
    }
}
