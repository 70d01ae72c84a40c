/* Address ranges for windows. */
#include "runtime/rt.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

TestSuite(runtime_window, .timeout = 30);

#define GUARD (1ull << 31)

/* Nothing is mapped in [from, to). */
static bool is_empty(uint64_t from, uint64_t to)
{
    FILE *f = fopen("/proc/self/maps", "r");
    unsigned long lo, hi;
    bool empty = true;
    char line[512];

    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%lx-%lx", &lo, &hi) == 2 && lo < to && hi > from)
            empty = false;
    }
    fclose(f);
    return empty;
}

Test(runtime_window, windows_are_aligned_empty_and_guarded)
{
    for (unsigned i = 0; i < 20; i++) {
        uint64_t base = (uint64_t)rt_window_claim();
        cr_assert_neq(base, 0);
        cr_expect_eq(base % RT_WINDOW_SIZE, 0);
        cr_expect(is_empty(base - GUARD, base + RT_WINDOW_SIZE + GUARD));
    }
}

Test(runtime_window, windows_and_their_guards_do_not_overlap)
{
    uint64_t bases[50];

    for (unsigned i = 0; i < 50; i++) {
        bases[i] = (uint64_t)rt_window_claim();
        for (unsigned j = 0; j < i; j++) {
            uint64_t distance = bases[i] > bases[j] ? bases[i] - bases[j] : bases[j] - bases[i];
            cr_expect_geq(distance, RT_WINDOW_SIZE + GUARD);
        }
    }
}

Test(runtime_window, a_released_window_is_empty_and_can_be_claimed_again)
{
    uint8_t *base = rt_window_claim();
    int fd = rt_os_memfd("test", 8192);

    cr_assert_eq(rt_os_map_at(base + 0x1000, 8192, RT_PROT_RW, fd, 0, true), 0);
    base[0x1000] = 7;
    cr_expect(!is_empty((uint64_t)base, (uint64_t)base + RT_WINDOW_SIZE));
    rt_window_release(base);
    cr_expect(is_empty((uint64_t)base, (uint64_t)base + RT_WINDOW_SIZE));
    cr_expect_eq(rt_window_claim(), base);
    rt_os_close(fd);
}

Test(runtime_window, the_kernel_places_nothing_between_windows)
{
    uint64_t first = (uint64_t)rt_window_claim(), last = first;

    for (unsigned i = 0; i < 30; i++)
        last = (uint64_t)rt_window_claim();
    for (unsigned i = 0; i < 200; i++)
        mmap(NULL, (size_t)1 << (12 + i % 16), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned i = 0; i < 100; i++)
        cr_assert_not_null(malloc((size_t)1 << (i % 24)));
    cr_expect(is_empty(first - GUARD, last + RT_WINDOW_SIZE + GUARD));
}

static void *claim_many(void *arg)
{
    uint8_t **bases = arg;
    for (unsigned i = 0; i < 50; i++)
        bases[i] = rt_window_claim();
    return NULL;
}

Test(runtime_window, threads_get_different_windows)
{
    static uint8_t *bases[4][50];
    pthread_t threads[4];

    for (unsigned i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, claim_many, bases[i]);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < 200; i++) {
        cr_assert_not_null(bases[i / 50][i % 50]);
        for (unsigned j = 0; j < i; j++)
            cr_expect_neq(bases[i / 50][i % 50], bases[j / 50][j % 50]);
    }
}
