// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * logmod: does, on request, what Linux prints a stack for. Each act is at the end of the same call
 * chain (near.c, far.c), and most have an inlined function at their tip.
 *
 *   insmod logmod.ko
 *   echo KIND >/sys/module/logmod/parameters/kind
 *
 * warn        a warning, from the writer's own context
 * oops        a write through a NULL pointer, likewise
 * jump        a call through a NULL pointer, likewise
 * noreturn    a panic, called by the last instruction of a function, likewise
 * softlockup  the writer spins with preemption off and interrupts on
 * spin        a kernel thread and a work item spin, each on a CPU of its own
 * sleep       eight kernel threads sleep for good
 *
 * What spins gives up after `seconds`.
 */
#include <linux/bug.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/workqueue.h>

#include "logmod.h"

static unsigned long seconds = 60;
module_param(seconds, ulong, 0644);

struct record {
	unsigned long unused[5];
	unsigned long value;
};

static struct record *missing;
static void (*nowhere)(void);
static unsigned long turns;

static __always_inline void store(struct record *record, unsigned long value)
{
	WRITE_ONCE(record->value, value);
}

static noinline __noclone void fill(struct record *record, unsigned long value)
{
	store(record, value);
	KEEP_FRAME();
}

static noinline __noclone void act_oops(unsigned long value)
{
	fill(READ_ONCE(missing), value);
	KEEP_FRAME();
}

static noinline __noclone void act_jump(unsigned long value)
{
	READ_ONCE(nowhere)();
	KEEP_FRAME();
}

static noinline __noclone void act_noreturn(unsigned long value)
{
	logmod_last();
	KEEP_FRAME();
}

static __always_inline bool turn(unsigned long end)
{
	WRITE_ONCE(turns, READ_ONCE(turns) + 1);
	cpu_relax();
	return time_before(jiffies, end);
}

static noinline __noclone void spin_until(unsigned long end)
{
	while (turn(end))
		;
}

static noinline __noclone void act_spin(unsigned long seconds)
{
	spin_until(jiffies + seconds * HZ);
	KEEP_FRAME();
}

static noinline __noclone void act_softlockup(unsigned long seconds)
{
	preempt_disable();
	spin_until(jiffies + seconds * HZ);
	preempt_enable();
}

static noinline __noclone void act_warn(unsigned long value)
{
	WARN(READ_ONCE(missing) == NULL, "logmod: a warning, %lu\n", value);
}

static __always_inline void doze(void)
{
	schedule_timeout_idle(MAX_SCHEDULE_TIMEOUT);
}

static noinline __noclone void act_sleep(unsigned long value)
{
	for (;;)
		doze();
}

static int spinner(void *unused)
{
	logmod_near(act_spin, seconds);
	return 0;
}

static int sleeper(void *unused)
{
	logmod_near(act_sleep, seconds);
	return 0;
}

static void spin_work(struct work_struct *unused)
{
	logmod_near(act_spin, seconds);
}

static DECLARE_WORK(work, spin_work);

static int start_spin(void)
{
	struct task_struct *task = kthread_create(spinner, NULL, "logmod-spin");

	if (IS_ERR(task))
		return PTR_ERR(task);
	kthread_bind(task, 1);
	wake_up_process(task);
	schedule_work_on(2, &work);
	return 0;
}

static int start_sleep(void)
{
	int i;

	for (i = 0; i < 8; i++) {
		struct task_struct *task = kthread_run(sleeper, NULL, "logmod-sleep/%d", i);

		if (IS_ERR(task))
			return PTR_ERR(task);
	}
	return 0;
}

static int set_kind(const char *kind, const struct kernel_param *unused)
{
	if (sysfs_streq(kind, "spin"))
		return start_spin();
	if (sysfs_streq(kind, "sleep"))
		return start_sleep();
	if (sysfs_streq(kind, "warn"))
		logmod_near(act_warn, seconds);
	else if (sysfs_streq(kind, "oops"))
		logmod_near(act_oops, seconds);
	else if (sysfs_streq(kind, "jump"))
		logmod_near(act_jump, seconds);
	else if (sysfs_streq(kind, "noreturn"))
		logmod_near(act_noreturn, seconds);
	else if (sysfs_streq(kind, "softlockup"))
		logmod_near(act_softlockup, seconds);
	else
		return -EINVAL;
	return 0;
}

static const struct kernel_param_ops kind_ops = { .set = set_kind };
module_param_cb(kind, &kind_ops, NULL, 0200);

static int __init logmod_init(void)
{
	return 0;
}
module_init(logmod_init);

MODULE_DESCRIPTION("Prints the stacks that symbolize is tested with");
MODULE_LICENSE("Dual MIT/GPL");
