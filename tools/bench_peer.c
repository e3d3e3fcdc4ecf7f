/* bench_peer.c: the pipe to the peer. A line each way: what to do, and how it went. */
#include "tools/bench_peer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINE = 1024 };

struct wn_peer {
    pid_t child;
    FILE *to, *from;
    char name[64];
};

const char *wn_peer_name(const wn_peer *peer)
{
    return peer->name;
}

/* The answer without its newline; 0: the child is gone. */
static int answer(wn_peer *peer, char line[LINE])
{
    if (fgets(line, LINE, peer->from) == NULL)
        return 0;
    line[strcspn(line, "\n")] = '\0';
    return 1;
}

static int ask(wn_peer *peer, const char *question, char line[LINE])
{
    if (fputs(question, peer->to) < 0 || fflush(peer->to) != 0)
        return 0;
    return answer(peer, line);
}

static void run_child(const char *python, const int to[2], const int from[2])
{
    dup2(to[0], STDIN_FILENO);
    dup2(from[1], STDOUT_FILENO);
    close(to[0]);
    close(to[1]);
    close(from[0]);
    close(from[1]);
    /* Its threads on processors of their own, as ours are. */
    setenv("OMP_PROC_BIND", "true", 0);
    setenv("OMP_PLACES", "cores", 0);
    execlp(python, python, "-c", wn_text_bench_torch, (char *)NULL);
    _exit(127);
}

static int start(wn_peer *peer, const char *python)
{
    int to[2], from[2];
    if (pipe(to) != 0)
        return 0;
    if (pipe(from) != 0) {
        close(to[0]);
        close(to[1]);
        return 0;
    }
    fflush(NULL);
    peer->child = fork();
    if (peer->child == 0)
        run_child(python, to, from);
    close(to[0]);
    close(from[1]);
    peer->to = fdopen(to[1], "w");
    peer->from = fdopen(from[0], "r");
    return peer->child > 0 && peer->to != NULL && peer->from != NULL;
}

wn_peer *wn_peer_open(void)
{
    const char *python = getenv("WINNOW_PYTHON");
    char line[LINE];
    wn_peer *peer = calloc(1, sizeof *peer);
    if (peer == NULL)
        return NULL;
    if (!start(peer, python != NULL && *python != '\0' ? python : "python3") ||
        !answer(peer, line) || strncmp(line, "torch ", 6) != 0) {
        wn_peer_close(peer);
        return NULL;
    }
    snprintf(peer->name, sizeof peer->name, "%.60s", line);
    return peer;
}

void wn_peer_close(wn_peer *peer)
{
    if (peer == NULL)
        return;
    if (peer->to != NULL)
        fclose(peer->to); /* the end of its input ends it */
    if (peer->from != NULL)
        fclose(peer->from);
    if (peer->child > 0)
        waitpid(peer->child, NULL, 0);
    free(peer);
}

int wn_peer_prepare(wn_peer *peer, const char *op, const wn_bench_shape *shape, uint32_t threads)
{
    char line[LINE];
    int used = snprintf(line, LINE, "%s threads=%u dtype=%s", op, threads,
                        shape->dtype != 0 ? wn_dtype_name(shape->dtype) : "float32");
#define ADD(key, greatest, what)                                                                   \
    used += snprintf(line + used, LINE - (size_t)used, " " #key "=%lld", (long long)shape->key);
    WN_SHAPE_LIST(ADD)
#undef ADD
    snprintf(line + used, LINE - (size_t)used, "\n");
    return ask(peer, line, line) && strcmp(line, "ready") == 0;
}

double wn_peer_sample(wn_peer *peer)
{
    char line[LINE];
    if (!ask(peer, "go\n", line))
        return -1;
    char *end;
    double milliseconds = strtod(line, &end);
    return end != line ? milliseconds * 1e-3 : -1;
}
