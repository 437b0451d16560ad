// SPDX-License-Identifier: GPL-2.0
/*
 * Controls models of engines and reads the state of their channels. engine.h describes the
 * interface.
 */
#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"

const char *eng_kind(const char *migrator)
{
	return strcmp(migrator, "ferry_sdxi") ? migrator : "sdxi";
}

int eng_open(const char *migrator)
{
	char name[64], end[32];

	snprintf(end, sizeof(end), ".%s", eng_kind(migrator));
	return port_open("ferry.dev", end, name, sizeof(name));
}

/* Sends a request and reads the answer. Returns true if the model carried it out. */
static bool eng_ask(int fd, char *answer, size_t len, const char *request)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	size_t n = 0;

	if (dprintf(fd, "%s\n", request) < 0)
		return false;
	while (n < len - 1 && poll(&p, 1, 20000) > 0 && read(fd, answer + n, 1) == 1 &&
	       answer[n] != '\n')
		n++;
	answer[n] = '\0';
	return strstr(answer, "\"ok\":true");
}

bool eng_do(int fd, const char *request)
{
	char answer[8192];

	if (eng_ask(fd, answer, sizeof(answer), request))
		return true;
	ferry_note("%s: %s", request, answer);
	return false;
}

bool eng_struck(int fd)
{
	char answer[8192];

	return eng_ask(fd, answer, sizeof(answer), "{\"cmd\":\"faults\"}") &&
	       strstr(answer, "\"armed\":[]");
}

bool eng_has_struck(void *fd)
{
	return eng_struck(*(int *)fd);
}

bool eng_copies(void *bytes)
{
	return ferry_stat("engine_bytes") > *(long *)bytes;
}

bool eng_calm(int fd)
{
	return eng_do(fd, "{\"cmd\":\"clear\"}") && eng_do(fd, "{\"cmd\":\"release\"}") &&
	       eng_do(fd, "{\"cmd\":\"limit\"}");
}

long eng_state(const char *word)
{
	char buf[16384], line[32], *p;

	if (ferry_read(FERRY_DEBUGFS "state", buf, sizeof(buf)) <= 0)
		return -1;
	snprintf(line, sizeof(line), "\n%s ", word);
	p = strstr(buf, line);
	return p ? strtol(p + strlen(line), NULL, 10) : -1;
}

long eng_channels(void)
{
	return eng_state("channels");
}

long eng_busy(const char *state)
{
	char buf[16384], *next = buf, *line, *p;
	size_t len = strlen(state);
	long n = 0, lane;
	int at;

	if (ferry_read(FERRY_DEBUGFS "state", buf, sizeof(buf)) <= 0)
		return -1;
	while ((line = strsep(&next, "\n"))) {
		if (sscanf(line, "channel %ld %n", &lane, &at) != 1 ||
		    strncmp(line + at, state, len) || line[at + len] != ' ')
			continue;
		p = strstr(line, " busy ");
		n += p && strtol(p + 6, NULL, 10) > 0;
	}
	return n;
}

bool eng_all_empty(void *arg)
{
	char buf[16384], *next = buf, *line;

	if (ferry_read(FERRY_DEBUGFS "state", buf, sizeof(buf)) <= 0)
		return false;
	while ((line = strsep(&next, "\n")))
		if (!strncmp(line, "channel ", 8) && !strstr(line, " empty "))
			return false;
	return true;
}

bool eng_has_channels(void *arg)
{
	return eng_channels() >= *(long *)arg;
}

struct eng_resting eng_resting(void)
{
	char buf[16384], *next = buf, *line, *p;
	struct eng_resting r = {};
	long ms, left;

	if (ferry_read(FERRY_DEBUGFS "state", buf, sizeof(buf)) <= 0)
		return r;
	while ((line = strsep(&next, "\n"))) {
		if (strncmp(line, "channel ", 8))
			continue;
		p = strstr(line, " quarantines ");
		r.quarantines += p ? strtol(p + strlen(" quarantines "), NULL, 10) : 0;
		p = strstr(line, " pause ");
		if (p && sscanf(p, " pause %ld retry %ld", &ms, &left) == 2 && ms > r.pause) {
			r.pause = ms;
			r.left = left;
		}
		r.n += p || strstr(line, " quarantined (");
	}
	return r;
}

bool eng_has_all(void *arg)
{
	return eng_has_channels(arg) && !eng_resting().n;
}

bool eng_rearm(long want)
{
	int i;

	for (i = 0; i < 20; i++) {
		if (eng_has_all(&want))
			return true;
		ferry_write(FERRY_DEBUGFS "rearm", "1");
		ferry_wait(eng_has_all, &want, 2000);
	}
	return eng_channels() >= want;
}

bool eng_function(const char *migrator, char *name, size_t len)
{
	char path[100];
	struct dirent *d;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s", migrator);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (d = readdir(dir)))
		if (!strncmp(d->d_name, "0000:", 5)) {
			snprintf(name, len, "%.31s", d->d_name);
			found = true;
		}
	closedir(dir);
	return found;
}

int eng_bind(const char *migrator, const char *what, const char *function)
{
	char path[100];

	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s/%s", migrator, what);
	return ferry_write(path, "%s", function);
}
