/* codecache_jitinfo_test.c - translated code as unwinders, gdb, perf and a failed assertion see it.
 *
 * A timer signal interrupts a guest's endless loop; its handler looks at the stack. */
#include "tests/unit/engine_guest.h"

#include "codecache/jitinfo.h"

#include <elf.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>

#define UNW_LOCAL_ONLY
#include <libunwind.h>

#define MAX_FRAMES 64

/* jmp . */
static const uint8_t endless[] = {0xeb, 0xfe};

static struct engine_guest guest, other;
static void *frames[MAX_FRAMES];
static int nframes;
static void (*on_signal)(void);
static bool seen; /* the handler has looked */

/* In translated code: looks once, and ends the run. */
static void handler(int number, siginfo_t *info, void *ucontext)
{
    const ucontext_t *uc = ucontext;
    const uint8_t *pc = (const uint8_t *)uc->uc_mcontext.gregs[REG_RIP];

    (void)number;
    (void)info;
    if (seen || !cc_contains(&guest.v->vm->cc, pc))
        return;
    on_signal();
    __atomic_store_n(&seen, true, __ATOMIC_RELEASE);
}

/* Ends the run when the handler has looked. */
static void *kicker(void *unused)
{
    while (!__atomic_load_n(&seen, __ATOMIC_ACQUIRE))
        usleep(1000);
    novt_vcpu_kick(guest.vcpu);
    return unused;
}

static void start_timer(bool on)
{
    struct sigaction action = {.sa_sigaction = handler,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    struct itimerval timer = {.it_interval.tv_usec = on ? 1000 : 0,
                              .it_value.tv_usec = on ? 1000 : 0};

    sigaction(SIGPROF, &action, NULL);
    setitimer(ITIMER_PROF, &timer, NULL);
}

/* What a backtrace through translated code has to end in. */
static __attribute__((noinline)) void run_guest(void)
{
    pthread_t thread;

    pthread_create(&thread, NULL, kicker, NULL);
    start_timer(true);
    cr_assert_eq(novt_vcpu_run(guest.vcpu), 0);
    start_timer(false);
    pthread_join(thread, NULL);
}

static bool is_in(const void *pc, const void *function)
{
    unw_proc_info_t info;
    cr_assert_eq(unw_get_proc_info_by_ip(unw_local_addr_space, (unw_word_t)pc, &info, NULL), 0);
    return info.start_ip == (unw_word_t)function;
}

/* The frames after translated code: the library's, then this file's. */
static void assert_whole(void)
{
    int n = 0;

    while (n < nframes && !cc_contains(&guest.v->vm->cc, frames[n]))
        n++;
    cr_assert_lt(n, nframes, "no frame of translated code in %d", nframes);
    while (n < nframes && !is_in(frames[n], (void *)novt_vcpu_run))
        n++;
    cr_assert_lt(n + 1, nframes, "novt_vcpu_run is not below translated code");
    cr_assert(is_in(frames[n + 1], (void *)run_guest), "run_guest does not follow");
}

static void use_libunwind(void)
{
    unw_context_t context;
    unw_cursor_t cursor;
    unw_word_t pc;

    unw_getcontext(&context);
    unw_init_local(&cursor, &context);
    for (nframes = 0; nframes < MAX_FRAMES; nframes++) {
        unw_get_reg(&cursor, UNW_REG_IP, &pc);
        frames[nframes] = (void *)pc;
        if (unw_step(&cursor) <= 0)
            break;
    }
}

static void use_libgcc(void)
{
    nframes = backtrace(frames, MAX_FRAMES);
}

static void setup(void)
{
    engine_guest_create(&guest, 0, endless, sizeof(endless));
    seen = false;
}

static void teardown(void)
{
    engine_guest_destroy(&guest);
}

Test(jitinfo, libunwind_crosses_translated_code, .init = setup, .fini = teardown, .timeout = 20)
{
    on_signal = use_libunwind;
    run_guest();
    assert_whole();
}

Test(jitinfo, backtrace_crosses_translated_code, .init = setup, .fini = teardown, .timeout = 20)
{
    void *first[1];

    backtrace(first, 1); /* loads libgcc, which no handler should */
    on_signal = use_libgcc;
    run_guest();
    assert_whole();
}

/* As after the first block of 64-bit code: r12 is not looked at. */
static void use_the_cell(void)
{
    const struct cc_block wide = {.wide = true};

    cc_jitinfo_block(guest.v->vm->jitinfo, &wide);
    use_libunwind();
}

Test(jitinfo, the_frame_is_found_without_r12, .init = setup, .fini = teardown, .timeout = 20)
{
    on_signal = use_the_cell;
    run_guest();
    assert_whole();
}

Test(jitinfo, another_vm_does_not_matter, .init = setup, .fini = teardown, .timeout = 20)
{
    engine_guest_create(&other, 0, endless, sizeof(endless));
    engine_guest_destroy(&other);
    on_signal = use_libunwind;
    run_guest();
    assert_whole();
}

/* ---- a failed assertion ---- */

static void fail_assertion(void)
{
    rt_assert_failed("the test wants it", "file.c", 7);
}

/* The child's standard error. */
static size_t read_child(char *text, size_t size)
{
    int fds[2], status;
    size_t used = 0;
    ssize_t n;

    cr_assert_eq(pipe(fds), 0);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        dup2(fds[1], 2);
        on_signal = fail_assertion;
        run_guest();
        _exit(1);
    }
    close(fds[1]);
    while (used + 1 < size && (n = read(fds[0], text + used, size - used - 1)) > 0)
        used += (size_t)n;
    text[used] = 0;
    close(fds[0]);
    waitpid(child, &status, 0);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "status %x: %s", status, text);
    return used;
}

Test(jitinfo, a_failed_assertion_says_where_the_guest_was, .init = setup, .fini = teardown,
     .timeout = 20)
{
    static char text[16384];
    static const char *const wanted[] = {
        "novt: internal error: the test wants it (file.c:7)", "vCPU 0, CPL 0, guest pc",
        "translated code: guest pc 00001000 in block 00001000", "novt_vcpu_run", "run_guest"};
    const char *at = text;

    cr_assert_gt(read_child(text, sizeof(text)), 0);
    for (unsigned n = 0; n < sizeof(wanted) / sizeof(wanted[0]); n++) {
        at = strstr(at, wanted[n]);
        cr_assert(at, "no '%s' in order in:\n%s", wanted[n], text);
    }
}

/* ---- gdb ---- */

struct jit_code_entry {
    struct jit_code_entry *next, *prev;
    const char *symfile_addr;
    uint64_t symfile_size;
};
extern struct {
    uint32_t version, action;
    struct jit_code_entry *relevant_entry, *first_entry;
} __jit_debug_descriptor;

static unsigned count_entries(void)
{
    unsigned n = 0;
    const struct jit_code_entry *e, *prev = NULL;

    for (e = __jit_debug_descriptor.first_entry; e; prev = e, e = e->next, n++)
        cr_assert_eq(e->prev, prev);
    return n;
}

static const Elf64_Shdr *section_named(const Elf64_Ehdr *elf, const char *name)
{
    const char *file = (const char *)elf;
    const Elf64_Shdr *sections = (const void *)(file + elf->e_shoff);
    const char *names = file + sections[elf->e_shstrndx].sh_offset;

    for (unsigned n = 0; n < elf->e_shnum; n++) {
        if (!strcmp(names + sections[n].sh_name, name))
            return &sections[n];
    }
    return NULL;
}

Test(jitinfo, gdb_gets_a_symbol_file_of_the_region, .init = setup, .fini = teardown, .timeout = 10)
{
    const struct jit_code_entry *e = __jit_debug_descriptor.first_entry;
    const Elf64_Ehdr *elf = (const void *)e->symfile_addr;
    const struct cc *cc = &guest.v->vm->cc;

    cr_assert_eq(__jit_debug_descriptor.version, 1);
    cr_assert_eq(memcmp(elf->e_ident, ELFMAG, SELFMAG), 0);
    const Elf64_Shdr *text = section_named(elf, ".text");
    cr_assert(text && text->sh_addr == (uint64_t)cc->rx && text->sh_size == cc->size);
    cr_assert(section_named(elf, ".eh_frame"));
    const Elf64_Shdr *symtab = section_named(elf, ".symtab"),
                     *strtab = section_named(elf, ".strtab");
    const Elf64_Sym *symbols = (const void *)(e->symfile_addr + symtab->sh_offset);
    const char *names = e->symfile_addr + strtab->sh_offset;
    cr_assert_gt(symtab->sh_size / sizeof(*symbols), 4);
    for (unsigned n = 1; n < symtab->sh_size / sizeof(*symbols); n++) {
        uint64_t start = symbols[n].st_value, size = symbols[n].st_size;
        cr_assert(cc_contains(cc, (const uint8_t *)start) &&
                  start + size <= (uint64_t)cc->rx + cc->size);
        cr_assert_eq(strncmp(names + symbols[n].st_name, "novt_", 5), 0);
    }
}

Test(jitinfo, gdbs_list_follows_the_vms, .init = setup, .fini = teardown, .timeout = 10)
{
    unsigned before = count_entries();

    cr_assert_geq(before, 1);
    engine_guest_create(&other, 0, endless, sizeof(endless));
    cr_assert_eq(count_entries(), before + 1);
    engine_guest_destroy(&other);
    cr_assert_eq(count_entries(), before);
}

/* ---- perf ---- */

Test(jitinfo, perf_gets_a_line_for_each_block, .timeout = 10)
{
    /* xor %eax, %eax; jmp 1f; 1: hlt */
    static const uint8_t code[] = {0x31, 0xc0, 0xeb, 0x00, 0xf4};
    char path[40], line[100];
    unsigned long long start, size;
    bool stub = false, first = false, second = false;

    snprintf(path, sizeof(path), "/tmp/perf-%d.map", getpid());
    unlink(path);
    engine_guest_create(&guest, NOVT_F_PERF_MAP, code, sizeof(code));
    const uint8_t *rx = guest.v->vm->cc.rx;
    cr_assert_eq(engine_guest_run(&guest), NOVT_EXIT_HLT);
    size_t used = guest.v->vm->cc.used;
    engine_guest_destroy(&guest);
    FILE *f = fopen(path, "r");
    cr_assert(f, "%s is not there", path);
    while (fgets(line, sizeof(line), f)) {
        char name[64];
        cr_assert_eq(sscanf(line, "%llx %llx %63s", &start, &size, name), 3, "%s", line);
        cr_assert(start >= (uint64_t)rx && start + size <= (uint64_t)rx + used && size, "%s", line);
        stub |= !strcmp(name, "novt_miss");
        first |= !strcmp(name, "guest_00001000");
        second |= !strcmp(name, "guest_00001004");
    }
    fclose(f);
    unlink(path);
    cr_assert(stub && first && second);
}
