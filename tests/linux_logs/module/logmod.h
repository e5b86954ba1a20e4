/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the units of logmod share: the act at the end of the call chain, and the two halves of
 * the chain that lead to it.
 */
#ifndef LOGMOD_H
#define LOGMOD_H

typedef void (*act_fn)(unsigned long seconds);

/* A compiler that sees no effect behind a call makes a jump of it, and its frame is gone. */
#define KEEP_FRAME() asm volatile("" ::: "memory")

/* near.c, which goes on to far.c */
void logmod_near(act_fn act, unsigned long seconds);
/* far.c, which calls the act */
void logmod_far(act_fn act, unsigned long seconds);
/* last.S, which panics */
void logmod_last(void);

#endif
