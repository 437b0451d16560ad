// SPDX-License-Identifier: GPL-2.0
/* Functions that wrap inline functions and macros of the kernel's headers. */
#include <linux/bottom_half.h>
#include <linux/cgroup.h>
#include <linux/cpumask.h>
#include <linux/highmem.h>
#include <linux/instrumented.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/preempt.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/clock.h>
#include <linux/sched/isolation.h>
#include <linux/sched/stat.h>
#include <linux/timekeeping.h>
#include <linux/topology.h>
#include <linux/uaccess.h>

#include "helpers.h"

/* Returns true if the content of an entry may be copied early now. */
bool ferry_may_claim(const struct migrate_copy_entry *e)
{
	return migrate_copy_may_claim(e);
}

/* Tells lockdep that the caller, a worker, holds a claim for a mover. */
void ferry_lockdep_claim(void)
{
	migrate_copy_lockdep_claim();
}

/* Tells lockdep that the caller has completed its claim. */
void ferry_lockdep_release(void)
{
	migrate_copy_lockdep_release();
}

/* Returns the number of the cgroup that pays for the caller's workers, 0 for the root. */
u64 ferry_payer(void)
{
#ifdef CONFIG_CGROUPS
	struct cgroup *cgrp;

	guard(rcu)();
	/* The mover, where a worker migrates a batch for it. */
	cgrp = task_dfl_cgroup(current->migrate_copy_call ?
			       current->migrate_copy_call->payer : current);
	if (cgroup_parent(cgrp))
		return cgroup_id(cgrp);
#endif
	return 0;
}

/* Charges the caller, a mover, for time that workers have spent for it. */
void ferry_charge(u64 ns)
{
	migrate_copy_charge(ns);
}

/* Takes a reference to a spread call, to which the caller has one. */
void ferry_spread_get(struct migrate_copy_spread *spread)
{
	migrate_copy_spread_get(spread);
}

/* Returns true if no other task is to run on the CPU of the caller. */
bool ferry_single_task_running(void)
{
	return single_task_running();
}

/* Returns the node of a folio. */
int ferry_folio_nid(const struct folio *folio)
{
	return folio_nid(folio);
}

/* Returns the size of a folio in bytes. */
size_t ferry_folio_size(const struct folio *folio)
{
	return folio_size(folio);
}

/*
 * Copies a part of a folio. Returns how many bytes were not copied because of a machine
 * check. The shim depends on X86_64, so folios are contiguous in the direct map.
 */
unsigned long ferry_copy_mc(struct folio *dst, struct folio *src,
			    size_t offset, size_t len)
{
	return copy_mc_to_kernel(folio_address(dst) + offset,
				 folio_address(src) + offset, len);
}

/*
 * Copies as ferry_copy_mc() does, with stores that go past the caches. @offset and @len
 * are multiples of a page. The bytes are visible before all later stores of the caller.
 */
unsigned long ferry_copy_mc_nt(struct folio *dst, struct folio *src,
			       size_t offset, size_t len)
{
	void *to = folio_address(dst) + offset;
	const void *from = folio_address(src) + offset;
	unsigned long left;

	instrument_memcpy_before(to, from, len);
	left = ferry_copy_nt(to, from, len);
	instrument_memcpy_after(to, from, len, left);
	return left;
}

/* Overwrites a destination, so that its content must not be used (fault injection). */
void ferry_scribble(struct folio *dst)
{
	memset(folio_address(dst), 0xa5, folio_size(dst));
}

/* Disables preemption. */
void ferry_preempt_disable(void)
{
	preempt_disable();
}

/* Enables preemption. */
void ferry_preempt_enable(void)
{
	preempt_enable();
}

/* Disables softirqs on this CPU. */
void ferry_bh_disable(void)
{
	local_bh_disable();
}

/* Enables softirqs on this CPU. */
void ferry_bh_enable(void)
{
	local_bh_enable();
}

/*
 * Returns true if another task should run on this CPU. With lazy preemption a kernel
 * thread runs on until the next tick after another task has become runnable, and
 * cond_resched() does nothing; workers must not keep another task waiting for that long.
 */
bool ferry_need_resched(void)
{
	return need_resched() || tif_test_bit(TIF_NEED_RESCHED_LAZY);
}

/* Lets another task run if one should. May sleep. */
void ferry_give_way(void)
{
	if (ferry_need_resched())
		schedule();
}

/* Lets another task run if the kernel's preemption model wants it. May sleep. */
void ferry_cond_resched(void)
{
	cond_resched();
}

/* Returns true if the caller reclaims memory, or compacts it for an allocation. */
bool ferry_in_reclaim(void)
{
	return current->flags & PF_MEMALLOC;
}

/*
 * Returns the CPU time of the caller in nanoseconds, as the scheduler counts it, up to
 * now. Where the kernel accounts for the time of interrupts, the value is off by that
 * time, which differs between CPUs.
 */
u64 ferry_runtime(void)
{
#ifdef CONFIG_UML
	/* In a kernel that is a user process, the scheduler's clock counts ticks. */
	return ferry_clock();
#else
	/* The values are the caller's own, so only an interrupt could change them meanwhile. */
	guard(irqsave)();
	return current->se.sum_exec_runtime + local_clock() -
	       current->se.exec_start;
#endif
}

/* Returns the clock of this CPU in nanoseconds. Clocks of two CPUs may differ a little. */
u64 ferry_clock(void)
{
	/* In a kernel that is a user process, local_clock() counts ticks. */
	return IS_ENABLED(CONFIG_UML) ? ktime_get_mono_fast_ns() :
					local_clock();
}

/*
 * Returns true if one more message may be printed now. The limit is common to all of
 * Ferry's messages about events that users or devices cause.
 */
bool ferry_log_allowed(void)
{
	static DEFINE_RATELIMIT_STATE(limit, DEFAULT_RATELIMIT_INTERVAL,
				      DEFAULT_RATELIMIT_BURST);

	return __ratelimit(&limit);
}

/* Returns the node of a CPU. */
int ferry_cpu_node(int cpu)
{
	return cpu_to_node(cpu);
}

/*
 * Stores the n-th possible CPU, in the order of CPU numbers. Returns false if there are
 * fewer.
 */
bool ferry_possible_cpu(unsigned int n, int *cpu)
{
	int c = cpumask_nth(n, cpu_possible_mask);

	if (c >= nr_cpu_ids)
		return false;
	*cpu = c;
	return true;
}

/*
 * Returns true if the CPU is online, and isolated neither from other tasks nor from the
 * noise of the kernel (nohz_full=). The result is a snapshot.
 */
bool ferry_cpu_usable(int cpu)
{
	/* The mask is replaced when CPUs are isolated. */
	guard(rcu)();
	return cpu_online(cpu) && housekeeping_test_cpu(cpu, HK_TYPE_DOMAIN) &&
	       housekeeping_test_cpu(cpu, HK_TYPE_KERNEL_NOISE);
}

/* Returns true if both CPUs share a last-level cache. */
bool ferry_cpus_share_cache(int a, int b)
{
#ifdef CONFIG_UML
	/* It is not known on which CPUs the host runs these. */
	return true;
#else
	return per_cpu_llc_id(a) == per_cpu_llc_id(b);
#endif
}

/* Returns true if both are threads of one core and online. */
bool ferry_cpus_share_core(int a, int b)
{
	return cpumask_test_cpu(b, topology_sibling_cpumask(a));
}

/*
 * Creates a thread that prefers one CPU and gives way to all user work. The thread is
 * not started; the caller holds a reference to it. Returns the thread or an ERR_PTR().
 */
struct task_struct *ferry_kthread_create(ferry_thread_fn_t fn, void *data,
					 int cpu)
{
	struct task_struct *task;
	int rc;

	task = kthread_create_on_node(fn, data, cpu_to_node(cpu), "ferry/%d",
				      cpu);
	if (IS_ERR(task))
		return task;
	get_task_struct(task);
	set_user_nice(task, MAX_NICE);
	/*
	 * kthread_bind() is not used because the thread must be able to go on,
	 * and to stop, on another CPU if this one goes offline. It returns when
	 * the CPU does.
	 */
	rc = kthread_affine_preferred(task, cpumask_of(cpu));
	if (rc) {
		kthread_stop(task);
		put_task_struct(task);
		return ERR_PTR(rc);
	}
	return task;
}

/*
 * Sleeps until the thread is woken, for at most @jiffies, unless again(data) is true or
 * the thread has to stop. With MAX_SCHEDULE_TIMEOUT the sleep is not bounded: the thread
 * has no work, and no task waits for it.
 */
void ferry_kthread_sleep(ferry_again_fn_t again, void *data, long jiffies)
{
	/*
	 * set_current_state() orders its store before the reads in again() and
	 * kthread_should_stop(); pairs with the barrier in wake_up_process()
	 * after the waker has made either true.
	 */
	set_current_state(TASK_IDLE);
	if (!again(data) && !kthread_should_stop())
		schedule_timeout(jiffies);
	__set_current_state(TASK_RUNNING);
}
