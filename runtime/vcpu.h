/* vcpu.h - the register file that translated code, assembly and C share.
 *
 * One instance a thread, in thread-local storage: translated code reaches it as %fs:offset. The
 * monitor copies a vCPU's state in when it starts to run on a thread and out when it stops.
 *
 * While C runs, gpr[], rip and rflags hold the whole architectural state. While translated code
 * runs, the general registers live in the host's registers of the same name, the arithmetic flags
 * and DF in the host's flags, IF in vif, and the other flags stay in rflags.
 *
 * Registers in 32-bit translated code:
 *
 *   rax..rdi  guest eax..edi, upper halves zero (rsp is the guest's esp: no host stack there)
 *   r8-r11    scratch                      r12  the host's stack pointer
 *   r13       count of guest instructions  r14  jump table of the view   r15, gs base  window
 *
 * Registers in 64-bit translated code:
 *
 *   rax..r8, r12..r15  the guest's; rsp is the guest's plus rsp_delta
 *   r9-r11    scratch; the guest's own are in gpr[9] to gpr[11]
 *   gs base   table of deltas: host address = guest address + deltas[address >> 32 & 0xffff],
 *             and the bytes that check addresses (long_operand.c) */
#ifndef NOVT_RUNTIME_VCPU_H
#define NOVT_RUNTIME_VCPU_H

#include <stddef.h>
#include <stdint.h>

enum rt_reg { RT_AX, RT_CX, RT_DX, RT_BX, RT_SP, RT_BP, RT_SI, RT_DI };

/* RFLAGS (SDM 1-3.4.3) */
#define RT_CF    (1u << 0)
#define RT_PF    (1u << 2)
#define RT_AF    (1u << 4)
#define RT_ZF    (1u << 6)
#define RT_SF    (1u << 7)
#define RT_TF    (1u << 8)
#define RT_IF    (1u << 9)
#define RT_DF    (1u << 10)
#define RT_OF    (1u << 11)
#define RT_IOPL  (3u << 12)
#define RT_NT    (1u << 14)
#define RT_RF    (1u << 16)
#define RT_VM    (1u << 17)
#define RT_AC    (1u << 18)
#define RT_VIF   (1u << 19)
#define RT_VIP   (1u << 20)
#define RT_ID    (1u << 21)
#define RT_ARITH (RT_CF | RT_PF | RT_AF | RT_ZF | RT_SF | RT_OF)
/* The flags that live in the host's flags while translated code runs. */
#define RT_LIVE (RT_ARITH | RT_DF)

/* Why translated code came back to C (rt_enter(), rt_enter64()). */
enum rt_exit {
    RT_EXIT_NONE,
    RT_EXIT_DIRECT,   /* a direct branch not linked yet; exit_arg: index of its site; no rip */
    RT_EXIT_INDIRECT, /* the jump table had no block for rip */
    RT_EXIT_CALLOUT,  /* exit_arg: struct tr_insn *; rip at that instruction */
    RT_EXIT_PENDING,  /* irq_pending seen by STI, POPF; rip at the next instruction */
    RT_EXIT_FAULT,    /* a host signal; fault holds it, rip at the guest instruction */
    RT_EXIT_NATIVE,   /* the slow path's single native instruction has run */
};

/* A host fault in translated code, as the monitor sees it. */
struct rt_fault {
    uint8_t vector;    /* x86 vector: 0 #DE, 6 #UD, 13 #GP, 14 #PF, 16 #MF, 17 #AC, 19 #XM */
    uint8_t write;     /* #PF: the access was a write */
    uint8_t has_addr;  /* addr is valid (not for non-canonical addresses) */
    uint64_t addr;     /* host address of the access */
    const uint8_t *pc; /* host pc */
};

/* One privilege level of an address space (long_system.c; for 32-bit code system.c). */
struct rt_side {
    void *window, *jump_table; /* as in rt_cpu */
    uint64_t class_delta[4];
    uint32_t selectors; /* 32-bit code: CS, and in the upper half SS */
};

/* A descriptor that 32-bit code at CPL 0 may load into a segment register by itself, if memory
 * still holds it (translator/system.c, monitor/cpu/known.c). By selector; all zero: none. */
struct rt_desc {
    uint32_t base;        /* of the segment; first, segptr leads here */
    uint32_t at, at_flat; /* its linear address; at_flat 0: not a flat segment's */
    uint32_t unused;
    uint64_t minus; /* the negative of what memory held */
    uint64_t unused2;
};
#define RT_DESCS 65536u
_Static_assert(sizeof(struct rt_desc) == 32, "translated code multiplies by it");

/* Where the base of an unusable segment is "loaded" from: page 0 is never mapped. */
#define RT_NO_SEGMENT 8

struct rt_cpu {
    uint64_t gpr[16];
    uint64_t rip; /* EIP or RIP: an offset in CS, not linear */
    uint64_t rflags;
    uint64_t hflags;     /* host flags as the exit stub found them */
    uint8_t vif;         /* RFLAGS.IF while translated code runs */
    uint8_t irq_pending; /* something waits for IF = 1; any thread may set it */
    uint8_t fpu_live;    /* vector state is in the registers, not in xsave */
    uint8_t cpl;
    uint32_t in_cache; /* translated code runs (read by the signal handler) */
    void *host_sp;
    void *jump_table; /* host addresses of blocks, by the bits of the pc that cc.index_mask says */
    uint8_t *window;  /* base of the current view's window */
    uint64_t exit_arg;
    uint32_t *segptr[6]; /* where each segment's base is; RT_NO_SEGMENT when unusable */
    uint32_t segbase[8];
    uint64_t tsc_offset;
    uint64_t tsc_aux; /* IA32_TSC_AUX, for RDTSCP */
    uint64_t insns;   /* guest instructions executed (NOVT_F_STATS) */
    /* 64-bit code: what is added to the guest's rsp, and its negative; the GS and FS bases (guest,
     * and with their slot's delta added). */
    uint64_t rsp_delta, rsp_undo;
    uint64_t base64[2], host64[2]; /* FS, GS */
    uint64_t host_rsp;             /* the host's rsp on the way in and out of 64-bit code */
    const void *start;             /* where rt_enter() goes: a block, its entry, or the miss stub */
    const void *miss, *direct;     /* stubs of the current mode: no block; a site not linked yet */
    uint64_t class_delta[4];       /* by address bits 46 and 47: see long_operand.c */
    uint32_t branch_from; /* the last indirect branch: offset of its host code in the region */
    /* System calls in the cache: the sides of CPL 0 and CPL 3, whether they may be used, and what
     * has moved since translated code was entered: to the other side; GS by SWAPGS. */
    struct rt_side side[2];
    uint8_t sides_ok, side_moved, gs_moved;
    uint64_t lstar, flags_kept;          /* IA32_LSTAR, the complement of IA32_FMASK */
    uint64_t kernel_gs;                  /* IA32_KERNEL_GS_BASE */
    uint32_t sysenter_esp, sysenter_eip; /* of the MSRs */
    uint16_t selector[8];                /* of each segment register, for 32-bit code */
    /* 32-bit code: which segment registers it has loaded by itself, one byte each; what it may. */
    uint8_t seg_moved[8];
    struct rt_desc *descs;
    struct rt_fault fault;
    /* For gathers (long_gather.c): room for a vector register, and constants for 32- and 64-bit
     * indices. */
    uint8_t vector[64];
    uint32_t gather_add[16], gather_and[16], gather_zero[8];
    void *xsave;                      /* parked vector state, 64-byte aligned */
    void *owner;                      /* struct mon_vcpu; NULL when no vCPU runs on this thread */
    void *gs_loaded;                  /* the host's GS base now */
    void *gs_host;                    /* the thread's own, while a vCPU runs */
    const uint8_t *code_lo, *code_hi; /* translated code (executable view) */
    const uint8_t *native_lo, *native_hi; /* the slow path's native code */
};

/* This thread's register file. */
extern __thread struct rt_cpu rt_cpu __attribute__((tls_model("initial-exec")));

#endif
