/* run.c - the loop around translated code.
 *
 *   attention (kick, interrupts, mode) -> rt_enter -> exit reason -> miss: find or translate a
 * block ^                                                        -> callout: mon_execute | ->
 * fault: deliver, or slow path
 *        +--------------------------------------------------------------+
 *
 * Code that is not flat 32-bit protected mode or 64-bit code, single-steps, has breakpoints or
 * checks alignment runs in the slow path, one instruction at a time (mode.c).
 *
 * An exit goes to the embedder's handler first; if that deals with it, the loop goes on.
 *
 * Vector state is in the registers while translated code and this loop run; whatever calls out of
 * the engine (translation, the embedder, mon_step) parks it first.
 *
 * Kicks: a thread sets v->kicked and signals; the signal handler (trap.c) makes all ways out of the
 * current block lead here. */
#include "codecache/jitinfo.h"
#include "monitor/cpu/verify.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- logs ---- */

bool mon_log_on(const struct mon_vcpu *v, unsigned category)
{
    return v->vm->config.log_mask & category;
}

void mon_log(struct mon_vcpu *v, unsigned category, const char *format, ...)
{
    char line[320];
    va_list args;

    if (!mon_log_on(v, category) || !v->vm->config.log)
        return;
    rt_fpu_park(v->cpu);
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    v->vm->config.log(v->vm->config.log_opaque, line);
}

/* ---- flags in and out of translated code ---- */

static void flags_split(struct rt_cpu *cpu)
{
    cpu->hflags = (cpu->rflags & RT_LIVE) | 0x202;
    cpu->vif = cpu->rflags >> 9 & 1;
    cpu->rflags = (cpu->rflags & ~(uint64_t)(RT_LIVE | RT_IF | RT_RF)) | 2;
}

static void flags_join(struct rt_cpu *cpu)
{
    cpu->rflags = (cpu->rflags & ~(uint64_t)(RT_LIVE | RT_IF)) | (cpu->hflags & RT_LIVE) |
                  (uint64_t)cpu->vif << 9;
}

/* ---- 64-bit code: addresses that the register file holds with their slot's delta ---- */

static void addresses_in(struct mon_vcpu *v)
{
    struct rt_cpu *cpu = v->cpu;

    cpu->rsp_delta = mon_view_delta(v, cpu->gpr[RT_SP]);
    cpu->rsp_undo = -cpu->rsp_delta;
    cpu->host_rsp = cpu->gpr[RT_SP] + cpu->rsp_delta;
    for (unsigned n = 0; n < 2; n++) {
        cpu->base64[n] = v->seg[NOVT_FS + n].base;
        cpu->host64[n] = cpu->base64[n] + mon_view_delta(v, cpu->base64[n]);
    }
    cpu->kernel_gs = v->msr.kernel_gs_base;
}

static void addresses_out(struct rt_cpu *cpu)
{
    cpu->gpr[RT_SP] = cpu->host_rsp + cpu->rsp_undo;
}

/* ---- blocks ---- */

static void log_listing(struct mon_vcpu *v, const uint8_t *bytes, size_t len, enum tr_mode mode,
                        uint64_t pc)
{
    char text[96];
    struct tr_insn insn;

    for (size_t at = 0; at < len; at += insn.len) {
        if (tr_decode(bytes + at, len - at, mode, &insn) != TR_DECODE_OK)
            break;
        tr_format(&insn, pc + at, text, sizeof(text));
        mon_log(v, NOVT_LOG_TRANSLATE, mode == TR_MODE_64 ? "    %12llx  %s" : "  %08llx  %s",
                (unsigned long long)(pc + at), text);
    }
}

/* The guest's instructions, then the host's. */
static void log_block(struct mon_vcpu *v, const struct cc_block *b, const uint8_t *bytes)
{
    const uint8_t *host = v->vm->cc.rx + b->host;

    mon_log(v, NOVT_LOG_TRANSLATE, "block %08llx gpa %llx key %x: %u instructions, %u -> %u bytes",
            (unsigned long long)b->pc, (unsigned long long)b->gpa, b->key, b->insns, b->len,
            b->host_len);
    if (!cc_crosses(b))
        log_listing(v, bytes, b->len, b->wide ? TR_MODE_64 : TR_MODE_32, b->pc);
    log_listing(v, host, b->host_len, TR_MODE_64, (uint64_t)host);
}

static void code_flush(struct mon_vcpu *v)
{
    mon_x87_settle(v);
    cc_flush(&v->vm->cc);
    mon_view_drop_code(v->vm);
    mon_count(v, MON_STAT_code_flushes);
}

static void copies_flush(struct mon_vcpu *v)
{
    mon_x87_settle(v);
    cc_flush_copies(&v->vm->cc);
    mon_view_drop_copies(v->vm);
    mon_count(v, MON_STAT_copies_flushes);
}

static uint64_t flushes(const struct mon_vcpu *v)
{
    return v->vm->cc.flushes + v->vm->stat[MON_STAT_copies_flushes];
}

/* A program that is larger than the part of the code cache for translations gets most of that for
 * copies too; unless many processes come and go as well. */
#define MAX_COPIES_FLUSHES 8

static void make_room(struct mon_vcpu *v)
{
    struct cc *cc = &v->vm->cc;

    if (cc->copies.few || cc->copies.flushes > MAX_COPIES_FLUSHES) {
        code_flush(v);
        return;
    }
    copies_flush(v);
    cc_share(cc, true);
}

static uint64_t next_page(uint64_t pc, uint32_t key)
{
    uint64_t next = (pc | 4095) + 1;

    return key & TR_K_LONG ? next : (uint32_t)next;
}

/* The second page of a crossing first instruction; MON_FAULT when it cannot be fetched. */
static enum mon_rc second_page(struct mon_vcpu *v, struct tr_request *request)
{
    struct mon_walk walk;
    uint64_t gla = next_page(request->pc, request->key);

    if (mon_walk(v, gla, MON_FETCH, v->cpu->cpl, &walk) != MON_OK)
        return MON_FAULT;
    request->gpa2 = walk.gpa;
    request->bytes2 = mon_vm_ram(v, walk.gpa, NULL);
    if (request->bytes2)
        mon_view_protect_code(v->vm, walk.gpa);
    return MON_OK;
}

static uint32_t max_insns(struct mon_vcpu *v, uint64_t gpa)
{
    if (v->vm->config.flags & NOVT_F_SHORT_BLOCKS)
        return 1;
    return v->verify ? mon_verify_block_limit(v, gpa) : 64;
}

static bool is_flush_due(const struct mon_vm *vm)
{
    uint32_t interval = vm->config.flush_interval ? vm->config.flush_interval : 1;

    return (vm->config.flags & NOVT_F_FLUSH) &&
           vm->stat[MON_STAT_blocks_translated] % interval == 0;
}

/* The RAM at gla, or NULL; its page is in one piece. */
static const uint8_t *ram_at(struct mon_vcpu *v, uint64_t gla)
{
    struct mon_walk walk;

    return mon_walk_peek(v, gla, &walk) ? mon_vm_ram(v, walk.gpa, NULL) : NULL;
}

/* tr_request.peek: 8 bytes in a page of RAM. */
static bool peek(void *owner, uint64_t gla, uint64_t *value)
{
    const uint8_t *ram = (gla & 4095) <= 4088 ? ram_at(owner, gla) : NULL;

    if (ram)
        __builtin_memcpy(value, ram, sizeof(*value));
    return ram;
}

/* NULL with MON_OK: the code is not in RAM, the slow path has to do. */
static enum mon_rc block_translate(struct mon_vcpu *v, const struct mon_walk *walk, bool entry,
                                   struct cc_block **block)
{
    struct mon_vm *vm = v->vm;
    uint64_t started = __builtin_ia32_rdtsc();
    enum tr_result result;
    struct tr_request request = {
        .cc = &vm->cc,
        .stubs = &vm->stubs,
        .memo = vm->memo,
        .pc = v->cpu->rip,
        .gpa = walk->gpa,
        .key = v->key,
        .max_insns = max_insns(v, walk->gpa),
        .linked_only = !entry && !cc_entered(&vm->cc, walk->gpa),
        .bytes = mon_vm_ram(v, walk->gpa, NULL),
        .gpr = v->cpu->gpr,
        .peek = peek,
        .owner = v,
    };

    *block = NULL;
    if (!request.bytes || walk->gpa >= MON_MAX_GPA)
        return MON_OK;
    if (is_flush_due(vm))
        code_flush(v);
    mon_view_protect_code(vm, walk->gpa);
    while ((result = tr_translate(&request, block)) != TR_DONE) {
        if (result == TR_FULL) {
            make_room(v);
        } else {
            if (second_page(v, &request) != MON_OK)
                return MON_FAULT;
            if (!request.bytes2)
                return MON_OK;
        }
    }
    cc_jitinfo_block(vm->jitinfo, *block);
    vm->stat[MON_STAT_blocks_translated]++;
    vm->stat[MON_STAT_instructions_translated] += (*block)->insns;
    vm->stat[MON_STAT_time_translating] += __builtin_ia32_rdtsc() - started;
    if (mon_log_on(v, NOVT_LOG_TRANSLATE))
        log_block(v, *block, request.bytes);
    return MON_OK;
}

/* A block whose instruction crosses a page is right only for that second page: MON_FAULT when the
 * page cannot be fetched, *match whether it is the one that the block was made from. */
static enum mon_rc check_second_page(struct mon_vcpu *v, const struct cc_block *b,
                                     struct mon_walk *walk2, bool *match)
{
    *match = true;
    if (!cc_crosses(b))
        return MON_OK;
    if (mon_walk(v, next_page(b->pc, b->key), MON_FETCH, v->cpu->cpl, walk2) != MON_OK)
        return MON_FAULT;
    *match = walk2->gpa == b->gpa2;
    return MON_OK;
}

static enum mon_rc slow_step(struct mon_vcpu *v);

/* The instruction of 64-bit code at pc. */
static bool decode_at(struct mon_vcpu *v, uint64_t pc, struct tr_insn *insn)
{
    const uint8_t *ram = ram_at(v, pc);

    return ram && tr_decode(ram, 4096 - (pc & 4095), TR_MODE_64, insn) == TR_DECODE_OK;
}

/* 64-bit code branched to an address that is not canonical, and the branch has to fault: rsp goes
 * back to where it was, and the slow path executes the branch again. */
static enum mon_rc after_branch(struct mon_vcpu *v)
{
    struct cc *cc = &v->vm->cc;
    const uint8_t *hpc = cc->rx + v->cpu->branch_from;
    const struct cc_block *b = cc_find(cc, hpc);
    enum cc_recipe recipe;
    struct tr_insn insn;
    uint64_t pc;

    if (!b)
        return mon_raise_error(v, MON_GP, 0);
    pc = cc_guest_pc(cc, b, hpc, &recipe);
    rt_fpu_park(v->cpu);
    if (!decode_at(v, pc, &insn))
        return mon_raise_error(v, MON_GP, 0);
    if (insn.op == TR_OP_ret)
        v->cpu->gpr[RT_SP] -= 8 + (insn.imm_size ? (uint16_t)insn.imm : 0);
    else if (insn.op == TR_OP_call_ind)
        v->cpu->gpr[RT_SP] += 8;
    v->cpu->rip = pc;
    return slow_step(v);
}

/* site, whose branch has led to b, leads there by itself from now on. */
static void link_site(struct mon_vcpu *v, struct cc_site *site, struct cc_block *b)
{
    struct cc *cc = &v->vm->cc;
    const struct cc_block *from = &cc->blocks[site->block];

    if (!from->valid)
        return;
    if (!site->far) {
        if (!cc_crosses(b) && from->gpa >> 12 == b->gpa >> 12 && from->pc >> 12 == b->pc >> 12)
            cc_link(cc, site, b);
        return;
    }
    cc_unlink(cc, site); /* from a block that another address space has there */
    if (!cc_place_link(cc, site, b)) {
        cc_places_forget(cc);
        mon_view_drop_code(v->vm);
        return;
    }
    cc_place_enter(cc, v->table, b);
}

/* Finds or makes the block at rip and enters it into the jump table, unless there is a kick to
 * attend to. That waits while a branch has not ended well: where it leads decides what rip is. */
static enum mon_rc block_resolve(struct mon_vcpu *v, struct cc_site *site)
{
    struct cc *cc = &v->vm->cc;
    struct mon_walk walk, walk2;
    struct cc_block *b;
    bool links = !(v->vm->config.flags & (NOVT_F_NO_CHAIN | NOVT_F_SHORT_BLOCKS));
    bool entry = !site || !links, match = false;
    uint64_t before = flushes(v);

    if ((v->key & TR_K_LONG) && !tr_is_canonical(v->cpu->rip))
        return after_branch(v);
    if (v->kicked)
        return MON_OK;
    if (mon_walk(v, v->cpu->rip, MON_FETCH, v->cpu->cpl, &walk) != MON_OK)
        return MON_FAULT;
    b = cc_lookup(cc, v->cpu->rip, walk.gpa, v->key);
    if (b && check_second_page(v, b, &walk2, &match) != MON_OK)
        return MON_FAULT;
    if (b && !match) {
        cc_invalidate(cc, b->gpa, 1);
        b = NULL;
    }
    if (b && b->wide && entry && !b->direct) {
        cc_enter(cc, b);
        mon_count(v, MON_STAT_entries_late);
        b = NULL;
    }
    if (!b && (v->key & TR_K_LONG) && (v->key & TR_K_CPL3)) {
        b = cc_move(cc, v->cpu->rip, walk.gpa, v->key, entry);
        if (!b && cc->copies.full) {
            if (cc->copies.few && cc->copies.flushes == MAX_COPIES_FLUSHES)
                code_flush(v);
            else
                copies_flush(v);
            b = cc_move(cc, v->cpu->rip, walk.gpa, v->key, entry);
        }
        if (b)
            mon_count(v, MON_STAT_blocks_moved);
    }
    if (!b) {
        if (entry && (v->key & TR_K_LONG) && cc_table_other(cc, v->table, v->cpu->rip))
            cc_collides(cc, v->cpu->rip);
        rt_fpu_park(v->cpu);
        enum mon_rc rc = block_translate(v, &walk, entry, &b);
        if (rc != MON_OK)
            return rc;
        if (!b)
            return slow_step(v);
        if (check_second_page(v, b, &walk2, &match) != MON_OK)
            return MON_FAULT;
    }
    mon_view_enter_block(v, b, &walk, cc_crosses(b) ? &walk2 : NULL);
    v->arrived = cc->rx + b->host + b->direct;
    if (site && links && flushes(v) == before)
        link_site(v, site, b);
    return MON_OK;
}

/* ---- the slow path, with embedder exits in the middle of instructions ---- */

static enum mon_rc finish(struct mon_vcpu *v, enum mon_rc rc)
{
    if (rc != MON_EXIT) {
        v->replay.done = 0;
        return rc;
    }
    switch (v->run.exit_reason) {
    case NOVT_EXIT_IO:
    case NOVT_EXIT_MMIO:
    case NOVT_EXIT_RDMSR:
    case NOVT_EXIT_WRMSR:
        v->resume = true;
        break;
    default:
        break;
    }
    return rc;
}

static enum mon_rc slow_step(struct mon_vcpu *v)
{
    mon_count(v, MON_STAT_instructions_slow_path);
    v->arrived = NULL;
    rt_fpu_park(v->cpu);
    v->replay.cursor = 0;
    v->again = NULL;
    v->asking = true;
    enum mon_rc rc = mon_step(v);
    v->asking = false;
    return finish(v, rc);
}

static enum mon_rc execute(struct mon_vcpu *v, const struct tr_insn *insn)
{
    enum mon_rc rc;

    v->asking = true;
    rc = mon_execute(v, insn);
    v->asking = false;
    rc = finish(v, rc);
    v->again = v->resume ? insn : NULL;
    v->again_flushes = flushes(v);
    return rc;
}

static enum mon_rc callout(struct mon_vcpu *v, const struct tr_insn *insn)
{
    if (!insn)
        return slow_step(v);
    v->callouts[insn->op]++;
    v->shadow = false;
    return execute(v, insn);
}

/* Completes what the embedder has been asked for. */
static enum mon_rc go_on(struct mon_vcpu *v)
{
    v->arrived = NULL;
    if (!v->resume)
        return MON_OK;
    v->resume = false;
    mon_vcpu_take_answer(v);
    return v->again && v->again_flushes == flushes(v) ? execute(v, v->again) : slow_step(v);
}

/* The linear address of the ModRM operand, as far as general registers make it. */
static uint64_t operand_address(const struct mon_vcpu *v, const struct tr_insn *insn)
{
    const uint64_t *gpr = v->cpu->gpr;
    uint64_t address = (uint64_t)insn->disp;

    if (insn->base == 16)
        address += v->cpu->rip + insn->len;
    else if (insn->base >= 0)
        address += gpr[insn->base];
    if (insn->index >= 0 && !insn->vsib)
        address += gpr[insn->index] * insn->scale;
    if (insn->adsize == 32)
        address = (uint32_t)address;
    if (insn->seg == TR_FS || insn->seg == TR_GS)
        address += v->seg[insn->seg].base;
    return address;
}

/* 64-bit code reached memory for which there is no window yet: makes the windows that the
 * instruction at rip may use. Returns the address of its ModRM operand, or 0. */
static uint64_t touch_operands(struct mon_vcpu *v)
{
    const uint64_t *gpr = v->cpu->gpr;
    struct tr_insn insn;
    uint64_t address;

    rt_fpu_park(v->cpu);
    mon_view_touch(v, gpr[RT_SP] - 8);
    mon_view_touch(v, gpr[RT_SP]);
    if (!decode_at(v, v->cpu->rip, &insn))
        return 0;
    if (insn.cls == TR_STRING) {
        mon_view_touch(v, gpr[RT_SI]);
        mon_view_touch(v, gpr[RT_DI]);
    }
    if (insn.op == TR_OP_leave)
        mon_view_touch(v, gpr[RT_BP]);
    if (!insn.has_mem)
        return 0;
    address = operand_address(v, &insn);
    mon_view_touch(v, address);
    return address;
}

/* The instruction at gpa in block b was made for memory of v->check_class and accesses another.
 * False: that is not it. */
static bool after_wrong_class(struct mon_vcpu *v, struct cc_block *b, uint64_t gpa,
                              uint64_t address)
{
    struct cc *cc = &v->vm->cc;
    bool at_home = mon_view_at_home(v, address);
    struct mon_walk walk;

    if (!mon_walk_peek(v, address, &walk) || (tr_class(address) == v->check_class && at_home))
        return false;
    cc_see(cc, b, gpa, at_home ? tr_class(address) : v->check_class);
    if (*cc_seen(cc, gpa) == CC_SEEN_MIXED)
        mon_count(v, MON_STAT_sites_mixed);
    return true;
}

/* A check in front of a block failed. The slots that the block accesses get windows, if they have
 * none. If that does not mend it, a guess was wrong, or the guest does not come to the access; then
 * the block is in time translated again. */
static void after_front_check(struct mon_vcpu *v, struct cc_block *b)
{
    struct tr_insn insn;

    rt_fpu_park(v->cpu);
    for (unsigned at = 0; at < b->len && decode_at(v, v->cpu->rip + at, &insn); at += insn.len) {
        if (insn.has_mem && insn.base != 16)
            mon_view_touch(v, operand_address(v, &insn));
    }
    if (mon_view_check_holds(v, v->cpu->fault.addr))
        return;
    int reg = tr_checked_register(v->cpu->fault.pc);
    for (unsigned at = 0; at < b->len && decode_at(v, v->cpu->rip + at, &insn); at += insn.len) {
        uint8_t seen = *cc_seen(&v->vm->cc, b->gpa + at);
        if (!insn.has_mem || insn.base != reg || insn.index >= 0 ||
            (seen != CC_SEEN_NOTHING && seen != CC_SEEN_CLASS0 + v->check_class))
            continue;
        if (after_wrong_class(v, b, b->gpa + at, operand_address(v, &insn)))
            return;
        break;
    }
    cc_front_failed(&v->vm->cc, b);
}

/* The check in front of an access failed. Its slot gets a window, if it has none; if the guess of
 * its class was wrong (or its window is not at home), the instruction is translated again. */
static void after_check(struct mon_vcpu *v)
{
    struct cc *cc = &v->vm->cc;
    struct cc_block *b = cc_find(cc, v->cpu->fault.pc);
    struct mon_walk code;
    uint64_t address;

    if (b && v->cpu->fault.pc < cc->rx + b->host + b->direct + b->front) {
        after_front_check(v, b);
        return;
    }
    address = touch_operands(v);
    if (b && mon_walk_peek(v, v->cpu->rip, &code))
        after_wrong_class(v, b, code.gpa, address);
}

/* A link leads to a page that the address space is not known to have. */
static enum mon_rc after_arrival(struct mon_vcpu *v)
{
    struct cc *cc = &v->vm->cc;
    struct cc_site *site = cc_far_site(cc, v->cpu->fault.pc);

    RT_ASSERT(site);
    v->cpu->rip = cc_site_pc(cc, site);
    return block_resolve(v, site);
}

/* ---- events ---- */

static bool interruptible(const struct mon_vcpu *v)
{
    return (v->cpu->rflags & RT_IF) && !v->shadow;
}

static int leave(struct mon_vcpu *v, enum novt_exit reason)
{
    v->run.exit_reason = reason;
    return MON_EXIT;
}

/* Before each entry: what must happen first. MON_EXIT: back to the embedder. */
static enum mon_rc attention(struct mon_vcpu *v)
{
    struct rt_cpu *cpu = v->cpu;

    if (__atomic_load_n(&v->kicked, __ATOMIC_ACQUIRE) || v->run.immediate_exit) {
        if (v->vm->nwritten)
            mon_vm_take_written(v->vm);
        __atomic_store_n(&v->kicked, false, __ATOMIC_RELEASE);
        mon_count(v, MON_STAT_kicks);
        return leave(v, NOVT_EXIT_KICKED);
    }
    /* The order is that of table 6-2 in SDM 3; what comes next interrupts the handler at once. */
    if (v->mc_pending) {
        v->mc_pending = v->halted = false;
        v->arrived = NULL;
        enum mon_rc rc = mon_machine_check_deliver(v);
        if (rc != MON_OK)
            return rc;
    }
    if (v->nmi_pending && !v->nmi_blocked && !v->shadow) {
        v->nmi_pending = v->halted = false;
        v->arrived = NULL;
        v->nmi_blocked = true;
        enum mon_rc rc = mon_interrupt_deliver(v, MON_NMI);
        if (rc != MON_OK)
            return rc;
    }
    if (v->injected && interruptible(v)) {
        v->injected = v->halted = false;
        v->arrived = NULL;
        mon_count(v, MON_STAT_interrupts);
        return mon_interrupt_deliver(v, v->injected_vector);
    }
    if (v->run.request_interrupt_window && !v->injected && interruptible(v))
        return leave(v, NOVT_EXIT_IRQ_WINDOW);
    if (v->cr8 < v->run.tpr_threshold)
        return leave(v, NOVT_EXIT_TPR);
    if (v->tsc_moved) {
        v->tsc_moved = false;
        return leave(v, NOVT_EXIT_TSC);
    }
    if (v->halted)
        return leave(v, NOVT_EXIT_HLT);
    cpu->irq_pending = v->injected || v->run.request_interrupt_window;
    return MON_OK;
}

static bool shadow_matters(const struct mon_vcpu *v)
{
    return v->shadow && (v->injected || v->run.request_interrupt_window || v->nmi_pending);
}

/* ---- the loop ---- */

static enum mon_rc handle_exit(struct mon_vcpu *v, enum rt_exit reason)
{
    struct rt_cpu *cpu = v->cpu;

    switch (reason) {
    case RT_EXIT_INDIRECT:
        mon_count(v, MON_STAT_exits_missed);
        return block_resolve(v, NULL);
    case RT_EXIT_DIRECT:
        mon_count(v, MON_STAT_exits_direct);
        return block_resolve(v, &v->vm->cc.sites[cpu->exit_arg]);
    case RT_EXIT_CALLOUT:
        mon_count(v, MON_STAT_exits_callout);
        return callout(v, (const struct tr_insn *)cpu->exit_arg);
    case RT_EXIT_PENDING:
        mon_count(v, MON_STAT_exits_pending);
        v->shadow = cpu->exit_arg;
        return MON_OK;
    case RT_EXIT_FAULT:
        mon_count(v, MON_STAT_exits_fault);
        if (v->after_fault == AFTER_ARRIVAL)
            return after_arrival(v);
        if (v->after_fault == AFTER_CHECK)
            after_check(v);
        else if (v->after_fault == AFTER_STEP && (v->key & TR_K_LONG))
            touch_operands(v);
        if (v->after_fault == AFTER_STEP || v->after_fault == AFTER_CHECK)
            return slow_step(v);
        return v->after_fault == AFTER_EXCEPTION ? MON_FAULT : MON_OK;
    default:
        RT_ASSERT(!"an exit reason without a case");
    }
}

static enum rt_exit enter(struct mon_vcpu *v)
{
    enum rt_exit reason;

    if (v->key & TR_K_LONG) {
        addresses_in(v);
        v->cpu->branch_from = 0;
        reason = rt_enter64(v->cpu);
        if (reason != RT_EXIT_FAULT) /* a fault's state has been recovered whole */
            addresses_out(v->cpu);
    } else {
        reason = rt_enter(v->cpu);
    }
    mon_mode_follow(v);
    if (reason == RT_EXIT_DIRECT)
        v->cpu->rip = cc_site_pc(&v->vm->cc, &v->vm->cc.sites[v->cpu->exit_arg]);
    return reason;
}

static enum rt_exit enter_timed(struct mon_vcpu *v)
{
    uint64_t start = __builtin_ia32_rdtsc();
    enum rt_exit reason = enter(v);

    v->vm->stat[MON_STAT_time_in_guest] += __builtin_ia32_rdtsc() - start;
    return reason;
}

/* C code leaves the guest's vector state in the registers; a sanitizer's runtime does not. */
#ifdef __SANITIZE_ADDRESS__
#define park_for_sanitizer(cpu) rt_fpu_park(cpu)
#else
#define park_for_sanitizer(cpu) ((void)(cpu))
#endif

/* Translated code has come back before its first instruction: the shadow and RF still stand. */
static bool nothing_ran(const struct mon_vcpu *v, enum rt_exit reason, uint64_t rip, uint64_t rcx)
{
    if (v->cpu->rip != rip)
        return false;
    return reason == RT_EXIT_INDIRECT ||
           (reason == RT_EXIT_FAULT && v->after_fault == AFTER_NOTHING &&
            v->cpu->gpr[RT_CX] == rcx);
}

/* Where translated code begins, and what it leaves through. */
static void choose_block(struct mon_vcpu *v)
{
    bool wide = v->key & TR_K_LONG;

    v->cpu->jump_table = wide ? v->table : cc_table_flat(v->table);
    if (v->verify)
        mon_verify_begin(v);
    else if (v->arrived)
        v->cpu->start = v->arrived;
    else
        v->cpu->start = cc_table_at(&v->vm->cc, v->table, v->cpu->rip, wide);
    v->arrived = NULL;
}

static enum mon_rc run_translated(struct mon_vcpu *v)
{
    struct rt_cpu *cpu = v->cpu;
    uint64_t rip = cpu->rip, rcx = cpu->gpr[RT_CX], rf = cpu->rflags & RT_RF;
    bool shadow = v->shadow;
    enum rt_exit reason;

    choose_block(v);
    rt_fpu_load(cpu);
    rt_gs_window(cpu);
    cpu->miss = v->key & TR_K_LONG ? v->vm->stubs.probe64 : v->vm->stubs.miss32;
    cpu->direct = v->key & TR_K_LONG ? v->vm->stubs.direct64 : v->vm->stubs.direct32;
    cpu->tsc_aux = v->msr.tsc_aux;
    flags_split(cpu);
    /* The other side of this race is a signal handler of this thread: no fence. */
    cpu->in_cache = 1;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(&v->kicked, __ATOMIC_ACQUIRE)) {
        cpu->in_cache = 0;
        flags_join(cpu);
        cpu->rflags |= rf;
        return MON_OK;
    }
    reason = v->key & TR_K_COUNT ? enter_timed(v) : enter(v);
    park_for_sanitizer(cpu);
    flags_join(cpu);
    v->shadow = false;
    if ((shadow || rf) && nothing_ran(v, reason, rip, rcx)) {
        v->shadow = shadow;
        cpu->rflags |= rf;
    }
    if (v->verify && mon_verify_end(v, reason) != MON_OK)
        return MON_EXIT;
    return handle_exit(v, reason);
}

static void run_to_exit(struct mon_vcpu *v, enum mon_rc rc)
{
    while (rc != MON_EXIT && !v->host_failure) {
        if (rc == MON_FAULT) {
            mon_count(v, MON_STAT_exceptions);
            mon_mode_page_fault(v);
            rc = mon_exception_deliver(v);
            continue;
        }
        rc = attention(v);
        if (rc != MON_OK)
            continue;
        if (v->mode_changed)
            mon_mode_update(v);
        else if (v->cpl_changed)
            mon_mode_switch(v);
        if (!v->host_failure)
            rc = v->slow || shadow_matters(v) ? slow_step(v) : run_translated(v);
    }
}

int mon_run(struct mon_vcpu *v)
{
    rt_flags_reset();
    mon_mode_rebind(v);
    v->mode_changed = true;
    v->host_failure = NULL;
    v->declined = false;
    do
        run_to_exit(v, go_on(v));
    while (!v->host_failure && !v->declined && mon_vcpu_handled(v));
    rt_fpu_park(v->cpu);
    return v->host_failure ? NOVT_E_NOMEM : NOVT_OK;
}
