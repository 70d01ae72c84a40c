/* native.c - the child process that runs batches on the host's CPU, in a code segment of their
 * mode.
 *
 * A fault is noted in the current record and the sequence's epilogue runs next; a single step is
 * noted and the sequence goes on: what guest_kernel.S does. Parent and child meet over two pipes;
 * data goes through shared memory. */
#include "tests/diff/diff.h"

#include "runtime/vcpu.h"

#include <asm/ldt.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

/* Of CPU time: a batch takes milliseconds. */
#define BATCH_SECONDS 1

void native_enter(uint32_t offset, uint32_t cs, uint32_t ds);
void native_enter64(uint64_t start);
void native_return(void);

static pid_t child = -1;
static int to_child[2], from_child[2];

/* ---- in the child ---- */

static volatile bool in_batch;

/* A trap behind an instruction with TF set; where the sequence ends it goes on without. */
static bool note_step(struct record *record, greg_t *regs, int code)
{
    static const uint8_t order[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                    REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                    REG_R12, REG_R13, REG_R14, REG_R15};
    uint64_t *next = (uint64_t *)(uintptr_t)IO_STEP, pc = (uint64_t)regs[REG_RIP];
    struct step *step = (struct step *)(uintptr_t)*next;

    if (!step || regs[REG_TRAPNO] != 1)
        return false;
    if (record->steps) {
        record->steps--;
        *next += sizeof(*step);
        step->record = (uintptr_t)record;
        step->rip = pc;
        step->rflags = (uint64_t)regs[REG_EFL];
        step->dr6 = code == TRAP_TRACE ? DR6_STEP : DR6_CLEAR;
        for (unsigned i = 0; i < 16; i++)
            step->gpr[i] = (uint64_t)regs[order[i]];
    }
    if (!record->steps || pc - record->epilogue < EPILOGUE_SIZE)
        regs[REG_EFL] &= ~(greg_t)RT_TF;
    return true;
}

/* FS may hold anything: nothing here may use it. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *regs = uc->uc_mcontext.gregs;
    uint64_t address = *(volatile uint32_t *)(uintptr_t)IO_CURRENT;
    struct record *record = (struct record *)(uintptr_t)address;

    if (!in_batch) { /* the test's own defect */
        signal(number, SIG_DFL);
        return;
    }
    if (note_step(record, regs, info->si_code))
        return;
    record->vector = (uint64_t)regs[REG_TRAPNO];
    record->error = (uint64_t)regs[REG_ERR];
    record->cr2 = (uint64_t)regs[REG_CR2];
    record->rip = (uint64_t)regs[REG_RIP];
    record->rflags = (uint64_t)regs[REG_EFL];
    regs[REG_RIP] = (greg_t)record->epilogue;
    regs[REG_EFL] &= ~HANDLER_CLEARS;
}

static void handle_signals(void)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    size_t size = 1 << 16;
    stack_t stack = {.ss_size = size};
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK};

    stack.ss_sp = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaltstack(&stack, NULL);
    action.sa_sigaction = on_fault;
    for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        sigaction(numbers[i], &action, NULL);
}

static bool place(uint32_t address, size_t size, void *shared)
{
    return mremap(shared, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, (uintptr_t)address) !=
           MAP_FAILED;
}

/* The same pages once more (mremap(2), old_size 0). */
static bool place_again(uint64_t address, size_t size, uint32_t from)
{
    return mremap((void *)(uintptr_t)from, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED,
                  (uintptr_t)address) != MAP_FAILED;
}

static bool place_high(void)
{
    return place_again(HIGH + ARENA, ARENA_SIZE, ARENA) && place_again(SPAN, ARENA_SIZE, ARENA) &&
           place_again((uint64_t)HIGH + CODE, CODE_SIZE, CODE);
}

/* 32-bit: ljmp $0x33, $behind; behind, 64-bit: jmp *(address of native_return) */
static bool place_exit_stub(void)
{
    uint8_t *p = mmap((void *)(uintptr_t)EXIT_STUB, 4096, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    uint32_t behind = EXIT_STUB + 7;
    uint64_t target = (uintptr_t)native_return;

    if (p == MAP_FAILED)
        return false;
    p[0] = 0xea;
    memcpy(p + 1, &behind, 4);
    p[5] = 0x33;
    p[7] = 0xff;
    p[8] = 0x25;
    memcpy(p + 13, &target, 8);
    return mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0;
}

static bool set_segment(unsigned entry, uint32_t base, uint32_t limit, bool wide, bool code)
{
    struct user_desc desc = {.entry_number = entry,
                             .base_addr = base,
                             .limit = limit,
                             .seg_32bit = wide,
                             .contents = code ? MODIFY_LDT_CONTENTS_CODE : 0,
                             .limit_in_pages = wide,
                             .useable = 1};
    return syscall(SYS_modify_ldt, 0x11, &desc, sizeof(desc)) == 0;
}

static bool set_segments(void)
{
    return set_segment(0, GS_BASE, 0xfffff, true, false) &&
           set_segment(CS16 >> 3, CODE, 0xffff, false, true) &&
           set_segment(DS16 >> 3, ARENA, 0xffff, false, false);
}

static void set_exit(void)
{
    uint64_t *exit = (uint64_t *)(uintptr_t)IO_EXIT;

    if (long_mode())
        *exit = (uintptr_t)native_return;
    else
        *exit = EXIT_STUB | (uint64_t)USER_CS << 32;
}

static void limit_time(time_t seconds)
{
    struct itimerval limit = {.it_value = {.tv_sec = seconds}};
    setitimer(ITIMER_VIRTUAL, &limit, NULL);
}

static void run(uint64_t start)
{
    in_batch = true;
    if (long_mode())
        native_enter64(start);
    else if (diff_mode == TR_MODE_32)
        native_enter((uint32_t)start, USER_CS, USER_DS);
    else
        native_enter((uint32_t)start, CS16, DS16);
    in_batch = false;
}

static void serve(int memfd, struct side *side)
{
    uint64_t start;
    void *control = (uint8_t *)side->records - 0x1000;

    if (mmap((void *)(uintptr_t)CODE, CODE_SIZE, PROT_READ | PROT_EXEC,
             MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, memfd, PHYS_CODE) == MAP_FAILED ||
        !place(ARENA, ARENA_SIZE, side->arena) || !place(IO, IO_SIZE, control) ||
        !place(STEPS, STEPS_SIZE, side->steps) || !place_exit_stub() || !set_segments() ||
        !place_high())
        _exit(2);
    handle_signals();
    set_exit();
    while (read(to_child[0], &start, sizeof(start)) == sizeof(start)) {
        limit_time(BATCH_SECONDS);
        run(start);
        limit_time(0);
        if (write(from_child[1], &start, 1) != 1)
            break;
    }
    _exit(0);
}

/* ---- in the parent ---- */

static void *shared(size_t size)
{
    void *p =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (p == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return p;
}

int native_start(int memfd, struct side *side)
{
    if (!side->arena) {
        side->arena = shared(ARENA_SIZE);
        side->records = (struct record *)(void *)((uint8_t *)shared(IO_SIZE) + 0x1000);
        side->steps = shared(STEPS_SIZE);
    }
    if (pipe(to_child) || pipe(from_child)) {
        perror("pipe");
        return -1;
    }
    fflush(stdout);
    child = fork();
    if (child == 0) {
        close(to_child[1]);
        close(from_child[0]);
        serve(memfd, side);
    }
    close(to_child[0]);
    close(from_child[1]);
    return child > 0 ? 0 : -1;
}

void native_begin(uint64_t start)
{
    if (write(to_child[1], &start, sizeof(start)) != sizeof(start))
        perror("native child");
}

bool native_end(void)
{
    char c;
    return read(from_child[0], &c, 1) == 1;
}

void native_stop(void)
{
    int status = 0;

    close(to_child[1]);
    close(from_child[0]);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
        printf("native child: %s\n", strsignal(WTERMSIG(status)));
}
