/* step_fpu.c - images of the vector state in the guest's memory: FXSAVE, XSAVE, FNSTENV and kin.
 *
 * The guest's state is parked in cpu->xsave, in XSAVE64's standard format, when these run; so they
 * are copies between two images, in C, and nothing is left to chance about what is written where:
 *
 *      0 x87 control   24 MXCSR   32 ST   160 XMM   512 header   576 components (CPUID leaf 0Dh)
 *
 * Three things differ from what the CPU would store (SDM 1-8.1, 1-10.5, 1-13):
 *
 *   pointers   FIP is an address in the code cache, FDP one in a window: x87.c has the guest's
 *   XCR0       the guest's, a subset of the host's
 *   registers  outside 64-bit mode only the first eight are stored and loaded
 *
 * Initial components are not stored by the host (XSTATE_BV in the parked header), so reading goes
 * through component(). */
#include "monitor/cpu/step.h"

#include <string.h>

#define FCW_INITIAL   0x37f
#define MXCSR_INITIAL 0x1f80
#define COMPACT       (1ull << 63)

static uint16_t get16(const uint8_t *p)
{
    uint16_t value;
    memcpy(&value, p, 2);
    return value;
}
static uint32_t get32(const uint8_t *p)
{
    uint32_t value;
    memcpy(&value, p, 4);
    return value;
}
static void put16(uint8_t *p, unsigned value)
{
    memcpy(p, &value, 2);
}
static void put32(uint8_t *p, uint32_t value)
{
    memcpy(p, &value, 4);
}
static void put64(uint8_t *p, uint64_t value)
{
    memcpy(p, &value, 8);
}

/* ---- the parked state ---- */

static uint8_t *area_of(const struct mon_vcpu *v)
{
    return v->cpu->xsave;
}

static uint64_t in_use(const struct mon_vcpu *v)
{
    return step_get64(area_of(v) + AREA_HEADER);
}

unsigned step_component(const struct mon_vcpu *v, unsigned component, unsigned *offset)
{
    const struct mon_cpuid *id = mon_vm_cpuid(v);
    *offset = id->component[component].offset;
    return id->component[component].size;
}

static void initialise_x87(uint8_t *area)
{
    memset(area, 0, AREA_MXCSR);
    memset(area + AREA_ST, 0, AREA_XMM - AREA_ST);
    put16(area + AREA_FCW, FCW_INITIAL);
}

/* One of the two components of the legacy region. */
static void normalise(struct mon_vcpu *v, unsigned component)
{
    uint8_t *area = area_of(v);
    uint64_t used = in_use(v);
    if (used & 1u << component)
        return;
    if (component == STEP_X87)
        initialise_x87(area);
    else
        memset(area + AREA_XMM, 0, 256);
    put64(area + AREA_HEADER, used | 1u << component);
}

void step_fpu_normalise(struct mon_vcpu *v)
{
    normalise(v, STEP_X87);
    normalise(v, STEP_SSE);
}

uint8_t *step_component_data(struct mon_vcpu *v, unsigned component)
{
    uint8_t *area = area_of(v);
    unsigned offset, size;
    if (component < STEP_AVX) {
        normalise(v, component);
        return component == STEP_X87 ? area : area + AREA_XMM;
    }
    size = step_component(v, component, &offset);
    if (!(in_use(v) >> component & 1)) {
        memset(area + offset, 0, size);
        put64(area + AREA_HEADER, in_use(v) | 1ull << component);
    }
    return area + offset;
}

void step_x87_set_top(uint8_t *area, unsigned top)
{
    uint8_t old[128];
    unsigned before = area[AREA_FSW + 1] >> 3 & 7;
    memcpy(old, area + AREA_ST, sizeof(old));
    for (unsigned n = 0; n < 8; n++)
        memcpy(area + AREA_ST + n * 16, old + ((n + top - before) & 7) * 16, 16);
    area[AREA_FSW + 1] = (uint8_t)((area[AREA_FSW + 1] & ~0x38) | top << 3);
}

/* A component of 2 and up for reading; NULL: it is in its initial state, all zero. */
static const uint8_t *component(const struct mon_vcpu *v, unsigned number)
{
    unsigned offset;
    step_component(v, number, &offset);
    return in_use(v) >> number & 1 ? area_of(v) + offset : NULL;
}

/* ---- vector registers: XMM | high half of YMM | high half of ZMM; 16 to 31 are whole ---- */

static void read_part(const struct mon_vcpu *v, unsigned number, unsigned at, uint8_t *data,
                      unsigned len)
{
    const uint8_t *part = component(v, number);
    if (part)
        memcpy(data, part + at, len);
    else
        memset(data, 0, len);
}

void step_vec_read(struct mon_vcpu *v, unsigned reg, uint8_t *data, unsigned len)
{
    if (reg >= 16) {
        read_part(v, STEP_HI16_ZMM, (reg - 16) * 64, data, len);
        return;
    }
    memcpy(data, step_component_data(v, STEP_SSE) + reg * 16, 16);
    if (len > 16)
        read_part(v, STEP_AVX, reg * 16, data + 16, 16);
    if (len > 32)
        read_part(v, STEP_ZMM_HI256, reg * 32, data + 32, 32);
}

static void write_part(struct mon_vcpu *v, unsigned number, unsigned at, const uint8_t *data,
                       unsigned len)
{
    unsigned offset, size = step_component(v, number, &offset);
    if (!size || (!data && !(in_use(v) >> number & 1)))
        return;
    uint8_t *part = step_component_data(v, number) + at;
    if (data)
        memcpy(part, data, len);
    else
        memset(part, 0, len);
}

void step_vec_write(struct mon_vcpu *v, unsigned reg, const uint8_t *data, unsigned len)
{
    if (reg >= 16) {
        uint8_t whole[64] = {0};
        memcpy(whole, data, len);
        write_part(v, STEP_HI16_ZMM, (reg - 16) * 64, whole, 64);
        return;
    }
    memcpy(step_component_data(v, STEP_SSE) + reg * 16, data, 16);
    write_part(v, STEP_AVX, reg * 16, len > 16 ? data + 16 : NULL, 16);
    write_part(v, STEP_ZMM_HI256, reg * 32, len > 32 ? data + 32 : NULL, 32);
}

uint64_t step_opmask(struct mon_vcpu *v, unsigned reg)
{
    uint64_t value;
    read_part(v, STEP_OPMASK, reg * 8, (uint8_t *)&value, 8);
    return value;
}

void step_set_opmask(struct mon_vcpu *v, unsigned reg, uint64_t value)
{
    write_part(v, STEP_OPMASK, reg * 8, (const uint8_t *)&value, 8);
}

/* ---- the legacy region as FXSAVE has it ---- */

static unsigned registers(const struct tr_insn *i)
{
    return i->mode == TR_MODE_64 ? 16 : 8;
}

/* Bytes 0-23 and 32-159 of the guest's image. */
static void x87_to_image(struct mon_vcpu *v, const struct tr_insn *i, uint8_t *image)
{
    const uint8_t *area = area_of(v);
    if (!(in_use(v) & 1u << STEP_X87)) {
        initialise_x87(image);
        return;
    }
    struct step_pointers p = step_x87_pointers(v);
    memcpy(image, area, AREA_FIP);
    image[AREA_FTW + 1] = 0;
    if (i->rex & 8) {
        put64(image + AREA_FIP, p.fip);
        put64(image + AREA_FDP, p.fdp);
    } else {
        put32(image + AREA_FIP, (uint32_t)p.fip);
        put32(image + AREA_FIP + 4, p.fcs);
        put32(image + AREA_FDP, (uint32_t)p.fdp);
        put32(image + AREA_FDP + 4, p.fds);
    }
    memcpy(image + AREA_ST, area + AREA_ST, AREA_XMM - AREA_ST);
}

/* Error summary and busy follow from the flags and masks (SDM 1-8.1.3.3). */
static unsigned summarise(unsigned fsw, unsigned fcw)
{
    return fsw & ~fcw & 0x3f ? fsw | 0x8080 : fsw & ~0x8080u;
}

static void set_control(uint8_t *area, unsigned fcw, unsigned fsw)
{
    fcw = (fcw & 0x1f3f) | 0x40;
    put16(area + AREA_FCW, fcw);
    put16(area + AREA_FSW, summarise(fsw, fcw));
}

static void x87_from_image(struct mon_vcpu *v, const struct tr_insn *i, const uint8_t *image)
{
    uint8_t *area = step_component_data(v, STEP_X87);
    struct step_pointers p = {.fop = get16(image + AREA_FOP)};
    p.fip = i->rex & 8 ? step_get64(image + AREA_FIP) : get32(image + AREA_FIP);
    p.fdp = i->rex & 8 ? step_get64(image + AREA_FDP) : get32(image + AREA_FDP);
    set_control(area, get16(image + AREA_FCW), get16(image + AREA_FSW));
    area[AREA_FTW] = image[AREA_FTW];
    step_x87_set_pointers(v, &p);
    memcpy(area + AREA_ST, image + AREA_ST, AREA_XMM - AREA_ST);
    for (unsigned n = 0; n < 8; n++) /* registers have 10 bytes */
        memset(area + AREA_ST + n * 16 + 10, 0, 6);
}

static void mxcsr_to_image(const struct mon_vcpu *v, uint8_t *image)
{
    put32(image + AREA_MXCSR, get32(area_of(v) + AREA_MXCSR));
    put32(image + AREA_MXCSR + 4, v->native->mxcsr_mask);
}

static enum mon_rc check_mxcsr(struct mon_vcpu *v, const uint8_t *image)
{
    return get32(image + AREA_MXCSR) & ~v->native->mxcsr_mask ? mon_raise_error(v, MON_GP, 0)
                                                              : MON_OK;
}

/* The offset of the image, if it is aligned (to a power of two). */
static enum mon_rc image_address(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                                 unsigned align, uint64_t *ea)
{
    uint64_t gla;

    *ea = step_ea(v, i, next);
    /* The limit, or an address that is not canonical, comes first: #SS for stack operands. Of the
     * first four bytes, as on a processor. */
    if (mon_seg_linear(v, i->seg, *ea, 4, MON_READ, &gla) != MON_OK)
        return MON_FAULT;
    if ((step_seg_base(v, i->seg) + *ea) & (align - 1))
        return mon_raise_error(v, MON_GP, 0);
    return MON_OK;
}

/* Parts of an image that one execution touches. */
struct pieces {
    unsigned n;
    struct {
        uint16_t at, len;
    } piece[AREA_LEGACY / 16];
};

static void add_piece(struct pieces *pieces, unsigned at, unsigned len)
{
    pieces->piece[pieces->n].at = (uint16_t)at;
    pieces->piece[pieces->n++].len = (uint16_t)len;
}

enum { TO_CHECK, TO_WRITE, TO_READ };

static enum mon_rc transfer(struct mon_vcpu *v, const struct tr_insn *i, uint64_t ea,
                            const struct pieces *pieces, uint8_t *image, int what)
{
    enum mon_rc rc = MON_OK;
    for (unsigned n = 0; n < pieces->n && rc == MON_OK; n++) {
        unsigned at = pieces->piece[n].at, len = pieces->piece[n].len;
        uint64_t offset = (ea + at) & step_mask(i->adsize);
        if (what == TO_CHECK)
            rc = step_check_write(v, i->seg, offset, len);
        else if (what == TO_WRITE)
            rc = step_write(v, i->seg, offset, image + at, len);
        else
            rc = step_read(v, i->seg, offset, image + at, len);
    }
    return rc;
}

/* FXSAVE's image is whole but at the end of the addresses, where it goes on at 0. */
static struct pieces fx_pieces(const struct tr_insn *i, uint64_t ea, unsigned len)
{
    struct pieces pieces = {0};

    if ((ea & step_mask(i->adsize)) + len - 1 <= step_mask(i->adsize))
        add_piece(&pieces, 0, len);
    else
        for (unsigned at = 0; at < len; at += 16)
            add_piece(&pieces, at, 16);
    return pieces;
}

static enum mon_rc fxsave_enabled(struct mon_vcpu *v)
{
    return v->cr0 & (MON_CR0_EM | MON_CR0_TS) ? mon_raise(v, MON_NM) : MON_OK;
}

enum mon_rc step_fxsave(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint8_t image[AREA_LEGACY];
    unsigned len = AREA_XMM + registers(i) * 16;
    uint64_t ea = 0;
    enum mon_rc rc = fxsave_enabled(v);
    if (rc == MON_OK)
        rc = image_address(v, i, next, 16, &ea);
    struct pieces all = fx_pieces(i, ea, AREA_LEGACY), pieces = fx_pieces(i, ea, len);
    if (rc == MON_OK)
        rc = transfer(v, i, ea, &all, image, TO_CHECK);
    if (rc != MON_OK)
        return rc;
    x87_to_image(v, i, image);
    mxcsr_to_image(v, image);
    for (unsigned reg = 0; reg < registers(i); reg++)
        step_vec_read(v, reg, image + AREA_XMM + reg * 16, 16);
    rc = transfer(v, i, ea, &pieces, image, TO_WRITE);
    return rc == MON_OK ? step_done(v, next) : rc;
}

enum mon_rc step_fxrstor(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint8_t image[AREA_LEGACY];
    uint64_t ea = 0;
    enum mon_rc rc = fxsave_enabled(v);
    if (rc == MON_OK)
        rc = image_address(v, i, next, 16, &ea);
    struct pieces pieces = fx_pieces(i, ea, sizeof(image));
    if (rc == MON_OK) /* a page fault names the last byte, as on a processor */
        rc = step_read(v, i->seg, (ea + AREA_LEGACY - 1) & step_mask(i->adsize), image, 1);
    if (rc == MON_OK)
        rc = transfer(v, i, ea, &pieces, image, TO_READ);
    if (rc == MON_OK && (v->cr4 & MON_CR4_OSFXSR))
        rc = check_mxcsr(v, image);
    if (rc != MON_OK)
        return rc;
    x87_from_image(v, i, image);
    if (v->cr4 & MON_CR4_OSFXSR) {
        put32(area_of(v) + AREA_MXCSR, get32(image + AREA_MXCSR));
        memcpy(step_component_data(v, STEP_SSE), image + AREA_XMM, registers(i) * 16);
    }
    return step_done(v, next);
}

/* ---- XSAVE and its kin ---- */

static enum mon_rc xsave_enabled(struct mon_vcpu *v)
{
    if (!(v->cr4 & MON_CR4_OSXSAVE))
        return mon_raise(v, MON_UD);
    return v->cr0 & MON_CR0_TS ? mon_raise(v, MON_NM) : MON_OK;
}

static uint64_t requested(const struct mon_vcpu *v)
{
    const uint64_t *gpr = v->cpu->gpr;
    return ((gpr[RT_DX] << 32) | (uint32_t)gpr[RT_AX]) & v->xcr0;
}

/* How much of a component this mode can see. */
static unsigned visible(const struct tr_insn *i, unsigned number, unsigned size)
{
    if (i->mode == TR_MODE_64 || number == STEP_OPMASK)
        return size;
    return number == STEP_HI16_ZMM ? 0 : size / 2;
}

/* Where a component lies in an image with layout: 0 for the standard format, else XCOMP_BV. */
static unsigned image_offset(const struct mon_vcpu *v, uint64_t layout, unsigned number)
{
    const struct mon_cpuid *id = mon_vm_cpuid(v);
    unsigned at = AREA_COMPONENT;
    if (!layout)
        return id->component[number].offset;
    for (unsigned k = STEP_AVX; k <= number; k++) {
        if (!(layout >> k & 1) || !id->component[k].size)
            continue;
        if (id->component[k].aligned)
            at = (at + 63) & ~63u;
        if (k == number)
            break;
        at += id->component[k].size;
    }
    return at;
}

static void list_pieces(const struct mon_vcpu *v, const struct tr_insn *i, uint64_t components,
                        bool mxcsr, uint64_t layout, struct pieces *pieces)
{
    if (components & 1u << STEP_X87) {
        add_piece(pieces, 0, AREA_MXCSR);
        add_piece(pieces, AREA_ST, AREA_XMM - AREA_ST);
    }
    if (mxcsr)
        add_piece(pieces, AREA_MXCSR, 8);
    if (components & 1u << STEP_SSE)
        add_piece(pieces, AREA_XMM, registers(i) * 16);
    for (unsigned number = STEP_AVX; number <= STEP_HI16_ZMM; number++) {
        unsigned offset, size = step_component(v, number, &offset);
        if ((components >> number & 1) && visible(i, number, size))
            add_piece(pieces, image_offset(v, layout, number), visible(i, number, size));
    }
}

/* Fills the image with the state of components. */
static void state_to_image(struct mon_vcpu *v, const struct tr_insn *i, uint64_t components,
                           uint64_t layout, uint8_t *image)
{
    if (components & 1u << STEP_X87)
        x87_to_image(v, i, image);
    mxcsr_to_image(v, image);
    if (in_use(v) & 1u << STEP_SSE)
        memcpy(image + AREA_XMM, area_of(v) + AREA_XMM, 256);
    else
        memset(image + AREA_XMM, 0, 256);
    for (unsigned number = STEP_AVX; number <= STEP_HI16_ZMM; number++) {
        unsigned offset, size = step_component(v, number, &offset);
        if (components >> number & 1)
            read_part(v, number, 0, image + image_offset(v, layout, number), size);
    }
}

static enum mon_rc save(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next, bool optimise,
                        bool compact)
{
    uint8_t *image = v->native->buffer;
    struct pieces pieces = {0};
    uint64_t ea = 0, wanted = requested(v), used = in_use(v) & wanted, old = 0, layout = 0;
    enum mon_rc rc = xsave_enabled(v);
    if (rc == MON_OK)
        rc = image_address(v, i, next, 64, &ea);
    if (rc == MON_OK && !compact)
        rc = step_read(v, i->seg, (ea + AREA_HEADER) & step_mask(i->adsize), &old, 8);
    if (rc != MON_OK)
        return rc;
    if (compact) {
        layout = wanted | COMPACT;
        if ((wanted & 1u << STEP_SSE) && get32(area_of(v) + AREA_MXCSR) != MXCSR_INITIAL)
            used |= 1u << STEP_SSE;
    }
    uint64_t saved = optimise || compact ? used : wanted;
    bool mxcsr = compact ? used & 1u << STEP_SSE : wanted & (1u << STEP_SSE | 1u << STEP_AVX);
    list_pieces(v, i, saved, mxcsr, layout, &pieces);
    add_piece(&pieces, AREA_HEADER, compact ? 16 : 8);
    rc = transfer(v, i, ea, &pieces, NULL, TO_CHECK);
    if (rc != MON_OK)
        return rc;
    state_to_image(v, i, saved, layout, image);
    put64(image + AREA_HEADER, (old & ~wanted) | used);
    put64(image + AREA_HEADER + 8, layout);
    rc = transfer(v, i, ea, &pieces, image, TO_WRITE);
    return rc == MON_OK ? step_done(v, next) : rc;
}

enum mon_rc step_xsave(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return save(v, i, next, false, false);
}
enum mon_rc step_xsaveopt(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return save(v, i, next, true, false);
}
enum mon_rc step_xsavec(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return save(v, i, next, true, true);
}
/* IA32_XSS is zero: no supervisor state is offered. */
enum mon_rc step_xsaves(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    enum mon_rc rc = xsave_enabled(v);
    if (rc == MON_OK)
        rc = step_require_cpl0(v);
    return rc == MON_OK ? save(v, i, next, true, true) : rc;
}

static bool is_zero(const uint8_t *p, unsigned len)
{
    for (unsigned n = 0; n < len; n++)
        if (p[n])
            return false;
    return true;
}

/* SDM 1-13.8.1, 1-13.12: what the header must look like. */
static enum mon_rc check_header(struct mon_vcpu *v, const uint8_t *header, bool must_compact)
{
    uint64_t xstate = step_get64(header), xcomp = step_get64(header + 8);
    bool bad;
    if (xcomp & COMPACT)
        bad = (xcomp & ~COMPACT & ~v->xcr0) || (xstate & ~(xcomp & ~COMPACT)) ||
              !is_zero(header + 16, 48);
    else
        bad = must_compact || (xstate & ~v->xcr0) || xcomp || !is_zero(header + 16, 8);
    return bad ? mon_raise_error(v, MON_GP, 0) : MON_OK;
}

/* Puts components into their initial state, as far as the mode can see them. */
static void initialise(struct mon_vcpu *v, const struct tr_insn *i, uint64_t components)
{
    uint8_t *area = area_of(v);
    if (components & 1u << STEP_X87) {
        initialise_x87(area);
        put64(area + AREA_HEADER, in_use(v) & ~(1ull << STEP_X87));
    }
    if ((components & 1u << STEP_SSE) && (i->mode == TR_MODE_64 || !mon_long(v)))
        put64(area + AREA_HEADER, in_use(v) & ~(1ull << STEP_SSE));
    else if (components & 1u << STEP_SSE)
        memset(step_component_data(v, STEP_SSE), 0, registers(i) * 16);
    for (unsigned number = STEP_AVX; number <= STEP_HI16_ZMM; number++) {
        unsigned offset, size = step_component(v, number, &offset);
        if (!(components >> number & 1))
            continue;
        if (i->mode == TR_MODE_64 || !mon_long(v) || number == STEP_OPMASK)
            put64(area + AREA_HEADER, in_use(v) & ~(1ull << number));
        else if (in_use(v) >> number & 1)
            memset(area + offset, 0, visible(i, number, size));
    }
}

static void state_from_image(struct mon_vcpu *v, const struct tr_insn *i, uint64_t components,
                             uint64_t layout, const uint8_t *image)
{
    if (components & 1u << STEP_X87)
        x87_from_image(v, i, image);
    if (components & 1u << STEP_SSE)
        memcpy(step_component_data(v, STEP_SSE), image + AREA_XMM, registers(i) * 16);
    for (unsigned number = STEP_AVX; number <= STEP_HI16_ZMM; number++) {
        unsigned offset, size = step_component(v, number, &offset);
        if (components >> number & 1)
            memcpy(step_component_data(v, number), image + image_offset(v, layout, number),
                   visible(i, number, size));
    }
}

static enum mon_rc restore(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next,
                           bool must_compact)
{
    uint8_t *image = v->native->buffer, *header = image + AREA_HEADER;
    struct pieces head = {0}, body = {0};
    uint64_t ea = 0, wanted = requested(v);
    enum mon_rc rc = xsave_enabled(v);
    if (rc == MON_OK)
        rc = image_address(v, i, next, 64, &ea);
    add_piece(&head, AREA_HEADER, 64);
    if (rc == MON_OK)
        rc = transfer(v, i, ea, &head, image, TO_READ);
    if (rc == MON_OK)
        rc = check_header(v, header, must_compact);
    if (rc != MON_OK)
        return rc;
    uint64_t layout = step_get64(header + 8), loaded = wanted & step_get64(header);
    bool mxcsr = layout ? loaded & 1u << STEP_SSE : wanted & (1u << STEP_SSE | 1u << STEP_AVX);
    list_pieces(v, i, loaded, mxcsr, layout, &body);
    rc = transfer(v, i, ea, &body, image, TO_READ);
    if (rc == MON_OK && mxcsr)
        rc = check_mxcsr(v, image);
    if (rc != MON_OK)
        return rc;
    initialise(v, i, wanted & ~loaded);
    state_from_image(v, i, loaded, layout, image);
    if (mxcsr)
        put32(area_of(v) + AREA_MXCSR, get32(image + AREA_MXCSR));
    else if (layout && (wanted & 1u << STEP_SSE))
        put32(area_of(v) + AREA_MXCSR, MXCSR_INITIAL);
    return step_done(v, next);
}

enum mon_rc step_xrstor(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return restore(v, i, next, false);
}
enum mon_rc step_xrstors(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    enum mon_rc rc = xsave_enabled(v);
    if (rc == MON_OK)
        rc = step_require_cpl0(v);
    return rc == MON_OK ? restore(v, i, next, true) : rc;
}

/* ---- the x87 environment (SDM 1-8.1.10, figures 8-9 to 8-12) ---- */

/* Two bits a register from one bit and the contents. */
static unsigned full_tags(const uint8_t *area)
{
    unsigned top = area[AREA_FSW + 1] >> 3 & 7, tags = 0;
    for (unsigned n = 0; n < 8; n++) {
        const uint8_t *st = area + AREA_ST + ((n - top) & 7) * 16;
        unsigned exponent = get16(st + 8) & 0x7fff, tag;
        uint64_t mantissa = step_get64(st);
        if (!(area[AREA_FTW] >> n & 1))
            tag = 3;
        else if (exponent == 0 && mantissa == 0)
            tag = 1;
        else if (exponent == 0 || exponent == 0x7fff || !(mantissa >> 63))
            tag = 2;
        else
            tag = 0;
        tags |= tag << (2 * n);
    }
    return tags;
}

static unsigned short_tags(unsigned tags)
{
    unsigned ftw = 0;
    for (unsigned n = 0; n < 8; n++)
        if ((tags >> (2 * n) & 3) != 3)
            ftw |= 1u << n;
    return ftw;
}

/* The linear address that real-address mode stores. */
static uint32_t real_pointer(uint64_t offset, uint16_t selector)
{
    return (uint32_t)(offset + ((uint32_t)selector << 4));
}

static unsigned env_size(const struct tr_insn *i)
{
    return i->opsize == 16 ? 14 : 28;
}

static void env_build(struct mon_vcpu *v, const struct tr_insn *i, uint8_t *env)
{
    const uint8_t *area = step_component_data(v, STEP_X87);
    struct step_pointers p = step_x87_pointers(v);
    uint32_t field[7] = {get16(area + AREA_FCW), get16(area + AREA_FSW), full_tags(area)};
    bool wide = i->opsize != 16;

    if (step_no_selectors(v)) {
        uint32_t fip = real_pointer(p.fip, v->seg[NOVT_CS].selector);
        uint32_t fdp = real_pointer(p.fdp, v->seg[NOVT_DS].selector);
        uint32_t high = wide ? 0x0ffff000 : 0xf000;
        field[3] = fip & 0xffff;
        field[4] = (fip >> 4 & high) | p.fop;
        field[5] = fdp & 0xffff;
        field[6] = fdp >> 4 & high;
    } else {
        field[3] = (uint32_t)p.fip;
        field[4] = wide ? (uint32_t)p.fop << 16 | p.fcs : p.fcs;
        field[5] = (uint32_t)p.fdp;
        field[6] = p.fds;
    }
    for (unsigned n = 0; n < 7; n++) {
        bool half = n < 3 || (n == 6 && !step_no_selectors(v));
        if (!wide)
            put16(env + 2 * n, field[n]);
        else
            put32(env + 4 * n, half ? field[n] | 0xffff0000u : field[n]);
    }
}

/* The first n fields of seven: what a fault behind them leaves. The control word comes last. */
static void env_load(struct mon_vcpu *v, const struct tr_insn *i, const uint8_t *env, unsigned n,
                     bool whole)
{
    uint8_t *area = step_component_data(v, STEP_X87);
    bool wide = i->opsize != 16;
    struct step_pointers p = {0};
    uint32_t field[7];

    for (unsigned k = 0; k < 7; k++)
        field[k] = wide ? get32(env + 4 * k) : get16(env + 2 * k);
    if (step_no_selectors(v)) {
        uint32_t high = wide ? 0x0ffff000 : 0xf000;
        p.fip = (field[3] & 0xffff) | (field[4] & high) << 4;
        p.fdp = (field[5] & 0xffff) | (field[6] & high) << 4;
        p.fop = field[4] & 0x7ff;
    } else {
        p.fip = field[3];
        p.fdp = field[5];
        p.fop = wide ? field[4] >> 16 & 0x7ff : 0;
    }
    if (n > 1) {
        step_x87_set_top(area, field[1] >> 11 & 7);
        set_control(area, whole ? field[0] & 0xffff : get16(area + AREA_FCW), field[1] & 0xffff);
    }
    if (n > 2)
        area[AREA_FTW] = (uint8_t)short_tags(field[2]);
    if (n == 7)
        step_x87_set_pointers(v, &p);
}

/* The image's parts: each wraps at the address size by itself, as the CPU's accesses do. */
static struct pieces env_pieces(const struct tr_insn *i, bool whole)
{
    struct pieces pieces = {0};
    unsigned field = env_size(i) / 7;

    for (unsigned n = 0; n < 7; n++)
        add_piece(&pieces, n * field, field);
    for (unsigned n = 0; whole && n < 8; n++) {
        add_piece(&pieces, env_size(i) + n * 10, 8);
        add_piece(&pieces, env_size(i) + n * 10 + 8, 2);
    }
    return pieces;
}

/* FNSTENV, FNSAVE: with the registers if whole. */
static enum mon_rc env_store(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next, bool whole)
{
    uint8_t image[108];
    struct pieces pieces = env_pieces(i, whole);
    uint64_t ea = step_ea(v, i, next);

    env_build(v, i, image);
    for (unsigned n = 0; whole && n < 8; n++)
        memcpy(image + env_size(i) + n * 10, area_of(v) + AREA_ST + n * 16, 10);
    enum mon_rc rc = transfer(v, i, ea, &pieces, image, TO_CHECK);
    return rc == MON_OK ? transfer(v, i, ea, &pieces, image, TO_WRITE) : rc;
}

enum mon_rc step_fnstenv(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    uint8_t *area = area_of(v);
    enum mon_rc rc = env_store(v, i, next, false);
    if (rc != MON_OK)
        return rc;
    set_control(area, get16(area + AREA_FCW) | 0x3f, get16(area + AREA_FSW));
    return step_done(v, next);
}

enum mon_rc step_fnsave(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    enum mon_rc rc = env_store(v, i, next, true);
    if (rc != MON_OK)
        return rc;
    /* As FNINIT: the data registers keep their contents, tagged empty. */
    step_x87_set_top(area_of(v), 0);
    memset(area_of(v), 0, AREA_MXCSR);
    put16(area_of(v) + AREA_FCW, FCW_INITIAL);
    return step_done(v, next);
}

/* A page fault names the last byte, as on a processor, unless it is the first field's. */
static enum mon_rc env_check(struct mon_vcpu *v, const struct tr_insn *i, uint64_t ea, unsigned len)
{
    uint64_t mask = step_mask(i->adsize);
    uint8_t field[4];

    if ((ea & mask) + len - 1 > mask)
        return MON_OK;
    enum mon_rc rc = step_read(v, i->seg, ea, field, env_size(i) / 7);
    return rc == MON_OK ? step_read(v, i->seg, ea + len - 1, field, 1) : rc;
}

static void load_registers(struct mon_vcpu *v, const uint8_t *image, unsigned n)
{
    uint8_t *area = area_of(v);

    for (unsigned k = 0; k < n; k++) {
        memset(area + AREA_ST + k * 16, 0, 16);
        memcpy(area + AREA_ST + k * 16, image + k * 10, 10);
    }
}

/* FLDENV, FRSTOR: these wait for pending exceptions first. In an image that goes on at 0 a part may
 * lie across the segment's limit: those before it are loaded by then. */
static enum mon_rc env_fetch(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next, bool whole)
{
    struct pieces pieces = env_pieces(i, whole);
    uint8_t image[108];
    uint64_t ea = step_ea(v, i, next);
    unsigned n = 0;

    if (step_component_data(v, STEP_X87)[AREA_FSW] & 0x80)
        return mon_raise(v, MON_MF);
    enum mon_rc rc = env_check(v, i, ea, env_size(i) + (whole ? 80 : 0));
    for (; n < pieces.n && rc == MON_OK; n += rc == MON_OK)
        rc = step_read(v, i->seg, (ea + pieces.piece[n].at) & step_mask(i->adsize),
                       image + pieces.piece[n].at, pieces.piece[n].len);
    if (rc == MON_EXIT)
        return rc;
    env_load(v, i, image, n < 7 ? n : 7, rc == MON_OK);
    load_registers(v, image + env_size(i), n > 7 ? (n - 7) / 2 : 0);
    return rc == MON_OK ? step_done(v, next) : rc;
}

enum mon_rc step_fldenv(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return env_fetch(v, i, next, false);
}

enum mon_rc step_frstor(struct mon_vcpu *v, const struct tr_insn *i, uint64_t next)
{
    return env_fetch(v, i, next, true);
}
