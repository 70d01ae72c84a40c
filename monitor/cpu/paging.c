/* paging.c - the guest's page tables, and checked access to its linear memory and ports.
 *
 * One walker serves every paging mode of SDM 3-4: a mode is a root, an index width, an entry size
 * and three masks (walk_setup() has them). A walk reads all entries first, checks the rights
 * (3-4.6), and only then sets accessed and dirty bits (3-4.8), each with a locked
 * compare-exchange; if another vCPU changed an entry in between, the walk starts again.
 *
 * What a TLB would hold lives in the views. Checked accesses only remember the pages that they
 * walked to lately, with the page-table entries that led there: a hit reads these entries again and
 * compares (walk_cached()), so nothing that the guest does has to invalidate it.
 *
 *                 root          indexes        large pages      reserved
 *   32-bit        CR3           31:22 21:12    4M with PSE      4M: bits 21:(M-19)
 *   PAE           pdpte[31:30]  29:21 20:12    2M               62:M, 63 without NXE
 *   4-, 5-level   CR3           47:39 ... 12   2M, 1G           51:M, 63 without NXE, PS above
 *
 * Page tables outside RAM read as all ones. ROM page tables are never written.
 *
 * Memory that is not RAM is the embedder's: an access becomes exits of aligned pieces of at most 8
 * bytes. The instruction is then executed again from its start, and v->replay answers the pieces
 * that are done (cpu.h, struct mon_replay). RAM is written after the last exit of the same call.
 *
 * Cost: a walk to a 4 KiB page of a 32-bit guest is three mon_vm_ram() calls and some 60
 * instructions, a remembered page some 30: bench's null_syscall, nine exits each, spends 3.5 % of
 * its time here instead of 12.5 %.
 *
 * Context: the vCPU's thread. */
#include "monitor/cpu/prot.h"
#include "monitor/cpu/verify.h"

/* Page-fault error code (SDM 3-4.7) */
#define PF_P    (1u << 0)
#define PF_W    (1u << 1)
#define PF_U    (1u << 2)
#define PF_RSVD (1u << 3)
#define PF_ID   (1u << 4)

#define PAGE_SIZE       4096u
#define BITS(high, low) ((((uint64_t)2 << (high)) - 1) & ~(((uint64_t)1 << (low)) - 1))

/* ---- The walk ---- */

/* The paging mode, as it applies to one address. */
struct walk_mode {
    uint64_t table;    /* the root table */
    uint64_t frame;    /* address bits of an entry */
    uint64_t reserved; /* in every entry */
    uint64_t large;    /* bit n: an entry indexed by address bits n and up may have PS set */
    uint64_t no_large; /* bit n: PS is reserved there; in neither: PS is ignored */
    uint8_t shift;     /* lowest address bit of the root's index */
    uint8_t bits;      /* index width */
    uint8_t size;      /* of an entry */
    uint8_t phys_bits;
};

/* Fills m. False: a PAE page-directory-pointer entry is not present. */
static bool walk_setup(const struct mon_vcpu *v, uint64_t gla, struct walk_mode *m)
{
    const struct mon_cpuid *id = mon_vm_cpuid(v);
    m->phys_bits = id->phys_bits;
    if (!(v->cr4 & MON_CR4_PAE)) { /* SDM 3-4.3 */
        m->table = v->cr3 & 0xfffff000u;
        m->frame = 0xfffff000u;
        m->reserved = 0;
        m->large = v->cr4 & MON_CR4_PSE ? 1u << 22 : 0;
        m->no_large = 0;
        m->shift = 22;
        m->bits = 10;
        m->size = 4;
        return true;
    }
    m->frame = BITS(id->phys_bits - 1, 12);
    m->reserved = v->efer & MON_EFER_NXE ? 0 : MON_PTE_XD;
    m->bits = 9;
    m->size = 8;
    if (!mon_long(v)) { /* SDM 3-4.4 */
        uint64_t pdpte = v->pdpte[gla >> 30 & 3];
        m->table = pdpte & m->frame;
        m->reserved |= BITS(62, id->phys_bits);
        m->large = 1u << 21;
        m->no_large = 0;
        m->shift = 21;
        return pdpte & MON_PTE_P;
    }
    m->table = v->cr3 & m->frame; /* SDM 3-4.5 */
    m->reserved |= id->phys_bits < 52 ? BITS(51, id->phys_bits) : 0;
    m->large = 1u << 21 | (id->has_1g ? 1u << 30 : 0);
    m->no_large = (uint64_t)1 << 48 | (uint64_t)1 << 39 | (id->has_1g ? 0 : 1u << 30);
    m->shift = v->cr4 & MON_CR4_LA57 ? 48 : 39;
    return true;
}

/* Bits that must be zero in a present entry that maps a page of 1 << shift bytes by PS. */
static uint64_t large_reserved(const struct walk_mode *m, unsigned shift)
{
    if (shift != 22)
        return BITS(shift - 1, 13);
    unsigned phys = m->phys_bits > 40 ? 40 : m->phys_bits; /* PSE-36, SDM 3 table 4-4 */
    return BITS(21, phys - 19);
}

static uint64_t large_frame(const struct walk_mode *m, unsigned shift, uint64_t entry)
{
    if (shift != 22)
        return entry & m->frame & ~(((uint64_t)1 << shift) - 1);
    return (entry & 0xffc00000u) | (entry >> 13 & 0xff) << 32;
}

static uint64_t entry_read(const struct mon_vcpu *v, uint64_t gpa, unsigned size)
{
    const uint8_t *p = mon_vm_ram(v, gpa, NULL);
    if (__builtin_expect(!p, 0))
        return size == 4 ? 0xffffffffu : ~(uint64_t)0;
    if (size == 4)
        return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
    return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
}

/* Reads the entries that translate gla, down to the page. False: *error has the P and RSVD bits of
 * the page fault. */
static bool walk_tables(const struct mon_vcpu *v, uint64_t gla, struct mon_walk *w, uint32_t *error)
{
    struct walk_mode m;
    uint64_t all = MON_PTE_W | MON_PTE_U, any = 0;
    w->levels = 0;
    *error = 0;
    if (!walk_setup(v, gla, &m))
        return false;
    w->entry_size = m.size;
    for (unsigned shift = m.shift;; shift -= m.bits) {
        uint64_t index = gla >> shift & (((uint64_t)1 << m.bits) - 1);
        uint64_t gpa = m.table + index * m.size;
        uint64_t entry = entry_read(v, gpa, m.size);
        w->entry_gpa[w->levels] = gpa;
        w->entry[w->levels++] = entry;
        if (!(entry & MON_PTE_P))
            return false;
        bool large = entry & MON_PTE_PS && m.large >> shift & 1;
        uint64_t reserved = m.reserved | (m.no_large >> shift & 1 ? MON_PTE_PS : 0);
        if (__builtin_expect(large, 0))
            reserved |= large_reserved(&m, shift);
        if (__builtin_expect(entry & reserved, 0)) {
            *error = PF_P | PF_RSVD;
            return false;
        }
        all &= entry;
        any |= entry;
        if (shift == 12 || large) {
            uint64_t frame = large ? large_frame(&m, shift, entry) : entry & m.frame;
            w->gpa = frame | (gla & (((uint64_t)1 << shift) - 1));
            w->page_shift = (uint8_t)shift;
            w->dirty = entry & MON_PTE_D;
            w->global = entry & MON_PTE_G && v->cr4 & MON_CR4_PGE;
            break;
        }
        m.table = entry & m.frame;
    }
    w->user = all & MON_PTE_U;
    w->writable = all & MON_PTE_W;
    w->exec = !(any & MON_PTE_XD);
    return true;
}

/* Paging off: linear is physical; reported as one huge page. */
static void walk_identity(uint64_t gla, struct mon_walk *w)
{
    w->gpa = gla;
    w->page_shift = 30;
    w->user = w->writable = w->exec = w->dirty = true;
    w->global = false;
    w->levels = 0;
    w->entry_size = 4;
}

/* SDM 3-4.6.1 */
static bool access_allowed(const struct mon_vcpu *v, const struct mon_walk *w, unsigned access,
                           bool user)
{
    if (access & MON_FETCH) {
        if (!w->exec)
            return false;
        return user ? w->user : !(w->user && v->cr4 & MON_CR4_SMEP);
    }
    if (user)
        return w->user && (w->writable || !(access & MON_WRITE));
    if (w->user && v->cr4 & MON_CR4_SMAP && (access & MON_SYSTEM || !(v->cpu->rflags & RT_AC)))
        return false;
    return w->writable || !(access & MON_WRITE) || !(v->cr0 & MON_CR0_WP);
}

static enum mon_rc page_fault(struct mon_vcpu *v, uint64_t gla, uint32_t error, unsigned access,
                              bool user)
{
    if (access & MON_WRITE)
        error |= PF_W;
    if (user)
        error |= PF_U;
    if (access & MON_FETCH &&
        (v->cr4 & MON_CR4_SMEP || (v->cr4 & MON_CR4_PAE && v->efer & MON_EFER_NXE)))
        error |= PF_ID;
    v->exc =
        (struct mon_exception){.vector = MON_PF, .has_error = true, .error = error, .cr2 = gla};
    return MON_FAULT;
}

/* Sets bits in an entry that has been read. False: it is not what was read any more. */
static bool entry_mark(struct mon_vcpu *v, struct mon_walk *w, unsigned level, uint64_t bits)
{
    uint64_t old = w->entry[level], new = old | bits;
    bool writable, done;
    if (__builtin_expect(new == old, 1))
        return true;
    uint8_t *p = mon_vm_ram(v, w->entry_gpa[level], &writable);
    if (!p || !writable)
        return true;
    if (__builtin_expect(v->verify != NULL, 0))
        mon_verify_mark(v, w->entry_gpa[level], bits);
    if (w->entry_size == 4) {
        uint32_t old32 = (uint32_t)old;
        done = __atomic_compare_exchange_n((uint32_t *)p, &old32, (uint32_t) new, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    } else {
        done = __atomic_compare_exchange_n((uint64_t *)p, &old, new, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_RELAXED);
    }
    if (!done)
        return false;
    w->entry[level] = new;
    mon_vm_wrote(v, w->entry_gpa[level], w->entry_size);
    return true;
}

static bool entries_mark(struct mon_vcpu *v, struct mon_walk *w, bool write)
{
    unsigned leaf = w->levels - 1u;
    for (unsigned level = 0; level < leaf; level++)
        if (!entry_mark(v, w, level, MON_PTE_A))
            return false;
    if (!entry_mark(v, w, leaf, write ? MON_PTE_A | MON_PTE_D : MON_PTE_A))
        return false;
    w->dirty |= write;
    return true;
}

enum mon_rc mon_walk(struct mon_vcpu *v, uint64_t gla, unsigned access, unsigned cpl,
                     struct mon_walk *walk)
{
    bool user = cpl == 3 && !(access & MON_SYSTEM);
    uint32_t error;
    if (__builtin_expect(mon_long(v) && !tr_is_canonical(gla), 0))
        return mon_raise_error(v, MON_GP, 0);
    if (!(v->cr0 & MON_CR0_PG)) {
        walk_identity(gla, walk);
        return MON_OK;
    }
    do {
        if (!walk_tables(v, gla, walk, &error))
            return page_fault(v, gla, error, access, user);
        if (__builtin_expect(!access_allowed(v, walk, access, user), 0))
            return page_fault(v, gla, PF_P, access, user);
    } while (__builtin_expect(!entries_mark(v, walk, access & MON_WRITE), 0));
    return MON_OK;
}

bool mon_walk_peek(struct mon_vcpu *v, uint64_t gla, struct mon_walk *walk)
{
    uint32_t error;
    if (mon_long(v) && !tr_is_canonical(gla))
        return false;
    if (v->cr0 & MON_CR0_PG)
        return walk_tables(v, gla, walk, &error);
    walk_identity(gla, walk);
    return true;
}

/* SDM 3-4.4.1 and table 4-8 */
enum mon_rc mon_pdpte_load(struct mon_vcpu *v, uint64_t cr3)
{
    uint64_t reserved = BITS(63, mon_vm_cpuid(v)->phys_bits) | BITS(8, 5) | BITS(2, 1);
    uint64_t pdpte[4];
    for (unsigned i = 0; i < 4; i++) {
        pdpte[i] = entry_read(v, (cr3 & 0xffffffe0u) + i * 8, 8);
        if (pdpte[i] & MON_PTE_P && pdpte[i] & reserved)
            return mon_raise_error(v, MON_GP, 0);
    }
    for (unsigned i = 0; i < 4; i++)
        v->pdpte[i] = pdpte[i];
    return MON_OK;
}

/* ---- Bytes ---- */

/* Not memcpy: the guest's vector registers are live, and most copies are one register wide. */
static inline void copy_bytes(void *to, const void *from, unsigned len)
{
    switch (len) {
    case 1:
        __builtin_memcpy(to, from, 1);
        return;
    case 2:
        __builtin_memcpy(to, from, 2);
        return;
    case 4:
        __builtin_memcpy(to, from, 4);
        return;
    case 8:
        __builtin_memcpy(to, from, 8);
        return;
    default:
        break;
    }
    if (len > 64) {
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
        return;
    }
    /* Frames and descriptors: REP MOVSB takes longer to start than this. */
    uint8_t *out = to;
    const uint8_t *in = from;
    unsigned i = 0;
    for (; i + 4 <= len; i += 4) {
        __builtin_memcpy(out + i, in + i, 4);
        __asm__ volatile("" : : : "memory"); /* not to become a call of memcpy */
    }
    for (; i < len; i++) {
        out[i] = in[i];
        __asm__ volatile("" : : : "memory");
    }
}

/* The replay list is full: an instruction made more external accesses than any should. */
static enum mon_rc replay_overflow(struct mon_vcpu *v)
{
    static const char text[] = "one instruction made too many accesses to memory outside RAM";
    v->run.exit_reason = NOVT_EXIT_INTERNAL;
    for (unsigned i = 0; i < sizeof(text); i++)
        v->run.fail.reason[i] = text[i];
    return MON_EXIT;
}

/* True when the embedder has already answered the next external access: *answer is it. */
static inline bool replayed(struct mon_vcpu *v, uint64_t *answer)
{
    if (v->replay.cursor >= v->replay.done)
        return false;
    *answer = v->replay.data[v->replay.cursor++];
    return true;
}

/* The same after a question to the handler. */
static inline bool answered(struct mon_vcpu *v, uint64_t *answer)
{
    return mon_vcpu_answers(v) && replayed(v, answer);
}

static void mmio_exit(struct mon_vcpu *v, uint64_t gpa, const void *data, unsigned size, bool write)
{
    v->run.exit_reason = NOVT_EXIT_MMIO;
    v->run.mmio.gpa = gpa;
    v->run.mmio.size = (uint8_t)size;
    v->run.mmio.write = write;
    for (unsigned i = 0; i < 8; i++)
        v->run.mmio.data[i] = write ? 0 : 0xff;
    if (write)
        copy_bytes(v->run.mmio.data, data, size);
}

/* Up to a page of accesses to something that is not RAM, in aligned pieces. */
static enum mon_rc mmio(struct mon_vcpu *v, uint64_t gpa, uint8_t *data, unsigned len, bool write)
{
    while (len) {
        unsigned size = 8;
        uint64_t answer;
        while (size > len || gpa & (size - 1))
            size /= 2;
        if (!replayed(v, &answer)) {
            if (v->replay.cursor >= MON_REPLAY_MAX)
                return replay_overflow(v);
            mmio_exit(v, gpa, data, size, write);
            if (!answered(v, &answer))
                return MON_EXIT;
        }
        if (!write)
            copy_bytes(data, &answer, size);
        gpa += size;
        data += size;
        len -= size;
    }
    return MON_OK;
}

static inline enum mon_rc phys_read(struct mon_vcpu *v, uint64_t gpa, void *data, unsigned len)
{
    const uint8_t *p = mon_vm_ram(v, gpa, NULL);
    if (__builtin_expect(!p, 0))
        return mmio(v, gpa, data, len, false);
    copy_bytes(data, p, len);
    return MON_OK;
}

static inline enum mon_rc phys_write(struct mon_vcpu *v, uint64_t gpa, const void *data,
                                     unsigned len)
{
    bool writable;
    uint8_t *p = mon_vm_ram(v, gpa, &writable);
    if (__builtin_expect(!p || !writable, 0))
        return mmio(v, gpa, (uint8_t *)(uintptr_t)data, len, true);
    copy_bytes(p, data, len);
    mon_vm_wrote(v, gpa, len);
    return MON_OK;
}

static bool is_external_for_write(const struct mon_vcpu *v, uint64_t gpa)
{
    bool writable;
    return !mon_vm_ram(v, gpa, &writable) || !writable;
}

/* ---- Linear memory ---- */

/* System structures have 64-bit addresses throughout long mode, operands only in 64-bit code. */
static inline uint64_t linear_wrap(const struct mon_vcpu *v, uint64_t gla, unsigned access)
{
    if (__builtin_expect(!mon_long(v), 1))
        return (uint32_t)gla;
    return access & (MON_SYSTEM | MON_WIDE) || mon_code64(v) ? gla : (uint32_t)gla;
}

/* ---- Pages walked to lately ---- */

static inline struct mon_walk_entry *cache_slot(struct mon_vcpu *v, uint64_t gla)
{
    return &v->walk_cache.entry[(gla >> 12 ^ gla >> 17) % MON_WALK_CACHE];
}

/* The bit of mon_walk_entry.rights that an access needs. */
static inline unsigned needed_right(unsigned access, unsigned cpl)
{
    unsigned user = cpl == 3 && !(access & MON_SYSTEM);
    return 1u << (2 * user + (access & MON_WRITE));
}

static inline bool tables_are_same(const struct mon_walk_entry *e)
{
    for (unsigned n = 0; n < e->levels; n++) {
        uint64_t now = e->entry_size == 4
                           ? __atomic_load_n((const uint32_t *)e->at[n], __ATOMIC_RELAXED)
                           : __atomic_load_n((const uint64_t *)e->at[n], __ATOMIC_RELAXED);
        if (now != e->value[n])
            return false;
    }
    return true;
}

/* Host address of the byte at gla, if an access of this kind has been there and a walk would give
 * the same now; its RAM is writable if the access is a write. NULL: walk. */
static inline uint8_t *walk_cached(struct mon_vcpu *v, uint64_t gla, unsigned access, unsigned cpl,
                                   uint64_t *gpa)
{
    const struct mon_walk_entry *e = cache_slot(v, gla);
    if (e->page != gla >> 12 || !e->host || !(e->rights & needed_right(access, cpl)) ||
        access & MON_FETCH)
        return NULL;
    if (e->cr3 != v->cr3 || e->cr0 != v->cr0 || e->cr4 != v->cr4 || e->efer != v->efer ||
        e->pdpte != v->pdpte[gla >> 30 & 3] || !tables_are_same(e))
        return NULL;
    *gpa = e->gpa | (gla & (PAGE_SIZE - 1));
    return e->host + (gla & (PAGE_SIZE - 1));
}

/* Which accesses to a page need neither a check nor a mark. */
static unsigned cached_rights(const struct mon_vcpu *v, const struct mon_walk *w, bool ram_writable)
{
    bool dirty = w->dirty && ram_writable;
    unsigned rights = 1;
    if (dirty && (w->writable || !(v->cr0 & MON_CR0_WP)))
        rights |= 2;
    if (w->user && v->cr4 & MON_CR4_SMAP) /* depends on RFLAGS.AC */
        rights = 0;
    if (w->user)
        rights |= 4 | (dirty && w->writable ? 8 : 0);
    return rights;
}

/* Remembers the page that a walk has found, if it and its page tables are in RAM. */
static void walk_remember(struct mon_vcpu *v, uint64_t gla, const struct mon_walk *w)
{
    struct mon_walk_entry *e = cache_slot(v, gla);
    uint64_t gpa = w->gpa & ~(uint64_t)(PAGE_SIZE - 1);
    bool writable = false;
    if (v->verify) /* it wants to see every access */
        return;
    e->host = NULL;
    uint8_t *host = mon_vm_ram(v, gpa, &writable);
    for (unsigned n = 0; n < w->levels; n++) {
        e->at[n] = mon_vm_ram(v, w->entry_gpa[n], NULL);
        e->value[n] = w->entry[n];
        if (!e->at[n])
            return;
    }
    e->page = gla >> 12;
    e->gpa = gpa;
    e->cr0 = v->cr0;
    e->cr3 = v->cr3;
    e->cr4 = v->cr4;
    e->efer = v->efer;
    e->pdpte = v->pdpte[gla >> 30 & 3];
    e->levels = w->levels;
    e->entry_size = w->entry_size;
    e->rights = (uint8_t)cached_rights(v, w, writable);
    e->host = host;
}

void mon_walk_cache_flush(struct mon_vcpu *v)
{
    for (unsigned n = 0; n < MON_WALK_CACHE; n++)
        v->walk_cache.entry[n].host = NULL;
}

/* ---- Accesses ---- */

static inline bool in_one_page(uint64_t gla, unsigned len)
{
    return (gla & (PAGE_SIZE - 1)) + len <= PAGE_SIZE;
}

/* An access that touches two pages: both are walked before either is accessed. */
static enum mon_rc cross_walk(struct mon_vcpu *v, uint64_t gla, unsigned access, unsigned cpl,
                              uint64_t gpa[2])
{
    struct mon_walk walk;
    uint64_t second = linear_wrap(v, (gla | (PAGE_SIZE - 1)) + 1, access);
    if (mon_walk(v, gla, access, cpl, &walk))
        return MON_FAULT;
    gpa[0] = walk.gpa;
    if (mon_walk(v, second, access, cpl, &walk))
        return MON_FAULT;
    gpa[1] = walk.gpa;
    return MON_OK;
}

static enum mon_rc cross_read(struct mon_vcpu *v, uint64_t gla, uint8_t *data, unsigned len,
                              unsigned access, unsigned cpl)
{
    unsigned first = PAGE_SIZE - (unsigned)(gla & (PAGE_SIZE - 1));
    uint64_t gpa[2];
    if (cross_walk(v, gla, access, cpl, gpa))
        return MON_FAULT;
    enum mon_rc rc = phys_read(v, gpa[0], data, first);
    return rc ? rc : phys_read(v, gpa[1], data + first, len - first);
}

static enum mon_rc cross_write(struct mon_vcpu *v, uint64_t gla, const uint8_t *data, unsigned len,
                               unsigned access, unsigned cpl)
{
    unsigned first = PAGE_SIZE - (unsigned)(gla & (PAGE_SIZE - 1));
    uint64_t gpa[2];
    enum mon_rc rc;
    if (cross_walk(v, gla, access, cpl, gpa))
        return MON_FAULT;
    if (is_external_for_write(v, gpa[1])) { /* RAM last: it must not change before an exit */
        if (is_external_for_write(v, gpa[0])) {
            rc = phys_write(v, gpa[0], data, first);
            return rc ? rc : phys_write(v, gpa[1], data + first, len - first);
        }
        rc = phys_write(v, gpa[1], data + first, len - first);
        return rc ? rc : phys_write(v, gpa[0], data, first);
    }
    rc = phys_write(v, gpa[0], data, first);
    return rc ? rc : phys_write(v, gpa[1], data + first, len - first);
}

enum mon_rc mon_lin_read_as(struct mon_vcpu *v, uint64_t gla, void *data, unsigned len,
                            unsigned access, unsigned cpl)
{
    struct mon_walk walk;
    uint64_t gpa;
    gla = linear_wrap(v, gla, access);
    if (__builtin_expect(!in_one_page(gla, len), 0))
        return cross_read(v, gla, data, len, access, cpl);
    const uint8_t *host = walk_cached(v, gla, access, cpl, &gpa);
    if (__builtin_expect(host != NULL, 1)) {
        copy_bytes(data, host, len);
        return MON_OK;
    }
    if (__builtin_expect(mon_walk(v, gla, access, cpl, &walk), 0))
        return MON_FAULT;
    if (!(access & MON_FETCH))
        walk_remember(v, gla, &walk);
    return phys_read(v, walk.gpa, data, len);
}

enum mon_rc mon_lin_write_as(struct mon_vcpu *v, uint64_t gla, const void *data, unsigned len,
                             unsigned access, unsigned cpl)
{
    struct mon_walk walk;
    uint64_t gpa;
    gla = linear_wrap(v, gla, access);
    access |= MON_WRITE;
    if (__builtin_expect(!in_one_page(gla, len), 0))
        return cross_write(v, gla, data, len, access, cpl);
    uint8_t *host = walk_cached(v, gla, access, cpl, &gpa);
    if (__builtin_expect(host != NULL, 1)) {
        copy_bytes(host, data, len);
        mon_vm_wrote(v, gpa, len);
        return MON_OK;
    }
    if (__builtin_expect(mon_walk(v, gla, access, cpl, &walk), 0))
        return MON_FAULT;
    walk_remember(v, gla, &walk);
    return phys_write(v, walk.gpa, data, len);
}

enum mon_rc mon_lin_read(struct mon_vcpu *v, uint64_t gla, void *data, unsigned len,
                         unsigned access)
{
    return mon_lin_read_as(v, gla, data, len, access, v->cpu->cpl);
}

enum mon_rc mon_lin_write(struct mon_vcpu *v, uint64_t gla, const void *data, unsigned len,
                          unsigned access)
{
    return mon_lin_write_as(v, gla, data, len, access, v->cpu->cpl);
}

enum mon_rc mon_lin_check(struct mon_vcpu *v, uint64_t gla, unsigned len, unsigned access)
{
    struct mon_walk walk;
    uint64_t gpa[2];
    gla = linear_wrap(v, gla, access);
    if (in_one_page(gla, len))
        return mon_walk(v, gla, access, v->cpu->cpl, &walk);
    return cross_walk(v, gla, access, v->cpu->cpl, gpa);
}

/* ---- Ports ---- */

static void port_exit(struct mon_vcpu *v, uint16_t port, unsigned size, bool write, uint32_t data)
{
    v->run.exit_reason = NOVT_EXIT_IO;
    v->run.io.port = port;
    v->run.io.size = (uint8_t)size;
    v->run.io.write = write;
    v->run.io.data = data;
}

enum mon_rc mon_port(struct mon_vcpu *v, uint16_t port, unsigned size, bool write, uint32_t *data)
{
    uint32_t mask = size == 4 ? 0xffffffffu : (1u << size * 8) - 1;
    uint64_t answer;
    if (!replayed(v, &answer)) {
        if (v->replay.cursor >= MON_REPLAY_MAX)
            return replay_overflow(v);
        port_exit(v, port, size, write, write ? *data & mask : mask);
        if (!answered(v, &answer))
            return MON_EXIT;
    }
    if (!write)
        *data = (uint32_t)answer & mask;
    return MON_OK;
}

/* ---- MSRs that are the embedder's ---- */

static void msr_exit(struct mon_vcpu *v, uint32_t index, bool write, uint64_t value)
{
    v->run.exit_reason = write ? NOVT_EXIT_WRMSR : NOVT_EXIT_RDMSR;
    v->run.msr.index = index;
    v->run.msr.error = 0;
    v->run.msr.data = value;
}

enum mon_rc mon_msr_exit(struct mon_vcpu *v, uint32_t index, bool write, uint64_t *value)
{
    uint64_t answer;
    if (!replayed(v, &answer)) {
        msr_exit(v, index, write, write ? *value : 0);
        if (!answered(v, &answer))
            return MON_EXIT;
    }
    if (v->replay.refused)
        return mon_raise_error(v, MON_GP, 0);
    if (!write)
        *value = answer;
    return MON_OK;
}
