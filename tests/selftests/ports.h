/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Ports of the guest that scripts/vm makes: QEMU's monitor, and the control ports of models
 * of engines.
 */
#ifndef FERRY_PORTS_H
#define FERRY_PORTS_H

#include <stddef.h>

#include "ferry_util.h"

/*
 * Opens the first port whose name begins with @from and ends in @to, and writes the name to
 * @name. Returns -1 if there is none.
 */
int port_open(const char *from, const char *to, char *name, size_t len);

/* Reads until @what or an error arrives, for 10 s at most. Returns true for @what. */
bool port_says(int fd, const char *what);

/* Opens QEMU's monitor, and makes it ready for commands. Returns -1 if there is none. */
int monitor_open(void);

#endif /* FERRY_PORTS_H */
