/* The host behind one file. */
#include "runtime/rt.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(runtime_os, .timeout = 30);

static sigjmp_buf back;

static void on_segv(int number)
{
    (void)number;
    siglongjmp(back, 1);
}

/* Whether a store to p faults. */
static bool store_faults(volatile uint8_t *p)
{
    struct sigaction action = {.sa_handler = on_segv}, before;
    volatile bool faulted = true;

    sigaction(SIGSEGV, &action, &before);
    if (!sigsetjmp(back, 1)) {
        *p = 1;
        faulted = false;
    }
    sigaction(SIGSEGV, &before, NULL);
    return faulted;
}

Test(runtime_os, two_shared_views_are_the_same_memory)
{
    int fd = rt_os_memfd("test", 8192);

    cr_assert_geq(fd, 0);
    uint8_t *a = rt_os_map_shared(fd, 0, 8192, RT_PROT_RW);
    uint8_t *b = rt_os_map_shared(fd, 4096, 4096, RT_PROT_R);
    cr_assert(a && b);
    a[4096] = 42;
    cr_expect_eq(b[0], 42);
    rt_os_release(a, 8192);
    rt_os_release(b, 4096);
    rt_os_close(fd);
}

Test(runtime_os, anonymous_memory_mapped_twice_is_written_here_and_runs_there)
{
    static const uint8_t answer[] = {0xb8, 42, 0, 0, 0, 0xc3}; /* mov $42, %eax; ret */
    uint8_t *rx = NULL, *rw = rt_os_map_twice(8192, &rx);
    int (*code)(void);

    cr_assert(rw && rx && rw != rx);
    memcpy(rw, answer, sizeof(answer));
    memcpy(&code, &rx, sizeof(code));
    cr_expect_eq(code(), 42);
    cr_expect(store_faults(rx), "the executable view is not writable");
    cr_expect(!store_faults(rw + 4096));
    rt_os_release(rw, 8192);
    rt_os_release(rx, 8192);
}

Test(runtime_os, a_private_view_hides_its_writes_until_it_is_discarded)
{
    int fd = rt_os_memfd("test", 4096);
    uint8_t *a = rt_os_map_shared(fd, 0, 4096, RT_PROT_RW);
    uint8_t *b = rt_os_map_private(NULL, fd, 0, 4096);

    a[0] = 1;
    b[0] = 2;
    cr_expect_eq(a[0], 1);
    rt_os_discard(b, 4096);
    cr_expect_eq(b[0], 1);
    rt_os_release(a, 4096);
    rt_os_release(b, 4096);
    rt_os_close(fd);
}

Test(runtime_os, reserved_memory_is_zero_and_stays_after_a_discard)
{
    uint8_t *p = rt_os_reserve(1ull << 36);

    cr_assert_not_null(p);
    cr_expect_eq(p[1ull << 35], 0);
    p[1ull << 35] = 9;
    rt_os_discard(p + (1ull << 35), 4096);
    cr_expect_eq(p[1ull << 35], 0);
    rt_os_release(p, 1ull << 36);
}

Test(runtime_os, what_the_host_places_has_guards)
{
    int fd = rt_os_memfd("test", 8192);
    uint8_t *rx,
        *p[] = {rt_os_reserve(8192), rt_os_reserve(5000), rt_os_map_shared(fd, 0, 8192, RT_PROT_RW),
                rt_os_map_private(NULL, fd, 0, 8192), rt_os_map_twice(8192, &rx)};

    for (unsigned i = 0; i < 5; i++) {
        cr_expect(!store_faults(p[i]) && !store_faults(p[i] + 8191), "%u", i);
        cr_expect(store_faults(p[i] - 1) && store_faults(p[i] + 8192), "%u has no guards", i);
        cr_expect(store_faults(p[i] - 65536) && store_faults(p[i] + 8192 + 65535), "%u", i);
        rt_os_release(p[i], i == 1 ? 5000 : 8192);
    }
    cr_expect(store_faults(rx - 1) && store_faults(rx + 8192));
    rt_os_release(rx, 8192);
    rt_os_close(fd);
}

Test(runtime_os, protection_holds)
{
    uint8_t *p = rt_os_reserve(8192);

    p[0] = p[4096] = 1;
    cr_expect_eq(rt_os_protect(p, 4096, RT_PROT_R), 0);
    cr_expect(store_faults(p));
    cr_expect(!store_faults(p + 4096));
    cr_expect_eq(rt_os_protect(p, 4096, RT_PROT_RW), 0);
    cr_expect(!store_faults(p));
    rt_os_release(p, 8192);
}

Test(runtime_os, mapping_at_an_address_replaces_what_was_there)
{
    int fd = rt_os_memfd("test", 4096);
    uint8_t *p = rt_os_reserve(12288), *q = rt_os_map_shared(fd, 0, 4096, RT_PROT_RW);

    p[4096] = 1;
    q[0] = 2;
    cr_expect_eq(rt_os_map_at(p + 4096, 4096, RT_PROT_R, fd, 0, false), 0);
    cr_expect_eq(p[4096], 2);
    cr_expect(store_faults(p + 4096));
    cr_expect(!store_faults(p + 8192));
    rt_os_release(p, 12288);
    rt_os_release(q, 4096);
    rt_os_close(fd);
}

Test(runtime_os, failures_are_negative_errno_or_null)
{
    cr_expect_lt(rt_os_memfd("test", SIZE_MAX), 0);
    cr_expect_null(rt_os_map_shared(-1, 0, 4096, RT_PROT_RW));
    cr_expect_null(rt_os_map_twice(SIZE_MAX / 2, NULL));
    cr_expect_eq(rt_os_map_at((void *)0x1f0000000000, 4096, RT_PROT_RW, -1, 0, false), -EBADF);
    cr_expect_eq(rt_os_protect((void *)0x1f0000000000, 4096, RT_PROT_R), -ENOMEM);
    cr_expect_eq(rt_os_append_open("/nonexistent/file"), -ENOENT);
    rt_os_release(NULL, 4096);
    rt_os_close(-1);
}

Test(runtime_os, time_goes_on_and_limits_are_sensible)
{
    uint64_t a = rt_os_now_ns();

    usleep(2000);
    uint64_t b = rt_os_now_ns();
    cr_expect_geq(b - a, 1000000);
    cr_expect_lt(b - a, 5000000000ull);
    cr_expect_gt(rt_os_max_map_count(), 1000);
}

Test(runtime_os, files_are_appended_to_and_links_not_followed)
{
    char path[] = "novt-test-XXXXXX", link[64];
    char text[16] = "";
    int fd = mkstemp(path);

    cr_assert_geq(fd, 0);
    for (unsigned i = 0; i < 2; i++) {
        int log = rt_os_append_open(path);
        cr_expect_eq(rt_os_append(log, i ? "cd" : "ab", 2), 0);
        rt_os_close(log);
    }
    cr_expect_eq(rt_os_append(-1, "x", 1), -EIO);
    cr_expect_eq(read(fd, text, sizeof(text)), 4);
    cr_expect_str_eq(text, "abcd");
    snprintf(link, sizeof(link), "%s.link", path);
    cr_assert_eq(symlink(path, link), 0);
    cr_expect_eq(rt_os_append_open(link), -ELOOP);
    unlink(link);
    unlink(path);
    close(fd);
}

Test(runtime_os, rt_cpu_is_where_the_thread_pointer_says)
{
    const uint8_t *thread;

    __asm__("mov %%fs:0, %0" : "=r"(thread));
    cr_expect_eq(thread + rt_cpu_offset(), (const uint8_t *)&rt_cpu);
}
