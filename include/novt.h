/* novt.h - full virtualization of x86 on x86 by dynamic binary translation, as a library.
 *
 * The shape is KVM's: a VM owns guest memory and vCPUs; a vCPU runs on the caller's thread until
 * something needs the embedder, and novt_vcpu_run() returns with the reason in struct novt_run.
 * The library owns the CPU (translation, paging, segmentation, exceptions, CPUID, MSRs); the
 * embedder owns memory (a memfd), devices, interrupt controllers and firmware.
 *
 *     novt_vm_create -> novt_vm_set_memory -> novt_vcpu_create -> novt_vcpu_set_sregs/regs
 *         -> loop { novt_vcpu_run; switch (run->exit_reason) ... } -> novt_vm_destroy
 *
 * Errors: functions return NOVT_OK (0) or a negative enum novt_status; novt_vm_error() has a
 * sentence that names the thing and the remedy. Nothing is printed, exit() is never called.
 *
 * Threads: a vCPU is run by one thread at a time, any thread; its get and set calls belong to that
 * thread or to a moment when it does not run. novt_vcpu_kick() may be called from any thread and
 * from signal handlers. Different VMs are independent.
 *
 * Signals: while any VM exists the library owns handlers for SIGSEGV, SIGBUS, SIGFPE, SIGILL,
 * SIGTRAP and NOVT_KICK_SIGNAL, on an alternate stack of its own on vCPU threads. A signal that
 * does not come from translated code goes on to the handler that was there before. All other
 * signals are blocked on the thread while it runs guest code.
 *
 * Addresses: gpa is a guest-physical address in bytes, gla a guest-linear one. */
#ifndef NOVT_H
#define NOVT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NOVT_API           __attribute__((visibility("default")))
#define NOVT_VERSION_MAJOR 0
#define NOVT_VERSION_MINOR 1
#define NOVT_VERSION_PATCH 0

/* The signal that novt_vcpu_kick() sends to a running vCPU's thread. */
#define NOVT_KICK_SIGNAL (SIGRTMIN + 5)

struct novt_vm;
struct novt_vcpu;

enum novt_status {
    NOVT_OK = 0,
    NOVT_E_INVAL = -1,   /* an argument is out of range; nothing was changed */
    NOVT_E_NOMEM = -2,   /* host memory or address space ran out */
    NOVT_E_HOST = -3,    /* the host lacks something that novt needs */
    NOVT_E_EXISTS = -4,  /* the slot, range or vCPU id is taken */
    NOVT_E_BUSY = -5,    /* the vCPU runs, or (inject) cannot take the event now */
    NOVT_E_INTERNAL = -6 /* a defect of the library; the run area says where */
};

/* A short English phrase for a status; never NULL. */
NOVT_API const char *novt_status_string(int status);

/* "0.1.0" */
NOVT_API const char *novt_version(void);

/* Log categories: bits of novt_config.log_mask. */
enum novt_log {
    NOVT_LOG_TRANSLATE = 1 << 0, /* every block as it is translated, with listings */
    NOVT_LOG_EVENT = 1 << 1,     /* exceptions and interrupts delivered */
    NOVT_LOG_EXIT = 1 << 2,      /* exits to the embedder */
    NOVT_LOG_STEP = 1 << 3,      /* every instruction that the slow path executes */
    NOVT_LOG_PAGING = 1 << 4,    /* window fills, revalidation, CR writes */
    NOVT_LOG_SMC = 1 << 5,       /* code invalidated because its bytes were written */
};

/* Creation flags. */
enum novt_flags {
    NOVT_F_VERIFY = 1 << 0,    /* run blocks through the slow path too and compare: the first 256
                                  runs of each block, then 1 in 61 */
    NOVT_F_STATS = 1 << 1,     /* count guest instructions and time (costs about 1 %) */
    NOVT_F_INTERPRET = 1 << 2, /* slow path only: for finding defects of the translator */
    NOVT_F_NO_CHAIN = 1 << 3,  /* never link blocks: every block returns to the dispatcher */
    NOVT_F_PERF_MAP = 1 << 4,  /* write /tmp/perf-PID.map for perf(1) */
    /* The embedder has a local APIC for each vCPU. CPUID then offers it, x2APIC mode, the
     * TSC-deadline timer and ARAT (the CPU model may take each away: "host,-x2apic"), and their
     * MSRs become exits, see NOVT_EXIT_RDMSR. Without the flag there is none: the CPUID bits are
     * clear, the MSRs raise #GP(0). */
    NOVT_F_LOCAL_APIC = 1 << 5,
    /* For tests. FLUSH: the code cache is emptied before every translation, or one in
     * novt_config.flush_interval. SHORT_BLOCKS: a block is one instruction and is not linked to
     * the next, so events can come in behind each but indirect branches and returns, which find
     * their target's block without the dispatcher. */
    NOVT_F_FLUSH = 1 << 6,
    NOVT_F_SHORT_BLOCKS = 1 << 7,
};

struct novt_config {
    size_t size;              /* sizeof(struct novt_config): lets the struct grow */
    uint64_t flags;           /* enum novt_flags */
    uint64_t code_cache_size; /* bytes; 0 means 32 MiB */
    uint32_t map_budget; /* host mappings that windows may use; 0 means from vm.max_map_count */
    uint32_t log_mask;   /* enum novt_log */
    void (*log)(void *opaque, const char *line); /* called with one line, no newline */
    void *log_opaque;
    const char *cpu;         /* "host", "base" or "host,-name,+name"; NULL means "host" */
    uint32_t flush_interval; /* of NOVT_F_FLUSH, in translations; 0 means 1 */
};

enum novt_host_verdict {
    NOVT_HOST_OK,
    NOVT_HOST_SLOWER,  /* there is another way, which costs something */
    NOVT_HOST_MISSING, /* novt_vm_create() fails here */
};

/* One thing that the library asks of the host. */
struct novt_host_row {
    const char *name;             /* lower_case, stable */
    enum novt_host_verdict found; /* on this host, in this process */
    char text[200];               /* what there is; otherwise what it means and the remedy */
};

/* Tries what a VM with this configuration (NULL: the defaults) needs of the host. Fills at most n
 * rows; returns how many there are. Leaves nothing behind. */
NOVT_API size_t novt_host_report(const struct novt_config *config, struct novt_host_row *rows,
                                 size_t n);

/* Bytes of address space that a VM with one vCPU takes, guest memory and its windows aside. */
NOVT_API uint64_t novt_host_address_space(const struct novt_config *config);

/* Creates a VM without memory or vCPUs. On failure *vm is NULL and, when err is not NULL, err
 * (err_len bytes) holds the reason as a sentence. */
NOVT_API int novt_vm_create(const struct novt_config *config, struct novt_vm **vm, char *err,
                            size_t err_len);

/* Destroys the VM with its vCPUs, none of which may run. The caller's memfds stay open. NULL is
 * allowed. */
NOVT_API void novt_vm_destroy(struct novt_vm *vm);

/* The last error on this VM as a sentence; "" when there was none. Valid until the next call. */
NOVT_API const char *novt_vm_error(struct novt_vm *vm);

enum novt_memory_flags {
    NOVT_MEM_READONLY = 1 << 0, /* guest writes become MMIO exits (ROM) */
};

/* Maps [gpa, gpa + size) onto memfd at offset; all three multiples of 4096. The memfd stays the
 * caller's, who may map and close it, but after writing to it while the guest runs must call
 * novt_vm_memory_written(). size 0 removes the slot. */
NOVT_API int novt_vm_set_memory(struct novt_vm *vm, uint32_t slot, uint64_t gpa, uint64_t size,
                                int memfd, uint64_t offset, uint32_t flags);

/* Tells the code cache that the embedder (a device, a loader) wrote guest memory. Any thread. */
NOVT_API void novt_vm_memory_written(struct novt_vm *vm, uint64_t gpa, uint64_t size);

/* The frequencies that CPUID announces, in kHz: the TSC's (leaves 15h and 40000010h), and that of
 * the crystal, which a local APIC's timer counts (SDM 3-10.5.4). */
NOVT_API uint32_t novt_vm_tsc_khz(struct novt_vm *vm);
NOVT_API uint32_t novt_vm_apic_khz(struct novt_vm *vm);

/* Creates a vCPU in the state after RESET (SDM vol. 3, table 10-1). id is its APIC id. */
NOVT_API int novt_vcpu_create(struct novt_vm *vm, uint32_t id, struct novt_vcpu **vcpu);

/* General registers, in the encoding order of ModRM; 32-bit guests use the low halves. */
struct novt_regs {
    uint64_t gpr[16]; /* rax rcx rdx rbx rsp rbp rsi rdi r8 ... r15 */
    uint64_t rip;
    uint64_t rflags;
};

enum novt_gpr {
    NOVT_RAX,
    NOVT_RCX,
    NOVT_RDX,
    NOVT_RBX,
    NOVT_RSP,
    NOVT_RBP,
    NOVT_RSI,
    NOVT_RDI,
};

/* A segment register with its hidden part. attr is the descriptor's bits 40-55 shifted down, as
 * in VMX access rights: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16. */
struct novt_segment {
    uint64_t base;
    uint32_t limit; /* in bytes, granularity applied */
    uint32_t attr;
    uint16_t selector;
};

enum novt_sreg { NOVT_ES, NOVT_CS, NOVT_SS, NOVT_DS, NOVT_FS, NOVT_GS };

struct novt_dtable {
    uint64_t base;
    uint16_t limit;
};

struct novt_sregs {
    struct novt_segment seg[6]; /* enum novt_sreg */
    struct novt_segment tr, ldt;
    struct novt_dtable gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base, xcr0;
    uint64_t dr[8]; /* dr[4] and dr[5] unused */
};

/* Pending events, so that a whole vCPU can be saved and restored between instructions. */
struct novt_events {
    bool nmi_pending, nmi_blocked;
    bool interrupt_shadow;   /* STI or MOV SS just executed */
    bool halted;             /* in HLT */
    bool interrupt_injected; /* novt_vcpu_interrupt() not delivered yet */
    uint8_t interrupt_vector;
    bool machine_check_pending; /* novt_vcpu_machine_check() not delivered yet */
};

struct novt_msr {
    uint32_t index;
    uint64_t value;
};

NOVT_API void novt_vcpu_get_regs(struct novt_vcpu *vcpu, struct novt_regs *regs);
NOVT_API int novt_vcpu_set_regs(struct novt_vcpu *vcpu, const struct novt_regs *regs);
NOVT_API void novt_vcpu_get_sregs(struct novt_vcpu *vcpu, struct novt_sregs *sregs);
NOVT_API int novt_vcpu_set_sregs(struct novt_vcpu *vcpu, const struct novt_sregs *sregs);
NOVT_API void novt_vcpu_get_events(struct novt_vcpu *vcpu, struct novt_events *events);
NOVT_API int novt_vcpu_set_events(struct novt_vcpu *vcpu, const struct novt_events *events);
/* The XSAVE area in standard format with the host's XCR0 layout; size bytes at area, at least
 * novt_vcpu_xsave_size(). */
NOVT_API size_t novt_vcpu_xsave_size(struct novt_vcpu *vcpu);
NOVT_API int novt_vcpu_get_xsave(struct novt_vcpu *vcpu, void *area, size_t size);
NOVT_API int novt_vcpu_set_xsave(struct novt_vcpu *vcpu, const void *area, size_t size);
/* Reads or writes n MSRs; returns how many were done before the first unknown one. */
NOVT_API int novt_vcpu_get_msrs(struct novt_vcpu *vcpu, struct novt_msr *msrs, size_t n);
NOVT_API int novt_vcpu_set_msrs(struct novt_vcpu *vcpu, const struct novt_msr *msrs, size_t n);
/* Every MSR index that a state save needs; returns the count, fills at most n. */
NOVT_API size_t novt_vcpu_msr_list(struct novt_vcpu *vcpu, uint32_t *index, size_t n);

/* Translates a linear address as a supervisor read would, with no side effect. 0 when it is
 * mapped, NOVT_E_INVAL when not. */
NOVT_API int novt_vcpu_translate(struct novt_vcpu *vcpu, uint64_t gla, uint64_t *gpa);

enum novt_exit {
    NOVT_EXIT_NONE,
    NOVT_EXIT_IO,         /* run->io: IN needs data filled in; OUT has it */
    NOVT_EXIT_MMIO,       /* run->mmio: a read needs data filled in; a write has it */
    NOVT_EXIT_HLT,        /* HLT; run again after an interrupt is there */
    NOVT_EXIT_SHUTDOWN,   /* triple fault; run->fail says what led to it */
    NOVT_EXIT_IRQ_WINDOW, /* asked for with request_interrupt_window, and open now */
    NOVT_EXIT_KICKED,     /* novt_vcpu_kick(), or immediate_exit was set */
    NOVT_EXIT_DEBUG,      /* a guest-debug event asked for by the embedder */
    NOVT_EXIT_INTERNAL,   /* the library cannot go on; run->fail says why */
    /* With NOVT_F_LOCAL_APIC only. RDMSR and WRMSR of the registers that are the local APIC's:
     * 800h-8FFh in x2APIC mode (in other modes #GP(0) without an exit), IA32_TSC_DEADLINE (6E0h),
     * and writes of IA32_APIC_BASE (1Bh), already checked as SDM 3-10.12.5 demands. run->msr has
     * the access; the next novt_vcpu_run() completes it, with #GP(0) if run->msr.error is set.
     * IA32_APIC_BASE is the library's: it is in the sregs, and CPUID follows its bits. */
    NOVT_EXIT_RDMSR,
    NOVT_EXIT_WRMSR,
    NOVT_EXIT_TPR, /* CR8 is below run->tpr_threshold */
    NOVT_EXIT_TSC, /* with NOVT_F_LOCAL_APIC only: the guest moved its TSC, run->tsc_offset is new
                    */
};

/* The area that embedder and library share; one for each vCPU, valid while the vCPU is. */
struct novt_run {
    /* in */
    uint8_t request_interrupt_window; /* exit as soon as an interrupt could be injected */
    uint8_t immediate_exit;           /* leave at once; any thread and signal handlers may set it */
    uint8_t tpr_threshold;            /* NOVT_EXIT_TPR as soon as cr8 is less than this; 0: never */
    /* in and out: CR8, the upper half of the local APIC's task priority register. As it is after
     * each exit; novt_vcpu_run() takes what is here. Without a local APIC leave it alone. */
    uint8_t cr8;
    /* out */
    uint8_t ready_for_interrupt; /* novt_vcpu_interrupt() would be accepted now */
    uint8_t if_flag;             /* RFLAGS.IF */
    uint32_t exit_reason;        /* enum novt_exit */
    uint64_t tsc_offset;         /* the guest's TSC is the host's plus this */
    union {
        struct {
            uint16_t port;
            uint8_t size;  /* 1, 2 or 4 bytes */
            uint8_t write; /* 1: OUT */
            uint32_t data; /* OUT: the value; IN: the embedder's answer, all ones before */
        } io;
        struct {
            uint64_t gpa;
            uint8_t size; /* 1 to 8 bytes, never across a page */
            uint8_t write;
            uint8_t data[8]; /* little endian; read: the embedder's answer, all ones before */
        } mmio;
        struct {
            uint32_t index;
            uint8_t error; /* the embedder's: raise #GP(0); 0 before */
            uint64_t data; /* WRMSR: the value; RDMSR: the embedder's answer, 0 before */
        } msr;
        struct {
            char reason[240];
        } fail;
    };
};

NOVT_API struct novt_run *novt_vcpu_run_area(struct novt_vcpu *vcpu);

/* Runs the guest until an exit. NOVT_OK with run->exit_reason set, or a negative status when the
 * vCPU could not run at all. An IO or MMIO exit is completed by the next call. */
NOVT_API int novt_vcpu_run(struct novt_vcpu *vcpu);

/* Answers exits without leaving novt_vcpu_run(). Called with each exit, on the vCPU's thread, the
 * run area as it would be after novt_vcpu_run(). true: the exit is dealt with, and the guest goes
 * on as if novt_vcpu_run() had returned and been called again, at a tenth of the cost. false:
 * novt_vcpu_run() returns with this exit. It may do to the vCPU what may be done between two runs,
 * but signals are blocked and the GS base is the library's, and EFLAGS.AC, ID and NT have to be as
 * they were when it returns.
 *
 * With NOVT_HANDLER_KEEPS_VECTORS the guest's x87, vector and mask registers are still in the CPU's
 * when it is called, and it must leave them alone: it is compiled for general registers only
 * (-mgeneral-regs-only), and calls nothing that is not. That saves some 500 cycles an exit.
 *
 * With NOVT_HANDLER_KEEPS_STATE it changes nothing of the vCPU's and the VM's but what is in the
 * run area, and interrupts, NMIs and kicks, when it returns true. Then it is called in the middle
 * of the instruction, which saves some 60 cycles. */
typedef bool novt_exit_handler(void *opaque, struct novt_run *run);
enum novt_handler_flags { NOVT_HANDLER_KEEPS_VECTORS = 1 << 0, NOVT_HANDLER_KEEPS_STATE = 1 << 1 };

/* NULL: none, as after novt_vcpu_create(). NOVT_E_BUSY while the vCPU runs. */
NOVT_API int novt_vcpu_set_handler(struct novt_vcpu *vcpu, novt_exit_handler *handler, void *opaque,
                                   uint32_t flags);

/* Queues an external interrupt for delivery at the next instruction. NOVT_E_BUSY unless
 * run->ready_for_interrupt is set. The vector is what the interrupt controller's acknowledge cycle
 * gave. */
NOVT_API int novt_vcpu_interrupt(struct novt_vcpu *vcpu, uint8_t vector);

/* Makes an NMI pending; delivered when NMIs are not blocked. */
NOVT_API void novt_vcpu_nmi(struct novt_vcpu *vcpu);

/* Makes a machine check pending: #MC, vector 18, before the next instruction, whatever IF and
 * shadows are. IA32_MCG_STATUS becomes RIPV and MCIP. There are no banks that say what happened
 * (IA32_MCG_CAP is 0): that is between embedder and guest. While CR4.MCE is clear, or MCIP set from
 * an earlier one, the vCPU shuts down instead (SDM 3-16.3.1.2). */
NOVT_API void novt_vcpu_machine_check(struct novt_vcpu *vcpu);

/* Makes a running or the next novt_vcpu_run() return NOVT_EXIT_KICKED soon. Async-signal-safe. */
NOVT_API void novt_vcpu_kick(struct novt_vcpu *vcpu);

/* Puts the vCPU into the state after RESET, keeping memory. */
NOVT_API void novt_vcpu_reset(struct novt_vcpu *vcpu);

struct novt_stat {
    const char *name; /* lower_case, stable */
    const char *unit; /* "count", "ns" or "bytes" */
    uint64_t value;
};

/* Fills at most n rows; returns how many there are. Any thread; the values are approximate while a
 * vCPU runs. */
NOVT_API size_t novt_vm_stats(struct novt_vm *vm, struct novt_stat *stats, size_t n);

#ifdef __cplusplus
}
#endif
#endif
