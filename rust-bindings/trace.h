/* SPDX-License-Identifier: GPL-2.0 */
/* Tracepoints of Ferry; the Rust side is src/kapi/trace.rs. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM ferry

#if !defined(_FERRY_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _FERRY_TRACE_H

#include <linux/tracepoint.h>

/* A batch has been submitted to a migrator. */
TRACE_EVENT(ferry_submit,
	TP_PROTO(unsigned long batch, unsigned int folios, u64 bytes,
		 unsigned int chunks, unsigned int mode, unsigned int reason),
	TP_ARGS(batch, folios, bytes, chunks, mode, reason),
	TP_STRUCT__entry(
		__field(unsigned long, batch)
		__field(u64, bytes)
		__field(unsigned int, folios)
		__field(unsigned int, chunks)
		__field(unsigned int, mode)
		__field(unsigned int, reason)
	),
	TP_fast_assign(
		__entry->batch = batch;
		__entry->folios = folios;
		__entry->bytes = bytes;
		__entry->chunks = chunks;
		__entry->mode = mode;
		__entry->reason = reason;
	),
	TP_printk("batch=%lx folios=%u bytes=%llu chunks=%u mode=%u reason=%u",
		  __entry->batch, __entry->folios, __entry->bytes,
		  __entry->chunks, __entry->mode, __entry->reason)
);

/* The mover has waited for a chunk that another lane had claimed. */
TRACE_EVENT(ferry_wait,
	TP_PROTO(unsigned long batch, unsigned int chunk, u64 ns, bool done),
	TP_ARGS(batch, chunk, ns, done),
	TP_STRUCT__entry(
		__field(unsigned long, batch)
		__field(u64, ns)
		__field(unsigned int, chunk)
		__field(bool, done)
	),
	TP_fast_assign(
		__entry->batch = batch;
		__entry->ns = ns;
		__entry->chunk = chunk;
		__entry->done = done;
	),
	TP_printk("batch=%lx chunk=%u ns=%llu done=%d", __entry->batch,
		  __entry->chunk, __entry->ns, __entry->done)
);

/* The mover has finished a batch. */
TRACE_EVENT(ferry_finish,
	TP_PROTO(unsigned long batch, unsigned int mover, unsigned int others,
		 u64 worker_ns),
	TP_ARGS(batch, mover, others, worker_ns),
	TP_STRUCT__entry(
		__field(unsigned long, batch)
		__field(u64, worker_ns)
		__field(unsigned int, mover)
		__field(unsigned int, others)
	),
	TP_fast_assign(
		__entry->batch = batch;
		__entry->mover = mover;
		__entry->others = others;
		__entry->worker_ns = worker_ns;
	),
	TP_printk("batch=%lx chunks_by_mover=%u chunks_by_others=%u worker_ns=%llu",
		  __entry->batch, __entry->mover, __entry->others,
		  __entry->worker_ns)
);

/* A batch or a folio is left to the stock copy; the causes are those of the counters. */
TRACE_EVENT(ferry_fallback,
	TP_PROTO(unsigned int cause, u64 bytes),
	TP_ARGS(cause, bytes),
	TP_STRUCT__entry(
		__field(u64, bytes)
		__field(unsigned int, cause)
	),
	TP_fast_assign(
		__entry->bytes = bytes;
		__entry->cause = cause;
	),
	TP_printk("cause=%s bytes=%llu",
		  __print_symbolic(__entry->cause,
				   { 0, "pool" }, { 1, "small" },
				   { 2, "reason" }, { 3, "injected" },
				   { 4, "references" }, { 5, "failed" },
				   { 6, "unquiet" }, { 7, "busy" },
				   { 8, "gain" },
				   { 9, "context" }),
		  __entry->bytes)
);

/* A lane has not finished in time, or has reported an error. */
TRACE_EVENT(ferry_engine_error,
	TP_PROTO(unsigned int lane, int error),
	TP_ARGS(lane, error),
	TP_STRUCT__entry(
		__field(unsigned int, lane)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->lane = lane;
		__entry->error = error;
	),
	TP_printk("lane=%u error=%d", __entry->lane, __entry->error)
);

/* The driver of a channel is asked for a proof that its engine is quiet, or has answered. */
TRACE_EVENT(ferry_engine_proof,
	TP_PROTO(unsigned int lane, unsigned int step),
	TP_ARGS(lane, step),
	TP_STRUCT__entry(
		__field(unsigned int, lane)
		__field(unsigned int, step)
	),
	TP_fast_assign(
		__entry->lane = lane;
		__entry->step = step;
	),
	TP_printk("lane=%u %s", __entry->lane,
		  __print_symbolic(__entry->step,
				   { 0, "asked" },
				   { 1, "quiet" },
				   { 2, "unproven" }))
);

#endif /* _FERRY_TRACE_H */

/* This part must be outside protection */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
