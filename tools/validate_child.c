/* validate_child.c: how a test is kept from harming the validator. fork and exec of this program
 * itself, a process group, limits, a pipe of bounded length for the outcome, another for stderr,
 * and SIGKILL to the whole group when time is up or the test is done. */
#include "tools/validate_child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RESULT_FD = 3 }; /* in the child */

/* The reading end of a pipe, and what came out of it; of more than `capacity` bytes the last. */
typedef struct intake {
    int fd; /* -1: closed */
    char *text;
    size_t used, capacity;
    int keep_last; /* 1: drop the oldest when full; 0: drop the newest */
} intake;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void limit(int resource, rlim_t value)
{
    struct rlimit limits = {value, value};
    setrlimit(resource, &limits);
}

/* In the new process: never returns. */
static void become_test(const wn_trial_test *test, const char *plugin, uint64_t seed, int timeout,
                        int result_fd, int error_fd)
{
    char seed_text[24];
    int nothing = open("/dev/null", O_RDWR);
    setpgid(0, 0);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_CPU, (rlim_t)timeout * 64); /* of all threads; wall time is the real limit */
    snprintf(seed_text, sizeof seed_text, "%llu", (unsigned long long)seed);
    /* Tests that look for leaks compare what malloc has given out; a per-thread cache of what was
     * freed would count as given out. */
    setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0", 1);
    /* make_pipe() keeps both pipes out of the way of RESULT_FD. */
    if (dup2(nothing, 0) < 0 || dup2(nothing, 1) < 0 || dup2(error_fd, 2) < 0 ||
        dup2(result_fd, RESULT_FD) < 0)
        _exit(127);
    execl("/proc/self/exe", "winnow", "validate", "--run-one", test->name, "--seed", seed_text,
          "--", plugin, (char *)NULL);
    _exit(127);
}

/* Reads what is there. At the end of the pipe it is closed. */
static void take_in(intake *in)
{
    char piece[512];
    ssize_t got = read(in->fd, piece, sizeof piece);
    if (got <= 0) {
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            return;
        close(in->fd);
        in->fd = -1;
        return;
    }
    size_t bytes = (size_t)got, room = in->capacity - 1 - in->used;
    if (bytes > room && in->keep_last) {
        size_t drop = bytes - room;
        memmove(in->text, in->text + drop, in->used - drop);
        in->used -= drop;
    } else if (bytes > room) {
        bytes = room;
    }
    memcpy(in->text + in->used, piece, bytes);
    in->used += bytes;
    in->text[in->used] = '\0';
}

/* Waits for the process to end, reading both pipes. 0: it ended, *status says how; 1: time is up.
 */
static int watch(pid_t child, double deadline, intake *results, intake *errors, int *status)
{
    for (;;) {
        struct pollfd polled[2] = {{results->fd, POLLIN, 0}, {errors->fd, POLLIN, 0}};
        int open_pipes = results->fd >= 0 || errors->fd >= 0;
        if (poll(polled, 2, open_pipes ? 20 : 1) > 0) {
            if (polled[0].revents != 0)
                take_in(results);
            if (polled[1].revents != 0)
                take_in(errors);
        }
        if (waitpid(child, status, WNOHANG) == child)
            return 0;
        if (now() > deadline)
            return 1;
    }
}

/* What the process left in the pipes; a descendant that still holds them is dead by now. */
static void drain(intake *in)
{
    struct pollfd polled = {in->fd, POLLIN, 0};
    while (in->fd >= 0 && poll(&polled, 1, 0) > 0)
        take_in(in);
    if (in->fd >= 0)
        close(in->fd);
}

static void judge(wn_child_result *result, int timed_out, int timeout, int status,
                  const intake *results)
{
    const char *message = results->text;
    result->outcome = WN_FAILED;
    if (timed_out) {
        result->ending = WN_ENDED_BY_TIMEOUT;
        result->detail = timeout;
        snprintf(result->text, sizeof result->text, "not done after %d seconds: killed", timeout);
    } else if (WIFSIGNALED(status)) {
        result->ending = WN_ENDED_BY_SIGNAL;
        result->detail = WTERMSIG(status);
        snprintf(result->text, sizeof result->text, "crashed: SIG%s (%s)",
                 sigabbrev_np(result->detail) != NULL ? sigabbrev_np(result->detail) : "?",
                 strsignal(result->detail));
    } else if (WEXITSTATUS(status) != 0 || results->used == 0 ||
               strchr("PFS", message[0]) == NULL) {
        result->ending = WN_ENDED_SILENTLY;
        result->detail = WEXITSTATUS(status);
        snprintf(result->text, sizeof result->text,
                 "the process ended with status %d before the test was over", result->detail);
    } else {
        result->outcome = (wn_outcome)message[0];
        snprintf(result->text, sizeof result->text, "%s", message + 1);
    }
}

static int make_pipe(int ends[2])
{
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -1;
    for (int i = 0; i < 2; i++) { /* out of the way of the child's descriptors 0 to 3 */
        int high = fcntl(ends[i], F_DUPFD_CLOEXEC, 16);
        close(ends[i]);
        ends[i] = high;
    }
    return ends[0] >= 0 && ends[1] >= 0 ? 0 : -1;
}

void wn_child_run(const wn_trial_test *test, const char *plugin, uint64_t seed, int timeout,
                  wn_child_result *result)
{
    char message[WN_TRIAL_TEXT + 1] = "";
    int result_pipe[2] = {-1, -1}, error_pipe[2] = {-1, -1}, status = 0;
    memset(result, 0, sizeof *result);
    double start = now();
    pid_t child = -1;
    if (make_pipe(result_pipe) == 0 && make_pipe(error_pipe) == 0)
        child = fork();
    if (child == 0)
        become_test(test, plugin, seed, timeout, result_pipe[1], error_pipe[1]);
    if (child < 0) {
        result->ending = WN_NOT_STARTED;
        result->detail = errno;
        result->outcome = WN_FAILED;
        snprintf(result->text, sizeof result->text, "cannot start a process: %s", strerror(errno));
        return;
    }
    setpgid(child, child); /* in the child as well: whoever comes first */
    close(result_pipe[1]);
    close(error_pipe[1]);
    intake results = {result_pipe[0], message, 0, sizeof message, 0};
    intake errors = {error_pipe[0], result->stderr_tail, 0, sizeof result->stderr_tail, 1};
    int timed_out = watch(child, start + timeout, &results, &errors, &status);
    kill(-child, SIGKILL); /* the child, if time is up, and whatever it started */
    if (timed_out)
        waitpid(child, &status, 0);
    drain(&results);
    drain(&errors);
    result->seconds = now() - start;
    judge(result, timed_out, timeout, status, &results);
}

int wn_child_main(const wn_trial_test *test, const char *plugin, uint64_t seed)
{
    wn_trial *trial = calloc(1, sizeof *trial);
    if (trial == NULL)
        return 1;
    trial->path = plugin;
    trial->seed = seed;
    char outcome = (char)test->run(trial);
    size_t length = strlen(trial->text);
    int written = write(RESULT_FD, &outcome, 1) == 1 &&
                  write(RESULT_FD, trial->text, length) == (ssize_t)length;
    fflush(NULL);
    /* Not exit(): what a plugin left behind for the end of the process is no part of this test. */
    _exit(written ? 0 : 1);
}

wn_outcome wn_trial_says(wn_trial *trial, wn_outcome outcome, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(trial->text, sizeof trial->text, format, arguments);
    va_end(arguments);
    return outcome;
}
