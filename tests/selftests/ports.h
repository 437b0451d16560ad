/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Ports of the guest that scripts/vm makes: QEMU's monitor, and the control of models of
 * engines. To be included after ferry_util.h.
 */
#ifndef FERRY_PORTS_H
#define FERRY_PORTS_H

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

/* Opens the first port whose name begins with @from and ends in @to; -1 if there is none. */
static __maybe_unused int port_open(const char *from, const char *to, char *name, size_t len)
{
	char path[300];
	struct dirent *e;
	int fd = -1;
	size_t n;
	DIR *d;

	d = opendir("/sys/class/virtio-ports");
	while (d && fd < 0 && (e = readdir(d))) {
		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", e->d_name);
		if (ferry_read(path, name, len) <= 0)
			continue;
		n = strlen(name);
		if (strncmp(name, from, strlen(from)) || n < strlen(to) ||
		    strcmp(name + n - strlen(to), to))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", e->d_name);
		fd = open(path, O_RDWR | O_CLOEXEC);
	}
	if (d)
		closedir(d);
	return fd;
}

/* Reads until @what or an error has been said, for 10 s at most. */
static __maybe_unused bool port_says(int fd, const char *what)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char text[4096];
	size_t got = 0;
	ssize_t n;

	while (got < sizeof(text) - 1 && poll(&p, 1, 10000) == 1) {
		n = read(fd, text + got, sizeof(text) - 1 - got);
		if (n <= 0)
			break;
		got += n;
		text[got] = '\0';
		if (strstr(text, "\"error\""))
			return false;
		if (strstr(text, what))
			return true;
	}
	return false;
}

/* QEMU's monitor, ready for commands; -1 if there is none. */
static __maybe_unused int monitor_open(void)
{
	char name[64];
	int fd = port_open("ferry.qmp", "ferry.qmp", name, sizeof(name));

	/* Somebody may have said it before: then that is an error, and all is well. */
	if (fd >= 0 && dprintf(fd, "{\"execute\":\"qmp_capabilities\"}\n") > 0)
		port_says(fd, "\"return\"");
	return fd;
}

#endif /* FERRY_PORTS_H */
