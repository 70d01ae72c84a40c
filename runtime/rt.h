/* rt.h - the runtime's face: the host, and the way in and out of translated code.
 *
 *   os.c       every call that reaches the host's memory, signals, clocks and files
 *   window.c   ranges of host addresses for guests' address spaces
 *   gs.c       the host's GS base, which is the window while a vCPU runs
 *   vcpu.h     the register file that C, assembly and translated code share; vcpu.c proves it
 *   enter.S    into translated code and out        native.S  one instruction for the slow path
 *   fpu.c      whose vector state is in the registers
 *   fault.c    host signals turned into {host pc, address, kind}
 *   unwind.c   backtraces, and the end after a failed assertion
 *
 * It knows no guest: what a fault or an exit means is the monitor's to say, through struct
 * rt_hooks. */
#ifndef NOVT_RUNTIME_RT_H
#define NOVT_RUNTIME_RT_H

#include "runtime/vcpu.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- assertions: our own defects, never the guest's doing ---- */

void rt_assert_failed(const char *what, const char *file, int line) __attribute__((noreturn, cold));
#define RT_ASSERT(condition)                                  \
    do {                                                      \
        if (__builtin_expect(!(condition), 0))                \
            rt_assert_failed(#condition, __FILE__, __LINE__); \
    } while (0)

/* ---- os.c: the only file that calls the host's memory, signal and clock functions ---- */

enum rt_prot { RT_PROT_NONE = 0, RT_PROT_R = 1, RT_PROT_RW = 3, RT_PROT_RX = 5 };

/* All return a negative errno on failure, or NULL where they return pointers. What they map at a
 * place of the host's choice has guards of 64 KiB on both sides, and goes by rt_os_release(). */
int rt_os_memfd(const char *name, size_t size);
void rt_os_close(int fd);
int rt_os_dup(int fd);
void *rt_os_map_shared(int fd, size_t offset, size_t size, int prot);
/* The same anonymous pages at two addresses: the result is writable, *rx executable. perf takes
 * code for generated only in such memory; but policies that refuse to make a mapping executable
 * later (MemoryDenyWriteExecute=) allow two views of a memfd only. */
void *rt_os_map_twice(size_t size, uint8_t **rx);
/* Private copy-on-write mapping of a memfd; at may be NULL, or an address to replace. */
void *rt_os_map_private(void *at, int fd, size_t offset, size_t size);
/* Zeroed memory that costs nothing until touched. */
void *rt_os_reserve(size_t size);
void rt_os_release(void *p, size_t size);
/* Unmaps a part of a window. May fail where it would leave two mappings of one: the host limits
 * their number. */
int rt_os_unmap(void *p, size_t size);
/* Gives the pages' memory back; they read as zero afterwards. */
int rt_os_discard(void *p, size_t size);
/* Maps fd's pages at a fixed address inside a window; replaces what was there. */
int rt_os_map_at(void *at, size_t size, int prot, int fd, uint64_t offset, bool populate);
int rt_os_protect(void *at, size_t size, int prot);
uint64_t rt_os_now_ns(void);
uint64_t rt_os_wall_ns(void); /* since 1970, UTC */
long rt_os_max_map_count(void);
uint64_t rt_os_address_limit(void); /* RLIMIT_AS, in bytes; all ones for none */
/* Whether user mode may execute WRGSBASE (AT_HWCAP2 bit 1). */
bool rt_os_has_fsgsbase(void);
/* A file to append to, for perf maps: opened once, because the embedder may give up open(). */
int rt_os_append_open(const char *path);
int rt_os_append(int fd, const char *buf, size_t len);
int rt_os_pid(void);

/* The constants in a zeroed register file. */
void rt_cpu_init(struct rt_cpu *cpu);
/* The bits of a pc that are its index in a jump table; they are adjacent. */
uint32_t rt_cpu_table_mask(void);
/* AVX-512's mask registers with vectors of 128 and 256 bits (VL, BW). */
bool rt_cpu_has_masks(void);

/* The distance from the thread pointer (%fs:0) to rt_cpu: the same in every thread. */
intptr_t rt_cpu_offset(void);

/* ---- window.c ---- */

/* Claims 4 GiB of addresses, aligned to 4 GiB, with unmapped guards of 4 GiB on both sides; NULL
 * when there are none left. */
uint8_t *rt_window_claim(void);
/* The same for n times 4 GiB side by side. */
uint8_t *rt_window_claim_run(unsigned n);
/* Claims the 4 GiB at base. A neighbour that the caller owns needs no guard. False: not possible
 * there, or taken. */
bool rt_window_claim_at(uint64_t base, bool owns_below, bool owns_above);
/* Whether base lies where rt_window_claim_at() may place a window. */
bool rt_window_possible(uint64_t base);
void rt_window_release(uint8_t *base);
void rt_window_release_run(uint8_t *base, unsigned n);
#define RT_WINDOW_SIZE (1ull << 32)

/* ---- fpu.c ---- */

/* Bytes of the XSAVE area (standard format, the components that guests may use). */
size_t rt_fpu_size(void);
uint64_t rt_fpu_mask(void);
/* Brings vector state into the host's registers, or saves it to cpu->xsave so that code that uses
 * vector registers (libc, Zydis, the embedder) may run. Both are cheap when there is nothing to do.
 */
void rt_fpu_load(struct rt_cpu *cpu);
void rt_fpu_park(struct rt_cpu *cpu);

/* ---- enter.S ---- */

/* Runs translated code from cpu->start, which must be right for cpu->rip, until it exits. cpu must
 * be this thread's &rt_cpu. */
enum rt_exit rt_enter(struct rt_cpu *cpu);
enum rt_exit rt_enter64(struct rt_cpu *cpu); /* 64-bit code */
/* Flags that C does not care about and rt_enter leaves as they are: AC, ID, NT. */
static inline void rt_flags_reset(void)
{
    __builtin_ia32_writeeflags_u64(0x202);
}
void rt_enter_loaded(void); /* from here on rt_enter's r14 is the jump table */
void rt_enter_end(void);    /* the end of both */
/* Where translated code jumps to in order to exit: r10d enum rt_exit, r8 rip, r9 exit_arg. */
void rt_exit_common(void);
/* Where the fault handler resumes after it has filled in cpu itself. */
void rt_exit_fault(void);

/* The GS base is the window while translated code runs. gs_loaded remembers what is there. */
void rt_gs_enter(struct rt_cpu *cpu); /* saves the thread's own */
void rt_gs_leave(struct rt_cpu *cpu); /* puts it back */
void rt_gs_load(struct rt_cpu *cpu, void *base);
/* Whether translated code may load it itself, with WRGSBASE. */
bool rt_gs_is_direct(void);
static inline void rt_gs_window(struct rt_cpu *cpu)
{
    if (cpu->gs_loaded != cpu->window)
        rt_gs_load(cpu, cpu->window);
}

/* ---- fault.c ---- */

enum rt_fault_action {
    RT_FAULT_RETRY, /* the cause is gone: run the host instruction again */
    RT_FAULT_LEAVE, /* cpu holds the guest's state: leave translated code with RT_EXIT_FAULT */
};

/* Host registers at a signal, by x86 encoding number. */
struct rt_context {
    uint64_t gpr[16];
    uint64_t rip, rflags;
};

/* Upward calls, filled in by the monitor when the first VM is made. Signal context on the vCPU's
 * thread, translated code interrupted: they may do anything but take a lock that C code of this
 * thread can hold while it enters translated code. context may be changed. */
struct rt_hooks {
    enum rt_fault_action (*fault)(struct rt_cpu *cpu, struct rt_context *context);
    /* A kick arrived while translated code ran, or (context NULL) while in_cache is set but C runs:
     * then cpu->jump_table and cpu->start must become what leads back to C. */
    enum rt_fault_action (*kick)(struct rt_cpu *cpu, struct rt_context *context);
};

/* Installs the handlers (once a process) and this thread's alternate stack. */
int rt_fault_install(const struct rt_hooks *hooks, int kick_signal);
/* Prepares the calling thread to run guests (alternate stack); idempotent. */
int rt_fault_thread(void);
/* Sends the kick signal to a thread (as from rt_fault_self()). */
void rt_fault_kick(int tid);
int rt_fault_self(void);
/* Blocks every signal but the synchronous ones and the kick; restores. */
void rt_fault_mask(void *saved);
void rt_fault_unmask(const void *saved);

/* ---- native.S ---- (the slow path's single instructions) */
uint64_t rt_native_call(struct rt_cpu *cpu, const void *code);
void rt_native_fault(void);

#endif
