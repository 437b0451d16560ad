// SPDX-License-Identifier: GPL-2.0
/* Controls one instance of tracefs. tracing.h describes the interface. */
#include "tracing.h"

/* Writes to a file of the trace. Files such as filters add a second line to the first. */
static int trc_write(const struct trc *t, const char *file, const char *text)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", t->at, file);
	return ferry_write(path, "%s", text);
}

void trc_end(struct trc *t)
{
	if (*t->at)
		rmdir(t->at);
	*t->at = '\0';
}

int trc_begin(struct trc *t, const char *name, unsigned int kib)
{
	char size[16];
	int ret;

	snprintf(t->at, sizeof(t->at), TRC_INSTANCES "%s", name);
	rmdir(t->at);
	if (mkdir(t->at, 0700)) {
		ret = -errno;
		*t->at = '\0';
		return ret;
	}
	snprintf(size, sizeof(size), "%u", kib);
	ret = trc_write(t, "buffer_size_kb", size);
	if (ret)
		trc_end(t);
	return ret;
}

int trc_event(const struct trc *t, const char *event, const char *filter)
{
	char file[100];
	int ret;

	if (filter) {
		snprintf(file, sizeof(file), "events/%s/filter", event);
		ret = trc_write(t, file, filter);
		if (ret)
			return ret;
	}
	snprintf(file, sizeof(file), "events/%s/enable", event);
	return trc_write(t, file, "1");
}

int trc_pid(const struct trc *t, int pid)
{
	char path[200];
	int fd, ret;

	snprintf(path, sizeof(path), "%s/set_event_pid", t->at);
	fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = dprintf(fd, "%d\n", pid) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

int trc_clear(const struct trc *t)
{
	char path[200];
	int fd;

	snprintf(path, sizeof(path), "%s/trace", t->at);
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

int trc_on(const struct trc *t, bool on)
{
	return trc_write(t, "tracing_on", on ? "1" : "0");
}

char *trc_read(const struct trc *t)
{
	unsigned long there = 0, written = 0;
	char path[200], *text, *p;

	snprintf(path, sizeof(path), "%s/trace", t->at);
	text = ferry_read_all(path);
	p = text ? strstr(text, "entries-in-buffer/entries-written: ") : NULL;
	if (!p || sscanf(p, "entries-in-buffer/entries-written: %lu/%lu", &there,
			 &written) != 2 || there != written) {
		ferry_note("%s: %lu of %lu entries are left", t->at, there, written);
		free(text);
		return NULL;
	}
	return text;
}
