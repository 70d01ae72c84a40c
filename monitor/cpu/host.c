/* host.c - what the library needs of the host, tried out: novt_host_report().
 *
 * Each row is a small experiment of what a VM does later, so that a host that lacks something is
 * named before anything is built. Required things have no other way; for the rest the text says
 * what is used instead. novt_vm_create() asks for the same rows.
 *
 * Thread: any. Leaves no mapping and no descriptor behind. */
#include "monitor/cpu/vm.h"

#include <cpuid.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MiB (1ull << 20)

/* Jump tables and tables of deltas of the first address spaces, views, heaps, libraries, stacks. */
#define OTHER_ADDRESS_SPACE (256 * MiB)

struct check {
    const struct novt_config *config;
    struct novt_host_row row;
};

__attribute__((format(printf, 3, 4))) static void
verdict(struct check *check, enum novt_host_verdict found, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    check->row.found = found;
    vsnprintf(check->row.text, sizeof(check->row.text), format, args);
    va_end(args);
}

/* ---- required ---- */

static void check_cpu(struct check *check)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("avx"))
        verdict(check, NOVT_HOST_MISSING,
                "this CPU has no BMI2 or AVX: novt needs Haswell, Zen or newer");
    else
        verdict(check, NOVT_HOST_OK, "BMI2, AVX%s",
                __builtin_cpu_supports("avx512f") ? ", AVX-512" : "");
}

static void check_memfd(struct check *check)
{
    int fd = rt_os_memfd("novt-check", 4096);

    rt_os_close(fd);
    if (fd < 0)
        verdict(check, NOVT_HOST_MISSING,
                "cannot create anonymous memory (memfd_create: %s): novt needs Linux 4.14 or "
                "newer, and a sandbox around it must allow memfd_create",
                strerror(-fd));
    else
        verdict(check, NOVT_HOST_OK, "memfd_create");
}

/* Writable at one address, executable at another: the bytes must run. */
static bool runs_code(int fd)
{
    static const uint8_t answer[] = {0xb8, 42, 0, 0, 0, 0xc3}; /* mov $42, %eax; ret */
    uint8_t *rw = rt_os_map_shared(fd, 0, 4096, RT_PROT_RW);
    uint8_t *rx = rt_os_map_shared(fd, 0, 4096, RT_PROT_RX);
    bool works = false;

    if (rw && rx) {
        int (*code)(void);
        memcpy(rw, answer, sizeof(answer));
        memcpy(&code, &rx, sizeof(code));
        works = code() == 42;
    }
    rt_os_release(rw, 4096);
    rt_os_release(rx, 4096);
    return works;
}

static void check_code(struct check *check)
{
    int fd = rt_os_memfd("novt-check", 4096);
    bool works = fd >= 0 && runs_code(fd);

    rt_os_close(fd);
    if (works)
        verdict(check, NOVT_HOST_OK, "written at one address, executed at another");
    else
        verdict(check, NOVT_HOST_MISSING,
                "cannot execute code from anonymous memory: a security policy (SELinux, noexec "
                "memfds, MemoryDenyWriteExecute=) forbids it; allow it for novt");
}

static void check_windows(struct check *check)
{
    int fd = rt_os_memfd("novt-check", 4096);
    uint8_t *window = rt_window_claim();
    int rc = fd < 0 ? fd : -1;

    if (fd >= 0 && window)
        rc = rt_os_map_at(window + RT_WINDOW_SIZE - 4096, 4096, RT_PROT_RW, fd, 0, true);
    if (window)
        rt_window_release(window);
    rt_os_close(fd);
    if (rc == 0)
        verdict(check, NOVT_HOST_OK, "guest pages can be mapped at 31 to 42 TiB");
    else
        verdict(check, NOVT_HOST_MISSING,
                "cannot map memory at 31 to 42 TiB (%s): novt needs an address space of 47 bits "
                "and room under the limit of `ulimit -v`",
                rc == -1 ? "no window is free" : strerror(-rc));
}

static void check_address_space(struct check *check)
{
    uint64_t limit = rt_os_address_limit(), need = novt_host_address_space(check->config);

    if (limit == ~0ull)
        verdict(check, NOVT_HOST_OK, "no limit");
    else if (limit >= need)
        verdict(check, NOVT_HOST_OK, "%llu MiB allowed, %llu MiB needed beside the guest's memory",
                (unsigned long long)(limit / MiB), (unsigned long long)(need / MiB));
    else
        verdict(check, NOVT_HOST_MISSING,
                "the limit on address space is %llu MiB, and novt needs %llu MiB beside the "
                "guest's memory: raise `ulimit -v` or give a smaller code cache",
                (unsigned long long)(limit / MiB), (unsigned long long)(need / MiB));
}

/* ---- with another way ---- */

static void check_mappings(struct check *check)
{
    long count = rt_os_max_map_count();

    if (count >= 65530)
        verdict(check, NOVT_HOST_OK, "vm.max_map_count is %ld", count);
    else
        verdict(check, NOVT_HOST_SLOWER,
                "vm.max_map_count is %ld, less than Linux's default of 65530: guests with many "
                "address spaces map their pages again and again",
                count);
}

static void check_fsgsbase(struct check *check)
{
    if (rt_os_has_fsgsbase())
        verdict(check, NOVT_HOST_OK, "WRGSBASE in user mode");
    else
        verdict(check, NOVT_HOST_SLOWER,
                "no WRGSBASE in user mode (it needs Linux 5.9): arch_prctl() is used, 0.1 us for "
                "each switch of address space");
}

static void check_tsc(struct check *check)
{
    unsigned eax, ebx, ecx, edx = 0;

    if (__get_cpuid(0x80000007, &eax, &ebx, &ecx, &edx) && (edx & 1 << 8))
        verdict(check, NOVT_HOST_OK, "invariant");
    else
        verdict(check, NOVT_HOST_SLOWER,
                "the CPU does not say that its TSC is invariant: the guest's clock may drift; boot "
                "it with clocksource=acpi_pm if it does");
}

static const struct {
    const char *name;
    void (*run)(struct check *check);
} checks[] = {
    {"cpu", check_cpu},
    {"address_space", check_address_space},
    {"anonymous_memory", check_memfd},
    {"executable_memory", check_code},
    {"windows", check_windows},
    {"mappings", check_mappings},
    {"gs_base", check_fsgsbase},
    {"time_stamp_counter", check_tsc},
};

size_t novt_host_report(const struct novt_config *config, struct novt_host_row *rows, size_t n)
{
    const size_t count = sizeof(checks) / sizeof(checks[0]);

    for (size_t i = 0; i < count && i < n; i++) {
        struct check check = {.config = config, .row = {.name = checks[i].name}};
        checks[i].run(&check);
        rows[i] = check.row;
    }
    return count;
}

uint64_t novt_host_address_space(const struct novt_config *config)
{
    uint64_t size = config ? config->code_cache_size : 0;

    return cc_address_space(size ? size : MON_DEFAULT_CODE_CACHE, MON_MAX_GPA) +
           OTHER_ADDRESS_SPACE;
}
