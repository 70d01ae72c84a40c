/* incache.c - the hot sensitive instructions, as short host sequences over rt_cpu.
 *
 * IF lives in rt_cpu.vif. An interrupt that waits for IF sets irq_pending; whatever sets IF looks
 * at it and leaves through the pending stub (r9d: 1 if the next instruction is shadowed). All but
 * POPF keep the host's flags, which are the guest's. */
#include "translator/emit.h"

#define HOST_FLAGS 0x202u /* bit 1 and the host's own IF, always set in PUSHF's image */

/* movb $value, %fs:vif */
static void emit_set_vif(struct tr_block *t, unsigned value)
{
    e4(t, 0x64, 0xc6, 0x04, 0x25);
    e32(t, STATE(vif));
    e1(t, value);
}

/* mov $next, %r8d; mov $shadow, %r9d; jmp pending */
static void emit_leave_pending(struct tr_block *t, uint64_t next, uint32_t shadow)
{
    e_mov_r8d(t, (uint32_t)next);
    e_mov_r9d(t, shadow);
    e_jmp(t, t->rq->stubs->pending32);
}

bool tr_cli(struct tr_block *t, unsigned i)
{
    (void)i;
    if (!(t->rq->key & TR_K_IOPL))
        return false;
    emit_set_vif(t, 0);
    return true;
}

/* STI is a block's last instruction: the next one's shadow needs C to know of it, unless IF was
 * set already. */
static void emit_sti_at_end(struct tr_block *t, unsigned i)
{
    uint8_t *field;

    e3(t, 0x49, 0x89, 0xc9); /* mov %rcx, %r9 */
    e3(t, 0x64, 0x0f, 0xb6); /* movzbl %fs:vif, %ecx */
    e2(t, 0x0c, 0x25);
    e32(t, STATE(vif));
    emit_set_vif(t, 1);
    e2(t, 0xe3, 5);          /* jrcxz shadowed */
    e3(t, 0x4c, 0x89, 0xc9); /* mov %r9, %rcx */
    e2(t, 0xeb, 0);          /* jmp over */
    field = t->p;
    e3(t, 0x4c, 0x89, 0xc9); /* shadowed: mov %r9, %rcx */
    emit_leave_pending(t, tr_next_of(t, i), 1);
    field[-1] = (uint8_t)(t->p - field);
}

bool tr_sti(struct tr_block *t, unsigned i)
{
    uint8_t *field;

    if (!(t->rq->key & TR_K_IOPL))
        return false;
    if (i + 1 == t->ninsns) {
        emit_sti_at_end(t, i);
        return true;
    }
    emit_set_vif(t, 1);
    e3(t, 0x49, 0x89, 0xc9); /* mov %rcx, %r9 */
    e3(t, 0x64, 0x0f, 0xb6); /* movzbl %fs:irq_pending, %ecx */
    e2(t, 0x0c, 0x25);
    e32(t, STATE(irq_pending));
    e2(t, 0xe3, 0); /* jrcxz over */
    field = t->p;
    e3(t, 0x4c, 0x89, 0xc9); /* mov %r9, %rcx */
    emit_leave_pending(t, tr_next_of(t, i), 1);
    field[-1] = (uint8_t)(t->p - field);
    e3(t, 0x4c, 0x89, 0xc9); /* over: mov %r9, %rcx */
    return true;
}

/* Host PUSHF's image is the live flags plus HOST_FLAGS; rt_cpu.rflags has the others but IF. All
 * are disjoint bits, so LEA adds them and no flag changes. */
bool tr_pushf(struct tr_block *t, unsigned i)
{
    if (t->insn[i].prefix66 || !(t->rq->key & TR_K_SS))
        return false;
    e3(t, 0x49, 0x89, 0xe1);                  /* mov %rsp, %r9 */
    e3(t, 0x4c, 0x89, 0xe4);                  /* mov %r12, %rsp */
    e1(t, 0x9c);                              /* pushfq */
    e2(t, 0x41, 0x58);                        /* pop %r8 */
    e3(t, 0x4c, 0x89, 0xcc);                  /* mov %r9, %rsp */
    e_state(t, 0x44, 0x8b, 9, STATE(rflags)); /* mov %fs:rflags, %r9d */
    e4(t, 0x47, 0x8d, 0x84, 0x08);            /* lea -HOST_FLAGS(%r8,%r9), %r8d */
    e32(t, (uint32_t) - (int32_t)HOST_FLAGS);
    e3(t, 0x64, 0x44, 0x0f); /* movzbl %fs:vif, %r9d */
    e3(t, 0xb6, 0x0c, 0x25);
    e32(t, STATE(vif));
    e4(t, 0xc4, 0x43, 0x7b, 0xf0); /* rorx $23, %r9d, %r9d */
    e2(t, 0xc9, 23);
    e4(t, 0x47, 0x8d, 0x04, 0x08); /* lea (%r8,%r9), %r8d */
    e_stack(t, 0x89, 8, -4, 4);
    e_lea_esp(t, -4);
    return true;
}

/* Flags from r8d, through the host's stack: and $LIVE, %r8d; or $bit 1; push; popfq */
static void emit_load_flags(struct tr_block *t)
{
    e3(t, 0x41, 0x81, 0xe0);
    e32(t, RT_LIVE);
    e4(t, 0x41, 0x83, 0xc8, 0x02);
    e3(t, 0x49, 0x89, 0xe1);
    e3(t, 0x4c, 0x89, 0xe4);
    e2(t, 0x41, 0x50);
    e1(t, 0x9d);
    e3(t, 0x4c, 0x89, 0xcc);
    e_lea_esp(t, 4);
}

/* POPF in the cache when nothing but arithmetic flags, DF and IF changes. */
bool tr_popf(struct tr_block *t, unsigned i)
{
    if (t->insn[i].prefix66 || !(t->rq->key & TR_K_SS))
        return false;
    e_stack(t, 0x8b, 8, 0, 4);                /* mov %gs:(%rsp), %r8d */
    e_state(t, 0x44, 0x8b, 9, STATE(rflags)); /* mov %fs:rflags, %r9d */
    e3(t, 0x45, 0x31, 0xc1);                  /* xor %r8d, %r9d */
    e3(t, 0x41, 0xf7, 0xc1);                  /* test $others, %r9d */
    e32(t, RT_TF | RT_IOPL | RT_NT | RT_AC | RT_ID);
    e2(t, 0x0f, 0x85); /* jnz callout */
    e32(t, 0);
    tr_tail_add(t, TR_TAIL_CALLOUT, t->p - 4, tr_pc_of(t, i), i);
    if (t->rq->key & TR_K_IOPL) {
        e4(t, 0x41, 0x0f, 0xba, 0xe0); /* bt $9, %r8d */
        e1(t, 9);
        e4(t, 0x64, 0x0f, 0x92, 0x04); /* setc %fs:vif */
        e1(t, 0x25);
        e32(t, STATE(vif));
        e3(t, 0x64, 0x44, 0x0f); /* movzbl %fs:irq_pending, %r9d */
        e3(t, 0xb6, 0x0c, 0x25);
        e32(t, STATE(irq_pending));
        e4(t, 0x41, 0xc1, 0xe1, 9); /* shl $9, %r9d */
        e3(t, 0x45, 0x85, 0xc1);    /* test %r8d, %r9d */
        e2(t, 0x0f, 0x85);          /* jnz pending */
        e32(t, 0);
        tr_tail_add(t, TR_TAIL_POPF, t->p - 4, tr_next_of(t, i), i);
    }
    emit_load_flags(t);
    return true;
}

/* Out of line: POPF has set IF and something waits for it. */
void tr_popf_tail(struct tr_block *t, const struct tr_tail *tail)
{
    emit_load_flags(t);
    emit_leave_pending(t, tail->pc, 0);
}

/* edx:eax += tsc_offset without flags. */
static void emit_tsc_offset(struct tr_block *t)
{
    e2(t, 0x41, 0xb8); /* mov $32, %r8d */
    e32(t, 32);
    e4(t, 0xc4, 0xe2, 0xb9, 0xf7); /* shlx %r8, %rdx, %rdx */
    e1(t, 0xd2);
    e_state(t, 0x4c, 0x8b, 8, STATE(tsc_offset)); /* mov %fs:tsc_offset, %r8 */
    e4(t, 0x48, 0x8d, 0x04, 0x10);                /* lea (%rax,%rdx), %rax */
    e4(t, 0x4a, 0x8d, 0x04, 0x00);                /* lea (%rax,%r8), %rax */
    e4(t, 0xc4, 0xe3, 0xfb, 0xf0);                /* rorx $32, %rax, %rdx */
    e2(t, 0xd0, 32);
    e2(t, 0x89, 0xd2); /* mov %edx, %edx */
    e2(t, 0x89, 0xc0); /* mov %eax, %eax */
}

bool tr_rdtsc(struct tr_block *t, unsigned i)
{
    (void)i;
    if (!(t->rq->key & TR_K_TSC))
        return false;
    e2(t, 0x0f, 0x31);
    emit_tsc_offset(t);
    return true;
}

/* RDTSCP without leaking the host's TSC_AUX. */
bool tr_rdtscp(struct tr_block *t, unsigned i)
{
    (void)i;
    if (!(t->rq->key & TR_K_TSC))
        return false;
    e3(t, 0x0f, 0x01, 0xf9);
    e_state(t, 0, 0x8b, 1, STATE(tsc_aux)); /* mov %fs:tsc_aux, %ecx */
    emit_tsc_offset(t);
    return true;
}
