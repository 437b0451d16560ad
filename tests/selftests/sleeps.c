// SPDX-License-Identifier: GPL-2.0
/* Finds the sleeps of movers in a trace. sleeps.h describes the interface. */
#include "sleeps.h"

int slp_begin(struct trc *t, const char *name)
{
	/* State 256 is a task that was preempted. */
	static const char sleeps[] = "prev_state != 0 && prev_state != 256";
	int ret = trc_begin(t, name, 4096);

	if (!ret)
		ret = trc_event(t, "migrate/mm_migrate_pages_start", NULL);
	if (!ret)
		ret = trc_event(t, "migrate/mm_migrate_pages", NULL);
	if (!ret)
		ret = trc_event(t, "sched/sched_switch", sleeps);
	if (!ret && ferry_loaded())
		ret = trc_event(t, "ferry/ferry_wait", NULL);
	return ret;
}

static struct slp_mover *slp_mover(struct slp_mover *all, int pid)
{
	int i;

	for (i = 0; i < SLP_MOVERS; i++)
		if (all[i].pid == pid)
			return &all[i];
	return NULL;
}

static void slp_waited(struct slp_mover *m, const struct race_event *e,
		       struct slp_seen *seen)
{
	u64 ns = race_event_value(e, "ns=");
	int i;

	if (!m || !m->asked)
		return;
	m->waits++;
	seen->waits++;
	seen->undone += race_event_value(e, "done=") != 1;
	if (ns > seen->longest_ns)
		seen->longest_ns = ns;
	/* Times in a trace are truncated to the microsecond. */
	for (i = 0; i < m->recent; i++)
		seen->in_waits += m->slept_at[i] + ns + 1000 >= e->ns;
	m->recent = 0;
}

int slp_look(const struct trc *t, const char *mode, const char *reason, struct slp_seen *seen)
{
	static struct slp_mover movers[SLP_MOVERS];
	char *text = trc_read(t), *next = text, want[64];
	struct slp_mover *m;
	struct race_event e;

	memset(seen, 0, sizeof(*seen));
	memset(movers, 0, sizeof(movers));
	if (!text)
		return -EIO;
	snprintf(want, sizeof(want), "reason=%s", reason);
	while (race_next_event(&next, &e)) {
		m = slp_mover(movers, e.pid);
		if (!strcmp(e.name, "mm_migrate_pages_start")) {
			if (!m)
				m = slp_mover(movers, 0);
			if (!m)
				continue;
			memset(m, 0, sizeof(*m));
			m->pid = e.pid;
			m->from_ns = e.ns;
			m->asked = (!mode || strstr(e.args, mode)) && strstr(e.args, want);
			seen->migrations += m->asked;
		} else if (!strcmp(e.name, "mm_migrate_pages") && m) {
			if (m->asked && m->waits > seen->most)
				seen->most = m->waits;
			if (m->asked && m->waits && e.ns - m->from_ns > seen->whole_ns)
				seen->whole_ns = e.ns - m->from_ns;
			memset(m, 0, sizeof(*m));
		} else if (!strcmp(e.name, "ferry_wait")) {
			slp_waited(m, &e, seen);
		} else if (!strcmp(e.name, "sched_switch") && m && m->asked) {
			seen->sleeps++;
			if (m->recent < SLP_RECENT)
				m->slept_at[m->recent++] = e.ns;
		}
	}
	free(text);
	return 0;
}
