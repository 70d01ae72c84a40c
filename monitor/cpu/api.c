/* api.c - include/novt.h: arguments checked, state moved in and out.
 *
 * Everything here runs outside translated code. A vCPU's register file is v->saved while it does
 * not run, and the thread's rt_cpu while it does. */
#include "codecache/jitinfo.h"
#include "monitor/cpu/verify.h"
#include "translator/memo.h"

#include <errno.h>
#include <mimalloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MIN_CODE_CACHE (256ull << 10)
#define MAX_CODE_CACHE (1024ull << 20)

struct novt_vm {
    struct mon_vm vm;
};
struct novt_vcpu {
    struct mon_vcpu cpu;
};

/* ---- errors ---- */

const char *novt_status_string(int status)
{
    switch (status) {
    case NOVT_OK:
        return "success";
    case NOVT_E_INVAL:
        return "invalid argument";
    case NOVT_E_NOMEM:
        return "out of memory or address space";
    case NOVT_E_HOST:
        return "the host lacks something that is needed";
    case NOVT_E_EXISTS:
        return "already exists";
    case NOVT_E_BUSY:
        return "busy";
    case NOVT_E_INTERNAL:
        return "internal error";
    default:
        return "unknown status";
    }
}

const char *novt_version(void)
{
    return "0.1.0";
}

__attribute__((format(printf, 3, 4))) static int fail(struct mon_vm *vm, int status,
                                                      const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(vm->error, sizeof(vm->error), format, args);
    va_end(args);
    return status;
}

const char *novt_vm_error(struct novt_vm *vm)
{
    return vm->vm.error;
}

/* ---- VMs ---- */

static int take_config(struct mon_vm *vm, const struct novt_config *config)
{
    size_t size = config->size < sizeof(vm->config) ? config->size : sizeof(vm->config);

    memcpy(&vm->config, config, size);
    if (!vm->config.code_cache_size)
        vm->config.code_cache_size = MON_DEFAULT_CODE_CACHE;
    vm->config.code_cache_size = (vm->config.code_cache_size + 4095) & ~4095ull;
    if (vm->config.code_cache_size < MIN_CODE_CACHE || vm->config.code_cache_size > MAX_CODE_CACHE)
        return fail(vm, NOVT_E_INVAL,
                    "a code cache of %llu bytes is not possible: give 256K to 1024M",
                    (unsigned long long)vm->config.code_cache_size);
    vm->map_budget = vm->config.map_budget;
    if (!vm->map_budget) {
        long max = rt_os_max_map_count();
        vm->map_budget = max > 4000 ? (uint32_t)(max - 2000) : 2000;
    }
    if (vm->map_budget < 700) /* 600 are kept free */
        vm->map_budget = 700;
    snprintf(vm->cpu_model, sizeof(vm->cpu_model), "%s", vm->config.cpu ? vm->config.cpu : "host");
    return NOVT_OK;
}

/* The first thing that is missing, in the words of the report. */
static int host_check(struct mon_vm *vm)
{
    struct novt_host_row rows[16];
    size_t n = novt_host_report(&vm->config, rows, 16);

    RT_ASSERT(n <= 16);
    for (size_t i = 0; i < n; i++) {
        if (rows[i].found == NOVT_HOST_MISSING)
            return fail(vm, NOVT_E_HOST, "%s", rows[i].text);
    }
    return NOVT_OK;
}

static int register_code(struct mon_vm *vm)
{
    const struct tr_stubs *s = &vm->stubs;
    const struct cc_symbol stubs[] = {
        {"novt_miss", s->miss},           {"novt_miss32", s->miss32},
        {"novt_direct32", s->direct32},   {"novt_callout32", s->callout32},
        {"novt_pending32", s->pending32}, {"novt_miss64", s->miss64},
        {"novt_direct64", s->direct64},   {"novt_callout64", s->callout64},
        {"novt_pending64", s->pending64}, {"novt_probe64", s->probe64},
    };

    vm->jitinfo = cc_jitinfo_create(&vm->cc, stubs, sizeof(stubs) / sizeof(stubs[0]),
                                    vm->config.flags & NOVT_F_PERF_MAP);
    return vm->jitinfo ? 0 : -ENOMEM;
}

static int vm_prepare(struct mon_vm *vm, const struct novt_config *config)
{
    int rc = take_config(vm, config);

    if (rc == NOVT_OK)
        rc = host_check(vm);
    if (rc == NOVT_OK)
        rc = mon_cpuid_build(&vm->cpuid, vm->cpu_model, vm->config.flags & NOVT_F_LOCAL_APIC,
                             vm->error, sizeof(vm->error));
    if (rc != NOVT_OK)
        return rc;
    if (vm->config.flags & NOVT_F_VERIFY)
        vm->config.flags |= NOVT_F_NO_CHAIN;
    vm->cc.for_perf = (vm->config.flags & NOVT_F_PERF_MAP) != 0;
    rc = cc_create(&vm->cc, vm->config.code_cache_size, MON_MAX_GPA);
    if (rc == 0)
        rc = tr_stubs_emit(&vm->cc, &vm->stubs);
    if (rc == 0)
        rc = register_code(vm);
    if (rc < 0)
        return fail(vm, NOVT_E_NOMEM,
                    "cannot map a code cache of %zu MiB (%s): is memfd_create or executable "
                    "memory forbidden here?",
                    (size_t)vm->config.code_cache_size >> 20, strerror(-rc));
    rc = mon_run_hooks();
    if (rc < 0)
        return fail(vm, NOVT_E_HOST, "cannot install signal handlers (%s)", strerror(-rc));
    pthread_mutex_init(&vm->lock, NULL);
    vm->created_ns = rt_os_now_ns();
    return NOVT_OK;
}

int novt_vm_create(const struct novt_config *config, struct novt_vm **out, char *err,
                   size_t err_len)
{
    static const struct novt_config defaults = {.size = sizeof(defaults)};
    mi_heap_t *heap = mi_heap_new();
    struct mon_vm *vm = heap ? mi_heap_zalloc(heap, sizeof(*vm)) : NULL;
    int rc;

    *out = NULL;
    if (err && err_len)
        err[0] = 0;
    if (!vm)
        return NOVT_E_NOMEM;
    vm->heap = heap;
    vm->cc.fd = vm->cc.table_fd = -1;
    vm->memo = mi_heap_zalloc(heap, sizeof(*vm->memo));
    rc = !vm->memo ? NOVT_E_NOMEM : vm_prepare(vm, config ? config : &defaults);
    if (rc != NOVT_OK) {
        if (err && err_len)
            snprintf(err, err_len, "%s", vm->error);
        cc_jitinfo_destroy(vm->jitinfo);
        cc_destroy(&vm->cc);
        mi_heap_destroy(heap);
        return rc;
    }
    *out = (struct novt_vm *)vm;
    return NOVT_OK;
}

static void drop_slot(struct mon_slot *slot)
{
    if (!slot->used)
        return;
    rt_os_release(slot->host, slot->size);
    rt_os_close(slot->fd);
    slot->used = false;
}

static void vcpu_destroy(struct mon_vcpu *v)
{
    mon_verify_destroy(v);
    mon_native_destroy(v);
    mon_views_destroy(v);
    mon_known_destroy(v);
    rt_os_release(v->saved.xsave, 4096);
}

void novt_vm_destroy(struct novt_vm *handle)
{
    struct mon_vm *vm = (struct mon_vm *)handle;

    if (!vm)
        return;
    for (unsigned i = 0; i < MON_MAX_VCPUS; i++) {
        if (vm->vcpu[i])
            vcpu_destroy(vm->vcpu[i]);
    }
    for (unsigned i = 0; i < MON_MAX_SLOTS; i++)
        drop_slot(&vm->slot[i]);
    cc_jitinfo_destroy(vm->jitinfo);
    cc_destroy(&vm->cc);
    pthread_mutex_destroy(&vm->lock);
    mi_heap_destroy(vm->heap);
}

/* ---- memory ---- */

static void drop_translations(struct mon_vm *vm)
{
    for (uint64_t gfn = 0; gfn < vm->cc.max_gfn; gfn++) {
        if (!(gfn & 511) && !vm->cc.code_2m[gfn >> 9]) {
            gfn |= 511;
            continue;
        }
        vm->cc.pages[gfn].code = 0;
    }
    memset(vm->cc.code_2m, 0, (vm->cc.max_gfn / 512 + 1) * sizeof(*vm->cc.code_2m));
    for (unsigned i = 0; i < MON_MAX_VCPUS; i++) {
        if (vm->vcpu[i])
            mon_x87_settle(vm->vcpu[i]);
    }
    cc_flush(&vm->cc);
    mon_view_drop_code(vm);
    mon_view_drop_all(vm);
    for (unsigned i = 0; i < MON_MAX_VCPUS; i++) {
        if (vm->vcpu[i])
            mon_walk_cache_flush(vm->vcpu[i]);
    }
}

static int check_slot(struct mon_vm *vm, uint32_t index, uint64_t gpa, uint64_t size,
                      uint64_t offset)
{
    if (index >= MON_MAX_SLOTS)
        return fail(vm, NOVT_E_INVAL, "memory slot %u: there are %u", index, MON_MAX_SLOTS);
    if ((gpa | size | offset) & 4095)
        return fail(vm, NOVT_E_INVAL, "memory slot %u: not a multiple of 4096", index);
    if (gpa + size < gpa || gpa + size > MON_MAX_GPA)
        return fail(vm, NOVT_E_INVAL, "memory slot %u: ends beyond 64 GiB", index);
    for (unsigned i = 0; size && i < MON_MAX_SLOTS; i++) {
        const struct mon_slot *s = &vm->slot[i];
        if (i != index && s->used && gpa < s->gpa + s->size && s->gpa < gpa + size)
            return fail(vm, NOVT_E_EXISTS, "memory slot %u overlaps slot %u", index, i);
    }
    return NOVT_OK;
}

int novt_vm_set_memory(struct novt_vm *handle, uint32_t index, uint64_t gpa, uint64_t size,
                       int memfd, uint64_t offset, uint32_t flags)
{
    struct mon_vm *vm = (struct mon_vm *)handle;
    int rc = check_slot(vm, index, gpa, size, offset);
    uint8_t *host = NULL;

    if (rc != NOVT_OK)
        return rc;
    struct mon_slot *slot = &vm->slot[index];
    if (size) {
        host = rt_os_map_shared(memfd, offset, size, RT_PROT_RW);
        if (!host)
            return fail(vm, NOVT_E_NOMEM, "cannot map %llu bytes of guest memory (%s)",
                        (unsigned long long)size, strerror(errno));
    }
    int fd = size ? rt_os_dup(memfd) : -1; /* the caller may close its own */
    if (size && fd < 0) {
        rt_os_release(host, size);
        return fail(vm, NOVT_E_NOMEM, "cannot duplicate the memfd (%s)", strerror(-fd));
    }
    drop_translations(vm);
    drop_slot(slot);
    *slot = (struct mon_slot){.gpa = gpa,
                              .size = size,
                              .offset = offset,
                              .fd = fd,
                              .used = size != 0,
                              .readonly = flags & NOVT_MEM_READONLY,
                              .host = host};
    return NOVT_OK;
}

uint8_t *mon_vm_ram(const struct mon_vcpu *v, uint64_t gpa, bool *writable)
{
    const struct mon_vm *vm = v->vm;

    for (unsigned i = 0; i < MON_MAX_SLOTS; i++) {
        const struct mon_slot *slot = &vm->slot[i];
        if (gpa - slot->gpa < slot->size) {
            if (writable) {
                *writable = !slot->readonly;
                if (__builtin_expect(v->verify != NULL, 0) && *writable)
                    mon_verify_touch(v, gpa, slot->host + (gpa - slot->gpa));
            }
            return slot->host + (gpa - slot->gpa);
        }
    }
    return NULL;
}

static void code_written(struct mon_vm *vm, uint64_t gpa, unsigned len)
{
    struct cc_page *page = cc_page(&vm->cc, gpa);
    uint64_t before = vm->cc.invalidated;

    if (!page || !page->code)
        return;
    if (cc_invalidate(&vm->cc, gpa, len)) {
        page->code = 0;
        vm->cc.code_2m[gpa >> 21]--;
    }
    vm->stat[MON_STAT_blocks_invalidated] += vm->cc.invalidated - before;
}

void mon_vm_wrote(struct mon_vcpu *v, uint64_t gpa, unsigned len)
{
    struct cc_page *page = cc_page(&v->vm->cc, gpa);

    if (__builtin_expect(v->verify != NULL, 0) && mon_verify_wrote(v, page && page->code))
        return;
    if (page && __builtin_expect(page->code, 0)) {
        code_written(v->vm, gpa, len);
        if (mon_log_on(v, NOVT_LOG_SMC))
            mon_log(v, NOVT_LOG_SMC, "wrote code: gpa %llx, %u bytes, rip %llx",
                    (unsigned long long)gpa, len, (unsigned long long)v->cpu->rip);
    }
}

/* Another thread's write: the vCPU looks at the list before it enters translated code again. */
void novt_vm_memory_written(struct novt_vm *handle, uint64_t gpa, uint64_t size)
{
    struct mon_vm *vm = (struct mon_vm *)handle;
    uint64_t end = gpa + size;
    bool hit = false;

    if (end < gpa)
        return;
    pthread_mutex_lock(&vm->lock);
    for (uint64_t at = gpa & ~4095ull; at < end; at += 4096) {
        const struct cc_page *page = cc_page(&vm->cc, at);
        if (!page || !page->code)
            continue;
        hit = true;
        if (vm->nwritten < MON_MAX_WRITTEN)
            vm->written[vm->nwritten++] = at;
        else
            vm->written_all = true;
    }
    pthread_mutex_unlock(&vm->lock);
    for (unsigned i = 0; hit && i < MON_MAX_VCPUS; i++) {
        if (vm->vcpu[i])
            mon_vcpu_poke(vm->vcpu[i]);
    }
}

void mon_vm_take_written(struct mon_vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    if (vm->written_all)
        drop_translations(vm);
    for (unsigned i = 0; i < vm->nwritten; i++)
        code_written(vm, vm->written[i], 4096);
    vm->nwritten = 0;
    vm->written_all = false;
    pthread_mutex_unlock(&vm->lock);
}

uint32_t novt_vm_tsc_khz(struct novt_vm *vm)
{
    return (uint32_t)vm->vm.cpuid.tsc_khz;
}

uint32_t novt_vm_apic_khz(struct novt_vm *vm)
{
    return vm->vm.cpuid.apic_khz;
}

/* ---- vCPUs ---- */

static void publish(struct mon_vcpu *v)
{
    v->run.if_flag = v->cpu->rflags >> 9 & 1;
    v->run.ready_for_interrupt = v->run.if_flag && !v->shadow && !v->injected && !v->resume;
    v->run.cr8 = (uint8_t)v->cr8;
    v->run.tsc_offset = v->cpu->tsc_offset;
}

int novt_vcpu_create(struct novt_vm *handle, uint32_t id, struct novt_vcpu **out)
{
    struct mon_vm *vm = (struct mon_vm *)handle;
    struct mon_vcpu *v;
    int rc;

    *out = NULL;
    if (id >= MON_MAX_VCPUS)
        return fail(vm, NOVT_E_INVAL, "vCPU id %u: there are %u", id, MON_MAX_VCPUS);
    if (vm->vcpu[id])
        return fail(vm, NOVT_E_EXISTS, "vCPU %u exists", id);
    v = mi_heap_zalloc_aligned(vm->heap, sizeof(*v), 64);
    if (!v)
        return fail(vm, NOVT_E_NOMEM, "out of memory for vCPU %u", id);
    v->vm = vm;
    v->id = id;
    v->cpu = &v->saved;
    rt_cpu_init(v->cpu);
    v->saved.xsave = rt_os_reserve(4096);
    if (!v->saved.xsave || rt_fpu_size() > 4096)
        return fail(vm, NOVT_E_NOMEM, "out of memory for vector state");
    mon_cpu_reset(v);
    rc = mon_views_create(v);
    if (rc == NOVT_OK)
        rc = mon_known_create(v);
    if (rc == NOVT_OK)
        rc = mon_native_create(v);
    if (rc == NOVT_OK)
        rc = mon_verify_create(v);
    if (rc != NOVT_OK) {
        vcpu_destroy(v);
        return fail(vm, NOVT_E_NOMEM, "out of memory for vCPU %u", id);
    }
    vm->vcpu[id] = v;
    publish(v);
    *out = (struct novt_vcpu *)v;
    return NOVT_OK;
}

void novt_vcpu_reset(struct novt_vcpu *vcpu)
{
    struct mon_vcpu *v = (struct mon_vcpu *)vcpu;

    mon_cpu_reset(v);
    v->resume = false;
    v->replay.done = 0;
    v->halted = v->injected = v->shadow = false;
    v->mc_pending = v->nmi_pending = v->nmi_blocked = false;
    mon_view_flush(v, true);
    publish(v);
}

struct novt_run *novt_vcpu_run_area(struct novt_vcpu *vcpu)
{
    return &vcpu->cpu.run;
}

static void attach(struct mon_vcpu *v)
{
    struct rt_cpu *cpu = &rt_cpu;

    *cpu = v->saved;
    cpu->owner = v;
    cpu->code_lo = v->vm->cc.rx;
    cpu->code_hi = v->vm->cc.rx + v->vm->cc.size;
    v->cpu = cpu;
    cc_jitinfo_thread(v->vm->jitinfo);
    rt_gs_enter(cpu);
    __atomic_store_n(&v->tid, rt_fault_self(), __ATOMIC_SEQ_CST);
}

static void detach(struct mon_vcpu *v)
{
    __atomic_store_n(&v->tid, 0, __ATOMIC_SEQ_CST);
    rt_gs_leave(v->cpu);
    v->saved = rt_cpu;
    v->cpu = &v->saved;
    rt_cpu.owner = NULL;
}

int novt_vcpu_run(struct novt_vcpu *vcpu)
{
    struct mon_vcpu *v = &vcpu->cpu;
    uint64_t mask[16]; /* sigset_t */
    int rc;

    if (v->tid)
        return fail(v->vm, NOVT_E_BUSY, "vCPU %u already runs", v->id);
    if (rt_cpu.owner)
        return fail(v->vm, NOVT_E_BUSY, "this thread already runs a vCPU");
    if (rt_fault_thread() < 0)
        return fail(v->vm, NOVT_E_NOMEM, "cannot make a signal stack");
    uint64_t start = __builtin_ia32_rdtsc();
    rt_fault_mask(mask);
    attach(v);
    v->cr8 = v->run.cr8 & 15;
    rc = mon_run(v);
    detach(v);
    rt_fault_unmask(mask);
    if (rc == NOVT_E_NOMEM)
        fail(v->vm, rc, "%s", v->host_failure);
    v->vm->stat[MON_STAT_time_in_monitor] += __builtin_ia32_rdtsc() - start;
    mon_count(v, MON_STAT_exits_to_embedder);
    publish(v);
    return rc;
}

int novt_vcpu_set_handler(struct novt_vcpu *vcpu, novt_exit_handler *handler, void *opaque,
                          uint32_t flags)
{
    struct mon_vcpu *v = &vcpu->cpu;

    if (flags & ~(uint32_t)(NOVT_HANDLER_KEEPS_VECTORS | NOVT_HANDLER_KEEPS_STATE))
        return fail(v->vm, NOVT_E_INVAL, "handler flags %x", flags);
    if (v->tid)
        return fail(v->vm, NOVT_E_BUSY, "vCPU %u runs", v->id);
    v->handler = handler;
    v->handler_opaque = opaque;
    v->handler_flags = flags;
    return NOVT_OK;
}

bool mon_vcpu_handled(struct mon_vcpu *v)
{
    if (!v->handler)
        return false;
    if (!(v->handler_flags & NOVT_HANDLER_KEEPS_VECTORS))
        rt_fpu_park(v->cpu);
    publish(v);
    if (!v->handler(v->handler_opaque, &v->run))
        return false;
    v->cr8 = v->run.cr8 & 15;
    mon_count(v, MON_STAT_exits_handled);
    return true;
}

void mon_vcpu_take_answer(struct mon_vcpu *v)
{
    struct novt_run *run = &v->run;
    uint64_t data = 0;

    if (run->exit_reason == NOVT_EXIT_IO) {
        data = run->io.data;
    } else if (run->exit_reason == NOVT_EXIT_MMIO) {
        __builtin_memcpy(&data, run->mmio.data, 8);
    } else {
        data = run->msr.data;
        v->replay.refused = run->msr.error;
    }
    RT_ASSERT(v->replay.done < MON_REPLAY_MAX);
    v->replay.data[v->replay.done++] = data;
}

bool mon_vcpu_answers(struct mon_vcpu *v)
{
    if (!v->asking || !(v->handler_flags & NOVT_HANDLER_KEEPS_STATE) || v->verify)
        return false;
    v->resume = true; /* the instruction is not complete */
    bool handled = mon_vcpu_handled(v);
    v->resume = false;
    v->declined = !handled;
    if (handled)
        mon_vcpu_take_answer(v);
    return handled;
}

int novt_vcpu_interrupt(struct novt_vcpu *vcpu, uint8_t vector)
{
    struct mon_vcpu *v = &vcpu->cpu;

    if (v->injected || !(v->cpu->rflags & RT_IF) || v->shadow)
        return NOVT_E_BUSY;
    v->injected = true;
    v->injected_vector = vector;
    publish(v);
    return NOVT_OK;
}

void novt_vcpu_nmi(struct novt_vcpu *vcpu)
{
    vcpu->cpu.nmi_pending = true;
    mon_vcpu_poke(&vcpu->cpu);
}

void mon_vcpu_poke(struct mon_vcpu *v)
{
    int tid;

    __atomic_store_n(&v->kicked, true, __ATOMIC_SEQ_CST);
    tid = __atomic_load_n(&v->tid, __ATOMIC_SEQ_CST);
    if (tid) /* also to itself: the caller may be a handler that interrupted translated code */
        rt_fault_kick(tid);
}

void novt_vcpu_machine_check(struct novt_vcpu *vcpu)
{
    vcpu->cpu.mc_pending = true;
    mon_vcpu_poke(&vcpu->cpu);
}

void novt_vcpu_kick(struct novt_vcpu *vcpu)
{
    mon_vcpu_poke(&vcpu->cpu);
}

/* ---- state in and out ---- */

void novt_vcpu_get_regs(struct novt_vcpu *vcpu, struct novt_regs *regs)
{
    const struct rt_cpu *cpu = vcpu->cpu.cpu;

    memcpy(regs->gpr, cpu->gpr, sizeof(regs->gpr));
    regs->rip = cpu->rip;
    regs->rflags = cpu->rflags | 2;
}

int novt_vcpu_set_regs(struct novt_vcpu *vcpu, const struct novt_regs *regs)
{
    struct rt_cpu *cpu = vcpu->cpu.cpu;

    memcpy(cpu->gpr, regs->gpr, sizeof(cpu->gpr));
    if (!mon_long(&vcpu->cpu)) {
        for (unsigned i = 0; i < 16; i++)
            cpu->gpr[i] = i < 8 ? (uint32_t)cpu->gpr[i] : 0;
    }
    cpu->rip = regs->rip;
    cpu->rflags = (regs->rflags & 0x3f7fd7) | 2;
    vcpu->cpu.mode_changed = true;
    vcpu->cpu.resume = false;
    vcpu->cpu.replay.done = 0;
    return NOVT_OK;
}

void novt_vcpu_get_sregs(struct novt_vcpu *vcpu, struct novt_sregs *s)
{
    const struct mon_vcpu *v = &vcpu->cpu;

    memcpy(s->seg, v->seg, sizeof(s->seg));
    s->tr = v->tr;
    s->ldt = v->ldt;
    s->gdt = v->gdt;
    s->idt = v->idt;
    s->cr0 = v->cr0;
    s->cr2 = v->cr2;
    s->cr3 = v->cr3;
    s->cr4 = v->cr4;
    s->cr8 = v->cr8;
    s->efer = v->efer;
    s->apic_base = v->msr.apic_base;
    s->xcr0 = v->xcr0;
    memcpy(s->dr, v->dr, sizeof(s->dr));
}

int novt_vcpu_set_sregs(struct novt_vcpu *vcpu, const struct novt_sregs *s)
{
    struct mon_vcpu *v = &vcpu->cpu;

    if ((s->cr0 & MON_CR0_PG) && !(s->cr0 & MON_CR0_PE))
        return fail(v->vm, NOVT_E_INVAL, "CR0.PG without CR0.PE");
    memcpy(v->seg, s->seg, sizeof(v->seg));
    v->tr = s->tr;
    v->ldt = s->ldt;
    v->gdt = s->gdt;
    v->idt = s->idt;
    v->cr0 = s->cr0 | MON_CR0_ET;
    v->cr2 = s->cr2;
    v->cr3 = s->cr3;
    v->cr4 = s->cr4;
    v->cr8 = s->cr8 & 15;
    v->run.cr8 = (uint8_t)v->cr8;
    v->efer = s->efer;
    v->msr.apic_base = s->apic_base;
    v->xcr0 = s->xcr0 | 1;
    memcpy(v->dr, s->dr, sizeof(v->dr));
    v->cpu->cpl = v->cr0 & MON_CR0_PE ? (uint8_t)MON_ATTR_DPL_OF(v->seg[NOVT_SS].attr) : 0;
    if ((v->cr0 & MON_CR0_PG) && (v->cr4 & MON_CR4_PAE) && !mon_long(v) &&
        mon_pdpte_load(v, v->cr3) != MON_OK)
        return fail(v->vm, NOVT_E_INVAL, "CR3: reserved bits in the page-directory pointers");
    v->mode_changed = true;
    v->again = NULL;
    for (unsigned seg = 0; seg < 6; seg++)
        mon_seg_changed(v, seg);
    mon_view_flush(v, true);
    return NOVT_OK;
}

void novt_vcpu_get_events(struct novt_vcpu *vcpu, struct novt_events *e)
{
    const struct mon_vcpu *v = &vcpu->cpu;

    *e = (struct novt_events){.nmi_pending = v->nmi_pending,
                              .nmi_blocked = v->nmi_blocked,
                              .interrupt_shadow = v->shadow,
                              .halted = v->halted,
                              .interrupt_injected = v->injected,
                              .interrupt_vector = v->injected_vector,
                              .machine_check_pending = v->mc_pending};
}

int novt_vcpu_set_events(struct novt_vcpu *vcpu, const struct novt_events *e)
{
    struct mon_vcpu *v = &vcpu->cpu;

    v->mc_pending = e->machine_check_pending;
    v->nmi_pending = e->nmi_pending;
    v->nmi_blocked = e->nmi_blocked;
    v->shadow = e->interrupt_shadow;
    v->halted = e->halted;
    v->injected = e->interrupt_injected;
    v->injected_vector = e->interrupt_vector;
    return NOVT_OK;
}

size_t novt_vcpu_xsave_size(struct novt_vcpu *vcpu)
{
    (void)vcpu;
    return rt_fpu_size();
}

int novt_vcpu_get_xsave(struct novt_vcpu *vcpu, void *area, size_t size)
{
    if (size < rt_fpu_size())
        return fail(vcpu->cpu.vm, NOVT_E_INVAL, "the XSAVE area needs %zu bytes", rt_fpu_size());
    mon_x87_settle(&vcpu->cpu); /* parks too: a handler may ask */
    memcpy(area, vcpu->cpu.saved.xsave, rt_fpu_size());
    return NOVT_OK;
}

int novt_vcpu_set_xsave(struct novt_vcpu *vcpu, const void *area, size_t size)
{
    uint64_t header[8];
    uint32_t mxcsr;

    if (size < rt_fpu_size())
        return fail(vcpu->cpu.vm, NOVT_E_INVAL, "the XSAVE area needs %zu bytes", rt_fpu_size());
    memcpy(header, (const uint8_t *)area + 512, sizeof(header));
    memcpy(&mxcsr, (const uint8_t *)area + 24, sizeof(mxcsr));
    if ((header[0] & ~rt_fpu_mask()) || header[1] || header[2] || (mxcsr & 0xffff0000u))
        return fail(vcpu->cpu.vm, NOVT_E_INVAL, "the XSAVE area's header or MXCSR is not valid");
    rt_fpu_park(vcpu->cpu.cpu);
    memcpy(vcpu->cpu.saved.xsave, area, rt_fpu_size());
    mon_x87_own(&vcpu->cpu);
    return NOVT_OK;
}

int novt_vcpu_get_msrs(struct novt_vcpu *vcpu, struct novt_msr *msrs, size_t n)
{
    size_t i = 0;

    while (i < n && mon_msr_get(&vcpu->cpu, msrs[i].index, &msrs[i].value))
        i++;
    return (int)i;
}

int novt_vcpu_set_msrs(struct novt_vcpu *vcpu, const struct novt_msr *msrs, size_t n)
{
    size_t i = 0;

    while (i < n && mon_msr_set(&vcpu->cpu, msrs[i].index, msrs[i].value))
        i++;
    publish(&vcpu->cpu);
    return (int)i;
}

size_t novt_vcpu_msr_list(struct novt_vcpu *vcpu, uint32_t *index, size_t n)
{
    (void)vcpu;
    return mon_msr_list(index, n);
}

int novt_vcpu_translate(struct novt_vcpu *vcpu, uint64_t gla, uint64_t *gpa)
{
    struct mon_walk walk;

    if (!mon_walk_peek(&vcpu->cpu, gla, &walk))
        return NOVT_E_INVAL;
    *gpa = walk.gpa;
    return NOVT_OK;
}

const struct mon_cpuid *mon_vm_cpuid(const struct mon_vcpu *v)
{
    return &v->vm->cpuid;
}

/* ---- statistics ---- */

static const struct novt_stat stat_rows[] = {
#define STAT(name, unit) {#name, unit, 0},
#include "monitor/cpu/stat.def"
#undef STAT
};

static const char *const op_names[] = {
#define OP(op) #op,
#include "translator/ops.def"
#undef OP
};

static uint64_t ticks_to_ns(const struct mon_vm *vm, uint64_t ticks)
{
    uint64_t khz = vm->cpuid.tsc_khz ? vm->cpuid.tsc_khz : 1000000;

    return ticks / khz * 1000000 + ticks % khz * 1000000 / khz;
}

static uint64_t stat_value(const struct mon_vm *vm, unsigned i)
{
    uint64_t insns = 0, ticks = vm->stat[i];

    switch (i) {
    case MON_STAT_instructions_in_cache:
        for (unsigned n = 0; n < MON_MAX_VCPUS; n++)
            insns += vm->vcpu[n] ? vm->vcpu[n]->cpu->insns : 0;
        return insns;
    case MON_STAT_guest_bytes_translated:
        return vm->cc.guest_bytes;
    case MON_STAT_host_bytes_made:
        return vm->cc.host_bytes;
    case MON_STAT_code_bytes:
        return vm->cc.used - vm->cc.start + vm->cc.copies.used;
    case MON_STAT_time_in_monitor: /* counted as all of novt_vcpu_run() */
        ticks -= vm->stat[MON_STAT_time_in_guest] + vm->stat[MON_STAT_time_translating];
        return ticks_to_ns(vm, ticks);
    case MON_STAT_time_in_guest:
    case MON_STAT_time_translating:
        return ticks_to_ns(vm, ticks);
    case MON_STAT_links_made:
        return vm->cc.linked;
    default:
        return vm->stat[i];
    }
}

static uint64_t callouts_of(const struct mon_vm *vm, unsigned op)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < MON_MAX_VCPUS; i++)
        n += vm->vcpu[i] ? vm->vcpu[i]->callouts[op] : 0;
    return n;
}

size_t novt_vm_stats(struct novt_vm *handle, struct novt_stat *stats, size_t n)
{
    const struct mon_vm *vm = (const struct mon_vm *)handle;
    size_t count = 0;

    for (unsigned i = 0; i < MON_STAT_COUNT; i++, count++) {
        if (count < n) {
            stats[count] = stat_rows[i];
            stats[count].value = stat_value(vm, i);
        }
    }
    for (unsigned op = 0; op < TR_OP_COUNT; op++) {
        uint64_t value = callouts_of(vm, op);
        if (!value)
            continue;
        if (count < n)
            stats[count] = (struct novt_stat){op_names[op], "callouts", value};
        count++;
    }
    return count;
}
