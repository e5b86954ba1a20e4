// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The inner half of the call chain, with functions named as in near.c.
 */
#include <linux/compiler.h>
#include <linux/kernel.h>

#include "logmod.h"

static unsigned long steps[4];

static noinline __noclone void perform(act_fn act, unsigned long seconds)
{
	act(seconds);
	KEEP_FRAME();
}

static noinline __noclone void relay(act_fn act, unsigned long seconds)
{
	perform(act, seconds);
	KEEP_FRAME();
}

/* Larger than its namesake. */
static noinline __noclone void step(act_fn act, unsigned long seconds)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(steps); i++)
		WRITE_ONCE(steps[i], READ_ONCE(steps[i]) * 3 + seconds);
	relay(act, seconds);
	WRITE_ONCE(steps[0], 0);
}

void logmod_far(act_fn act, unsigned long seconds)
{
	step(act, seconds);
	KEEP_FRAME();
}
