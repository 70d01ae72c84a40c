/* cpu.c - what a processor and a kernel do together for one process, as a program can see it.
 *
 * Compiled twice, for 32 and for 64 bits, static. Every line of output names what is tested and
 * says what came out, without addresses, times or anything else that differs between two correct
 * machines: the native run's output is the expectation. A wrong result is printed, never asserted,
 * so that one defect does not hide the next.
 *
 * Faults are taken by one handler, which records the signal and goes on at the address that the
 * test gave (`resume`), or changes the context by the test's `fix`. */
#include <errno.h>
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#ifdef __x86_64__
#define IP      REG_RIP
#define SP      REG_RSP
#define COUNT   REG_RCX
#define USER_IP rip
#define PTR     "q"
#define PTR_A   "rax"
#define PTR_SP  "rsp"
#else
#define IP      REG_EIP
#define SP      REG_ESP
#define COUNT   REG_ECX
#define USER_IP eip
#define PTR     "l"
#define PTR_A   "eax"
#define PTR_SP  "esp"
#endif
#define FLAG_TF 0x100
#define FLAG_AC 0x40000
#define PAGE    4096

static volatile struct {
    int count, signal, code, trap;
    long error, ip, count_register;
    void *address;
} got;
static void *volatile resume;
static void (*volatile fix)(ucontext_t *);

static void on_signal(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    got.count++;
    got.signal = number;
    got.code = info->si_code;
    got.trap = (int)uc->uc_mcontext.gregs[REG_TRAPNO];
    got.error = (long)uc->uc_mcontext.gregs[REG_ERR];
    got.ip = (long)uc->uc_mcontext.gregs[IP];
    got.count_register = (long)uc->uc_mcontext.gregs[COUNT];
    got.address = info->si_addr;
    if (fix)
        fix(uc);
    else if (resume)
        uc->uc_mcontext.gregs[IP] = (long)resume;
}

static void catch_signals(void)
{
    static char stack[65536];
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaltstack(&alternate, NULL);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        sigaction(numbers[i], &action, NULL);
}

static char *pages(size_t n, int rights)
{
    char *p = mmap(NULL, n * PAGE, rights, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* --- Faults ------------------------------------------------------------------------------------*/

/* Runs an instruction that faults, between two others; prints what the handler saw. */
#define FAULT(name, instruction, ...) FAULT_IN(name, "", instruction, "", __VA_ARGS__)
#define FAULT_IN(name, before, instruction, after, ...)                                        \
    do {                                                                                       \
        void *at;                                                                              \
        memset((void *)&got, 0, sizeof got);                                                   \
        fix = NULL;                                                                            \
        __asm__ volatile("mov" PTR " $1f, %0\n\tmov" PTR " $2f, %1"                            \
                         : "=r"(at), "=m"(resume)                                              \
                         :                                                                     \
                         : "memory");                                                          \
        __asm__ volatile(before "\n1: " instruction "\n2: " after : : __VA_ARGS__);            \
        printf("%-12s signal %d code %d trap %d error %lx offset %ld times %d\n", name,        \
               got.signal, got.code, got.trap, got.error, got.signal ? got.ip - (long)at : -1, \
               got.count);                                                                     \
    } while (0)

static void test_faults(void)
{
    char *ro = pages(1, PROT_READ), *none = pages(1, PROT_NONE);
    FAULT("divide", "div %%ecx", "a"(1), "d"(0), "c"(0) : "cc", "memory");
    FAULT("overflow", "idiv %%ecx", "a"(0), "d"(5), "c"(2) : "cc", "memory");
    FAULT("ud2", "ud2", "a"(0) : "memory");
    FAULT("int3", "int3", "a"(0) : "memory");
    FAULT("int 5", "int $5", "a"(0) : "memory");
    FAULT("int 4", "int $4", "a"(0) : "memory");
    FAULT("hlt", "hlt", "a"(0) : "memory");
    FAULT("cli", "cli", "a"(0) : "memory");
    FAULT("in", "inb $0x71, %%al", "a"(0) : "memory");
    FAULT("rdmsr", "rdmsr", "c"(0x1b) : "memory");
    FAULT("read cr0", "mov %%cr0, %%" PTR_A, "a"(0) : "memory");
    FAULT("wbinvd", "wbinvd", "a"(0) : "memory");
    FAULT("lgdt", "lgdt (%0)", "r"(ro) : "memory");
    FAULT("read none", "movb (%0), %%al", "r"(none) : "eax", "memory");
    FAULT("write ro", "movb %%al, (%0)", "r"(ro) : "memory");
    FAULT("add ro", "lock addl $1, (%0)", "r"(ro) : "memory");
    FAULT("null", "movl 16(%0), %%eax", "r"(NULL) : "eax", "memory");
    FAULT("bad ss", "mov %0, %%ss", "r"(0x28) : "memory");
    FAULT("bad ds", "mov %0, %%ds", "r"(0xfff8) : "memory");
    FAULT("movaps", "movaps 4(%0), %%xmm0", "r"(ro) : "xmm0", "memory");
    FAULT("x87", "fninit\n fldcw %0\n fld1\n fldz\n fdivrp\n fwait", "m"((short){0x37b})
          : "memory");
    __asm__ volatile("fninit");
    unsigned unmasked = 0x1d80, masked = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(unmasked));
    FAULT_IN("sse", "movss %1, %%xmm0", "divss %0, %%xmm0", "", "m"((float){0}), "m"((float){1})
             : "xmm0", "memory");
    __asm__ volatile("ldmxcsr %0" : : "m"(masked));
#ifdef __x86_64__
    FAULT("canonical", "movb (%0), %%al", "r"(0x8000000000000000ul) : "eax", "memory");
    FAULT_IN("stack", "xchg %%rbp, %0", "movb (%%rbp), %%al", "xchg %%rbp, %0",
             "r"(0x8000000000000000ul)
             : "eax", "memory");
#else
    FAULT("bound", "bound %0, (%1)", "r"(9), "r"((int[]){1, 2}) : "memory");
    FAULT("into", "movb $0x7f, %%al\n addb $1, %%al\n into", "a"(0) : "cc", "memory");
#endif
    munmap(ro, PAGE);
    munmap(none, PAGE);
}

static void *faulting_page;
static void make_accessible(ucontext_t *uc)
{
    (void)uc;
    mprotect(faulting_page, PAGE, PROT_READ | PROT_WRITE);
}

/* REP MOVS and STOS stop at the page that is not there, and go on when it is. */
static void test_string_restart(void)
{
    char *p = pages(2, PROT_READ | PROT_WRITE), source[3000];
    memset(source, 'x', sizeof source);
    faulting_page = p + PAGE;
    for (int kind = 0; kind < 2; kind++) {
        memset(p, 0, PAGE);
        mprotect(faulting_page, PAGE, PROT_NONE);
        memset((void *)&got, 0, sizeof got);
        fix = make_accessible;
        char *to = p + PAGE - 1000, *from = source;
        size_t n = sizeof source;
        if (kind == 0)
            __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
        else
            __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"('x') : "memory");
        bool same = !memcmp(p + PAGE - 1000, source, sizeof source);
        printf("string %d: left at the fault %ld, then %zu, moved %d, same %d, times %d\n", kind,
               got.count_register, n, (int)(to - p), same, got.count);
    }
    fix = NULL;
    munmap(p, 2 * PAGE);
}

static void make_executable(ucontext_t *uc)
{
    (void)uc;
    mprotect(faulting_page, PAGE, PROT_READ | PROT_EXEC);
}

static void test_no_execute(void)
{
    unsigned char *p = (unsigned char *)pages(1, PROT_READ | PROT_WRITE);
    static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
    memcpy(p, code, sizeof code);
    memset((void *)&got, 0, sizeof got);
    faulting_page = p;
    fix = make_executable;
    int value = ((int (*)(void))p)();
    printf("no execute: value %d, error %lx, at its start %d, times %d\n", value, got.error,
           got.ip == (long)p, got.count);
    fix = NULL;
    munmap(p, PAGE);
}

static void overflow(ucontext_t *uc)
{
    uc->uc_mcontext.gregs[IP] = (long)resume;
    uc->uc_mcontext.gregs[SP] = (long)faulting_page;
}

static void test_stack_overflow(void)
{
    char *p = pages(4, PROT_READ | PROT_WRITE);
    mprotect(p, PAGE, PROT_NONE);
    memset((void *)&got, 0, sizeof got);
    fix = overflow;
    long saved;
    __asm__ volatile("mov" PTR " $2f, %1\n mov %%" PTR_SP ", %0\n mov %2, %%" PTR_SP "\n"
                     "1: push %%" PTR_A "\n jmp 1b\n 2:"
                     : "=&b"(saved), "=m"(resume)
                     : "r"(p + 4 * PAGE)
                     : "memory");
    __asm__ volatile("mov %0, %%" PTR_SP : : "b"(saved) : "memory");
    printf("stack overflow: signal %d, just below %d, times %d\n", got.signal,
           got.address == p + PAGE - sizeof(long), got.count);
    fix = NULL;
}

/* --- Code that changes
 * ---------------------------------------------------------------------------*/

static void test_generated_code(void)
{
    int fd = memfd_create("code", 0);
    if (fd < 0 || ftruncate(fd, PAGE))
        return;
    unsigned char *w = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    unsigned char *x = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    unsigned char *both = (unsigned char *)pages(1, PROT_READ | PROT_WRITE | PROT_EXEC);
    unsigned sum = 0, sum_both = 0;
    for (unsigned i = 0; i < 3000; i++) {
        unsigned char code[] = {0xb8, (unsigned char)i, (unsigned char)(i >> 8), 0, 0, 0xc3};
        memcpy(w, code, sizeof code);
        memcpy(both, code, sizeof code);
        sum = sum * 31 + ((unsigned (*)(void))x)();
        sum_both = sum_both * 31 + ((unsigned (*)(void))both)();
    }
    printf("generated code: %u %u\n", sum, sum_both);
    munmap(w, PAGE);
    munmap(x, PAGE);
    munmap(both, PAGE);
}

/* A loop whose own immediate is the next instruction's: the store must be seen at once. */
static void test_own_code(void)
{
    unsigned char *p = (unsigned char *)pages(1, PROT_READ | PROT_WRITE | PROT_EXEC);
    /* xor eax,eax; 1: incb 4(imm of add); add eax, imm8; dec ecx; jnz 1b; ret */
#ifdef __x86_64__
    static const unsigned char code[] = {0x31, 0xc0, 0xfe, 0x05, 2,    0,    0,    0,
                                         0x83, 0xc0, 0,    0xff, 0xc9, 0x75, 0xf3, 0xc3};
    memcpy(p, code, sizeof code);
#else
    static const unsigned char code[] = {0x31, 0xc0, 0xfe, 0x05, 0,    0,    0,    0,
                                         0x83, 0xc0, 0,    0xff, 0xc9, 0x75, 0xf3, 0xc3};
    memcpy(p, code, sizeof code);
    uint32_t immediate = (uint32_t)p + 10;
    memcpy(p + 4, &immediate, 4);
#endif
    int sum, n = 1000;
    __asm__ volatile("call *%2" : "=a"(sum), "+c"(n) : "r"(p) : "memory", "cc", "edx");
    printf("own code: %d\n", sum);
    munmap(p, PAGE);
}

/* --- Tracing
 * -------------------------------------------------------------------------------------*/

static void child_of_tracer(void)
{
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    volatile int x = 0;
    __asm__ volatile("mov $100, %%ecx\n 1: incl %0\n dec %%ecx\n jnz 1b\n int3\n"
                     : "+m"(x)
                     :
                     : "ecx", "cc");
    _exit(x);
}

static void test_single_step(void)
{
    int status, steps = 0;
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGTRAP, SIG_DFL);
        child_of_tracer();
    }
    waitpid(pid, &status, 0);
    long at = 0, loops = 0, opcode;
    do {
        ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
        waitpid(pid, &status, 0);
        struct user_regs_struct regs;
        ptrace(PTRACE_GETREGS, pid, 0, &regs);
        opcode = ptrace(PTRACE_PEEKTEXT, pid, (void *)regs.USER_IP, 0);
        if ((opcode & 0xff) == 0x75) {
            at = (long)regs.USER_IP;
            loops++;
        }
        steps++;
    } while (WIFSTOPPED(status) && (opcode & 0xff) != 0xcc && steps < 100000);
    ptrace(PTRACE_CONT, pid, 0, 0);
    waitpid(pid, &status, 0);
    printf("single step: loops %ld, stopped %d by %d, there %d\n", loops, WIFSTOPPED(status),
           WSTOPSIG(status), at != 0);
    ptrace(PTRACE_CONT, pid, 0, 0);
    waitpid(pid, &status, 0);
    printf("traced child: exited %d with %d\n", WIFEXITED(status), WEXITSTATUS(status));
}

static volatile int watched;
static __attribute__((noinline)) int broken_at(int x)
{
    __asm__ volatile("");
    return x + 1;
}

#define DR(n) ((void *)(offsetof(struct user, u_debugreg) + (n) * sizeof(long)))

static void test_debug_registers(void)
{
    int status, hits = 0, writes = 0;
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGTRAP, SIG_DFL);
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        int x = 0;
        for (int i = 0; i < 20; i++) {
            x = broken_at(x);
            if (i % 4 == 0)
                watched = i;
        }
        _exit(x);
    }
    waitpid(pid, &status, 0);
    long ok = ptrace(PTRACE_POKEUSER, pid, DR(0), broken_at);
    ok |= ptrace(PTRACE_POKEUSER, pid, DR(1), &watched);
    ok |= ptrace(PTRACE_POKEUSER, pid, DR(7), 0x1 | 0x4 | 0xd << 20);
    for (;;) {
        ptrace(PTRACE_CONT, pid, 0, 0);
        waitpid(pid, &status, 0);
        if (!WIFSTOPPED(status) || hits + writes > 100)
            break;
        long dr6 = ptrace(PTRACE_PEEKUSER, pid, DR(6), 0);
        hits += (int)(dr6 & 1);
        writes += (int)(dr6 >> 1 & 1);
        ptrace(PTRACE_POKEUSER, pid, DR(6), 0);
    }
    printf("debug registers: set %ld, executed %d, written %d, exit %d\n", ok, hits, writes,
           WEXITSTATUS(status));
}

static void clear_flags(ucontext_t *uc)
{
    if (got.count >= 50 || got.signal == SIGBUS)
        uc->uc_mcontext.gregs[REG_EFL] &= ~(FLAG_TF | FLAG_AC);
}

static void test_flags(void)
{
    memset((void *)&got, 0, sizeof got);
    fix = clear_flags;
    int i = 0;
    __asm__ volatile("pushf\n orl $0x100, (%%" PTR_SP
                     ")\n popf\n 1: inc %0\n cmp $1000, %0\n jne 1b"
                     : "+r"(i)
                     :
                     : "cc", "memory");
    printf("trap flag: traps %d, code %d, loop %d\n", got.count, got.code, i);
    memset((void *)&got, 0, sizeof got);
    static int words[2];
    __asm__ volatile("pushf\n orl $0x40000, (%%" PTR_SP ")\n popf\n movl 1(%0), %%eax\n"
                     "pushf\n andl $~0x40000, (%%" PTR_SP ")\n popf"
                     :
                     : "r"(words)
                     : "eax", "cc", "memory");
    printf("alignment: signal %d code %d times %d\n", got.signal, got.code, got.count);
    fix = NULL;
}

/* --- State that must survive
 * ----------------------------------------------------------------------*/

static volatile sig_atomic_t ticks;
static void on_tick(int number)
{
    (void)number;
    ticks++;
    __asm__ volatile("pxor %%xmm0, %%xmm0\n pxor %%xmm7, %%xmm7\n fninit\n fldpi"
                     :
                     :
                     : "xmm0", "xmm7");
}

/* Keeps patterns in vector registers, x87 and MXCSR while timer ticks and other processes go by. */
static bool registers_survive(unsigned seed, int want)
{
    unsigned in[8][8], out[8][8], control = 0x9fc0 | (seed & 3) << 13, after = 0;
    double x87_in = seed * 1.25, x87_out = 0;
    for (int i = 0; i < 64; i++)
        in[i / 8][i % 8] = seed * 2654435761u + (unsigned)i * 40503u;
    bool wide = __builtin_cpu_supports("avx2");
    for (ticks = 0; ticks < want;) {
        int before = ticks;
        if (wide)
            __asm__ volatile("vmovups (%0), %%ymm0\n vmovups 32(%0), %%ymm1\n"
                             "vmovups 192(%0), %%ymm6\n vmovups 224(%0), %%ymm7\n"
                             :
                             : "r"(in)
                             : "xmm0", "xmm1", "xmm6", "xmm7", "memory");
        else
            __asm__ volatile("movups (%0), %%xmm0\n movups 224(%0), %%xmm7\n"
                             :
                             : "r"(in)
                             : "xmm0", "xmm7", "memory");
        __asm__ volatile("ldmxcsr %4\n fldl %5\n 1: cmpl %3, %2\n je 1b\n fstpl %0\n stmxcsr %1\n"
                         : "=m"(x87_out), "=m"(after)
                         : "m"(ticks), "r"(before), "m"(control), "m"(x87_in)
                         : "cc", "memory");
        if (wide)
            __asm__ volatile("vmovups %%ymm0, (%0)\n vmovups %%ymm1, 32(%0)\n"
                             "vmovups %%ymm6, 192(%0)\n vmovups %%ymm7, 224(%0)\n vzeroupper\n"
                             :
                             : "r"(out)
                             : "memory");
        else
            __asm__ volatile("movups %%xmm0, (%0)\n movups %%xmm7, 224(%0)\n"
                             :
                             : "r"(out)
                             : "memory");
        if (memcmp(in[0], out[0], 16) || memcmp(in[7], out[7], 16) || x87_in != x87_out ||
            (after & ~0x3fu) != control)
            return false;
        if (wide && (memcmp(in[0], out[0], 64) || memcmp(in[6], out[6], 64)))
            return false;
    }
    return true;
}

static void test_registers(void)
{
    pid_t pid[3];
    for (unsigned i = 0; i < 3; i++) {
        pid[i] = fork();
        if (pid[i] == 0) {
            struct itimerval every = {{0, 3000}, {0, 3000}};
            signal(SIGALRM, on_tick);
            setitimer(ITIMER_REAL, &every, NULL);
            _exit(registers_survive(i + 1, 40) ? 0 : 1);
        }
    }
    for (int i = 0; i < 3; i++) {
        int status;
        waitpid(pid[i], &status, 0);
        printf("registers of process %d: %d\n", i, status);
    }
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long locked, atomic;
static __thread int own;
static void *thread(void *argument)
{
    own = (int)(long)argument;
    for (int i = 0; i < 20000; i++) {
        pthread_mutex_lock(&lock);
        locked++;
        pthread_mutex_unlock(&lock);
        __atomic_add_fetch(&atomic, 1, __ATOMIC_SEQ_CST);
        if (i % 1000 == 0)
            sched_yield();
    }
    return (void *)(long)own;
}

static void test_threads(void)
{
    pthread_t id[6];
    long sum = 0;
    for (long i = 0; i < 6; i++)
        pthread_create(&id[i], NULL, thread, (void *)(i + 1));
    for (int i = 0; i < 6; i++) {
        void *value;
        pthread_join(id[i], &value);
        sum += (long)value;
    }
    printf("threads: %ld %ld %ld\n", locked, atomic, sum);
}

static void test_memory(void)
{
    char *private = pages(64, PROT_READ | PROT_WRITE);
    char *shared = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 64; i++)
    private[i * PAGE] = shared[i * PAGE] = (char)i;
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 64; i++) {
            private[i * PAGE] ^= 0x55;
            shared[i * PAGE] ^= 0x55;
        }
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    unsigned a = 0, b = 0;
    for (int i = 0; i < 64; i++) {
        a = a * 33 + (unsigned char)private[i * PAGE];
        b = b * 33 + (unsigned char)shared[i * PAGE];
    }
    printf("copy on write: private %u shared %u\n", a, b);
    char *moved = mremap(private, 64 * PAGE, 256 * PAGE, MREMAP_MAYMOVE);
    madvise(moved, 8 * PAGE, MADV_DONTNEED);
    printf("remapped: %d %d %d %d\n", moved[0], moved[7 * PAGE], moved[8 * PAGE],
           moved[200 * PAGE]);
    memset((void *)&got, 0, sizeof got);
    munmap(moved + PAGE, PAGE);
    FAULT("unmapped", "movb (%0), %%al", "r"(moved + PAGE) : "eax", "memory");
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    catch_signals();
    test_faults();
    test_string_restart();
    test_no_execute();
    test_stack_overflow();
    test_generated_code();
    test_own_code();
    test_single_step();
    test_debug_registers();
    test_flags();
    test_registers();
    test_threads();
    test_memory();
    return 0;
}
