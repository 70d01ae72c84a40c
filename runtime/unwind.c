/* unwind.c - backtraces through translated code, and the end after a failed assertion.
 *
 * Two unwinders live in a process: libunwind, which novt uses, and libgcc's, which backtrace(3) and
 * C++ use. Both find a function by its pc in lists of registered ranges; translated code is one
 * range with one rule: the frame is rt_enter's, found through r12 (enter.S).
 *
 * A failed assertion prints what broke, the vCPU and a backtrace to standard error, one write() a
 * line, then aborts. Nothing on that way allocates or takes a lock of ours: it may be reached in
 * the fault handler. libunwind takes the loader's lock (dl_iterate_phdr).
 *
 * Process-wide state: the unwinders' lists, and the pointer to the monitor's description. */
#include "runtime/unwind.h"
#include "runtime/rt.h"

#define UNW_LOCAL_ONLY
#include <libunwind.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FRAMES 64

/* libgcc, no header. __register_frame() would do, but does not check its malloc(). */
void __register_frame_info(const void *eh_frame, void *object);
void *__deregister_frame_info(const void *eh_frame);
struct dwarf_eh_bases {
    void *tbase, *dbase, *func;
};
const void *_Unwind_Find_FDE(const void *pc, struct dwarf_eh_bases *bases);

struct registration {
    unw_dyn_info_t info;
    const uint8_t *eh_frame;
    void *object[8]; /* libgcc's struct object: six words */
};

static rt_describe_fn *describe;

void *rt_unwind_register(const uint8_t *lo, size_t size, const uint8_t *eh_frame,
                         const int32_t table[2])
{
    struct registration *r = calloc(1, sizeof(*r));
    struct dwarf_eh_bases bases;

    if (!r)
        return NULL;
    r->info.start_ip = (unw_word_t)lo;
    r->info.end_ip = (unw_word_t)lo + size;
    r->info.format = UNW_INFO_FORMAT_REMOTE_TABLE;
    r->info.u.rti.segbase = (unw_word_t)lo;
    r->info.u.rti.table_len = 1; /* in words: one row of two 32-bit numbers */
    r->info.u.rti.table_data = (unw_word_t)table;
    _U_dyn_register(&r->info);
    r->eh_frame = eh_frame;
    __register_frame_info(eh_frame, r->object);
    /* libgcc sorts, and allocates, at the first search: not in a signal handler. */
    _Unwind_Find_FDE(lo, &bases);
    return r;
}

void rt_unwind_forget(void *registration)
{
    struct registration *r = registration;

    if (!r)
        return;
    _U_dyn_cancel(&r->info);
    __deregister_frame_info(r->eh_frame);
    free(r);
}

void rt_unwind_describe_with(rt_describe_fn *fn)
{
    __atomic_store_n(&describe, fn, __ATOMIC_RELEASE);
}

/* ---- a failed assertion ---- */

static void put(const char *text, size_t len)
{
    while (len) {
        ssize_t n = write(STDERR_FILENO, text, len);
        if (n <= 0)
            return;
        text += n;
        len -= (size_t)n;
    }
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    char line[400];
    va_list args;

    va_start(args, format);
    int n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    put(line, n < (int)sizeof(line) ? (size_t)n : sizeof(line) - 1);
}

static size_t described(const void *pc, char *text, size_t size)
{
    rt_describe_fn *fn = __atomic_load_n(&describe, __ATOMIC_ACQUIRE);
    return fn ? fn(pc, text, size) : 0;
}

static void print_frame(unsigned n, unw_cursor_t *cursor)
{
    unw_word_t pc = 0, offset = 0;
    char name[200];

    unw_get_reg(cursor, UNW_REG_IP, &pc);
    if (!described((const void *)pc, name, sizeof(name)) &&
        unw_get_proc_name(cursor, name, sizeof(name), &offset) < 0)
        snprintf(name, sizeof(name), "?");
    say("  #%-2u %016llx %s", n, (unsigned long long)pc, name);
    if (offset)
        say("+0x%llx", (unsigned long long)offset);
    put("\n", 1);
}

static void print_backtrace(void)
{
    unw_context_t context;
    unw_cursor_t cursor;

    unw_getcontext(&context);
    if (unw_init_local2(&cursor, &context, 0) < 0)
        return;
    for (unsigned n = 0; n < MAX_FRAMES; n++) {
        print_frame(n, &cursor);
        if (unw_step(&cursor) <= 0)
            return;
    }
}

void rt_assert_failed(const char *what, const char *file, int line)
{
    static __thread bool failing;
    char text[300];

    say("novt: internal error: %s (%s:%d)\n", what, file, line);
    if (failing) /* while telling about another one */
        abort();
    failing = true;
    if (described(NULL, text, sizeof(text)))
        say("  %s\n", text);
    print_backtrace();
    abort();
}
