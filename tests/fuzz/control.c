/* control.c - the walk through a block's host code; see control.h.
 *
 * Translated code has no loops: branches inside a block lead forward. So one pass over the
 * instructions is enough; what is known at a branch waits at its target. A block is read twice, as
 * it is entered through a jump table and as it is linked. */
#include "tests/fuzz/control.h"

#include <string.h>

#define MAX_WAITING 300

struct waiting {
    unsigned at;
    struct control_state state;
};

/* One way through a block. */
struct walk {
    struct control *c;
    struct control_state now;
    struct waiting *waiting;
    unsigned nwaiting;
    unsigned end;
    uint8_t *starts; /* bit n: an instruction starts at offset n */
};

void control_say(struct control *c, const char *what)
{
    c->complaints++;
    if (c->complain)
        c->complain(c, c->at, c->zi.length, what);
}

enum cc_recipe control_recipe(const struct control *c)
{
    enum cc_recipe recipe = CC_R_IDENTITY;
    cc_guest_pc(c->cc, c->block, c->code + c->at, &recipe);
    return recipe;
}

static bool is_forbidden(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_INTO:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_LEAVE:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRPKRU:
    case ZYDIS_MNEMONIC_RDPKRU:
    case ZYDIS_MNEMONIC_XSETBV:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_OUT:
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSD:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_LGDT:
    case ZYDIS_MNEMONIC_LIDT:
    case ZYDIS_MNEMONIC_LLDT:
    case ZYDIS_MNEMONIC_LTR:
    case ZYDIS_MNEMONIC_LMSW:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_SWAPGS:
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_WRMSR:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_MOVDIR64B:
    case ZYDIS_MNEMONIC_ENQCMD:
    case ZYDIS_MNEMONIC_ENQCMDS:
    case ZYDIS_MNEMONIC_UMONITOR:
    case ZYDIS_MNEMONIC_UMWAIT:
    case ZYDIS_MNEMONIC_MONITOR:
    case ZYDIS_MNEMONIC_MWAIT:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_XBEGIN:
    case ZYDIS_MNEMONIC_XABORT:
    case ZYDIS_MNEMONIC_XEND:
    case ZYDIS_MNEMONIC_BNDLDX:
    case ZYDIS_MNEMONIC_BNDSTX:
    case ZYDIS_MNEMONIC_BNDMOV:
        return true;
    default:
        return false;
    }
}

static void check_instruction(struct control *c)
{
    if (is_forbidden(c->zi.mnemonic) || (c->zi.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED))
        control_say(c, "an instruction that reaches the host");
    for (unsigned i = 0; i < c->zi.operand_count; i++) {
        const ZydisDecodedOperand *o = &c->operand[i];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
            ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT)
            control_say(c, "writes a segment register");
    }
}

/* ---- ways that meet ---- */

static bool same(const struct control_value *a, const struct control_value *b)
{
    return a->kind == b->kind && a->small == b->small && a->wide == b->wide &&
           a->value == b->value && a->of == b->of && a->id == b->id && a->offset == b->offset;
}

static void meet_value(struct control *c, struct control_value *a, const struct control_value *b)
{
    bool secret = a->kind >= CONTROL_UNKNOWN || b->kind >= CONTROL_UNKNOWN;

    if (same(a, b))
        return;
    *a = (struct control_value){.kind = secret ? CONTROL_UNKNOWN : CONTROL_GUEST,
                                .wide = a->wide || b->wide,
                                .value = ++c->values};
}

static void meet(struct control *c, struct control_state *a, const struct control_state *b)
{
    if (!a->live) {
        *a = *b;
        return;
    }
    for (unsigned i = 0; i < 16; i++)
        meet_value(c, &a->reg[i], &b->reg[i]);
    for (unsigned i = 0; i < 3; i++)
        meet_value(c, &a->spilled[i], &b->spilled[i]);
    a->delta = a->delta == b->delta ? a->delta : 0;
    a->undo = a->undo == b->undo ? a->undo : 0;
    a->nchecked = a->ntouched = 0;
    a->gather_near = false;
}

static void send_to(struct walk *w, unsigned at, const struct control_state *state)
{
    if (at <= w->c->at || at >= w->end) {
        control_say(w->c, "a branch backwards, or into the records");
        return;
    }
    for (unsigned i = 0; i < w->nwaiting; i++) {
        if (w->waiting[i].at == at) {
            meet(w->c, &w->waiting[i].state, state);
            return;
        }
    }
    if (w->nwaiting == MAX_WAITING) {
        control_say(w->c, "more branches than any block has");
        return;
    }
    w->waiting[w->nwaiting++] = (struct waiting){at, *state};
}

static void receive(struct walk *w)
{
    for (unsigned i = 0; i < w->nwaiting; i++) {
        if (w->waiting[i].at != w->c->at)
            continue;
        meet(w->c, &w->now, &w->waiting[i].state);
        w->waiting[i] = w->waiting[--w->nwaiting];
        return;
    }
}

/* ---- branches ---- */

static void leave(struct walk *w, bool to_c)
{
    if (w->c->block->wide)
        control_exit64(w->c, &w->now, to_c);
    else
        control_exit32(w->c, &w->now);
}

/* The site of this block that leads there while it is not linked, or NULL. */
static const struct cc_site *site_of(const struct control *c, const uint8_t *target)
{
    for (uint32_t i = 0; i < c->block->nsites; i++) {
        if (target == c->cc->rx + cc_exit_of(c->cc, c->block->first_site + i))
            return &c->cc->sites[c->block->first_site + i];
    }
    return NULL;
}

/* The site whose branch is looked at, or NULL. */
static const struct cc_site *site_here(const struct control *c)
{
    uint32_t field = c->block->host + c->at + c->zi.length - 4;

    for (uint32_t i = 0; i < c->block->nsites; i++) {
        if (c->cc->sites[c->block->first_site + i].jump == field)
            return &c->cc->sites[c->block->first_site + i];
    }
    return NULL;
}

/* Whether target is a stub that may be jumped to from this block, and whether it leads to C. */
static bool is_stub(const struct control *c, const uint8_t *target, bool *to_c)
{
    const struct tr_stubs *s = c->stubs;

    *to_c = true;
    if (site_of(c, target)) { /* patched when it is linked */
        *to_c = false;
        return true;
    }
    if (!c->block->wide)
        return target == s->miss32 || target == s->callout32 || target == s->pending32 ||
               (c->block->key & TR_K_CPL3 && target == s->sysenter32) ||
               (c->block->key & TR_K_CPL0 && target == s->sysexit32);
    return target == s->probe64 || target == s->callout64 || target == s->pending64 ||
           target == s->syscall64 || target == s->sysret64;
}

/* site: of the branch that leads there, or NULL. */
static bool is_block_entry(const struct control *c, const uint8_t *target,
                           const struct cc_site *site)
{
    const struct cc_block *b = cc_find(c->cc, target);

    if (!b || !b->valid || b->wide != c->block->wide || b->key != c->block->key)
        return false;
    bool linked = site && site->target == (uint32_t)(b - c->cc->blocks);
    return target == c->cc->rx + (linked ? cc_entry_of(c->cc, site, b) : b->host + b->direct);
}

static void check_relative(struct walk *w, int64_t displacement, bool conditional)
{
    struct control *c = w->c;
    const uint8_t *target = c->code + c->at + c->zi.length + displacement;
    const struct cc_site *site = site_here(c);
    bool to_c;

    if (site && c->block->wide)
        control_known(c, &w->now, site->known);

    if (target >= c->code && target < c->code + w->end) {
        struct control_state taken = w->now;
        if (c->zi.mnemonic == ZYDIS_MNEMONIC_JRCXZ && c->block->wide)
            control_jrcxz64(&taken);
        c->inside++;
        send_to(w, (unsigned)(target - c->code), &taken);
    } else if ((!conditional || site_of(c, target)) && is_stub(c, target, &to_c)) {
        c->to_stub++;
        leave(w, to_c);
        if (site && !site->to && c->block->loops)
            control_loop_back(c, &w->now);
    } else if (is_block_entry(c, target, site)) {
        c->to_block++;
        leave(w, false);
    } else {
        control_say(c, "a branch out of the block");
    }
}

/* 32-bit code's jump table has an entry for every pc, 64-bit code's for every index. */
static bool is_index(const struct control *c, const struct control_value *index)
{
    return c->block->wide ? index->kind == CONTROL_INDEX16
                          : index->kind == CONTROL_GUEST && !index->wide;
}

/* jmp *slot(table), of 64-bit code, or jmp *(table,index,8) */
static void check_indirect(struct walk *w)
{
    struct control *c = w->c;
    const ZydisDecodedOperand *o = &c->operand[0];
    const struct control_value *table, *index;

    if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || c->zi.address_width != 64 ||
        control_register(o->mem.base) > 15 || o->mem.segment != ZYDIS_REGISTER_DS) {
        control_say(c, "an indirect jump, not through the jump table");
        return;
    }
    table = &w->now.reg[control_register(o->mem.base)];
    if (o->mem.index == ZYDIS_REGISTER_NONE) {
        if (!c->block->wide || table->kind != CONTROL_TABLE || o->mem.disp.value < 0 ||
            o->mem.disp.value % 8 || o->mem.disp.value >= (int64_t)CC_TABLE_SIZE)
            control_say(c, "a jump beside the jump table");
    } else {
        index = &w->now.reg[control_register(o->mem.index) & 15];
        if (table->kind != CONTROL_TABLE || !is_index(c, index) || o->mem.scale != 8 ||
            o->mem.disp.value)
            control_say(c, "a jump beside the jump table");
    }
    c->to_table++;
    leave(w, false);
}

static bool is_branch(const struct control *c)
{
    ZydisInstructionCategory category = c->zi.meta.category;
    return category == ZYDIS_CATEGORY_COND_BR || category == ZYDIS_CATEGORY_UNCOND_BR;
}

static void branch(struct walk *w)
{
    struct control *c = w->c;
    bool conditional = c->zi.meta.category == ZYDIS_CATEGORY_COND_BR;

    if (conditional && c->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT &&
        c->zi.mnemonic != ZYDIS_MNEMONIC_JRCXZ && c->zi.mnemonic != ZYDIS_MNEMONIC_JECXZ)
        w->now.reg[RT_CX] = (struct control_value){
            .kind = CONTROL_GUEST, .wide = w->now.reg[RT_CX].wide, .value = ++c->values};
    if (c->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && c->operand[0].imm.is_relative)
        check_relative(w, c->operand[0].imm.value.s, conditional);
    else
        check_indirect(w);
    w->now.live = conditional;
}

/* ---- the walk ---- */

static void step(struct walk *w)
{
    struct control *c = w->c;

    check_instruction(c);
    if (is_branch(c))
        branch(w);
    else if (c->block->wide)
        control_step64(c, &w->now);
    else
        control_step32(c, &w->now);
}

static bool decode(struct control *c, const ZydisDecoder *decoder, unsigned end)
{
    unsigned avail = end - c->at;

    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, c->code + c->at, avail, &c->zi, c->operand)))
        return true;
    c->zi.length = (ZyanU8)(avail < 15 ? avail : 15);
    control_say(c, "does not decode");
    return false;
}

/* From offset from to the end of the code. */
static void walk_from(struct control *c, struct walk *w, unsigned from, bool indirect)
{
    ZydisDecoder decoder;

    w->now = (struct control_state){.live = true};
    w->nwaiting = 0;
    if (c->block->wide)
        control_start64(c, &w->now, indirect);
    else
        control_start32(c, &w->now, indirect);
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (c->at = from; c->at < w->end; c->at += c->zi.length) {
        if (!decode(c, &decoder, w->end))
            return;
        w->starts[c->at] = 1;
        receive(w);
        if (!w->now.live)
            control_say(c, "nothing leads here");
        if (!indirect && c->block->loops && c->at == c->block->direct + c->block->front)
            control_loop_begin(c, &w->now);
        c->insns++;
        step(w);
        if (indirect && c->at + c->zi.length >= c->block->direct)
            return; /* the rest is read as the linked block */
    }
    if (w->now.live)
        control_say(c, "runs into the records");
    if (w->nwaiting)
        control_say(c, "a branch into an instruction");
}

static void check_map(struct control *c)
{
    const struct cc_block *b = c->block;
    const struct cc_map *row = c->cc->maps + b->map;

    for (unsigned i = 0; i < b->nmap; i++) {
        unsigned recipe = row[i].guest >> 12;
        bool right = b->wide ? recipe == CC_R_IDENTITY || recipe == CC_R_STRING64
                             : recipe != CC_R_STRING64 && recipe <= CC_R_STACK_MAX;
        c->at = row[i].host;
        if (row[i].host < b->direct || row[i].host >= b->host_len ||
            (row[i].guest & 0xfff) >= b->len || !right)
            control_say(c, "a row of the pc map is out of range");
        if (i &&
            (row[i].host <= row[i - 1].host || (row[i].guest & 0xfff) < (row[i - 1].guest & 0xfff)))
            control_say(c, "the pc map does not ascend");
    }
    if (!b->nmap)
        control_say(c, "no pc map");
}

/* mov %gs:place, %r10d; mov %gs:-PRESENT(%r10d), %r10b; jmp */
static bool is_far_jump(const uint8_t *code, uint32_t jump)
{
    static const uint8_t load[] = {0x65, 0x44, 0x8b, 0x14, 0x25};
    static const uint8_t check[] = {0x65, 0x67, 0x45, 0x8a, 0x52, 0x80, 0xe9};

    return jump >= 16 && !memcmp(code + jump - 16, load, sizeof(load)) &&
           !memcmp(code + jump - 7, check, sizeof(check));
}

static void check_sites(struct control *c, const struct walk *w)
{
    const struct cc_block *b = c->block;

    for (unsigned i = 0; i < b->nsites; i++) {
        const struct cc_site *site = &c->cc->sites[b->first_site + i];
        uint32_t jump = site->jump - b->host;
        if (jump + 4 > b->host_len ||
            (!(jump >= 1 && w->starts[jump - 1]) && !(jump >= 2 && w->starts[jump - 2])))
            control_say(c, "a site that is no branch of the block's");
        if (site->far && !is_far_jump(c->code, jump))
            control_say(c, "a branch to another page that does not look its place up");
    }
}

bool control_scan(struct control *c, const struct cc_block *b)
{
    unsigned long before = c->complaints;
    static struct waiting waiting[MAX_WAITING];
    static uint8_t starts[65536];
    struct walk w = {.c = c, .end = b->host_len, .waiting = waiting, .starts = starts};

    c->block = b;
    c->code = c->cc->rx + b->host;
    c->blocks++;
    c->nsums = 0;
    memset(starts, 0, b->host_len);
    if (b->direct)
        walk_from(c, &w, 0, true);
    walk_from(c, &w, b->direct, false);
    check_map(c);
    check_sites(c, &w);
    return c->complaints == before;
}
