/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copying with non-temporal stores, on x86-64. Another architecture has a file
 * like this one.
 */
#include <linux/linkage.h>
#include <asm/asm.h>

/*
 * A machine check while content is read ends the copy, as in copy_mc_64.S. So
 * does a page fault, where poison has been taken out of the direct map. In a
 * kernel that is a user process there are neither.
 */
#ifdef CONFIG_UML
#define LOAD(from, reg)		movq from, reg
#else
#define LOAD(from, reg)						\
100:	movq from, reg;						\
	_ASM_EXTABLE_TYPE(100b, .Lfailed, EX_TYPE_DEFAULT_MCE_SAFE)
#endif

/*
 * unsigned long ferry_copy_nt(void *dst, const void *src, unsigned long len)
 *
 * @dst, @src and @len are multiples of 64. Loads are of 8 aligned bytes, so none
 * crosses a cache line, and poison is met in the line where it is.
 *
 * Returns how many bytes were not copied. All stores are done before any later
 * one of this CPU.
 */
SYM_FUNC_START(ferry_copy_nt)
	shrq	$6, %rdx
	jz	.Lcopied
.Lline:
	LOAD(0(%rsi), %rax)
	LOAD(8(%rsi), %rcx)
	LOAD(16(%rsi), %r8)
	LOAD(24(%rsi), %r9)
	movnti	%rax, 0(%rdi)
	movnti	%rcx, 8(%rdi)
	movnti	%r8, 16(%rdi)
	movnti	%r9, 24(%rdi)
	LOAD(32(%rsi), %rax)
	LOAD(40(%rsi), %rcx)
	LOAD(48(%rsi), %r8)
	LOAD(56(%rsi), %r9)
	movnti	%rax, 32(%rdi)
	movnti	%rcx, 40(%rdi)
	movnti	%r8, 48(%rdi)
	movnti	%r9, 56(%rdi)
	addq	$64, %rsi
	addq	$64, %rdi
	decq	%rdx
	jnz	.Lline
.Lcopied:
	/* No release orders these stores. */
	sfence
	xorl	%eax, %eax
	RET
.Lfailed:
	/* Half a line may be there; it counts as not copied. */
	sfence
	shlq	$6, %rdx
	movq	%rdx, %rax
	RET
SYM_FUNC_END(ferry_copy_nt)
