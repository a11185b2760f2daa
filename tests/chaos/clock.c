/* A clock that can be stepped while a server runs: PostgreSQL takes the time of a commit, and now(), from gettimeofday.
   LD_PRELOAD=clock.so CHAOS_CLOCK=FILE; FILE holds the microseconds to add, 8 bytes, and is read at every look at the clock. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *shift;

__attribute__((constructor)) static void open_shift(void)
{
	const char *name = getenv("CHAOS_CLOCK");
	int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
	void *page;

	if (file < 0)
		return;
	page = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
	close(file);
	if (page != MAP_FAILED)
		shift = page;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec real;
	long long us;

	(void) zone;
	if (clock_gettime(CLOCK_REALTIME, &real))
		return -1;
	us = real.tv_sec * 1000000LL + real.tv_nsec / 1000 + (shift ? *shift : 0);
	now->tv_sec = us / 1000000;
	now->tv_usec = us % 1000000;
	return 0;
}
