/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A fault of an engine, from its injection until the engine works again.
 *
 * The engine gets all chunks (engine_share). With every fault, content is right, each folio
 * that the stock kernel would have moved is moved unless there is no proof that the engine is
 * quiet (I7), and the call ends in bounded time. Afterwards nothing is parked, the pool is
 * whole, and the engine works again, once it has been rearmed where it was quarantined.
 */
#ifndef FERRY_FAULTS_H
#define FERRY_FAULTS_H

#include "engine.h"

struct __test_metadata;

/*
 * Bytes to migrate. Without the first folio, which is moved before the others, they still
 * make two descriptors of the largest size and a smaller one, although descriptors are
 * merged.
 */
#define FLT_LEN		(8UL << 20)
/*
 * The longest wait of a mover in ms, including the proof, far longer than needed on a machine
 * that emulates several others; and half of it, in which the call has to end if there is a
 * proof. An idle machine takes less than a second.
 */
#define FLT_TIMEOUT_MS	60000
#define FLT_BOUND_MS	30000
/* Without a proof, the folios fail after this time in ms. */
#define FLT_NO_PROOF_MS	3000
/*
 * The time of a write that the model makes by itself after the mover has given up, in ms
 * after the start of the descriptor.
 */
#define FLT_LATE_MS	2500
#define FLT_LATE	"\"kind\":\"late_write\",\"ms\":2500"
/* The bound of waits for a later state, in ms, for a machine that emulates several others. */
#define FLT_SLACK_MS	60000

struct flt {
	int nodes[FERRY_MAX_NODES];
	char function[32];
	size_t folio;
	long channels;
	char *mem;
	int port;
};

enum flt_how {
	/* The engine recovers by itself. */
	FLT_SOON,
	/* The engine recovers after the mover has given up, so the channel is quarantined. */
	FLT_LATER,
	/* As FLT_LATER, but the engine recovers only when it is reset. */
	FLT_HUNG,
	/* The function is gone, and the driver has proof that it is gone for good. */
	FLT_GONE,
	/* The function is gone, but may come back and go on with its work: folios stay. */
	FLT_UNPROVEN,
};

struct flt_fault {
	/* The members of the fault's JSON object. */
	const char *what;
	/* The number of descriptors with the fault; 0 means all from the selected one on. */
	unsigned int times;
	/* A second request to the model, or NULL. */
	const char *second;
	/* True if a part of the fault may not have struck in the end. */
	bool left;
	enum flt_how how;
	/* Brings a function back that is gone; NULL if the fault removes none. */
	void (*back)(struct __test_metadata *_metadata, struct flt *f);
	/* Returns true when the engine works again, beyond the usual checks; may be NULL. */
	bool (*ready)(void *f);
};

/*
 * Prepares @f for folios of @kib, with at least @channels channels of the engine of migrator
 * @kind in use. The caller has set @f->mem to MAP_FAILED and @f->port to -1.
 */
void flt_begin(struct __test_metadata *_metadata, struct flt *f, const char *kind,
	       unsigned int kib, long channels);

/* Undoes flt_begin(), also after a failure. */
void flt_end(struct flt *f);

/* Returns true if each injected fault has struck. @f is a struct flt. */
bool flt_struck(void *f);

/* Migrates with the fault, from the descriptor that @where selects on, and then without it. */
void flt_strike(struct __test_metadata *_metadata, struct flt *f, const char *where,
		const struct flt_fault *fault);

#endif
