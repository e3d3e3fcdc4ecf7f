/* log.c: log lines by topic. The environment is read at every line: none of them is written on the
 * path of a step, and a test or a debugger may change its mind while the program runs. */
#include "core/log.h"

#include "winnow/host.h"
#include "winnow/winnow.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOPICS "search, load, step, all"
static const char *const topics[] = {"search", "load", "step", "all"};
static const char *const levels[] = {"", "error", "warning", "info", "debug"};

/* Held while a line is written, so that a sink is never called after wn_log_to has replaced it.
 * Recursive, so that a sink may call back into the library. */
static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static wn_log_sink current_sink;
static void *current_context;
static int complained;            /* of an unknown topic, once per process */
static _Thread_local int in_sink; /* what a sink itself causes to be logged is dropped */

void wn_log_to(wn_log_sink sink, void *context)
{
    pthread_mutex_lock(&mutex);
    current_sink = sink;
    current_context = context;
    pthread_mutex_unlock(&mutex);
}

static void write_line(uint32_t level, const char *topic, const char *text)
{
    if (in_sink)
        return;
    pthread_mutex_lock(&mutex);
    if (current_sink != NULL) {
        in_sink = 1;
        current_sink(current_context, level, topic, text);
        in_sink = 0;
    } else {
        const char *name = level < sizeof levels / sizeof levels[0] ? levels[level] : "";
        fprintf(stderr, "winnow: %s: %s%s%s\n", topic, name, *name == '\0' ? "" : ": ", text);
    }
    pthread_mutex_unlock(&mutex);
}

static int is_word(const char *text, size_t length, const char *word)
{
    return strlen(word) == length && memcmp(text, word, length) == 0;
}

static void complain(const char *word, size_t length)
{
    pthread_mutex_lock(&mutex);
    int first = !complained;
    complained = 1;
    pthread_mutex_unlock(&mutex);
    if (!first)
        return;
    char text[160];
    snprintf(text, sizeof text, "WINNOW_LOG has no topic \"%.*s\": there are " TOPICS,
             length > 40 ? 40 : (int)length, word);
    write_line(WN_LOG_WARNING, "all", text);
}

/* Is the topic, or "all", in the comma list? */
static int is_wanted(const char *list, const char *topic)
{
    int wanted = 0;
    while (*list != '\0') {
        list += strspn(list, ", ");
        size_t length = strcspn(list, ", ");
        int known = length == 0;
        for (size_t i = 0; i < sizeof topics / sizeof topics[0]; i++)
            known |= is_word(list, length, topics[i]);
        if (!known)
            complain(list, length);
        wanted |= is_word(list, length, "all") || is_word(list, length, topic);
        list += length;
    }
    return wanted;
}

void wn_log_line(uint32_t level, const char *topic, const char *format, ...)
{
    const char *list = secure_getenv("WINNOW_LOG");
    if (list == NULL || !is_wanted(list, topic))
        return;
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    write_line(level, topic, text);
}
