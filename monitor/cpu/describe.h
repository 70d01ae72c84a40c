/* describe.h - where this thread's vCPU is, in words. */
#ifndef NOVT_MONITOR_CPU_DESCRIBE_H
#define NOVT_MONITOR_CPU_DESCRIBE_H

#include <stddef.h>

/* An rt_describe_fn (runtime/unwind.h). */
size_t mon_describe(const void *pc, char *text, size_t size);

#endif
