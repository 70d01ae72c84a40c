/* cpu.h - the monitor's face towards itself: the virtual CPU's privileged state and what acts on
 * it.
 *
 *   paging.c   page-table walks, checked access to linear memory, guest-physical memory
 *   seg.c      descriptors: loading segment registers, limits and rights, LAR/LSL/VERR/VERW
 *   far.c      far CALL, JMP, RET, IRET, gates, SYSENTER/SYSEXIT
 *   task.c     hardware task switches, stack switches through the TSS, I/O bitmap
 *   event.c    exceptions and interrupts: priority, double fault, delivery through the IDT
 *   ctl.c      control and debug registers, RFLAGS rules of POPF and IRET
 *   msr.c      MSRs          cpuid.c  CPUID table
 *   step.c     the slow path: one guest instruction, any mode
 *   native.c   the slow path's way to run an innocuous instruction on the CPU
 *   view.c     views: windows filled from the guest's page tables (view*.c; view.h lists them)
 *   run.c      the loop around translated code        api.c  include/novt.h
 *   mode.c     what translations depend on            trap.c faults and kicks in translated code
 *   verify.c   --verify: blocks also through the slow path, compared (verify*.c)
 *   host.c     what the host has to offer             kvmclock.c  KVM's clock
 *   describe.c what a vCPU does, in words, for when it ends
 *
 * Conventions. Functions that can raise a guest exception return enum mon_rc. They check first and
 * commit last: on MON_FAULT no architectural state has changed (but for completed REP iterations)
 * and v->exc says what to deliver; on MON_EXIT v->run has an exit for the embedder, nothing has
 * been committed, and the same instruction is executed again after the embedder has answered.
 *
 * Context: the vCPU's thread, with translated code not running. */
#ifndef NOVT_MONITOR_CPU_H
#define NOVT_MONITOR_CPU_H

#include "include/novt.h"
#include "runtime/vcpu.h"
#include "translator/tr.h"

enum mon_rc { MON_OK, MON_FAULT, MON_EXIT };

/* Exception vectors (SDM 3-6.15) */
enum mon_vector {
    MON_DE = 0,
    MON_DB = 1,
    MON_NMI = 2,
    MON_BP = 3,
    MON_OF = 4,
    MON_BR = 5,
    MON_UD = 6,
    MON_NM = 7,
    MON_DF = 8,
    MON_TS = 10,
    MON_NP = 11,
    MON_SS = 12,
    MON_GP = 13,
    MON_PF = 14,
    MON_MF = 16,
    MON_AC = 17,
    MON_MC = 18,
    MON_XM = 19,
};

#define MON_CR0_PE         (1u << 0)
#define MON_CR0_MP         (1u << 1)
#define MON_CR0_EM         (1u << 2)
#define MON_CR0_TS         (1u << 3)
#define MON_CR0_ET         (1u << 4)
#define MON_CR0_NE         (1u << 5)
#define MON_CR0_WP         (1u << 16)
#define MON_CR0_AM         (1u << 18)
#define MON_CR0_NW         (1u << 29)
#define MON_CR0_CD         (1u << 30)
#define MON_CR0_PG         (1u << 31)
#define MON_CR4_VME        (1u << 0)
#define MON_CR4_PVI        (1u << 1)
#define MON_CR4_TSD        (1u << 2)
#define MON_CR4_DE         (1u << 3)
#define MON_CR4_PSE        (1u << 4)
#define MON_CR4_PAE        (1u << 5)
#define MON_CR4_MCE        (1u << 6)
#define MON_CR4_PGE        (1u << 7)
#define MON_CR4_PCE        (1u << 8)
#define MON_CR4_OSFXSR     (1u << 9)
#define MON_CR4_OSXMMEXCPT (1u << 10)
#define MON_CR4_UMIP       (1u << 11)
#define MON_CR4_LA57       (1u << 12)
#define MON_CR4_FSGSBASE   (1u << 16)
#define MON_CR4_PCIDE      (1u << 17)
#define MON_CR4_OSXSAVE    (1u << 18)
#define MON_CR4_SMEP       (1u << 20)
#define MON_CR4_SMAP       (1u << 21)
#define MON_EFER_SCE       (1u << 0)
#define MON_EFER_LME       (1u << 8)
#define MON_EFER_LMA       (1u << 10)
#define MON_EFER_NXE       (1u << 11)

/* IA32_APIC_BASE (SDM 3-10.4.4, 3-10.12.1) */
#define MON_APIC_BSP     (1u << 8)
#define MON_APIC_X2      (1u << 10)
#define MON_APIC_ENABLED (1u << 11)

/* Descriptor attributes, in struct novt_segment.attr. */
#define MON_ATTR_TYPE         0x000fu
#define MON_ATTR_S            0x0010u
#define MON_ATTR_DPL          0x0060u
#define MON_ATTR_P            0x0080u
#define MON_ATTR_L            0x2000u
#define MON_ATTR_DB           0x4000u
#define MON_ATTR_G            0x8000u
#define MON_ATTR_UNUSABLE     0x10000u
#define MON_ATTR_DPL_OF(attr) (((attr) >> 5) & 3u)

/* What a checked access is. */
enum mon_access {
    MON_READ = 0,
    MON_WRITE = 1, /* also for the read of a read-modify-write: checks for write first */
    MON_FETCH = 2,
    MON_SYSTEM = 4, /* implicit supervisor access (GDT, LDT, IDT, TSS), whatever the CPL */
    MON_WIDE = 8,   /* the address has 64 bits, even if the current code is not 64-bit code */
};

struct mon_exception {
    uint8_t vector;
    bool has_error;
    uint32_t error;
    uint64_t cr2; /* #PF: loaded into CR2 on delivery */
    uint64_t dr6; /* #DB: bits to set in DR6 on delivery */
    bool trap;    /* #DB/#BP/#OF as traps: rip is already behind the instruction */
};

/* Accesses of the current instruction that the embedder has already answered; executing the
 * instruction again takes the answers from here (SDM has no such notion: it is how an exit in the
 * middle of an instruction keeps the instruction atomic for the guest). XSAVE to a device
 * makes 340, a task switch between misaligned TSSs some 200. */
#define MON_REPLAY_MAX 500
struct mon_replay {
    uint16_t done, cursor;
    bool refused; /* an MSR access that the embedder wants answered with #GP(0) */
    uint64_t data[MON_REPLAY_MAX];
};

struct mon_msrs {
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t star, lstar, cstar, fmask, kernel_gs_base, tsc_aux, pat, misc_enable, apic_base;
    uint64_t mtrr_def, mtrr_fix[11], mtrr_var[16], mcg_status, spec_ctrl, tsc_adjust;
    uint64_t kvm_wall_clock, kvm_system_time;
};

/* Pages that checked accesses have walked to lately (paging.c): descriptor tables, TSS, stacks. */
#define MON_WALK_CACHE 32
struct mon_walk_cache {
    struct mon_walk_entry {
        uint64_t page;                /* gla >> 12 */
        uint8_t *host;                /* RAM behind the page; NULL: the entry is free */
        uint64_t gpa;                 /* of the page */
        uint64_t cr0, cr3, cr4, efer; /* under which it was found */
        uint64_t pdpte;               /* and this, with PAE paging */
        uint8_t levels, entry_size;   /* of the page tables */
        uint8_t rights;               /* bit 2 * user + write: allowed, and sets no A or D bit */
        const void *at[5];            /* host addresses of the page-table entries */
        uint64_t value[5];            /* what they were */
    } entry[MON_WALK_CACHE];
};

/* Which of rt_cpu.descs are in use, and under which GDTR (known.c). */
#define MON_KNOWN 64
struct mon_known {
    bool usable;
    uint8_t count;
    uint16_t selector[MON_KNOWN];
    struct novt_dtable gdt;
};

struct mon_vm;

struct mon_vcpu {
    struct rt_cpu *cpu; /* this thread's register file while running, else &saved */
    struct rt_cpu saved;
    struct mon_vm *vm;
    struct novt_run run;
    uint32_t id;
    /* Segment registers' hidden parts, enum novt_sreg; cpl is cpu->cpl. */
    struct novt_segment seg[6], tr, ldt;
    struct novt_dtable gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, xcr0;
    uint64_t pdpte[4]; /* PAE: loaded by MOV CR3 (SDM 3-4.4.1) */
    uint64_t dr[8];
    struct mon_msrs msr;
    struct mon_exception exc; /* valid after MON_FAULT */
    struct mon_replay replay;
    /* Events */
    bool shadow;    /* blocking by STI or MOV SS for one instruction */
    bool shadow_ss; /* it was MOV SS/POP SS: #DB traps are held back too */
    bool halted, mc_pending, nmi_pending, nmi_blocked, injected;
    uint8_t injected_vector;
    uint8_t ext;    /* EXT bit of error codes: 1 while an external event is delivered */
    bool kicked;    /* set by novt_vcpu_kick() under run.immediate_exit's rules */
    bool tsc_moved; /* by the guest; due as NOVT_EXIT_TSC */
    /* Set by whoever changes something that translated code depends on; run.c acts on it. */
    const char *host_failure; /* what the host refused that cannot be gone without: the run ends */
    bool mode_changed;        /* segments, CR0/CR4/EFER/XCR0, RFLAGS.VM/AC/TF/IOPL, DR7 */
    bool cpl_changed;         /* CPL has, and nothing else (or a page waits: mode.c, refill()) */
    /* run.c's own */
    bool slow;             /* the current mode is the slow path's */
    bool resume;           /* an instruction waits for the embedder's answer */
    bool asking, declined; /* a handler may be asked in its middle; it did not want the exit */
    /* That instruction, as the callout had it; NULL: to be fetched again. In the code cache, so
     * only valid while that has not been flushed. */
    const struct tr_insn *again;
    uint64_t again_flushes;
    novt_exit_handler *handler; /* novt_vcpu_set_handler() */
    void *handler_opaque;
    uint32_t handler_flags;
    uint8_t after_fault;
    /* The block at rip, just found: where to enter, until anything else happens. */
    const uint8_t *arrived;
    unsigned check_class; /* AFTER_CHECK: what the check was for */
    uint32_t key;         /* enum tr_key of the current mode */
    uint32_t side_key[2]; /* of rt_cpu.side */
    /* A page fault, whose page is filled in when its handler goes back there. */
    bool refill, refill_write;
    uint8_t refill_cpl;
    uint64_t refill_gla, refill_rip;
    void **table; /* jump table of the current view */
    int tid;      /* of the thread that runs it, 0 when none */
    struct mon_view_set *views;
    struct mon_native *native;        /* native.c */
    struct mon_verify *verify;        /* verify.c; NULL without NOVT_F_VERIFY */
    struct mon_walk_cache walk_cache; /* paging.c */
    struct mon_known known;
    /* The slow path's own (step.c) */
    uint32_t rep_budget; /* iterations that one execution of a REP may do */
    uint32_t debug_hits; /* data breakpoints that the current instruction met, as in DR6 */
    uint32_t debug_held; /* those of a MOV SS, due after the next instruction */
    uint64_t callouts[TR_OP_COUNT];
};

/* The VM's CPUID answers, made once (cpuid.c); executing CPUID on the host costs 6 us on a VM. */
struct mon_cpuid_entry {
    uint32_t leaf, subleaf, eax, ebx, ecx, edx;
    bool has_subleaf;
};
struct mon_cpuid {
    struct mon_cpuid_entry entry[96];
    unsigned count;
    uint32_t max_basic, max_ext;
    uint64_t xcr0_allowed; /* bits the guest may set in XCR0 */
    uint64_t tsc_khz;
    uint32_t apic_khz;                       /* of the crystal, see novt_vm_apic_khz() */
    bool local_apic;                         /* NOVT_F_LOCAL_APIC */
    bool has_apic, has_x2apic, has_deadline; /* what the model leaves of it */
    bool has_nx, has_smep, has_smap, has_umip, has_pcid, has_la57, has_1g, has_fsgsbase, has_long;
    bool intel;           /* the vendor */
    bool zero_selectors;  /* x87 images have no selectors: CPUID.7.EBX[13] */
    bool exceptions_data; /* FDP and FOP are of the last unmasked x87 exception: CPUID.7.EBX[6] */
    /* State components as leaf 0Dh has them; size 0: there is none. */
    struct {
        uint16_t size, offset;
        bool aligned; /* in the compacted format */
    } component[8];
    uint8_t phys_bits;
};

/* ---- the VM's parts that all of this folder's files share (vm.h has the rest) ---- */

/* The CPUID table of v's VM. */
const struct mon_cpuid *mon_vm_cpuid(const struct mon_vcpu *v);
/* Host address of guest-physical RAM, always readable and writable, valid to the end of the page;
 * NULL when gpa is not RAM (MMIO). *writable (may be NULL): false for ROM. */
uint8_t *mon_vm_ram(const struct mon_vcpu *v, uint64_t gpa, bool *writable);
/* The monitor wrote RAM through mon_vm_ram(): translations of these bytes are dropped. Cheap when
 * the page holds no code. */
void mon_vm_wrote(struct mon_vcpu *v, uint64_t gpa, unsigned len);
/* A log line, if the category (enum novt_log) is on. */
void mon_log(struct mon_vcpu *v, unsigned category, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool mon_log_on(const struct mon_vcpu *v, unsigned category);
/* The exit in v->run happens in the middle of an instruction: whether the embedder's handler has
 * answered it, and the answer is in v->replay. */
bool mon_vcpu_answers(struct mon_vcpu *v);
/* step_branch.c: CS, SS and CPL after SYSCALL (0) and SYSRET to 64-bit code (3); nobody is told. */
void mon_syscall_segments(struct mon_vcpu *v, unsigned cpl);
/* view_stale.c: what a TLB would drop. Called after the state has changed. */
void mon_view_invlpg(struct mon_vcpu *v, uint64_t gla);
/* MOV CR3; keep: with bit 63 set, so that translations of the new PCID stay. */
void mon_view_cr3(struct mon_vcpu *v, bool keep);
/* Everything but global pages, of all PCIDs; global: these too, and for changes of paging control
 * bits. */
void mon_view_flush(struct mon_vcpu *v, bool global);
/* Everything of one PCID but global pages. */
void mon_view_invpcid(struct mon_vcpu *v, uint16_t pcid);

/* ---- paging.c ---- */

/* Page-table entries (SDM 3-4.3 to 3-4.5), in every format that has the bit. */
#define MON_PTE_P     (1u << 0)
#define MON_PTE_W     (1u << 1)
#define MON_PTE_U     (1u << 2)
#define MON_PTE_A     (1u << 5)
#define MON_PTE_D     (1u << 6)
#define MON_PTE_PS    (1u << 7)
#define MON_PTE_G     (1u << 8)
#define MON_PTE_FRAME 0x000ffffffffff000ull /* of 8-byte entries, and of CR3 in long mode */
#define MON_PTE_XD    ((uint64_t)1 << 63)

struct mon_walk {
    uint64_t gpa;                             /* of the byte at gla */
    uint8_t page_shift;                       /* 12, 21, 22 or 30: size of the guest's page */
    bool user, writable, exec, dirty, global; /* over all levels */
    uint8_t levels;                           /* page-table entries read */
    uint64_t entry_gpa[5], entry[5];          /* from the root down, after A/D updates */
    uint8_t entry_size;                       /* 4 or 8 bytes */
};

/* Walks the guest's page tables for an access (enum mon_access) at privilege level cpl, checks
 * rights (WP, NX, SMEP, SMAP with RFLAGS.AC, reserved bits) and sets accessed and dirty bits with
 * locked operations. Paging off: identity. MON_FAULT: v->exc is the #PF, or #GP(0) for an address
 * that is not canonical. */
enum mon_rc mon_walk(struct mon_vcpu *v, uint64_t gla, unsigned access, unsigned cpl,
                     struct mon_walk *walk);
/* As mon_walk for a supervisor read, but changes nothing and raises nothing. False: not mapped. */
bool mon_walk_peek(struct mon_vcpu *v, uint64_t gla, struct mon_walk *walk);
/* Forgets the pages that checked accesses have walked to. For when memory slots change: what the
 * guest changes is noticed. Context: v's thread, or v does not run. */
void mon_walk_cache_flush(struct mon_vcpu *v);
/* Loads pdpte[] from CR3 under PAE. MON_FAULT: #GP(0) for reserved bits. */
enum mon_rc mon_pdpte_load(struct mon_vcpu *v, uint64_t cr3);

/* Checked access to linear memory at the current CPL (0 with MON_SYSTEM); any length up to 4096,
 * may cross pages: all pages are checked before the first byte is transferred. MMIO goes to the
 * embedder (MON_EXIT). Linear addresses wrap at 4 GiB outside 64-bit mode. */
enum mon_rc mon_lin_read(struct mon_vcpu *v, uint64_t gla, void *data, unsigned len,
                         unsigned access);
enum mon_rc mon_lin_write(struct mon_vcpu *v, uint64_t gla, const void *data, unsigned len,
                          unsigned access);
/* Checks only (all pages). */
enum mon_rc mon_lin_check(struct mon_vcpu *v, uint64_t gla, unsigned len, unsigned access);

/* One MSR access through the embedder, replayed; MON_FAULT with #GP(0) if it says so. */
enum mon_rc mon_msr_exit(struct mon_vcpu *v, uint32_t index, bool write, uint64_t *value);

/* One port access through the embedder, replayed. size 1, 2, 4. */
enum mon_rc mon_port(struct mon_vcpu *v, uint16_t port, unsigned size, bool write, uint32_t *data);

/* ---- seg.c ---- */

static inline bool mon_protected(const struct mon_vcpu *v)
{
    return v->cr0 & MON_CR0_PE;
}
static inline bool mon_v86(const struct mon_vcpu *v)
{
    return v->cpu->rflags & RT_VM;
}
static inline bool mon_long(const struct mon_vcpu *v)
{
    return v->efer & MON_EFER_LMA;
}
static inline bool mon_code64(const struct mon_vcpu *v)
{
    return mon_long(v) && (v->seg[NOVT_CS].attr & MON_ATTR_L);
}

/* Effective address -> linear address with the segment's limit, type and usability checked.
 * MON_FAULT: #GP(0), or #SS(0) for SS. */
enum mon_rc mon_seg_linear(struct mon_vcpu *v, unsigned seg, uint64_t offset, unsigned len,
                           unsigned access, uint64_t *gla);
/* MOV to Sreg, POP Sreg, LDS...: any mode; raises #GP, #NP, #SS; not for CS. */
enum mon_rc mon_seg_load(struct mon_vcpu *v, unsigned seg, uint16_t selector);
/* Reads the descriptor (8 bytes) that selector names from GDT or LDT; MON_FAULT: vector(selector &
 * ~3 | ext) when it is outside the table. */
enum mon_rc mon_desc_read(struct mon_vcpu *v, uint16_t selector, unsigned vector, uint64_t *desc);
/* Unpacks a descriptor into the register form. */
void mon_desc_unpack(uint16_t selector, uint64_t desc, struct novt_segment *seg);
/* Sets the descriptor's accessed bit (or TSS busy bit) in memory. */
enum mon_rc mon_desc_write_type(struct mon_vcpu *v, uint16_t selector, uint64_t desc,
                                unsigned type);
enum mon_rc mon_seg_lldt(struct mon_vcpu *v, uint16_t selector);
enum mon_rc mon_seg_ltr(struct mon_vcpu *v, uint16_t selector);
/* LAR, LSL: *value is valid when *zf is set. VERR, VERW: *zf. */
enum mon_rc mon_seg_lar(struct mon_vcpu *v, uint16_t selector, uint32_t *value, bool *zf);
enum mon_rc mon_seg_lsl(struct mon_vcpu *v, uint16_t selector, uint32_t *value, bool *zf);
enum mon_rc mon_seg_verify(struct mon_vcpu *v, uint16_t selector, bool write, bool *zf);
/* Sets a segment register with its hidden part in real or virtual-8086 mode style. */
void mon_seg_set_real(struct mon_vcpu *v, unsigned seg, uint16_t selector);
/* Flat segments for SYSENTER, SYSCALL and their returns (SDM 2): attributes at CPL 0. */
#define MON_FLAT_CODE32 0xc09bu /* G, D, present, code readable accessed */
#define MON_FLAT_CODE64 0xa09bu
#define MON_FLAT_STACK  0xc093u
static inline void mon_seg_flat(struct novt_segment *seg, uint32_t selector, uint32_t attr)
{
    *seg =
        (struct novt_segment){.limit = 0xffffffffu, .attr = attr, .selector = (uint16_t)selector};
}
/* mode.c: seg[seg] has just changed, visibly or hidden; sets mode_changed where translations depend
 * on it. Called after the change. */
void mon_seg_changed(struct mon_vcpu *v, unsigned seg);
/* The same for CS; alike: what code it holds is as before, but for its privilege. */
void mon_cs_changed(struct mon_vcpu *v, bool alike);
/* Data with a limit of 4 GiB. */
bool mon_seg_is_data4g(const struct novt_segment *seg);

/* ---- known.c ---- */

int mon_known_create(struct mon_vcpu *v);
void mon_known_destroy(struct mon_vcpu *v);
/* The mode or GDTR may have changed. */
void mon_known_update(struct mon_vcpu *v);
/* seg[seg] has just been loaded with all checks. */
void mon_known_add(struct mon_vcpu *v, unsigned seg);
/* Catches up with the segment registers that translated code has loaded. Also in signal context. */
void mon_known_follow(struct mon_vcpu *v);

/* ---- far.c ---- (rip in v->cpu is still at the instruction; next is the rip behind it) */

enum mon_rc mon_far_jump(struct mon_vcpu *v, uint16_t selector, uint64_t offset, unsigned opsize,
                         uint64_t next);
enum mon_rc mon_far_call(struct mon_vcpu *v, uint16_t selector, uint64_t offset, unsigned opsize,
                         uint64_t next);
enum mon_rc mon_far_return(struct mon_vcpu *v, unsigned opsize, uint16_t pop_bytes);
enum mon_rc mon_iret(struct mon_vcpu *v, unsigned opsize, uint64_t next);
enum mon_rc mon_sysenter(struct mon_vcpu *v);
enum mon_rc mon_sysexit(struct mon_vcpu *v, unsigned opsize);
/* Sets CS with its hidden part for a checked code descriptor, and CPL. */
void mon_cs_set(struct mon_vcpu *v, uint16_t selector, const struct novt_segment *seg,
                unsigned cpl);

/* ---- task.c ---- */

enum mon_task_source { MON_TASK_JMP, MON_TASK_CALL, MON_TASK_IRET, MON_TASK_EVENT };
enum mon_rc mon_task_switch(struct mon_vcpu *v, uint16_t selector, enum mon_task_source source,
                            uint64_t next, bool has_error, uint32_t error);
/* SS:ESP for privilege level from the TSS; MON_FAULT: #TS. */
enum mon_rc mon_tss_stack(struct mon_vcpu *v, unsigned level, uint16_t *ss, uint32_t *esp);
/* IN/OUT rights: CPL and IOPL, then the I/O permission bitmap; MON_FAULT: #GP(0). */
enum mon_rc mon_io_check(struct mon_vcpu *v, uint16_t port, unsigned size);

/* ---- event.c ---- */

/* Raise an exception for the current instruction: fills v->exc and returns MON_FAULT. */
enum mon_rc mon_raise(struct mon_vcpu *v, enum mon_vector vector);
enum mon_rc mon_raise_error(struct mon_vcpu *v, enum mon_vector vector, uint32_t error);
/* Delivers v->exc, with double-fault rules (SDM 3-6.15, table 6-5). MON_EXIT: triple fault, v->run
 * has SHUTDOWN with a description in run.fail, or an embedder exit on the way. */
enum mon_rc mon_exception_deliver(struct mon_vcpu *v);
/* INT n, INT3, INTO, INT1: software interrupts with their DPL checks; next: rip behind. */
enum mon_rc mon_software_interrupt(struct mon_vcpu *v, uint8_t vector, uint64_t next);
/* The one-byte INT3, INTO and INT1, where they differ from INT n: IOPL and the redirection bitmap
 * do not apply in virtual-8086 mode, and INT1 is not subject to the gate's DPL. */
enum mon_rc mon_software_exception(struct mon_vcpu *v, uint8_t vector, uint64_t next);
/* An external interrupt or NMI through the IDT. MON_FAULT: the delivery faulted, the interrupt is
 * gone and v->exc is to be delivered. */
enum mon_rc mon_interrupt_deliver(struct mon_vcpu *v, uint8_t vector);
/* A machine check from outside: #MC, or a shutdown where it cannot be had (SDM 3-16.3.1.2). */
enum mon_rc mon_machine_check_deliver(struct mon_vcpu *v);

/* ---- ctl.c ---- */

enum mon_rc mon_cr_write(struct mon_vcpu *v, unsigned cr, uint64_t value);
uint64_t mon_cr_read(const struct mon_vcpu *v, unsigned cr);
enum mon_rc mon_dr_write(struct mon_vcpu *v, unsigned dr, uint64_t value);
enum mon_rc mon_dr_read(struct mon_vcpu *v, unsigned dr, uint64_t *value);
enum mon_rc mon_xsetbv(struct mon_vcpu *v, uint32_t index, uint64_t value);
/* POPF's and IRET's rules: which bits of value reach RFLAGS at this CPL and IOPL, for opsize 16, 32
 * or 64. Sets mode_changed when TF, AC or VM change. */
void mon_flags_write(struct mon_vcpu *v, uint64_t value, unsigned opsize, bool from_iret);
/* Debug traps due after an instruction that ran from rip (TF, data breakpoints are checked by the
 * slow path): MON_FAULT with #DB when RFLAGS.TF was set. */

/* ---- msr.c, cpuid.c ---- */

enum mon_rc mon_rdmsr(struct mon_vcpu *v, uint32_t index, uint64_t *value);
enum mon_rc mon_wrmsr(struct mon_vcpu *v, uint32_t index, uint64_t value);
/* host: access by the embedder, without #GP for read-only state. Returns false if unknown. */
bool mon_msr_get(struct mon_vcpu *v, uint32_t index, uint64_t *value);
bool mon_msr_set(struct mon_vcpu *v, uint32_t index, uint64_t value);
size_t mon_msr_list(uint32_t *index, size_t n);
void mon_cpuid(struct mon_vcpu *v, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
/* Builds the table from the host's CPUID less what is not offered, and model ("host", "base",
 * "host,-avx512f"). Returns 0, or NOVT_E_INVAL with a sentence in err. */
int mon_cpuid_build(struct mon_cpuid *table, const char *model, bool local_apic, char *err,
                    size_t err_len);
void mon_cpu_reset(struct mon_vcpu *v);

/* ---- kvmclock.c ---- */

/* Writes the time structures that the guest has asked for through the clock's MSRs. To be called
 * after the MSR was written, and, for the time, after TSC_ADJUST has changed. */
void mon_kvmclock_time(struct mon_vcpu *v);
void mon_kvmclock_wall(struct mon_vcpu *v);

/* ---- step.c, native.c ---- */

/* Fetches and executes exactly one guest instruction (one iteration of a REP) in any mode, all
 * accesses checked in software. On MON_OK rip is at the next instruction, RFLAGS.RF is cleared,
 * v->shadow is as the instruction leaves it, pending #DB traps (TF, breakpoints) have become
 * MON_FAULT with exc.trap set. */
enum mon_rc mon_step(struct mon_vcpu *v);
/* The same for an already fetched and decoded instruction (callouts from translated code); debug
 * traps and breakpoints are not looked at. */
enum mon_rc mon_execute(struct mon_vcpu *v, const struct tr_insn *insn);

int mon_native_create(struct mon_vcpu *v);
void mon_native_destroy(struct mon_vcpu *v);
/* Runs one innocuous instruction on the CPU with the guest's registers from v->cpu; its memory
 * operand (if any) is the 4096-byte buffer mon_native_buffer(). MON_FAULT: the instruction itself
 * raised an exception (#DE, #UD, #MF, #XM, #GP(0) for alignment). */
enum mon_rc mon_native_run(struct mon_vcpu *v, const struct tr_insn *insn);
uint8_t *mon_native_buffer(struct mon_vcpu *v);
/* x87.c: the pointers to the last x87 instruction are the guest's from now on, whatever becomes of
 * its translation and of windows. Parks the vector state. Not in signal handlers. */
void mon_x87_settle(struct mon_vcpu *v);
/* The parked state was loaded: what it has are the guest's. */
void mon_x87_own(struct mon_vcpu *v);

#endif
