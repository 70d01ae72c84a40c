/* native.c - the child process that runs batches on the host's CPU, in a 32-bit code segment.
 *
 * A fault is noted in the current record and the sequence's epilogue runs next: what
 * guest_kernel.S does. Parent and child meet over two pipes; data goes through shared memory. */
#include "tests/diff/diff.h"

#include <asm/ldt.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define BATCH_SECONDS 20

void native_enter(void);
void native_return(void);

static pid_t child = -1;
static int to_child[2], from_child[2];

/* ---- in the child ---- */

static void on_fault(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *regs = uc->uc_mcontext.gregs;
    uint32_t address = *(volatile uint32_t *)(uintptr_t)IO_CURRENT;
    struct record *record = (struct record *)(uintptr_t)address;

    (void)info;
    if ((regs[REG_CSGSFS] & 0xffff) != USER_CS) { /* the test's own defect */
        signal(number, SIG_DFL);
        return;
    }
    record->vector = (uint32_t)regs[REG_TRAPNO];
    record->error = (uint32_t)regs[REG_ERR];
    record->cr2 = (uint32_t)regs[REG_CR2];
    record->eip = (uint32_t)regs[REG_RIP];
    record->eflags = (uint32_t)regs[REG_EFL];
    regs[REG_RIP] = record->epilogue;
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

static bool set_gs_segment(void)
{
    struct user_desc desc = {.entry_number = 0,
                             .base_addr = GS_BASE,
                             .limit = 0xfffff,
                             .seg_32bit = 1,
                             .limit_in_pages = 1,
                             .useable = 1};
    return syscall(SYS_modify_ldt, 0x11, &desc, sizeof(desc)) == 0;
}

static void serve(int memfd, struct side *side)
{
    char c;
    void *control = (uint8_t *)side->records - 0x1000;

    if (mmap((void *)(uintptr_t)CODE, CODE_SIZE, PROT_READ | PROT_EXEC,
             MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, memfd, PHYS_CODE) == MAP_FAILED ||
        !place(ARENA, ARENA_SIZE, side->arena) || !place(IO, IO_SIZE, control) ||
        !place_exit_stub() || !set_gs_segment())
        _exit(2);
    handle_signals();
    *(uint32_t *)(uintptr_t)IO_EXIT = EXIT_STUB;
    while (read(to_child[0], &c, 1) == 1) {
        alarm(BATCH_SECONDS);
        native_enter();
        alarm(0);
        if (write(from_child[1], &c, 1) != 1)
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

void native_begin(void)
{
    char c = 0;
    if (write(to_child[1], &c, 1) != 1)
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
