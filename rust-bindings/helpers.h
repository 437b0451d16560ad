/* SPDX-License-Identifier: GPL-2.0 */
/* Functions that wrap inline functions and macros of the kernel's headers. */
#ifndef _FERRY_HELPERS_H
#define _FERRY_HELPERS_H

#include <linux/migrate_copy.h>
#include <linux/mm_types.h>
#include <linux/sched.h>

bool ferry_may_claim(const struct migrate_copy_entry *e);
void ferry_lockdep_claim(void);
void ferry_lockdep_release(void);
u64 ferry_payer(void);
void ferry_charge(u64 ns);
void ferry_spread_get(struct migrate_copy_spread *spread);
bool ferry_single_task_running(void);
int ferry_folio_nid(const struct folio *folio);
size_t ferry_folio_size(const struct folio *folio);
unsigned long ferry_copy_mc(struct folio *dst, struct folio *src,
			    size_t offset, size_t len);
unsigned long ferry_copy_mc_nt(struct folio *dst, struct folio *src,
			       size_t offset, size_t len);
unsigned long ferry_copy_nt(void *dst, const void *src, unsigned long len);
void ferry_scribble(struct folio *dst);
void ferry_preempt_disable(void);
void ferry_preempt_enable(void);
void ferry_bh_disable(void);
void ferry_bh_enable(void);
bool ferry_need_resched(void);
void ferry_give_way(void);
void ferry_cond_resched(void);
bool ferry_in_reclaim(void);
u64 ferry_runtime(void);
u64 ferry_clock(void);
bool ferry_log_allowed(void);

/* The function of a thread; its return value is that of kthread_stop(). */
typedef int (*ferry_thread_fn_t)(void *data);
/* Returns true if the thread has work, so that it must not sleep. */
typedef bool (*ferry_again_fn_t)(void *data);

struct task_struct *ferry_kthread_create(ferry_thread_fn_t fn, void *data,
					 int cpu);
int ferry_cpu_node(int cpu);
bool ferry_possible_cpu(unsigned int n, int *cpu);
bool ferry_cpu_usable(int cpu);
bool ferry_cpus_share_core(int a, int b);
bool ferry_cpus_share_cache(int a, int b);
void ferry_kthread_sleep(ferry_again_fn_t again, void *data, long jiffies);

#endif /* _FERRY_HELPERS_H */
