/* known.c - descriptors that 32-bit code at CPL 0 may load into segment registers by itself.
 *
 * The monitor loads a data segment with all checks (seg.c) and notes the descriptor here, by its
 * selector. Translated code that loads the selector again compares what the guest's memory holds
 * with it (translator/system.c): RPL, DPL, type, limit and the accessed bit are then those that
 * passed, as long as CPL is 0 and GDTR is the same. When these change, all is forgotten.
 *
 * Only what has a limit of 4 GiB is noted, so that FS and GS have nothing but a base, and only from
 * the GDT. Where SMAP may keep CPL 0 from what the CPU reads by itself, nothing is.
 *
 * Context: the vCPU's thread; mon_known_follow() in signal context too. */
#include "monitor/cpu/prot.h"
#include "monitor/cpu/vm.h"

int mon_known_create(struct mon_vcpu *v)
{
    v->saved.descs = rt_os_reserve(RT_DESCS * sizeof(struct rt_desc));
    return v->saved.descs ? NOVT_OK : NOVT_E_NOMEM;
}

void mon_known_destroy(struct mon_vcpu *v)
{
    if (v->saved.descs)
        rt_os_release(v->saved.descs, RT_DESCS * sizeof(struct rt_desc));
    v->saved.descs = NULL;
}

static void forget(struct mon_vcpu *v)
{
    for (unsigned i = 0; i < v->known.count; i++)
        v->cpu->descs[v->known.selector[i]] = (struct rt_desc){0};
    v->known.count = 0;
}

void mon_known_update(struct mon_vcpu *v)
{
    struct mon_known *known = &v->known;

    known->usable = mon_protected(v) && !mon_long(v) && !mon_v86(v) &&
                    (v->cpu->cpl == 0 || v->cpu->cpl == 3) && !(v->cr4 & MON_CR4_SMAP);
    if (!known->usable || known->gdt.base != v->gdt.base || known->gdt.limit != v->gdt.limit)
        forget(v);
    known->gdt = v->gdt;
}

/* The descriptor that a segment with a limit of 4 GiB was loaded from, the accessed bit set. */
static uint64_t descriptor_of(const struct novt_segment *s)
{
    uint64_t base = (uint32_t)s->base;

    return 0x000f00000000ffffull | (base & 0xffffff) << 16 | (uint64_t)(s->attr & 0xf0ff) << 40 |
           base >> 24 << 56;
}

void mon_known_add(struct mon_vcpu *v, unsigned seg)
{
    const struct novt_segment *s = &v->seg[seg];
    struct mon_known *known = &v->known;
    struct rt_desc *desc = &v->cpu->descs[s->selector];
    uint64_t at = v->gdt.base + (s->selector & 0xfff8u);

    if (!known->usable || v->cpu->cpl || s->selector & MON_SEL_TI || !mon_seg_is_data4g(s) || !at ||
        at > 0xfffffff8u)
        return;
    if (!desc->at) {
        if (known->count == MON_KNOWN)
            forget(v);
        known->selector[known->count++] = s->selector;
    }
    desc->base = (uint32_t)s->base;
    desc->at = (uint32_t)at;
    desc->at_flat = s->base || !mon_attr_is_writable_data(s->attr) ? 0 : (uint32_t)at;
    desc->minus = -descriptor_of(s);
}

static void follow(struct mon_vcpu *v, unsigned seg)
{
    uint16_t selector = v->cpu->selector[seg];
    struct novt_segment *s = &v->seg[seg];

    if (MON_SEL_ERROR(selector))
        mon_desc_unpack(selector, -v->cpu->descs[selector].minus, s);
    else
        *s = (struct novt_segment){.attr = MON_ATTR_UNUSABLE, .selector = selector};
    mon_seg_changed(v, seg);
}

void mon_known_follow(struct mon_vcpu *v)
{
    uint8_t *moved = v->cpu->seg_moved;

    for (unsigned seg = 0; seg < 6; seg++) {
        if (!moved[seg])
            continue;
        moved[seg] = 0;
        follow(v, seg);
    }
}
