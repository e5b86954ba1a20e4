// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Hangs of kernel threads, for the moments that make.sh stores: `insmod hang.ko moment=NAME`. Each thread is bound to
 * the CPU that its name ends in. They hang until the machine ends.
 */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/smp.h>
#include <linux/spinlock.h>

static char *moment = "";
module_param(moment, charp, 0);

static DEFINE_SPINLOCK(log_spinlock);
static DEFINE_SPINLOCK(tree_spinlock);
static DEFINE_MUTEX(log_mutex);
static DEFINE_MUTEX(tree_mutex);
static DECLARE_RWSEM(tree_rwsem);

static atomic_t holders;

/* Interrupts are off, so that no CPU takes its tick or another one's call any more. */
static noinline void take_both_spinlocks(spinlock_t *first, spinlock_t *second)
{
	unsigned long flags;

	spin_lock_irqsave(first, flags);
	atomic_inc(&holders);
	while (atomic_read(&holders) < 2)
		cpu_relax();
	spin_lock(second);
	spin_unlock(second);
	spin_unlock_irqrestore(first, flags);
}

static noinline void take_both_mutexes(struct mutex *first, struct mutex *second)
{
	mutex_lock(first);
	msleep(300);
	mutex_lock(second);
	mutex_unlock(second);
	mutex_unlock(first);
}

static int spin_reader(void *unused) { take_both_spinlocks(&log_spinlock, &tree_spinlock); return 0; }
static int spin_writer(void *unused) { take_both_spinlocks(&tree_spinlock, &log_spinlock); return 0; }
static int reader(void *unused) { take_both_mutexes(&log_mutex, &tree_mutex); return 0; }
static int writer(void *unused) { take_both_mutexes(&tree_mutex, &log_mutex); return 0; }

static int hold_rwsem(void *unused)
{
	down_write(&tree_rwsem);
	for (;;)
		msleep(100000);
	return 0;
}

static int want_rwsem_to_write(void *unused) { msleep(300); down_write(&tree_rwsem); return 0; }
static int want_rwsem_to_read(void *unused) { msleep(300); down_read(&tree_rwsem); return 0; }

/* The holder of the mutex spins: whoever waits for it waits for that CPU. */
static int spin_with_mutex(void *unused)
{
	mutex_lock(&log_mutex);
	preempt_disable();
	for (;;)
		cpu_relax();
	return 0;
}

static int want_mutex(void *unused) { msleep(300); mutex_lock(&log_mutex); return 0; }

static int spin_without_interrupts(void *unused)
{
	local_irq_disable();
	for (;;)
		cpu_relax();
	return 0;
}

static void answer(void *unused) { }

static int call_cpu1(void *unused)
{
	msleep(500);
	smp_call_function_single(1, answer, NULL, 1);
	return 0;
}

static const struct {
	const char *moment;
	int (*function)(void *unused);
	int cpu;
	const char *name;
} threads[] = {
	{ "spinlocks", spin_reader, 1, "reader1" },
	{ "spinlocks", spin_writer, 2, "writer2" },
	{ "mutexes", reader, 1, "reader1" },
	{ "mutexes", writer, 2, "writer2" },
	{ "rwsem", hold_rwsem, 1, "holder1" },
	{ "rwsem", want_rwsem_to_write, 2, "writer2" },
	{ "rwsem", want_rwsem_to_read, 3, "reader3" },
	{ "holder", spin_with_mutex, 1, "holder1" },
	{ "holder", want_mutex, 2, "waiter2" },
	{ "call", spin_without_interrupts, 1, "spinner1" },
	{ "call", call_cpu1, 2, "caller2" },
};

static int __init hang_init(void)
{
	struct task_struct *tasks[ARRAY_SIZE(threads)];
	size_t i, count = 0;

	for (i = 0; i < ARRAY_SIZE(threads); i++) {
		struct task_struct *task;

		if (strcmp(threads[i].moment, moment))
			continue;
		task = kthread_create(threads[i].function, NULL, "%s", threads[i].name);
		if (IS_ERR(task))
			return PTR_ERR(task);
		kthread_bind(task, threads[i].cpu);
		tasks[count++] = task;
	}
	/* The first may hang this CPU: all are woken before it runs. */
	preempt_disable();
	for (i = 0; i < count; i++)
		wake_up_process(tasks[i]);
	preempt_enable();
	pr_info("hang: started\n");
	return 0;
}

module_init(hang_init);
MODULE_DESCRIPTION("Kernel threads that hang");
MODULE_LICENSE("Dual MIT/GPL");
