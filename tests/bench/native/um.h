/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For the kernel as a user process, included before everything else: where it
 * would do something so differently from a kernel on x86-64 that measuring it
 * would say nothing about that one.
 */
#ifndef FERRY_NATIVE_UM_H
#define FERRY_NATIVE_UM_H

/*
 * Folios are copied with the instruction that x86-64 has used for it since it
 * has had fast string operations (copy_mc_enhanced_fast_string()), and by stock
 * code and Ferry alike. Without this, stock code would use what the compiler
 * makes of copy_page(), and others memcpy(), which is not patched for the CPU.
 * There are no machine checks to survive in a user process.
 */
static inline unsigned long copy_mc_to_kernel(void *dst, const void *src,
					      unsigned long len)
{
	__asm__ __volatile__("rep movsb"
			     : "+D" (dst), "+S" (src), "+c" (len)
			     :
			     : "memory");
	return len;
}

#define copy_mc_to_kernel copy_mc_to_kernel

/*
 * Loads and stores are ordered as on any x86. Otherwise each acquire and each
 * release would be a full barrier, and wait until what was copied before has
 * left the store buffers.
 */
static inline void um_smp_mb(void)
{
	__asm__ __volatile__("lock addl $0,-4(%%rsp)" : : : "memory", "cc");
}

#define __smp_mb()	um_smp_mb()
#define __smp_rmb()	barrier()
#define __smp_wmb()	barrier()

#define __smp_store_release(p, v)					\
do {									\
	typeof(p) um_to = (p);						\
									\
	barrier();							\
	WRITE_ONCE(*um_to, v);						\
} while (0)

#define __smp_load_acquire(p)						\
({									\
	typeof(p) um_from = (p);					\
	typeof(*um_from) um_value = READ_ONCE(*um_from);		\
									\
	barrier();							\
	um_value;							\
})

/*
 * Adding to a per-CPU variable, as SRCU readers do for every folio, is one
 * instruction. Otherwise it would be two system calls, which block and unblock
 * the signals that interrupts are there. Nothing comes between finding the
 * variable and adding to it but such interrupts: CONFIG_PREEMPT_VOLUNTARY.
 */
#define um_this_cpu_add(size, pcp, val)					\
do {									\
	typeof(pcp) *um_ptr = raw_cpu_ptr(&(pcp));			\
									\
	__asm__ __volatile__("add" size " %1, %0"			\
			     : "+m" (*um_ptr)				\
			     : "r" ((typeof(pcp))(val)));		\
} while (0)

#define this_cpu_add_4(pcp, val)	um_this_cpu_add("l", pcp, val)
#define this_cpu_add_8(pcp, val)	um_this_cpu_add("q", pcp, val)

#endif
