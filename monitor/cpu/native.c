/* native.c - the slow path's way to run an innocuous instruction on the CPU.
 *
 * Each vCPU has a region of its own:
 *
 *      code (RX, and RW elsewhere)   frame   buffer   slack
 *      64 slots of 64 bytes          ----- read and write -----
 *
 * A slot holds one instruction with its memory operand replaced by the buffer (16- and 32-bit code:
 * by the translator, which knows how to say it in 64-bit code; 64-bit code: by redirect64.c),
 * between the moves that runtime/native.S describes. Slots are found by a hash of the instruction's
 * bytes, so a device driver's few MMIO instructions are emitted once.
 *
 * The operand starts in the buffer at the same offset in a cache line as in the guest's memory:
 * alignment faults are then the CPU's business.
 *
 * Failure: mon_native_create() returns a negative errno; an instruction that cannot be redirected
 * is refused (#UD, counted), as is one that faults in a way that no operand explains.
 *
 * Thread: the vCPU's own. */
#include "monitor/cpu/redirect64.h"
#include "monitor/cpu/step.h"

#include "runtime/native.h"
#include "runtime/rt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOT_SIZE   64
#define SLOTS       (NATIVE_CODE_SIZE / SLOT_SIZE)
#define REGION_SIZE (NATIVE_CODE_SIZE + 4 * 4096)
#define MAX_EMITTED 32

struct native_slot {
    struct tr_insn insn; /* operands filled in; len 0: the slot is free */
    bool emitted;
    uint8_t offset; /* of the operand in the buffer, as emitted */
};

/* ---- slots ---- */

static unsigned slot_hash(const struct tr_insn *insn)
{
    uint32_t hash = 2166136261u ^ insn->mode;
    for (unsigned n = 0; n < insn->len; n++)
        hash = (hash ^ insn->bytes[n]) * 16777619u;
    return (hash ^ hash >> 15) % SLOTS;
}

static bool slot_holds(const struct native_slot *slot, const struct tr_insn *insn)
{
    if (slot->insn.len != insn->len || slot->insn.mode != insn->mode)
        return false;
    for (unsigned n = 0; n < insn->len; n++)
        if (slot->insn.bytes[n] != insn->bytes[n])
            return false;
    return true;
}

static struct native_slot *slot_find(struct mon_native *native, const struct tr_insn *insn)
{
    struct native_slot *slot = &native->slots[slot_hash(insn)];
    if (!slot_holds(slot, insn)) {
        slot->insn = *insn;
        slot->emitted = false;
        tr_decode_operands(&slot->insn);
    }
    return slot;
}

const struct tr_insn *step_native_prepare(struct mon_vcpu *v, const struct tr_insn *insn)
{
    return &slot_find(v->native, insn)->insn;
}

static uint8_t *put_rip_relative(uint8_t *p, uint32_t opcode, unsigned opcode_len,
                                 const uint8_t *p_rx, const void *target)
{
    int32_t disp = (int32_t)((const uint8_t *)target - (p_rx + opcode_len + 4));
    memcpy(p, &opcode, opcode_len);
    memcpy(p + opcode_len, &disp, 4);
    return p + opcode_len + 4;
}

/* ---- emitting ---- */

/* mov mem, %rsp; mov %rsp, mem; jmp *mem: opcode bytes in memory order. */
#define LOAD_RSP  0x258b48u
#define STORE_RSP 0x258948u
#define JMP_MEM   0x25ffu

static bool slot_emit(struct mon_native *native, struct native_slot *slot, unsigned offset)
{
    size_t at = (size_t)(slot - native->slots) * SLOT_SIZE;
    uint8_t *start = native->code_rw + at, *p = start;
    const uint8_t *rx = native->code_rx + at;

    p = put_rip_relative(p, LOAD_RSP, 3, rx, &native->frame->guest_sp);
    size_t len =
        slot->insn.mode == TR_MODE_64
            ? mon_emit_redirected64(&slot->insn, p, rx + (p - start), native->buffer + offset)
            : tr_emit_redirected(&slot->insn, p, rx + (p - start), native->buffer + offset);
    if (!len)
        return false;
    RT_ASSERT(len <= MAX_EMITTED);
    p += len;
    p = put_rip_relative(p, STORE_RSP, 3, rx + (p - start), &native->frame->guest_sp);
    p = put_rip_relative(p, LOAD_RSP, 3, rx + (p - start), &native->frame->host_sp);
    put_rip_relative(p, JMP_MEM, 2, rx + (p - start), &native->frame->ret);
    slot->emitted = true;
    slot->offset = (uint8_t)offset;
    return true;
}

/* ---- running ---- */

static enum mon_rc refuse(struct mon_vcpu *v)
{
    v->callouts[TR_OP_refused]++;
    return mon_raise(v, MON_UD);
}

static enum mon_rc raise_native_fault(struct mon_vcpu *v)
{
    switch (v->cpu->fault.vector) {
    case MON_DE:
        return mon_raise(v, MON_DE);
    case MON_UD:
        return mon_raise(v, MON_UD);
    case MON_GP:
        return mon_raise_error(v, MON_GP, 0);
    case MON_AC:
        return mon_raise_error(v, MON_AC, 0);
    case MON_MF:
        return mon_raise(v, MON_MF);
    case MON_XM: /* SDM 3-2.5, CR4.OSXMMEXCPT */
        return mon_raise(v, v->cr4 & MON_CR4_OSXMMEXCPT ? MON_XM : MON_UD);
    default:
        return refuse(v);
    }
}

enum mon_rc step_native_run(struct mon_vcpu *v, const struct tr_insn *insn, unsigned offset)
{
    struct mon_native *native = v->native;
    struct native_slot *slot = slot_find(native, insn);

    if ((!slot->emitted || slot->offset != offset) && !slot_emit(native, slot, offset))
        return refuse(v);
    const uint8_t *code = native->code_rx + (slot - native->slots) * SLOT_SIZE;
    if (!slot->insn.touches_vector)
        return rt_native_call(v->cpu, code) ? raise_native_fault(v) : MON_OK;
    rt_fpu_load(v->cpu);
    uint64_t faulted = rt_native_call(v->cpu, code);
    rt_fpu_park(v->cpu);
    if (faulted)
        return raise_native_fault(v);
    step_x87_note(v, &slot->insn);
    return MON_OK;
}

enum mon_rc mon_native_run(struct mon_vcpu *v, const struct tr_insn *insn)
{
    return step_native_run(v, insn, 0);
}

uint8_t *mon_native_buffer(struct mon_vcpu *v)
{
    return v->native->buffer;
}

/* ---- life ---- */

/* SDM 1-11.6.6 */
static uint32_t host_mxcsr_mask(void)
{
    uint32_t image[128] __attribute__((aligned(16))) = {0};
    __asm__ volatile("fxsave %0" : "+m"(image));
    return image[7] ? image[7] : 0xffbf;
}

static int map_region(struct mon_native *native)
{
    int fd = rt_os_memfd("novt-native", REGION_SIZE);
    if (fd < 0)
        return fd;
    int rc = -ENOMEM;
    native->code_rw = rt_os_map_shared(fd, 0, NATIVE_CODE_SIZE, RT_PROT_RW);
    native->code_rx = rt_os_map_shared(fd, 0, REGION_SIZE, RT_PROT_RX);
    if (native->code_rw && native->code_rx)
        rc = rt_os_map_at(native->code_rx + NATIVE_CODE_SIZE, REGION_SIZE - NATIVE_CODE_SIZE,
                          RT_PROT_RW, fd, NATIVE_CODE_SIZE, false);
    rt_os_close(fd);
    return rc;
}

int mon_native_create(struct mon_vcpu *v)
{
    struct mon_native *native = calloc(1, sizeof(*native));
    v->native = native;
    if (!native)
        return -ENOMEM;
    native->undo_size = rt_fpu_size();
    native->undo = malloc(native->undo_size);
    native->slots = calloc(SLOTS, sizeof(*native->slots));
    int rc = native->undo && native->slots ? map_region(native) : -ENOMEM;
    if (rc) {
        mon_native_destroy(v);
        return rc;
    }
    native->mxcsr_mask = host_mxcsr_mask();
    native->frame = (struct rt_native_frame *)(native->code_rx + NATIVE_CODE_SIZE);
    native->frame->ret = (const void *)rt_native_return;
    native->buffer = native->code_rx + NATIVE_CODE_SIZE + 4096;
    v->cpu->native_lo = v->saved.native_lo = native->code_rx;
    v->cpu->native_hi = v->saved.native_hi = native->code_rx + NATIVE_CODE_SIZE;
    return 0;
}

void mon_native_destroy(struct mon_vcpu *v)
{
    struct mon_native *native = v->native;
    if (!native)
        return;
    v->cpu->native_lo = v->cpu->native_hi = v->saved.native_lo = v->saved.native_hi = NULL;
    rt_os_release(native->code_rw, NATIVE_CODE_SIZE);
    rt_os_release(native->code_rx, REGION_SIZE);
    free(native->slots);
    free(native->undo);
    free(native);
    v->native = NULL;
}
