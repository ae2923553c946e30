/* Prints the addresses of a name, as ares_getaddrinfo of the library c-ares returns them. */
#include <ares.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/select.h>

static void print(void *status, int error, int timeouts, struct ares_addrinfo *result)
{
    struct ares_addrinfo_node *node;
    char text[128];

    (void)timeouts;
    *(int *)status = error;
    if (error != ARES_SUCCESS) {
        fprintf(stderr, "%s\n", ares_strerror(error));
        return;
    }
    for (node = result->nodes; node != NULL; node = node->ai_next)
        if (getnameinfo(node->ai_addr, node->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST) == 0)
            puts(text);
    ares_freeaddrinfo(result);
}

int main(int argc, char **argv)
{
    struct ares_addrinfo_hints hints;
    ares_channel channel;
    int status = ARES_ENODATA;

    if (argc != 2 || ares_library_init(ARES_LIB_INIT_ALL) != ARES_SUCCESS || ares_init(&channel) != ARES_SUCCESS)
        return 2;
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    ares_getaddrinfo(channel, argv[1], NULL, &hints, print, &status);
    for (;;) {
        struct timeval timeout;
        fd_set readable, writable;
        int count;

        FD_ZERO(&readable);
        FD_ZERO(&writable);
        count = ares_fds(channel, &readable, &writable);
        if (count == 0)
            break;
        select(count, &readable, &writable, NULL, ares_timeout(channel, NULL, &timeout));
        ares_process(channel, &readable, &writable);
    }
    ares_destroy(channel);
    return status == ARES_SUCCESS ? 0 : 1;
}
