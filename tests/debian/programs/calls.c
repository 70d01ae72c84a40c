/* calls.c - every way into the kernel and between code segments that a process has.
 *
 * A 32-bit process: int 80h, and the entry that the kernel gives in AT_SYSINFO, which is SYSENTER
 * or SYSCALL (SDM 2, SYSENTER: it returns to an address that the kernel chose). A 64-bit process:
 * SYSCALL, int 80h (the 32-bit numbers), the vdso, and far transfers to a 32-bit code segment and
 * back, as Wine does. Prints what has to be the same on every machine. */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOOPS        20000
#define SYS32_WRITE  4
#define SYS32_GETPID 20

static long int80(long number, long a, long b, long c)
{
    long result;
#ifdef __x86_64__
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(number), "b"(a), "c"(b), "d"(c)
                     : "memory", "r8", "r9", "r10", "r11");
#else
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
#endif
    return result;
}

static void print_calls(const char *name, long good, long bad, long error)
{
    printf("%-10s right %ld wrong %ld, a bad number gives %ld\n", name, good, bad, error);
}

static void test_int80(void)
{
    long pid = getpid(), good = 0, bad = 0;
    for (int i = 0; i < LOOPS; i++)
        int80(SYS32_GETPID, 0, 0, 0) == pid ? good++ : bad++;
    print_calls("int80", good, bad, int80(9999, 0, 0, 0));
}

static void on_usr1(int number)
{
    (void)number;
}

#ifdef __x86_64__

static long syscall_instruction(long number, long *rcx, long *r11)
{
    long result, c, r;
    __asm__ volatile("lea 1f(%%rip), %%rbx\n syscall\n 1: sub %%rbx, %%rcx\n mov %%r11, %2"
                     : "=a"(result), "=&c"(c), "=&r"(r)
                     : "a"(number)
                     : "rbx", "r11", "memory");
    *rcx = c;
    *r11 = r & 0xcd5;
    return result;
}

static void test_syscall(void)
{
    long pid = getpid(), good = 0, bad = 0, rcx = 0, r11 = 0, sum = 0;
    for (int i = 0; i < LOOPS; i++) {
        syscall_instruction(SYS_getpid, &rcx, &r11) == pid ? good++ : bad++;
        sum += rcx;
    }
    print_calls("syscall", good, bad, syscall_instruction(99999, &rcx, &r11));
    printf("syscall leaves the next address in rcx: %d\n", sum == 0 && rcx == 0);
}

static void test_vdso(void)
{
    struct timespec a, b;
    int backwards = 0;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < LOOPS; i++) {
        clock_gettime(CLOCK_MONOTONIC, &b);
        backwards += b.tv_sec < a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec < a.tv_nsec);
        a = b;
    }
    printf("vdso: present %d, clock went backwards %d times\n", getauxval(AT_SYSINFO_EHDR) != 0,
           backwards);
}

/* Code for the low 4 GiB: 32-bit, does arithmetic that 64-bit code cannot (INC as 40h, PUSHA, DAA),
 * then goes back. Called with the 64-bit stack switched to a low one. */
static const unsigned char code32[] = {
    0xb8, 0xff, 0xff, 0xff, 0xff, /* mov eax, -1 */
    0x40,                         /* inc eax: in 64-bit code a REX prefix */
    0x60,                         /* pusha */
    0xb0, 0x19, 0x04, 0x28, 0x27, /* mov al, 19h; add al, 28h; daa */
    0x0f, 0xb6, 0xc8,             /* movzx ecx, al */
    0x89, 0x4c, 0x24, 0x18,       /* mov [esp+24], ecx: the ecx that popa loads */
    0x61,                         /* popa */
    0x01, 0xc8,                   /* add eax, ecx */
    0x8c, 0xca,                   /* mov edx, cs */
    0xcb,                         /* retf */
};

static void test_compatibility(void)
{
    unsigned char *low = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED)
        return;
    memcpy(low, code32, sizeof code32);
    uint32_t target[2] = {(uint32_t)(uintptr_t)low, 0x23};
    unsigned long stack = (unsigned long)low + 8192, sum = 0, selectors = 0;
    for (int i = 0; i < LOOPS; i++) {
        unsigned value, selector;
        /* lcall m16:32 pushes CS and EIP as 32 bits each; retf in 32-bit code takes them. POPA and
         * the mode leave only the lower halves of the eight old registers. */
        static unsigned long rsp, rbp;
        __asm__ volatile("mov %%rsp, %4\n mov %%rbp, %5\n mov %3, %%rsp\n lcall *(%2)\n"
                         "mov %4, %%rsp\n mov %5, %%rbp"
                         : "=a"(value), "=d"(selector)
                         : "r"(target), "r"(stack), "m"(rsp), "m"(rbp)
                         : "rbx", "rcx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
        sum += value;
        selectors += selector;
    }
    printf("compatibility mode: sum %lu, selectors %lu\n", sum, selectors);
}

static void test_all(void)
{
    test_syscall();
    test_int80();
    test_vdso();
    test_compatibility();
}

#else

static long sysinfo(long number, long a, long b, long c)
{
    static unsigned long entry;
    long result;
    if (!entry)
        entry = getauxval(AT_SYSINFO);
    __asm__ volatile("call *%1"
                     : "=a"(result)
                     : "m"(entry), "a"(number), "b"(a), "c"(b), "d"(c)
                     : "memory", "cc");
    return result;
}

static void test_sysinfo(void)
{
    long pid = int80(SYS32_GETPID, 0, 0, 0), good = 0, bad = 0;
    for (int i = 0; i < LOOPS; i++)
        sysinfo(SYS32_GETPID, 0, 0, 0) == pid ? good++ : bad++;
    print_calls("sysinfo", good, bad, sysinfo(9999, 0, 0, 0));
    static const char text[] = "written through the vdso\n";
    long size = sysinfo(SYS32_WRITE, 1, (long)text, sizeof text - 1);
    printf("write returned %ld\n", size);
}

/* Signals that come while the process is on its way in or out. */
static void test_interrupted(void)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        for (;;)
            sysinfo(SYS32_GETPID, 0, 0, 0);
    }
    struct timespec t = {0, 2000000};
    for (int i = 0; i < 50; i++) {
        kill(pid, SIGUSR1);
        nanosleep(&t, NULL);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    printf("interrupted calls: ended by %d\n", WTERMSIG(status));
}

static void test_all(void)
{
    test_int80();
    test_sysinfo();
    test_interrupted();
}

#endif

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    signal(SIGUSR1, on_usr1);
    test_all();
    return 0;
}
