/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copying with non-temporal stores, on x86-64. Another architecture needs a file
 * like this one.
 */
#include <linux/linkage.h>
#include <asm/asm.h>

/*
 * A machine check while content is read ends the copy, as in copy_mc_64.S. A
 * page fault ends it, too, where poisoned memory has been taken out of the direct
 * map. A kernel that is a user process has neither.
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
 * @dst, @src and @len are multiples of 64. Each load reads 8 aligned bytes, so
 * that none crosses a cache line, and a load fails only in the line with the
 * poison.
 *
 * Returns how many bytes were not copied. All stores are visible before any later
 * store of this CPU.
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
	/* A release does not order non-temporal stores. */
	sfence
	xorl	%eax, %eax
	RET
.Lfailed:
	/* A part of the line may have been copied; the line counts as not copied. */
	sfence
	shlq	$6, %rdx
	movq	%rdx, %rax
	RET
SYM_FUNC_END(ferry_copy_nt)
