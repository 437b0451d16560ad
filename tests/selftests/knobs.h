/* SPDX-License-Identifier: GPL-2.0 */
/* Values that a knob gets while memory moves, including the smallest and the largest one. */
#ifndef FERRY_KNOBS_H
#define FERRY_KNOBS_H

struct knob_values {
	const char *name;
	const char *values[4];
};

extern const struct knob_values knobs[16];

#endif
