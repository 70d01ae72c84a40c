/* long_flow.c - 64-bit code: branches, stack, strings and the sensitive instructions in the cache.
 *
 * As branch.c, stack.c, string.c and incache.c say for 32-bit code, but: the guest's stack is the
 * host's (rsp is the guest's plus rsp_delta), so PUSH and POP stay what they are; the pc is in r9
 * when a block is left; the jump table's address is in rt_cpu. */
#include "translator/long.h"

#define HOST_FLAGS 0x202u

static bool same_page(const struct tr_block *t, uint64_t pc)
{
    return !((pc ^ t->rq->pc) >> 12) && !t->crossing;
}

static uint64_t next_of(const struct tr_block *t, unsigned i)
{
    return t->rq->pc + t->at[i] + t->insn[i].len;
}

static uint64_t target_of(const struct tr_block *t, unsigned i)
{
    return next_of(t, i) + (uint64_t)t->insn[i].imm;
}

/* movl $from, %fs:branch_from */
static void note_branch(struct tr_block *t, uint32_t from)
{
    e4(t, 0x64, 0xc7, 0x04, 0x25);
    e32(t, STATE(branch_from));
    e32(t, from);
    if (from)
        tr_reloc(t, CC_RELOC_HOST, 4);
}

/* A link to another page (codecache/place.c). */
static void go_far(struct tr_block *t, uint64_t pc)
{
    l_lose(t, H10);
    e4(t, 0x65, 0x44, 0x8b, 0x14); /* mov %gs:places, %r10d */
    e1(t, 0x25);
    e32(t, CC_PLACES_AT);
    e4(t, 0x65, 0x67, 0x45, 0x8a); /* addr32 mov %gs:-PRESENT(%r10), %r10b */
    e2(t, 0x52, (uint8_t)-CC_PLACE_PRESENT);
    e1(t, 0xe9);
    e32(t, 0);
    tr_site_add(t, t->p - 4, pc, true);
}

void l_goto(struct tr_block *t, uint64_t pc, bool may_link)
{
    if (!tr_is_canonical(pc)) /* not by a branch: the first instruction there faults */
        note_branch(t, 0);
    if (may_link && same_page(t, pc)) {
        e1(t, 0xe9);
        e32(t, 0);
        tr_site_add(t, t->p - 4, pc, false);
        return;
    }
    if (may_link && tr_is_canonical(pc)) {
        go_far(t, pc);
        return;
    }
    l_const_pc(t, H9, pc, false);
    l_load(t, H11, STATE(jump_table));
    e3(t, 0x41, 0xff, 0xa3); /* jmp *slot(%r11) */
    e32(t, (uint32_t)cc_index(t->rq->cc, pc) * 8);
    tr_reloc(t, CC_RELOC_TABLE_SLOT, 4);
}

/* To the pc in r9. Where it comes from is noted for the case that the pc is not canonical: then the
 * branch faults, not its target (run.c, after_branch). */
static void emit_indirect(struct tr_block *t)
{
    note_branch(t, (uint32_t)(t->p - t->rq->cc->rw));
    e_index(t, H9, H10);
    l_load(t, H11, STATE(jump_table));
    e4(t, 0x43, 0xff, 0x24, 0xd3); /* jmp *(%r11,%r10,8) */
}

/* Leaves through a stub with the argument already in r10. */
void l_leave_to(struct tr_block *t, uint64_t pc, const uint8_t *stub)
{
    l_const_pc(t, H9, pc, false);
    e_jmp(t, stub);
}

/* By a branch: for blocks that have collided. */
static void entry_branch(struct tr_block *t)
{
    uint8_t *field;

    l_mov(t, H10, RT_CX);
    l_const_pc(t, H11, -t->rq->pc, true);
    l_lea(t, RT_CX, H9, H11, 0);
    e2(t, 0xe3, 0); /* jrcxz over */
    field = t->p;
    l_mov(t, RT_CX, H10);
    e_jmp(t, t->rq->stubs->probe64);
    field[-1] = (uint8_t)(t->p - field);
    l_mov(t, RT_CX, H10);
}

/* lea -pc(%r9), %r10 */
static void difference(struct tr_block *t)
{
    uint64_t minus = -t->rq->pc;

    if (minus == (uint64_t)(int64_t)(int32_t)minus) {
        e3(t, 0x4d, 0x8d, 0x91);
        e32(t, (uint32_t)minus);
        return;
    }
    l_const_pc(t, H10, minus, true);
    l_lea(t, H10, H9, H10, 0);
}

/* By a load from the jump table's last byte, r11 having the table, plus the difference rotated by
 * 32 bits. Another pc with this table slot differs by a multiple of 2^16 or 2^18: in its low half,
 * which makes an address that is not canonical, or only in its high half, which leads up to 4 GiB
 * behind the table, where nothing is ever mapped. */
void l_entry(struct tr_block *t, bool collided)
{
    if (collided) {
        entry_branch(t);
        return;
    }
    difference(t);
    e4(t, 0xc4, 0x43, 0xfb, 0xf0); /* rorx $32, %r10, %r10 */
    e2(t, 0xd2, 32);
    e4(t, 0x47, 0x0f, 0xb6, 0x94); /* movzbl end-1(%r11,%r10), %r10d */
    e1(t, 0x13);
    e32(t, CC_TABLE_SIZE - 1);
}

/* As victim.c finds its place: by CRC32, which like all else here leaves the flags alone. */
void l_emit_probe(struct tr_block *t, struct cc_probe *probe, const uint8_t *miss)
{
    const uint8_t *begin = t->rq->cc->rw;
    uint8_t *field;

    probe->start = (uint32_t)(t->p - begin);
    l_const(t, H10, 0);
    e4(t, 0xf2, 0x4d, 0x0f, 0x38); /* crc32 %r9, %r10 */
    e2(t, 0xf1, 0xd1);
    l_const(t, H11, CC_VICTIMS_SIZE - sizeof(struct cc_victim));
    e4(t, 0xc4, 0x42, 0xab, 0xf5); /* pdep %r11, %r10, %r10 */
    e1(t, 0xd3);
    l_load(t, H11, STATE(jump_table));
    l_lea(t, H10, H11, H10, -(int32_t)CC_TABLE_IN_FRONT);
    l_mov(t, H11, RT_CX);
    probe->saved = (uint32_t)(t->p - begin);
    e3(t, 0x49, 0x8b, 0x0a); /* mov (%r10), %rcx */
    e3(t, 0x48, 0xf7, 0xd1); /* not %rcx */
    l_lea(t, RT_CX, RT_CX, H9, 1);
    e2(t, 0xe3, 0); /* jrcxz found */
    field = t->p;
    l_mov(t, RT_CX, H11);
    e_jmp(t, miss);
    field[-1] = (uint8_t)(t->p - field);
    l_mov(t, RT_CX, H11);
    l_load(t, H11, STATE(jump_table));
    probe->jump = (uint32_t)(t->p - begin);
    e4(t, 0x41, 0xff, 0x62, 8); /* jmp *8(%r10) */
    probe->end = (uint32_t)(t->p - begin);
}

void l_count(struct tr_block *t, unsigned n)
{
    l_load(t, H10, STATE(insns));
    e4(t, 0x4d, 0x8d, 0x52, n); /* lea n(%r10), %r10 */
    l_store(t, H10, STATE(insns));
}

/* ---- branches ---- */

bool l_jcc(struct tr_block *t, unsigned i)
{
    uint64_t pc = target_of(t, i);

    if (!tr_is_canonical(pc))
        return false;
    if (!l_loop_back(t, i))
        return false;
    e2(t, 0x0f, 0x80 | (t->insn[i].opcode & 0x0f));
    e32(t, 0);
    if (same_page(t, pc))
        tr_site_add(t, t->p - 4, pc, false);
    else
        tr_tail_add(t, TR_TAIL_TABLE, t->p - 4, pc, i);
    return true;
}

bool l_jmp_rel(struct tr_block *t, unsigned i)
{
    if (!tr_is_canonical(target_of(t, i)) || !l_loop_back(t, i))
        return false;
    l_goto(t, target_of(t, i), true);
    return true;
}

bool l_jmp_ind(struct tr_block *t, unsigned i)
{
    if (!l_load_rm(t, i))
        return false;
    emit_indirect(t);
    return true;
}

static void push_return(struct tr_block *t, uint64_t next)
{
    if ((uint64_t)(int64_t)(int32_t)next == next) {
        e1(t, 0x68);
        e32(t, (uint32_t)next);
    } else {
        l_const_pc(t, H10, next, false);
        e2(t, 0x41, 0x52);
    }
}

bool l_call_rel(struct tr_block *t, unsigned i)
{
    if (!tr_is_canonical(target_of(t, i)))
        return false;
    push_return(t, next_of(t, i));
    l_goto(t, target_of(t, i), true);
    return true;
}

bool l_call_ind(struct tr_block *t, unsigned i)
{
    if (!l_load_rm(t, i))
        return false;
    push_return(t, next_of(t, i));
    emit_indirect(t);
    return true;
}

bool l_ret(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];

    if (insn->prefix66)
        return false;
    e2(t, 0x41, 0x59); /* pop %r9 */
    if (insn->imm_size) {
        e4(t, 0x48, 0x8d, 0xa4, 0x24); /* lea imm(%rsp), %rsp */
        e32(t, (uint16_t)insn->imm);
    }
    emit_indirect(t);
    return true;
}

bool l_loop(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    uint8_t *field;

    if (!tr_is_canonical(target_of(t, i)))
        return false;
    if (insn->adsize == 32)
        e1(t, 0x67);
    e2(t, insn->opcode, 2);
    e2(t, 0xeb, 0);
    field = t->p;
    l_forget(t, insn->regs_written); /* LOOP counts in rcx */
    l_goto(t, target_of(t, i), true);
    field[-1] = (uint8_t)(t->p - field);
    return true;
}

/* ---- stack ---- */

bool l_push(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];

    if (insn->prefix66)
        return false;
    if (insn->opcode == 0x68 || insn->opcode == 0x6a) {
        e1(t, 0x68);
        e32(t, (uint32_t)insn->imm);
        return true;
    }
    unsigned reg = insn->has_modrm ? insn->rm : (insn->opcode & 7u) | (insn->rex & 1u) << 3;
    if ((insn->has_modrm && insn->mod != 3) || reg == RSP) {
        if (!insn->has_modrm)
            l_rsp_get(t, H9);
        else if (!l_load_rm(t, i))
            return false;
        e2(t, 0x41, 0x51); /* push %r9 */
    } else if (SPILLED(reg)) {
        e4(t, 0x64, 0xff, 0x34, 0x25); /* push %fs:gpr */
        e32(t, GPR(reg));
    } else {
        if (reg >= 8)
            e1(t, 0x41);
        e1(t, 0x50 | (reg & 7));
    }
    return true;
}

bool l_pop(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];

    if (insn->prefix66 || (insn->has_modrm && insn->mod != 3))
        return false;
    unsigned reg = insn->has_modrm ? insn->rm : (insn->opcode & 7u) | (insn->rex & 1u) << 3;
    if (reg == RSP) {
        e2(t, 0x41, 0x59);
        l_rsp_set(t, H9);
    } else if (SPILLED(reg)) {
        e4(t, 0x64, 0x8f, 0x04, 0x25);
        e32(t, GPR(reg));
    } else {
        if (reg >= 8)
            e1(t, 0x41);
        e1(t, 0x58 | (reg & 7));
    }
    return true;
}

/* mov (%rbp slot), rbp; rsp = rbp + 8: nothing is committed before the load */
bool l_leave(struct tr_block *t, unsigned i)
{
    if (t->insn[i].prefix66)
        return false;
    l_mov(t, H9, RT_BP);
    l_delta(t, H11, H9);
    l_lose(t, H10);
    e4(t, 0x4f, 0x8b, 0x14, 0x19); /* mov (%r9,%r11), %r10 */
    l_lea(t, RSP, H9, H11, 8);
    l_rsp_moved(t);
    l_mov(t, RT_BP, H10);
    return true;
}

/* ---- strings ---- */

/* not %delta; lea 1(%reg,%delta), %reg */
static void take_back(struct tr_block *t, unsigned reg, unsigned delta)
{
    e3(t, 0x49, 0xf7, 0xd0 | (delta & 7));
    l_lea(t, reg, reg, delta, 1);
}

bool l_string(struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    bool si = insn->op == TR_OP_movs || insn->op == TR_OP_cmps || insn->op == TR_OP_lods;
    bool di = insn->op != TR_OP_lods;

    if (insn->adsize != 64 || insn->lock || (si && tr_is_far_segment(insn->seg)))
        return false;
    t->lng.r11 = -1;
    if (si)
        l_delta(t, H10, RT_SI);
    else
        l_const(t, H10, 0);
    if (di)
        l_delta(t, H11, RT_DI);
    else
        l_const(t, H11, 0);
    if (si)
        l_lea(t, RT_SI, RT_SI, H10, 0);
    /* From here to the end of the string operation both are moved, by zero where unused. */
    tr_map(t, i, CC_R_STRING64);
    if (di)
        l_lea(t, RT_DI, RT_DI, H11, 0);
    if (insn->prefix66)
        e1(t, 0x66);
    if (insn->prefix_rep)
        e1(t, insn->prefix_rep);
    if (insn->rex & 8)
        e1(t, 0x48);
    e1(t, insn->opcode);
    if (si)
        take_back(t, RT_SI, H10);
    if (di)
        take_back(t, RT_DI, H11);
    return true;
}

/* ---- sensitive ---- */

static void leave_pending(struct tr_block *t, uint64_t next, uint32_t shadow)
{
    l_const(t, H10, shadow);
    l_leave_to(t, next, t->rq->stubs->pending64);
}

bool l_cli(struct tr_block *t, unsigned i)
{
    (void)i;
    if (!(t->rq->key & TR_K_IOPL))
        return false;
    l_store_byte(t, STATE(vif), 0);
    return true;
}

/* STI is a block's last instruction: the next one's shadow needs C to know of it, unless IF was
 * set already. */
static void emit_sti_at_end(struct tr_block *t, unsigned i)
{
    uint8_t *shadowed, *over;

    l_mov(t, H10, RT_CX);
    l_load_byte(t, RT_CX, STATE(vif));
    l_store_byte(t, STATE(vif), 1);
    e2(t, 0xe3, 0); /* jrcxz shadowed */
    shadowed = t->p;
    l_mov(t, RT_CX, H10);
    e2(t, 0xeb, 0); /* jmp over */
    over = t->p;
    shadowed[-1] = (uint8_t)(t->p - shadowed);
    l_mov(t, RT_CX, H10);
    leave_pending(t, next_of(t, i), 1);
    over[-1] = (uint8_t)(t->p - over);
}

bool l_sti(struct tr_block *t, unsigned i)
{
    uint8_t *field;

    if (!(t->rq->key & TR_K_IOPL))
        return false;
    if (i + 1 == t->ninsns) {
        emit_sti_at_end(t, i);
        return true;
    }
    l_store_byte(t, STATE(vif), 1);
    l_mov(t, H10, RT_CX);
    l_load_byte(t, RT_CX, STATE(irq_pending));
    e2(t, 0xe3, 0);
    field = t->p;
    l_mov(t, RT_CX, H10);
    leave_pending(t, next_of(t, i), 1);
    field[-1] = (uint8_t)(t->p - field);
    l_mov(t, RT_CX, H10);
    return true;
}

bool l_pushf(struct tr_block *t, unsigned i)
{
    if (t->insn[i].prefix66)
        return false;
    l_mov(t, H9, RSP);
    l_load(t, RSP, STATE(host_sp));
    e1(t, 0x9c);
    l_lose(t, H10);
    e2(t, 0x41, 0x5a); /* pop %r10 */
    l_mov(t, RSP, H9);
    l_load(t, H9, STATE(rflags));
    l_lea(t, H10, H10, H9, -(int32_t)HOST_FLAGS);
    l_load_byte(t, H9, STATE(vif));
    e4(t, 0xc4, 0x43, 0x7b, 0xf0); /* rorx $23, %r9d, %r9d */
    e2(t, 0xc9, 23);
    l_lea(t, H10, H10, H9, 0);
    e2(t, 0x41, 0x52);
    return true;
}

/* Flags from r9 through the host's stack, then rsp += 8. */
static void emit_load_flags(struct tr_block *t)
{
    e3(t, 0x41, 0x81, 0xe1); /* and $LIVE, %r9d */
    e32(t, RT_LIVE);
    e4(t, 0x41, 0x83, 0xc9, 0x02);
    l_mov(t, H10, RSP);
    l_load(t, RSP, STATE(host_sp));
    e2(t, 0x41, 0x51);
    e1(t, 0x9d);
    e4(t, 0x49, 0x8d, 0x62, 0x08); /* lea 8(%r10), %rsp */
}

bool l_popf(struct tr_block *t, unsigned i)
{
    if (t->insn[i].prefix66)
        return false;
    e4(t, 0x4c, 0x8b, 0x0c, 0x24); /* mov (%rsp), %r9 */
    l_load(t, H10, STATE(rflags));
    e3(t, 0x45, 0x31, 0xca); /* xor %r9d, %r10d */
    e3(t, 0x41, 0xf7, 0xc2); /* test $others, %r10d */
    e32(t, RT_TF | RT_IOPL | RT_NT | RT_AC | RT_ID);
    e2(t, 0x0f, 0x85);
    e32(t, 0);
    tr_tail_add(t, TR_TAIL_CALLOUT, t->p - 4, t->rq->pc + t->at[i], i);
    if (t->rq->key & TR_K_IOPL) {
        e4(t, 0x41, 0x0f, 0xba, 0xe1); /* bt $9, %r9d */
        e1(t, 9);
        e4(t, 0x64, 0x0f, 0x92, 0x04); /* setc %fs:vif */
        e1(t, 0x25);
        e32(t, STATE(vif));
        l_load_byte(t, H10, STATE(irq_pending));
        e4(t, 0x41, 0xc1, 0xe2, 9); /* shl $9, %r10d */
        e3(t, 0x45, 0x85, 0xca);    /* test %r9d, %r10d */
        e2(t, 0x0f, 0x85);
        e32(t, 0);
        tr_tail_add(t, TR_TAIL_POPF, t->p - 4, next_of(t, i), i);
    }
    emit_load_flags(t);
    return true;
}

void l_popf_tail(struct tr_block *t, const struct tr_tail *tail)
{
    emit_load_flags(t);
    leave_pending(t, tail->pc, 0);
}

bool l_rdtsc(struct tr_block *t, unsigned i)
{
    if (!(t->rq->key & TR_K_TSC))
        return false;
    if (t->insn[i].op == TR_OP_rdtscp) {
        e3(t, 0x0f, 0x01, 0xf9);
        e_state(t, 0, 0x8b, RT_CX, STATE(tsc_aux));
    } else {
        e2(t, 0x0f, 0x31);
    }
    l_const(t, H9, 32);
    e4(t, 0xc4, 0xe2, 0xb1, 0xf7); /* shlx %r9, %rdx, %rdx */
    e1(t, 0xd2);
    l_load(t, H9, STATE(tsc_offset));
    l_lea(t, RT_AX, RT_AX, RT_DX, 0);
    l_lea(t, RT_AX, RT_AX, H9, 0);
    e4(t, 0xc4, 0xe3, 0xfb, 0xf0); /* rorx $32, %rax, %rdx */
    e2(t, 0xd0, 32);
    e2(t, 0x89, 0xd2);
    e2(t, 0x89, 0xc0);
    return true;
}
