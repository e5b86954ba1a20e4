/*
 * Makes Linux hang from a program, without a module.
 *
 *     hang mutex      a thread sleeps with a pipe's mutex, and three processes block on it: all read from the pipe
 *     hang rwsem      the same with a file's semaphore for readers and writers: all write to the file
 *     hang cpu        this program never leaves CPU 1 to anything of a lower priority
 *
 * The buffer of the thread with the lock is a page that userfaultfd(2) is to provide and never does: the kernel waits
 * for it in the middle of the system call. A line on the standard output says when all this is so.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096

static int writes;
static int file;
static char *page;

static void call(char *buffer)
{
	/* A write at the file's position would wait for the position's own mutex. */
	if ((writes ? pwrite(file, buffer, 1, 0) : read(file, buffer, 1)) < 0)
		err(1, "call");
}

static void *hold(void *unused)
{
	prctl(PR_SET_NAME, "holder");
	call(page);
	return unused;
}

/* Registers the page, and returns the descriptor on which the kernel asks for it. */
static int withhold_page(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int faults = syscall(SYS_userfaultfd, O_CLOEXEC);

	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	range.range.start = (unsigned long)page;
	range.range.len = PAGE;
	if (faults < 0 || page == MAP_FAILED || ioctl(faults, UFFDIO_API, &api) || ioctl(faults, UFFDIO_REGISTER, &range))
		err(1, "userfaultfd");
	return faults;
}

/* Opens what all read from, with a byte for the holder in it, or what all write to. */
static void open_file(void)
{
	int ends[2];

	if (writes) {
		file = open("/file", O_CREAT | O_RDWR, 0600);
		if (file < 0)
			err(1, "/file");
		return;
	}
	if (pipe(ends) || write(ends[1], "x", 1) != 1)
		err(1, "pipe");
	file = ends[0];
}

static void block_on_lock(void)
{
	struct uffd_msg fault;
	pthread_t holder;
	char byte = 0;
	int faults;

	open_file();
	faults = withhold_page();
	if (pthread_create(&holder, NULL, hold, NULL))
		errx(1, "no thread");
	/* Returns when the holder needs the page, which is with the lock. */
	if (read(faults, &fault, sizeof(fault)) != sizeof(fault))
		err(1, "fault");
	for (int waiter = 0; waiter < 3; waiter++) {
		if (fork() == 0) {
			prctl(PR_SET_NAME, "waiter");
			call(&byte);
			_exit(0);
		}
	}
	puts("hangs");
	fflush(stdout);
	pause();
}

static void keep_cpu(void)
{
	struct sched_param priority = { .sched_priority = sched_get_priority_max(SCHED_FIFO) };
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(1, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus) || sched_setscheduler(0, SCHED_FIFO, &priority))
		err(1, "schedule");
	puts("hangs");
	fflush(stdout);
	for (;;)
		;
}

int main(int argc, char **argv)
{
	const char *kind = argc == 2 ? argv[1] : "";

	writes = !strcmp(kind, "rwsem");
	if (writes || !strcmp(kind, "mutex"))
		block_on_lock();
	else if (!strcmp(kind, "cpu"))
		keep_cpu();
	errx(2, "usage: hang mutex|rwsem|cpu");
}
