/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sleeps of movers, as the scheduler reports them: a mover that waits for a worker never
 * leaves its CPU of its own will (sched_switch with a state other than runnable). The module's
 * own event only shows that there was a wait, and where it was.
 */
#ifndef FERRY_SLEEPS_H
#define FERRY_SLEEPS_H

#include "tracing.h"

/* Movers that are followed at a time, and sleeps of one mover that are kept between two waits. */
#define SLP_MOVERS	32
#define SLP_RECENT	64

struct slp_mover {
	int pid;
	u64 from_ns;
	bool asked;		/* the migration is one of those that were asked about */
	long waits;
	int recent;
	u64 slept_at[SLP_RECENT];
};

struct slp_seen {
	long migrations;	/* of the mode and reason that were asked about */
	long sleeps;		/* of their movers, from their begin to their end */
	long in_waits;		/* those while the mover waited for a worker */
	long waits;		/* for workers */
	long most;		/* waits in one of them */
	long undone;		/* waits that ended without what was waited for */
	u64 longest_ns;
	u64 whole_ns;		/* the longest of the migrations that had a wait */
};

/* Begins a trace that slp_look() understands. */
int slp_begin(struct trc *t, const char *name);

/* Sums up in @seen the migrations of the trace with this @mode (NULL: any) and @reason. */
int slp_look(const struct trc *t, const char *mode, const char *reason, struct slp_seen *seen);

#endif /* FERRY_SLEEPS_H */
