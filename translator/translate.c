/* translate.c - the block loop: guest bytes in, a block of host code out.
 *
 * A block starts anywhere, goes on over conditional branches (their taken sides are side exits) and
 * ends at an unconditional branch, a callout, the page's end, max_insns, or in front of a loop. An
 * instruction that crosses into the next page is a block of its own, reached only through jump
 * tables.
 *
 *   decode ahead -> [64-bit code: indirect entry: is r9 this block's pc?]
 *                   [direct entry]  code of each instruction, by the table below
 *                   [tails: side exits, callouts]  [callout records]
 *
 * A callout is: r8d = pc, r9 = the instruction's record (or 0: the slow path decodes it again),
 * jump to the callout stub.
 *
 * Nothing is published before everything is emitted: an abort leaves no trace. */
#include "translator/emit.h"
#include "translator/long.h"
#include "translator/memo.h"

#include <string.h>

typedef bool emitter(struct tr_block *t, unsigned i);

/* A NOP is nothing. Not even its bytes: what the guest takes as reserved NOPs (0F 1A, 0F 1B) are
 * MPX loads and stores on hosts that have it. */
static bool emit_nop(struct tr_block *t, unsigned i)
{
    (void)t;
    (void)i;
    return true;
}

static emitter *const emitters[TR_OP_COUNT] = {
    [TR_OP_copy] = tr_copy,
    [TR_OP_nop] = emit_nop,
    [TR_OP_wait] = tr_copy,
    [TR_OP_xlat] = tr_xlat,
    [TR_OP_maskmov] = tr_xlat,
    [TR_OP_push] = tr_push,
    [TR_OP_pop] = tr_pop,
    [TR_OP_leave] = tr_leave,
    [TR_OP_movs] = tr_string,
    [TR_OP_stos] = tr_string,
    [TR_OP_lods] = tr_string,
    [TR_OP_scas] = tr_string,
    [TR_OP_cmps] = tr_string,
    [TR_OP_cli] = tr_cli,
    [TR_OP_sti] = tr_sti,
    [TR_OP_pushf] = tr_pushf,
    [TR_OP_popf] = tr_popf,
    [TR_OP_rdtsc] = tr_rdtsc,
    [TR_OP_jcc] = tr_jcc,
    [TR_OP_jmp_rel] = tr_jmp_rel,
    [TR_OP_jmp_ind] = tr_jmp_ind,
    [TR_OP_call_rel] = tr_call_rel,
    [TR_OP_call_ind] = tr_call_ind,
    [TR_OP_ret] = tr_ret,
    [TR_OP_loop] = tr_loop,
    [TR_OP_jcxz] = tr_loop,
    [TR_OP_rdtscp] = tr_rdtscp,
    [TR_OP_push_sreg] = tr_push_sreg,
    [TR_OP_mov_from_sreg] = tr_mov_from_sreg,
    [TR_OP_mov_to_sreg] = tr_mov_to_sreg,
    [TR_OP_pop_sreg] = tr_pop_sreg,
    [TR_OP_sysenter] = tr_sysenter,
    [TR_OP_sysexit] = tr_sysexit,
};

static emitter *const long_emitters[TR_OP_COUNT] = {
    [TR_OP_copy] = l_copy,         [TR_OP_nop] = emit_nop,      [TR_OP_wait] = l_copy,
    [TR_OP_push] = l_push,         [TR_OP_pop] = l_pop,         [TR_OP_leave] = l_leave,
    [TR_OP_movs] = l_string,       [TR_OP_stos] = l_string,     [TR_OP_lods] = l_string,
    [TR_OP_scas] = l_string,       [TR_OP_cmps] = l_string,     [TR_OP_cli] = l_cli,
    [TR_OP_sti] = l_sti,           [TR_OP_pushf] = l_pushf,     [TR_OP_popf] = l_popf,
    [TR_OP_rdtsc] = l_rdtsc,       [TR_OP_rdtscp] = l_rdtsc,    [TR_OP_jcc] = l_jcc,
    [TR_OP_jmp_rel] = l_jmp_rel,   [TR_OP_jmp_ind] = l_jmp_ind, [TR_OP_call_rel] = l_call_rel,
    [TR_OP_call_ind] = l_call_ind, [TR_OP_ret] = l_ret,         [TR_OP_loop] = l_loop,
    [TR_OP_jcxz] = l_loop,         [TR_OP_swapgs] = l_swapgs,   [TR_OP_syscall] = l_syscall,
    [TR_OP_sysret] = l_sysret,
};

static bool is_long(const struct tr_block *t)
{
    return t->rq->key & TR_K_LONG;
}

static enum tr_mode mode_of(const struct tr_block *t)
{
    return is_long(t) ? TR_MODE_64 : TR_MODE_32;
}

void tr_map(struct tr_block *t, unsigned i, enum cc_recipe recipe)
{
    struct cc_map *row = &t->map[t->nmap];

    RT_ASSERT(t->nmap < TR_MAX_ROWS);
    row->host = (uint16_t)(t->p - t->base);
    row->guest = (uint16_t)(t->at[i] | recipe << 12);
    if (t->nmap && t->map[t->nmap - 1].host == row->host)
        t->map[t->nmap - 1] = *row;
    else
        t->nmap++;
}

void tr_site_add(struct tr_block *t, uint8_t *field, uint64_t pc, bool far)
{
    struct cc *cc = t->rq->cc;

    RT_ASSERT(t->nsites < TR_MAX_SITES);
    tr_patch(t, field, cc->rx + cc_exit_of(cc, cc->nsites + t->nsites));
    t->site[t->nsites++] = (struct cc_site){.to = (int32_t)(pc - t->rq->pc),
                                            .far = far,
                                            .known = is_long(t) ? l_known(t) : 0,
                                            .jump = (uint32_t)(field - cc->rw) & INT32_MAX};
}

void tr_tail_add(struct tr_block *t, enum tr_tail_kind kind, uint8_t *field, uint64_t pc,
                 unsigned insn)
{
    RT_ASSERT(t->ntails < TR_MAX_TAILS);
    t->tail[t->ntails++] = (struct tr_tail){.kind = (uint8_t)kind,
                                            .field = field,
                                            .pc = pc,
                                            .insn = (uint16_t)insn,
                                            .known = is_long(t) ? l_known(t) : 0};
}

/* ---- decoding ahead ---- */

static bool feature_enabled(const struct tr_block *t, const struct tr_insn *insn)
{
    return insn->feature == TR_F_NONE || t->rq->key & (TR_K_X87 << (insn->feature - TR_F_X87));
}

/* A load of a segment register that cannot stay in the cache ends the block. */
static void settle(const struct tr_block *t, struct tr_insn *insn)
{
    if ((insn->op == TR_OP_mov_to_sreg || insn->op == TR_OP_pop_sreg) && !tr_loads_segment(t, insn))
        insn->cls = TR_CALLOUT;
}

static bool ends_block(const struct tr_insn *insn)
{
    switch (insn->cls) {
    case TR_REFUSED:
    case TR_CALLOUT:
    case TR_ABSENT:
        return true;
    case TR_BRANCH:
        return insn->op != TR_OP_jcc && insn->op != TR_OP_loop && insn->op != TR_OP_jcxz;
    default:
        return false;
    }
}

static void mark_step(struct tr_insn *insn, unsigned len)
{
    insn->cls = TR_REFUSED;
    insn->op = TR_OP_refused;
    insn->len = (uint8_t)len;
}

/* A first instruction that reaches into the next page. */
static enum tr_result decode_crossing(struct tr_block *t, size_t avail)
{
    uint8_t bytes[30];

    if (!t->rq->bytes2)
        return TR_SECOND_PAGE;
    memcpy(bytes, t->rq->bytes, avail);
    memcpy(bytes + avail, t->rq->bytes2, 15);
    t->crossing = true;
    t->ninsns = 1;
    t->at[0] = 0;
    if (tr_decode(bytes, avail + 15, mode_of(t), &t->insn[0]) != TR_DECODE_OK)
        mark_step(&t->insn[0], (unsigned)avail + 1);
    settle(t, &t->insn[0]);
    t->end = t->insn[0].len;
    return TR_DONE;
}

/* A loop in the middle of a block: the block ends in front of it, so that the loop is a block of
 * its own from the first turn on (long_loop.c), and its code is not there twice. */
static bool ends_before_loop(struct tr_block *t)
{
    const struct tr_insn *last = &t->insn[t->ninsns - 1];
    int64_t to = (int64_t)t->end + last->imm;

    if (!is_long(t) || (last->op != TR_OP_jcc && last->op != TR_OP_jmp_rel) || to <= 0)
        return false;
    for (unsigned i = 1; i < t->ninsns; i++) {
        if (t->at[i] != to)
            continue;
        t->ninsns = i;
        t->end = t->at[i];
        return true;
    }
    return false;
}

static enum tr_result decode_ahead(struct tr_block *t)
{
    size_t room = 4096 - (t->rq->pc & 4095);

    while (t->ninsns < t->rq->max_insns && t->end < room) {
        struct tr_insn *insn = &t->insn[t->ninsns];
        enum tr_decode_status status =
            tr_memo_decode(t->rq->memo, t->rq->bytes + t->end, room - t->end, mode_of(t), insn);
        t->next_crosses = status == TR_DECODE_SHORT;
        if (status == TR_DECODE_SHORT)
            return t->ninsns ? TR_DONE : decode_crossing(t, room);
        t->at[t->ninsns++] = (uint16_t)t->end;
        if (status != TR_DECODE_OK || !feature_enabled(t, insn))
            mark_step(insn, insn->len ? insn->len : 1);
        settle(t, insn);
        t->end += insn->len;
        if (ends_before_loop(t) || ends_block(insn))
            break;
    }
    return TR_DONE;
}

/* ---- emitting ---- */

/* lea n(%r13), %r13 for the instructions up to the next branch */
static void emit_count(struct tr_block *t, unsigned i)
{
    unsigned n = 1;

    if (!(t->rq->key & TR_K_COUNT))
        return;
    while (i + n < t->ninsns && t->insn[i + n - 1].cls != TR_BRANCH)
        n++;
    if (is_long(t))
        l_count(t, n);
    else
        e4(t, 0x4d, 0x8d, 0x6d, n);
}

void tr_record_address(struct tr_block *t, unsigned i)
{
    bool wide = is_long(t);

    if (t->insn[i].cls == TR_REFUSED || t->insn[i].cls == TR_ABSENT) {
        e2(t, 0x41, wide ? 0xba : 0xb9); /* mov $0, %r10d or %r9d */
        e32(t, 0);
        return;
    }
    e3(t, 0x4c, 0x8d, wide ? 0x15 : 0x0d); /* lea record(%rip), %r10 or %r9 */
    e32(t, 0);
    t->record[i] = (uint32_t)(t->p - t->base); /* fixed up with the record */
}

static void emit_callout(struct tr_block *t, unsigned i)
{
    tr_record_address(t, i);
    if (is_long(t)) {
        l_leave_to(t, tr_pc_of(t, i), t->rq->stubs->callout64);
        return;
    }
    e_mov_r8d(t, (uint32_t)tr_pc_of(t, i));
    e_jmp(t, t->rq->stubs->callout32);
}

/* It would fault nearly each time. */
static bool accesses_device(const struct tr_block *t, unsigned i)
{
    const struct tr_insn *insn = &t->insn[i];
    uint16_t bytes;

    __builtin_memcpy(&bytes, insn->bytes, sizeof(bytes));
    return insn->cls == TR_COPY && cc_device_known(t->rq->cc, t->rq->gpa + t->at[i], bytes);
}

/* Returns whether the block is left for good. */
static bool emit_instruction(struct tr_block *t, unsigned i)
{
    struct tr_insn *insn = &t->insn[i];
    unsigned nmap, ntails = t->ntails, nsites = t->nsites;

    tr_stack_before(t, insn);
    int behind = t->behind;
    tr_map(t, i, behind ? (enum cc_recipe)(CC_R_STACK + behind) : CC_R_IDENTITY);
    nmap = t->nmap;
    emitter *emit = is_long(t) ? long_emitters[insn->op] : emitters[insn->op];
    uint8_t *before = t->p;
    struct tr_long lng = t->lng;
    unsigned nrelocs = t->nrelocs;
    if (insn->cls == TR_CALLOUT || insn->cls == TR_REFUSED || accesses_device(t, i))
        emit = NULL;
    if (emit && (!insn->lock || insn->cls == TR_COPY) && emit(t, i)) {
        if (is_long(t))
            l_after(t, i);
        return ends_block(insn);
    }
    t->p = before;
    t->nmap = nmap;
    t->ntails = ntails;
    t->nsites = nsites;
    t->lng = lng;
    t->nrelocs = nrelocs;
    t->behind = behind;
    tr_stack_move(t, 0);
    emit_callout(t, i);
    return true;
}

static void go_to(struct tr_block *t, uint64_t pc, bool may_link)
{
    if (is_long(t))
        l_goto(t, pc, may_link);
    else
        tr_goto(t, (uint32_t)pc, may_link);
}

static void emit_tail(struct tr_block *t, struct tr_tail *tail)
{
    unsigned nsites = t->nsites;

    tr_patch(t, tail->field, tr_rx(t, t->p));
    switch (tail->kind) {
    case TR_TAIL_TABLE:
        go_to(t, tail->pc, true);
        if (t->nsites > nsites) /* the branch's, not what the end of the block knows */
            t->site[nsites].known = tail->known;
        break;
    case TR_TAIL_CALLOUT:
        emit_callout(t, tail->insn);
        break;
    case TR_TAIL_POPF:
        if (is_long(t))
            l_popf_tail(t, tail);
        else
            tr_popf_tail(t, tail);
        break;
    }
}

/* The decoded instructions that callouts need, behind the code. */
static void emit_records(struct tr_block *t)
{
    for (unsigned i = 0; i < t->ninsns; i++) {
        if (!t->record[i])
            continue;
        t->p = (uint8_t *)(((uintptr_t)t->p + 7) & ~(uintptr_t)7);
        memcpy(t->p, &t->insn[i], sizeof(t->insn[i]));
        tr_patch(t, t->base + t->record[i] - 4, tr_rx(t, t->p));
        t->p += sizeof(t->insn[i]);
    }
}

/* Position-independent code, as far as its address tells. Not where an address next to it may have
 * another form or class. */
static bool may_be_moved(const struct tr_block *t)
{
    return is_long(t) && t->rq->pc >= CC_MOVE_FROM && t->rq->pc < CC_MOVE_TO && !t->crossing;
}

static void emit_block(struct tr_block *t, struct cc_block *proto)
{
    bool left = false;

    if (is_long(t))
        l_begin(t);
    t->movable = may_be_moved(t);
    if (is_long(t) && !t->rq->linked_only)
        l_entry(t, cc_collided(t->rq->cc, t->rq->pc));
    proto->direct = (uint8_t)(t->p - t->base);
    if (is_long(t)) {
        proto->loops = l_loop_begin(t);
        if (!proto->loops)
            l_front(t);
        RT_ASSERT(t->p - t->base - proto->direct <= UINT8_MAX);
        proto->front = (uint8_t)(t->p - t->base - proto->direct);
    }
    memset(t->record, 0, t->ninsns * sizeof(t->record[0]));
    for (unsigned i = 0; i < t->ninsns && !left; i++) {
        if (i == 0 || t->insn[i - 1].cls == TR_BRANCH)
            emit_count(t, i);
        left = emit_instruction(t, i);
    }
    if (!left) {
        tr_stack_move(t, 0);
        go_to(t, t->rq->pc + t->end, !t->next_crosses);
    }
    for (unsigned i = 0; i < t->ntails; i++)
        emit_tail(t, &t->tail[i]);
    proto->host_len = (uint16_t)(t->p - t->base);
    emit_records(t);
    proto->total = (uint16_t)(t->p - t->base);
    proto->movable = t->movable;
    proto->nrelocs = (uint16_t)(t->movable ? t->nrelocs : 0);
    proto->collided = cc_collided(t->rq->cc, t->rq->pc);
}

enum tr_result tr_translate(const struct tr_request *request, struct cc_block **block)
{
    struct tr_block t;
    struct cc_block proto = {.pc = request->pc,
                             .gpa = request->gpa & CC_NO_GPA,
                             .gpa2 = CC_NO_GPA,
                             .key = (uint16_t)request->key,
                             .wide = request->key & TR_K_LONG};

    RT_ASSERT(request->max_insns <= TR_MAX_INSNS);
    memset(&t, 0, offsetof(struct tr_block, insn));
    t.rq = request;
    enum tr_result result = decode_ahead(&t);
    if (result != TR_DONE)
        return result;
    t.base = t.p = cc_reserve(request->cc, TR_MAX_HOST);
    if (!t.p)
        return TR_FULL;
    emit_block(&t, &proto);
    RT_ASSERT((size_t)(t.p - t.base) <= TR_MAX_HOST);
    proto.host = (uint32_t)(t.base - request->cc->rw);
    proto.len = (uint16_t)t.end;
    proto.insns = (uint8_t)t.ninsns;
    proto.nmap = (uint8_t)t.nmap;
    proto.nsites = (uint8_t)t.nsites;
    if (t.crossing)
        proto.gpa2 = request->gpa2 & CC_NO_GPA;
    *block = cc_block_add(request->cc, &proto, t.map, t.site, t.reloc);
    if (!*block) {
        cc_abort(request->cc);
        return TR_FULL;
    }
    cc_commit(request->cc, (size_t)(t.p - t.base));
    return TR_DONE;
}

/* ---- the permanent stubs ---- */

#define STUB_ROOM 1024

/* jmp *target; the address follows the instruction */
static void emit_far_jump(struct tr_block *t, uint64_t target)
{
    e2(t, 0xff, 0x25);
    e32(t, 0);
    e32(t, (uint32_t)target);
    e32(t, (uint32_t)(target >> 32));
}

static struct tr_block stub_begin(struct tr_request *request, struct cc *cc)
{
    *request = (struct tr_request){.cc = cc};
    return (struct tr_block){.rq = request, .p = cc_reserve(cc, STUB_ROOM)};
}

static uint8_t *stub_end(struct tr_block *t)
{
    RT_ASSERT(t->p);
    return cc_commit(t->rq->cc, (size_t)(t->p - (t->rq->cc->rw + t->rq->cc->used)));
}

/* 32-bit code leaves with the pc in r8 and the argument in r9. */
static uint8_t *emit_stub32(struct cc *cc, enum rt_exit reason)
{
    struct tr_request request;
    struct tr_block t = stub_begin(&request, cc);

    e2(&t, 0x41, 0xba); /* mov $reason, %r10d */
    e32(&t, reason);
    emit_far_jump(&t, (uint64_t)rt_exit_common);
    return stub_end(&t);
}

/* 64-bit code leaves with the pc in r9 and the argument in r10; its r9 to r11 are in memory. */
static uint8_t *emit_stub64(struct cc *cc, enum rt_exit reason)
{
    struct tr_request request;
    struct tr_block t = stub_begin(&request, cc);

    l_store(&t, H9, STATE(rip));
    l_store(&t, H10, STATE(exit_arg));
    for (unsigned n = 0; n < 16; n++) {
        if (n != RSP && !SPILLED(n))
            l_store(&t, n, GPR(n));
    }
    l_store(&t, RSP, STATE(host_rsp));
    l_load(&t, RSP, STATE(host_sp));
    e1(&t, 0x9c);       /* pushfq */
    e2(&t, 0x41, 0x59); /* pop %r9 */
    l_store(&t, H9, STATE(hflags));
    l_const(&t, H9, 0);
    e_state(&t, 0x44, 0x89, H9, STATE(in_cache));
    l_const(&t, RT_AX, reason);
    emit_far_jump(&t, (uint64_t)rt_exit_fault);
    return stub_end(&t);
}

static uint8_t *emit_side_stub(struct cc *cc, const struct tr_stubs *stubs,
                               void (*emit)(struct tr_block *, const struct tr_stubs *))
{
    struct tr_request request;
    struct tr_block t = stub_begin(&request, cc);

    emit(&t, stubs);
    return stub_end(&t);
}

/* Where the exits of sites lead (link.c): the site's number into 64-bit code's r10, 32-bit's r9. */
static uint8_t *emit_direct(struct cc *cc, const uint8_t *stub, bool wide)
{
    struct tr_request request;
    struct tr_block t = stub_begin(&request, cc);

    e4(&t, 0x45, 0x0f, 0xb6, 0xc9);               /* movzbl %r9b, %r9d */
    e4(&t, 0x47, 0x8d, wide ? 0x14 : 0x0c, 0x11); /* lea (%r9,%r10), %r10d or %r9d */
    e_jmp(&t, stub);
    return stub_end(&t);
}

/* What empty jump-table slots hold, whatever the mode. */
static uint8_t *emit_miss(struct cc *cc)
{
    struct tr_request request;
    struct tr_block t = stub_begin(&request, cc);

    e4(&t, 0x64, 0xff, 0x24, 0x25); /* jmp *%fs:miss */
    e32(&t, STATE(miss));
    return stub_end(&t);
}

/* Where misses of 64-bit code go first: the pc in r9 may be among the table's victims. */
static uint8_t *emit_probe(struct cc *cc, const uint8_t *miss64)
{
    struct tr_request request;
    struct tr_block t = stub_begin(&request, cc);

    l_emit_probe(&t, &cc->probe, miss64);
    return stub_end(&t);
}

int tr_stubs_emit(struct cc *cc, struct tr_stubs *stubs)
{
    stubs->miss = emit_miss(cc);
    stubs->miss32 = emit_stub32(cc, RT_EXIT_INDIRECT);
    stubs->direct32 = emit_direct(cc, emit_stub32(cc, RT_EXIT_DIRECT), false);
    stubs->callout32 = emit_stub32(cc, RT_EXIT_CALLOUT);
    stubs->pending32 = emit_stub32(cc, RT_EXIT_PENDING);
    stubs->miss64 = emit_stub64(cc, RT_EXIT_INDIRECT);
    stubs->probe64 = emit_probe(cc, stubs->miss64);
    stubs->direct64 = emit_direct(cc, emit_stub64(cc, RT_EXIT_DIRECT), true);
    stubs->callout64 = emit_stub64(cc, RT_EXIT_CALLOUT);
    stubs->pending64 = emit_stub64(cc, RT_EXIT_PENDING);
    stubs->sysenter32 = emit_side_stub(cc, stubs, tr_emit_sysenter);
    stubs->sysexit32 = emit_side_stub(cc, stubs, tr_emit_sysexit);
    stubs->syscall64 = emit_side_stub(cc, stubs, l_emit_syscall);
    stubs->sysret64 = emit_side_stub(cc, stubs, l_emit_sysret);
    cc->skip = l_skip;
    return cc_seal_stubs(cc, stubs->miss, stubs->miss64);
}
