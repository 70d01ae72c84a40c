/* unwind.h - backtraces through translated code. */
#ifndef NOVT_RUNTIME_UNWIND_H
#define NOVT_RUNTIME_UNWIND_H

#include <stddef.h>
#include <stdint.h>

/* Tells libunwind and libgcc (C++ exceptions, backtrace(3)) about code in [lo, lo + size). eh_frame
 * is a CIE, one FDE for the whole range and a terminator; table is {0, FDE - lo}, which is how
 * libunwind finds the FDE. Both stay where they are until rt_unwind_forget(). NULL: out of memory.
 */
void *rt_unwind_register(const uint8_t *lo, size_t size, const uint8_t *eh_frame,
                         const int32_t table[2]);
void rt_unwind_forget(void *registration);

/* Upward call: puts what is known about a host pc (translated code) or, for NULL, about the vCPU of
 * this thread into text; returns its length, 0 for nothing. Any context; must not allocate. */
typedef size_t rt_describe_fn(const void *pc, char *text, size_t size);
void rt_unwind_describe_with(rt_describe_fn *describe);

#endif
