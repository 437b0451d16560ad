/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Models of engines as seen from inside the guest: their control protocol through the ports
 * that scripts/vm --device makes, the driver's binding, and the state of Ferry's channels.
 */
#ifndef FERRY_ENGINE_H
#define FERRY_ENGINE_H

#include "hazards.h"
#include "ports.h"

/* Returns the kind of the model that belongs to a migrator. */
const char *eng_kind(const char *migrator);

/* Opens the port of the model of a migrator's engine. Returns -1 if there is none. */
int eng_open(const char *migrator);

/*
 * Sends a request. Returns true if the model carried it out. Otherwise prints the model's
 * answer.
 */
bool eng_do(int fd, const char *request);

/* Returns true if each injected fault has struck. */
bool eng_struck(int fd);

/* Returns eng_struck() of the port *(int *)@fd. For ferry_wait(). */
bool eng_has_struck(void *fd);

/* Returns true if engines have copied more than *(long *)@bytes. For ferry_wait(). */
bool eng_copies(void *bytes);

/*
 * Clears faults and limits and releases hung channels, as a power-on does. Work in flight
 * stays.
 */
bool eng_calm(int fd);

/* Returns the number after @word at the beginning of a line of ferry/state, or -1 without one. */
long eng_state(const char *word);

/* Returns the number of channels in use, or -1 if the state cannot be read. */
long eng_channels(void);

/*
 * Returns the number of channels in state @state with descriptors in flight, or -1 if the state
 * cannot be read.
 */
long eng_busy(const char *state);

/*
 * Returns true if each channel slot is empty, so all channels have been given back. @arg is
 * unused.
 */
bool eng_all_empty(void *arg);

/* Returns true if at least *(long *)@arg channels are in use. */
bool eng_has_channels(void *arg);

/* The channels that are in quarantine or in a retry, from the lines of ferry/state. */
struct eng_resting {
	/* The number of these channels. */
	long n;
	/* Entries into quarantine, summed over all channels. */
	long quarantines;
	/* The longest pause before a quiet channel is retried, in ms; 0 without one. */
	long pause;
	/* The rest of that pause, in ms. */
	long left;
};

/* Reads the channels that rest. */
struct eng_resting eng_resting(void);

/* Returns true if at least *(long *)@arg channels are in use and no other waits for a retry. */
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
