// SPDX-License-Identifier: GPL-2.0
/* A directory of sysctls. To this file all values are strings. */
#include <linux/err.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysctl.h>

#include "sysctl.h"

/* A registered directory. */
struct ferry_sysctl {
	struct ctl_table_header *header;
	void *ctx;
	ferry_sysctl_show_t show;
	ferry_sysctl_store_t store;
	unsigned int nr;
	struct ctl_table table[] __counted_by(nr);
};

/* Reads or writes one sysctl through @show or @store of its directory. */
static int ferry_sysctl_handler(const struct ctl_table *table, int write,
				void *buffer, size_t *lenp, loff_t *ppos)
{
	struct ferry_sysctl *s = table->extra1;
	unsigned int id = (unsigned long)table->extra2;
	char text[FERRY_SYSCTL_MAX] = "";
	const struct ctl_table string = {
		.procname = table->procname,
		.data = text,
		.maxlen = sizeof(text),
	};
	int rc;

	if (!write) {
		rc = s->show(s->ctx, id, text);
		return rc ?: proc_dostring(&string, write, buffer, lenp, ppos);
	}
	/* proc_dostring() would cut a longer value, and a value must be taken whole. */
	if (*ppos || *lenp >= sizeof(text))
		return -EINVAL;
	rc = proc_dostring(&string, write, buffer, lenp, ppos);
	return rc ?: s->store(s->ctx, id, text);
}

/**
 * ferry_sysctl_register() - Register a directory of sysctls.
 * @path: the path below /proc/sys.
 * @names: the names of the sysctls; must stay valid until they are unregistered.
 * @modes: the file modes of the sysctls.
 * @nr: the number of sysctls.
 * @ctx: passed to @show and @store.
 * @show: formats a value.
 * @store: takes a value.
 *
 * May sleep.
 *
 * Return: the directory, for ferry_sysctl_unregister(), or an ERR_PTR().
 */
struct ferry_sysctl *ferry_sysctl_register(const char *path,
					   const char *const *names,
					   const unsigned short *modes,
					   unsigned int nr, void *ctx,
					   ferry_sysctl_show_t show,
					   ferry_sysctl_store_t store)
{
	struct ferry_sysctl *s;

	s = kzalloc_flex(*s, table, nr);
	if (!s)
		return ERR_PTR(-ENOMEM);
	s->nr = nr;
	s->ctx = ctx;
	s->show = show;
	s->store = store;
	for (unsigned int i = 0; i < nr; i++) {
		s->table[i].procname = names[i];
		s->table[i].maxlen = FERRY_SYSCTL_MAX;
		s->table[i].mode = modes[i];
		s->table[i].proc_handler = ferry_sysctl_handler;
		s->table[i].extra1 = s;
		s->table[i].extra2 = (void *)(unsigned long)i;
	}
	s->header = register_sysctl_sz(path, s->table, nr);
	if (!s->header) {
		kfree(s);
		return ERR_PTR(-ENOMEM);
	}
	return s;
}

/**
 * ferry_sysctl_unregister() - Remove a directory of sysctls.
 * @s: the directory, from ferry_sysctl_register().
 *
 * May sleep: waits for readers and writers that are inside @show and @store.
 */
void ferry_sysctl_unregister(struct ferry_sysctl *s)
{
	unregister_sysctl_table(s->header);
	kfree(s);
}
