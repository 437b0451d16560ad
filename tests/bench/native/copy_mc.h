/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For the kernel as a user process, included before everything else: there,
 * folios are copied with the instruction that x86-64 has used for it since it
 * has had fast string operations (copy_mc_enhanced_fast_string()), and by stock
 * code and Ferry alike. Without this, stock code would use what the compiler
 * makes of copy_page(), and others memcpy(), which is not patched for the CPU.
 * There are no machine checks to survive in a user process.
 */
#ifndef FERRY_NATIVE_COPY_MC_H
#define FERRY_NATIVE_COPY_MC_H

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

#endif
