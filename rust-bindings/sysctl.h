/* SPDX-License-Identifier: GPL-2.0 */
/* A directory of sysctls. To this file all values are strings. */
#ifndef _FERRY_SYSCTL_H
#define _FERRY_SYSCTL_H

#include <linux/types.h>

/*
 * The bytes of the longest value, with its final NUL. The list of migrators can have 151
 * characters and the list of reasons 120; the buffer is on the stack.
 */
#define FERRY_SYSCTL_MAX 256

struct ferry_sysctl;

/**
 * typedef ferry_sysctl_show_t - format a value
 * @ctx: as given to ferry_sysctl_register().
 * @id: index of the sysctl.
 * @text: receives the value and a final NUL.
 *
 * Return: 0 or a negative errno.
 */
typedef int (*ferry_sysctl_show_t)(void *ctx, unsigned int id, char *text);

/**
 * typedef ferry_sysctl_store_t - take a value
 * @ctx: as given to ferry_sysctl_register().
 * @id: index of the sysctl.
 * @text: the new value, NUL terminated, without a final newline.
 *
 * Return: 0 or a negative errno.
 */
typedef int (*ferry_sysctl_store_t)(void *ctx, unsigned int id,
				    const char *text);

struct ferry_sysctl *ferry_sysctl_register(const char *path,
					   const char *const *names,
					   const unsigned short *modes,
					   unsigned int nr, void *ctx,
					   ferry_sysctl_show_t show,
					   ferry_sysctl_store_t store);
void ferry_sysctl_unregister(struct ferry_sysctl *s);

#endif /* _FERRY_SYSCTL_H */
