// SPDX-License-Identifier: GPL-2.0
/* Opens the ports of the guest and talks to QEMU's monitor. ports.h describes the interface. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ports.h"

int port_open(const char *from, const char *to, char *name, size_t len)
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

bool port_says(int fd, const char *what)
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

int monitor_open(void)
{
	char name[64];
	int fd = port_open("ferry.qmp", "ferry.qmp", name, sizeof(name));

	/*
	 * Fails if an earlier program has negotiated already, and then the monitor is ready
	 * as well.
	 */
	if (fd >= 0 && dprintf(fd, "{\"execute\":\"qmp_capabilities\"}\n") > 0)
		port_says(fd, "\"return\"");
	return fd;
}
