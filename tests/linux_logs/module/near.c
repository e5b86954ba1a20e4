// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The outer half of the call chain. relay() and step() are in far.c as well: relay() with the same
 * size, so that name and size cannot tell the two apart, step() with another one, so that they can.
 */
#include <linux/compiler.h>
#include <linux/kernel.h>

#include "logmod.h"

static noinline __noclone void relay(act_fn act, unsigned long seconds)
{
	logmod_far(act, seconds);
	KEEP_FRAME();
}

static noinline __noclone void step(act_fn act, unsigned long seconds)
{
	relay(act, seconds);
	KEEP_FRAME();
}

void logmod_near(act_fn act, unsigned long seconds)
{
	step(act, seconds);
	KEEP_FRAME();
}
