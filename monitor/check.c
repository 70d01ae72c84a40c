/* check.c - what this host offers, and what falls back to what; see check.h.
 *
 * The library reports what it needs itself (novt_host_report()); this file adds what the command
 * needs: timers and signals as descriptors, the sandbox, and limits that depend on the guest's
 * size. A run asks for the same limits, so it is refused with the words of the table, before the
 * guest has started and not when the kernel kills the process.
 *
 * A control group's limit is looked for from the process's own group upwards, in both versions of
 * the interface; a container often sees only its own root. */
#include "monitor/check.h"

#include "monitor/sandbox.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define MiB (1ull << 20)

/* Beside guest memory and code cache: measured 29 MiB of tables and heaps, and 3 of program. */
#define OTHER_MEMORY (48 * MiB)
#define DEFAULT_CODE (64 * MiB)

/* How often guest memory is mapped at least: by the command, by the library, and in windows of a
 * user's and the supervisor's address space. */
#define TIMES_MAPPED 4

/* --- Control groups ----------------------------------------------------------------------------*/

/* The limit in a file, or UINT64_MAX when there is none. */
static uint64_t read_limit(const char *path)
{
    unsigned long long value;
    FILE *f = fopen(path, "re");
    if (!f)
        return UINT64_MAX;
    int got = fscanf(f, "%llu", &value); /* "max" is no number */
    fclose(f);
    return got == 1 ? value : UINT64_MAX;
}

/* The least limit of a group and those above it. */
static uint64_t least_limit(const char *mount, const char *group, const char *file)
{
    char name[512], path[640];
    uint64_t least = UINT64_MAX;

    snprintf(name, sizeof(name), "%s", group);
    for (;;) {
        snprintf(path, sizeof(path), "%s%s/%s", mount, strcmp(name, "/") ? name : "", file);
        uint64_t limit = read_limit(path);
        if (limit < least)
            least = limit;
        char *slash = strrchr(name, '/');
        if (!slash || name[1] == '\0')
            return least;
        slash[slash == name] = '\0';
    }
}

/* A line of /proc/self/cgroup is N:CONTROLLERS:PATH; version 2 has N = 0 and no controllers. */
static uint64_t group_limit(void)
{
    char line[600];
    uint64_t least = UINT64_MAX;
    FILE *f = fopen("/proc/self/cgroup", "re");

    while (f && fgets(line, sizeof(line), f)) {
        char *controllers = strchr(line, ':'),
             *group = controllers ? strchr(controllers + 1, ':') : NULL;
        uint64_t limit = UINT64_MAX;
        if (!group)
            continue;
        *group++ = '\0';
        group[strcspn(group, "\n")] = '\0';
        if (!strncmp(line, "0:", 2))
            limit = least_limit("/sys/fs/cgroup", group, "memory.max");
        else if (strstr(controllers, "memory"))
            limit = least_limit("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes");
        if (limit < least)
            least = limit;
    }
    if (f)
        fclose(f);
    return least;
}

/* --- Limits that depend on the guest -----------------------------------------------------------*/

struct verdict {
    enum novt_host_verdict found;
    char text[300];
};

__attribute__((format(printf, 3, 4))) static struct verdict
say(struct verdict v, enum novt_host_verdict found, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    v.found = found;
    vsnprintf(v.text, sizeof(v.text), format, args);
    va_end(args);
    return v;
}

static uint64_t soft_limit(int resource)
{
    struct rlimit limit;
    if (getrlimit((__rlimit_resource_t)resource, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    return limit.rlim_cur;
}

static struct verdict check_address_space(const struct novt_config *engine, uint64_t memory)
{
    uint64_t limit = soft_limit(RLIMIT_AS);
    uint64_t need = novt_host_address_space(engine) + TIMES_MAPPED * memory;
    struct verdict v = {0};

    if (limit == UINT64_MAX)
        return say(v, NOVT_HOST_OK, "no limit");
    if (limit >= need)
        return say(v, NOVT_HOST_OK, "%llu MiB allowed, %llu MiB needed",
                   (unsigned long long)(limit / MiB), (unsigned long long)(need / MiB));
    return say(v, NOVT_HOST_MISSING,
               "the limit on address space is %llu MiB, and this guest of %llu MiB needs %llu MiB: "
               "raise `ulimit -v`, or give less with --memory or --code-cache",
               (unsigned long long)(limit / MiB), (unsigned long long)(memory / MiB),
               (unsigned long long)((need + MiB - 1) / MiB));
}

static struct verdict check_memory(const struct novt_config *engine, uint64_t memory)
{
    uint64_t limit = group_limit();
    uint64_t code = engine->code_cache_size ? engine->code_cache_size : DEFAULT_CODE;
    uint64_t need = memory + code + OTHER_MEMORY;
    struct verdict v = {0};

    if (limit >= UINT64_MAX / 4) /* version 1 has a large number for none */
        return say(v, NOVT_HOST_OK, "the control group has no limit");
    if (limit >= need)
        return say(v, NOVT_HOST_OK, "the control group allows %llu MiB, up to %llu MiB are needed",
                   (unsigned long long)(limit / MiB), (unsigned long long)(need / MiB));
    return say(v, NOVT_HOST_MISSING,
               "the control group's memory limit is %llu MiB, and this guest of %llu MiB may need "
               "%llu MiB: raise the limit, or give less with --memory or --code-cache",
               (unsigned long long)(limit / MiB), (unsigned long long)(memory / MiB),
               (unsigned long long)((need + MiB - 1) / MiB));
}

static struct verdict check_file_size(const struct novt_config *engine, uint64_t memory)
{
    uint64_t limit = soft_limit(RLIMIT_FSIZE);
    uint64_t code = engine->code_cache_size ? engine->code_cache_size : DEFAULT_CODE;
    uint64_t need = memory > code ? memory : code;
    struct verdict v = {0};

    if (limit >= need)
        return say(v, NOVT_HOST_OK, "memory files of %llu MiB are allowed",
                   (unsigned long long)(need / MiB));
    return say(v, NOVT_HOST_MISSING,
               "the limit on files is %llu MiB, and anonymous memory counts as a file: this guest "
               "needs %llu MiB; raise `ulimit -f`",
               (unsigned long long)(limit / MiB), (unsigned long long)((need + MiB - 1) / MiB));
}

/* --- What the command needs --------------------------------------------------------------------*/

static struct verdict check_descriptors(const struct novt_config *engine, uint64_t memory)
{
    struct verdict v = {0};
    (void)engine;
    (void)memory;
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    int event = eventfd(0, EFD_CLOEXEC);
    int error = errno;
    if (timer >= 0)
        close(timer);
    if (event >= 0)
        close(event);
    if (timer >= 0 && event >= 0)
        return say(v, NOVT_HOST_OK, "timerfd, eventfd");
    return say(v, NOVT_HOST_MISSING, "cannot create %s: %s; raise `ulimit -n`",
               timer < 0 ? "a timer" : "an event descriptor", strerror(error));
}

static struct verdict check_sandbox(const struct novt_config *engine, uint64_t memory)
{
    struct verdict v = {0};
    (void)engine;
    (void)memory;
    if (mon_sandbox_supported())
        return say(v, NOVT_HOST_OK, "seccomp filters");
    return say(v, NOVT_HOST_MISSING,
               "no seccomp filters (CONFIG_SECCOMP_FILTER, or an outer sandbox forbids them): "
               "--sandbox off runs without");
}

static const struct {
    const char *name;
    bool limit; /* asked before a run too; the rest fails there by itself */
    struct verdict (*run)(const struct novt_config *engine, uint64_t memory);
} checks[] = {
    {"guest_address_space", true, check_address_space},
    {"guest_memory", true, check_memory},
    {"file_size", true, check_file_size},
    {"timers_and_events", false, check_descriptors},
    {"sandbox", false, check_sandbox},
};
#define CHECKS (sizeof(checks) / sizeof(checks[0]))

int mon_check_limits(const struct novt_config *engine, uint64_t memory, struct mon_error *err)
{
    for (size_t i = 0; i < CHECKS; i++) {
        if (!checks[i].limit)
            continue;
        struct verdict v = checks[i].run(engine, memory);
        if (v.found == NOVT_HOST_MISSING)
            return mon_error_set(err, MON_E_MEMORY, "%s", v.text);
    }
    return MON_OK;
}

static bool print_row(FILE *to, const char *name, enum novt_host_verdict found, const char *text)
{
    static const char *const words[] = {"ok", "slower", "missing"};
    fprintf(to, "%-20s %-8s %s\n", name, words[found], text);
    return found != NOVT_HOST_MISSING;
}

int mon_check_print(const struct novt_config *engine, uint64_t memory, FILE *to)
{
    struct novt_host_row rows[32];
    size_t n = novt_host_report(engine, rows, 32);
    bool good = true;

    for (size_t i = 0; i < n && i < 32; i++)
        good &= print_row(to, rows[i].name, rows[i].found, rows[i].text);
    for (size_t i = 0; i < CHECKS; i++) {
        struct verdict v = checks[i].run(engine, memory);
        good &= print_row(to, checks[i].name, v.found, v.text);
    }
    fprintf(to,
            good ? "This host can run guests of %llu MiB.\n"
                 : "This host cannot run guests of %llu MiB as it is.\n",
            (unsigned long long)(memory / MiB));
    return good ? MON_OK : MON_E_HOST;
}
