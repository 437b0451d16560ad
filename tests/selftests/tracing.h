/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A separate trace (an instance of tracefs), with a buffer of a known size, and for chosen
 * tasks only. Other traces of the machine are not touched, and a test that is killed leaves
 * no event on for the next one.
 */
#ifndef FERRY_TRACING_H
#define FERRY_TRACING_H

#include "hazards.h"

#include <sys/stat.h>

#define TRC_INSTANCES	"/sys/kernel/tracing/instances/"

struct trc {
	char at[80];
};

/* Removes the trace. */
void trc_end(struct trc *t);

/*
 * Begins a trace called @name with @kib of buffer on each CPU, empty and without events.
 * Removes a trace of this name that a killed program has left.
 */
int trc_begin(struct trc *t, const char *name, unsigned int kib);

/* Turns an event (such as "kmem/kmalloc") on. @filter, if not NULL, selects some. */
int trc_event(const struct trc *t, const char *event, const char *filter);

/* Restricts the trace to @pid and to tasks of earlier calls. */
int trc_pid(const struct trc *t, int pid);

/* Empties the buffer. */
int trc_clear(const struct trc *t);

/* Turns recording on or off. */
int trc_on(const struct trc *t, bool on);

/*
 * Returns the text, which the caller frees, or NULL if it cannot be read or if the buffer was too
 * small for all of it.
 */
char *trc_read(const struct trc *t);

#endif /* FERRY_TRACING_H */
