/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Models of engines from inside the guest: the control protocol through the ports that
 * scripts/vm --device makes, the driver's binding, and the state of ferry's channels.
 */
#ifndef FERRY_ENGINE_H
#define FERRY_ENGINE_H

#include "hazards.h"
#include "ports.h"

/* Returns the kind of model that the engine of a migrator is. */
const char *eng_kind(const char *migrator);

/* Opens the port of the model of a migrator's engine. Returns -1 if there is none. */
int eng_open(const char *migrator);

/* Sends a request. Returns true if the model carried it out, and prints its answer if not. */
bool eng_do(int fd, const char *request);

/* Returns true if each fault that was injected has come. */
bool eng_struck(int fd);

/* Takes faults and limits back and releases hung channels, as after power-on. Keeps work. */
bool eng_calm(int fd);

/* Returns the number after @word at the begin of a line of ferry/state, or -1 without one. */
long eng_state(const char *word);

/* Returns the number of channels in use, or -1 if the state cannot be read. */
long eng_channels(void);

/*
 * Returns the number of channels in state @state with descriptors in flight, or -1 if the state
 * cannot be read.
 */
long eng_busy(const char *state);

/* Returns true if each channel's slot is empty: all channels have been given back. */
bool eng_all_empty(void *arg);

/* Returns true if at least *(long *)@arg channels are in use. */
bool eng_has_channels(void *arg);

/* The channels that are in quarantine or are tried again, from the lines of ferry/state. */
struct eng_resting {
	/* Their number. */
	long n;
	/* Entries into quarantine, summed over all channels. */
	long quarantines;
	/* The longest pause before a quiet channel is tried again, in ms; 0 without one. */
	long pause;
	/* The rest of that pause, in ms. */
	long left;
};

/* Reads the channels that rest. */
struct eng_resting eng_resting(void);

/* Returns true if at least *(long *)@arg channels are in use and none will be tried again. */
bool eng_has_all(void *arg);

/*
 * Rearms quarantined channels until @want channels are in use and, within 20 attempts, none
 * rests. Returns true if @want channels are in use.
 */
bool eng_rearm(long want);

/* Writes the PCI function of the driver with the migrator's name to @name. */
bool eng_function(const char *migrator, char *name, size_t len);

/* Writes @function to the driver's file @what, which is bind or unbind. */
int eng_bind(const char *migrator, const char *what, const char *function);

#endif
