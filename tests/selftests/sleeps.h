/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sleeps of movers, as the scheduler reports them. A mover that waits for a worker never
 * leaves its CPU voluntarily (sched_switch with a state other than runnable). The module's
 * own event only shows that there was a wait, and when.
 */
#ifndef FERRY_SLEEPS_H
#define FERRY_SLEEPS_H

#include "tracing.h"

/*
 * The number of movers that are followed at the same time, and the number of sleeps of one
 * mover that are kept between two waits.
 */
#define SLP_MOVERS	32
#define SLP_RECENT	64

struct slp_mover {
	int pid;
	u64 from_ns;
	bool asked;		/* the migration has the mode and the reason of the caller */
	long waits;
	int recent;
	u64 slept_at[SLP_RECENT];
};

struct slp_seen {
	long migrations;	/* with the mode and the reason of the caller */
	long sleeps;		/* of the movers of these migrations, from begin to end */
	long in_waits;		/* sleeps while the mover waited for a worker */
	long waits;		/* for workers */
	long most;		/* waits in one migration, at most */
	long undone;		/* waits that ended before the chunk was done */
	u64 longest_ns;
	u64 whole_ns;		/* the longest migration that had a wait */
};

/* Begins a trace that slp_look() understands. */
int slp_begin(struct trc *t, const char *name);

/* Sums up in @seen the migrations of the trace with this @mode (NULL: any) and @reason. */
int slp_look(const struct trc *t, const char *mode, const char *reason, struct slp_seen *seen);

#endif /* FERRY_SLEEPS_H */
