/* paging.c - paging as the manual has it: rights, error codes, accessed and dirty bits, and what
 * may not be seen any more after an invalidation.
 *
 * SDM 3A 4.3 (32-bit paging), 4.4 (PAE), 4.6 (access rights), 4.7 (page-fault error codes), 4.8
 * (accessed and dirty), 4.10 (caching: 4.10.4.1 what invalidates, 4.10.2.4 global pages), 4.1.3
 * (mode bits). Most groups run in both paging modes. Nothing here requires a stale translation to
 * be seen: only that a stale one is not, where the manual forbids it. */
#include "guest.h"

const char guest_name[] = "paging";

enum { LIN = 0x40000000, EFER = 0xc0000080, EFER_NXE = 1 << 11 };

static bool pae, nx_on;
static uint32_t *pd;
static uint64_t *pdpt;
static uint32_t *frame[4];

/* Flag bits that do not fit 32 bits are passed in uint64_t; NX only matters in PAE mode. */
static void map(uint32_t linear, uint32_t phys, uint64_t flags)
{
    if (pae)
        pdpt_map(pdpt, linear, phys, flags);
    else
        pd_map(pd, linear, phys, (uint32_t)flags);
}

static uint32_t pte(uint32_t linear)
{
    return pae ? (uint32_t)*pdpt_entry(pdpt, linear) : *pd_entry(pd, linear);
}

static uint64_t *pae_pde(uint32_t linear)
{
    return (uint64_t *)(uint32_t)(pdpt[linear >> 30] & ~0xfffull) + (linear >> 21 & 511);
}

static uint32_t pde(uint32_t linear)
{
    return pae ? (uint32_t)*pae_pde(linear) : pd[linear >> 22];
}

static void pde_flags(uint32_t linear, uint64_t flags)
{
    if (pae)
        *pae_pde(linear) = (*pae_pde(linear) & 0x000ffffffffff000) | flags;
    else
        pd[linear >> 22] = (pd[linear >> 22] & ~0xfffu) | (uint32_t)flags;
}

static void start(bool in_pae, uint32_t cr4)
{
    pae = in_pae;
    frames_reset();
    for (size_t i = 0; i < COUNT(frame); i++)
        frame[i] = frame_new();
    if (pae) {
        pdpt = pdpt_new(0);
        for (uint32_t i = 1; i < 4; i++) /* PDPTEs are loaded with CR3: make them before */
            (void)pdpt_entry(pdpt, i << 30);
    } else {
        pd = pd_new(0);
    }
    if (nx_on && pae)
        wrmsr(EFER, rdmsr(EFER) | EFER_NXE);
    paging_on(pae ? (void *)pdpt : (void *)pd, cr4 | (pae ? CR4_PAE : 0u));
}

static void stop(void)
{
    paging_off();
    if (nx_on && pae)
        wrmsr(EFER, rdmsr(EFER) & ~(uint64_t)EFER_NXE);
}

static void flush(void)
{
    write_cr3(read_cr3());
}

enum access { READ, WRITE, EXEC };

/* At this distance the snippets are mapped again as supervisor pages: for SMEP. */
enum { SUPERVISOR = 0x30000000 };

static void map_snippets(void)
{
    for (uint32_t page = addr(snip_first); page < addr(snip_last); page += 4096)
        map(page + SUPERVISOR, page, P);
}

/* The expected error code of an access, or -1 when it is allowed. SDM 3A 4.6.1, 4.7. */
static int expected(uint64_t up, uint64_t low, enum access access, bool user, bool wp, uint32_t cr4)
{
    bool present = up & low & P, writable = up & low & W, us = up & low & U, nx = (up | low) & NX;
    bool code_bit = (pae && nx_on) || (cr4 & CR4_SMEP);
    bool fail = !present || (user && !us) || (access == WRITE && !writable && (user || wp)) ||
                (access == EXEC && ((nx && pae && nx_on) || (!user && us && (cr4 & CR4_SMEP)))) ||
                (access != EXEC && !user && us && (cr4 & CR4_SMAP));
    if (!fail)
        return -1;
    return (present ? 1 : 0) | (access == WRITE ? 2 : 0) | (user ? 4 : 0) |
           (access == EXEC && code_bit ? 16 : 0);
}

static void access_check(enum access access, bool user, int want, uint32_t n)
{
    IN(.esi = LIN + 0x10, .cs = user ? UCODE : 0u, .eax = 1);
    const struct snip *snip = access == READ    ? CODE("mov ecx, [esi]")
                              : access == WRITE ? CODE("mov [esi + 0x20], eax")
                                                : CODE("call esi");
    in.eip = snip->start + (user ? 0 : SUPERVISOR);
    go(snip);
    CHECK(out.vector, want < 0 ? DONE : PF, "vector", n);
    if (want < 0)
        return;
    CHECK(out.error, (uint32_t)want, "error code", n);
    CHECK(out.cr2, LIN + (access == WRITE ? 0x30 : 0x10), "cr2", n);
    if (access == EXEC)
        CHECK(out.eip, LIN + 0x10, "eip of a fetch fault", n);
}

static void rights_in(bool in_pae, uint32_t cr4, bool large)
{
    start(in_pae, cr4 | CR4_PSE);
    uint32_t nx_step = nx_on && pae ? 16 : 8;
    uint32_t page = large ? 0x00800000 : addr(frame[0]);
    ((uint8_t *)page)[0x10] = 0xc3;
    map_snippets();
    for (uint32_t up = 0; up < nx_step; up++)
        for (uint32_t low = 0; low < (large ? 1 : nx_step); low++) {
            uint64_t up_flags = (up & 7) | (up & 8 ? NX : 0),
                     low_flags = (low & 7) | (low & 8 ? NX : 0);
            if (large) {
                if (pae)
                    *pae_pde(LIN) = page | up_flags | PS;
                else
                    pd[LIN >> 22] = page | (uint32_t)up_flags | PS;
                low_flags = up_flags;
            } else {
                map(LIN, page, low_flags);
                pde_flags(LIN, up_flags);
            }
            flush();
            for (uint32_t n = 0; n < 12; n++) {
                bool user = n & 1, wp = n & 2;
                enum access access = (enum access)(n >> 2);
                write_cr0((read_cr0() & ~CR0_WP) | (wp ? CR0_WP : 0u));
                int want = expected(up_flags, low_flags, access, user, wp, cr4);
                access_check(access, user, want, up * 100 + low);
            }
        }
    stop();
}

static void rights_32(void)
{
    rights_in(false, 0, false);
}

static void rights_4m(void)
{
    rights_in(false, 0, true);
}

static void rights_pae(void)
{
    rights_in(true, 0, false);
}

static void rights_2m(void)
{
    rights_in(true, 0, true);
}

static void rights_smep(void)
{
    if (cpuid(7, 0).ebx & 1 << 7)
        for (int i = 0; i < 2; i++)
            rights_in(i, CR4_SMEP, false);
}

static void rights_smap(void)
{
    if (!(cpuid(7, 0).ebx & 1 << 20))
        return;
    for (int i = 0; i < 2; i++)
        rights_in(i, CR4_SMAP, false);
    /* EFLAGS.AC lifts SMAP for explicit accesses at CPL 0; STAC and CLAC are #UD at CPL 3. */
    start(false, CR4_SMAP);
    map(LIN, addr(frame[0]), P | W | U);
    IN(.esi = LIN, .eflags = ACF, .eax = 77);
    OK("mov [esi], eax; mov ecx, [esi]; push dword ptr [esi]; pop edx; lodsd");
    EQ(out.ecx, 77);
    EQ(out.edx, 77);
    IN(.esi = LIN, .eax = 5);
    OK("stac; mov [esi], eax; pushfd; pop ecx; clac; pushfd; pop edx");
    EQ(out.ecx, ACF | 2);
    EQ(out.edx, 2);
    FAULT("stac; mov ecx, [esi]; clac;" AT "mov ecx, [esi]", PF, 1);
    UNLESS_QEMU(RMW) FAULT("stac; clac;" AT "inc dword ptr [esi]", PF, 3);
    in.cs = UCODE;
    FAULT("stac", UD, 0);
    FAULT("clac", UD, 0);
    OK("inc dword ptr [esi]");
    stop();
}

/* Accessed and dirty, in every level, by instructions that read, write, or do neither. */
static void accessed_dirty_in(bool in_pae)
{
    start(in_pae, 0);
    struct {
        const struct snip *snip;
        uint32_t want; /* bits of the PTE for LIN afterwards */
    } cases[] = {
        {CODE("lea eax, [esi]; nop dword ptr [esi]; prefetcht0 [esi]; mov ecx, 0; rep movsb"), 0},
        {CODE("mov eax, [esi]"), A},
        {CODE("cmp [esi], eax; test [esi], eax; bt [esi], eax; push dword ptr [esi]; pop eax"), A},
        {CODE("mov [esi], eax"), A | DIRTY},
        {CODE("mov al, [esi]; mov [esi + 4], al"), A | DIRTY},
        {CODE("add [esi], eax"), A | DIRTY},
        {CODE("mov eax, 1; mov dword ptr [esi], 2; cmpxchg [esi], ecx"), A | DIRTY},
        {CODE("lodsb; lodsd"), A},
        {CODE("mov ecx, 20; rep lodsb"), A},
        {CODE("mov edi, esi; mov ecx, 20; rep stosb"), A | DIRTY},
        {CODE("mov edi, esi; mov ecx, 20; repne scasb"), A},
        {CODE("xchg esp, esi; push eax; xchg esp, esi"), 0}, /* pushes below LIN */
        {CODE("lea edi, [esi + 64]; xchg esp, edi; push eax; xchg esp, edi"), A | DIRTY},
        {CODE("mov byte ptr [ebx + 0x20], 0xc3; lea eax, [esi + 0x20]; call eax"), A},
        {CODE("fninit; fnstcw [esi]; fldcw [esi]"), A | DIRTY},
        {CODE("fld dword ptr [ebx]; fld dword ptr [esi]; fninit"), A},
        {CODE("bts [esi], eax"), A | DIRTY},
        {CODE("lea eax, [esi - 4096]; bt dword ptr [eax], 5; mov edx, 32768; bt [eax], edx"), A},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        map(LIN - 4096, addr(frame[1]), P | W);
        map(LIN, addr(frame[0]), P | W);
        pde_flags(LIN, P | W | U);
        pde_flags(LIN - 4096, P | W | U);
        flush();
        IN(.esi = LIN, .ebx = 0);
        in.ebx = addr(frame[0]);
        go(cases[i].snip);
        CHECK(out.vector, DONE, "accessed/dirty", i);
        CHECK(pte(LIN) & (A | DIRTY), cases[i].want, "PTE bits", i);
        CHECK(pde(LIN) & A, cases[i].want & A, "PDE accessed", i);
        /* Clear D but leave A: after INVLPG the next write sets it again, a read does not. */
        map(LIN, addr(frame[0]), P | W | A);
        invlpg(LIN);
        go(cases[i].snip);
        CHECK(pte(LIN) & (A | DIRTY), cases[i].want | A, "PTE bits, A set before", i);
    }
    /* A dirty bit is needed once per page, also when the page was read hot before. */
    map(LIN, addr(frame[0]), P | W);
    flush();
    IN(.esi = LIN, .ecx = 1000);
    OK("1: mov eax, [esi]; loop 1b");
    EQ(pte(LIN) & (A | DIRTY), A);
    in.edx = 1000;
    OK("1: mov eax, [esi]; cmp ecx, 500; jne 2f; mov [esi], eax; 2: loop 1b");
    EQ(pte(LIN) & (A | DIRTY), A | DIRTY);
    /* A faulting access leaves the dirty bit alone. */
    map(LIN, addr(frame[0]), P);
    flush();
    IN(.esi = LIN);
    FAULT("mov [esi], al", PF, 3);
    EQ(pte(LIN) & DIRTY, 0);
    stop();
}

static void accessed_dirty(void)
{
    accessed_dirty_in(false);
    accessed_dirty_in(true);
    /* Large pages keep both bits in the PDE. */
    for (int i = 0; i < 2; i++) {
        start(i, CR4_PSE);
        if (pae)
            *pae_pde(LIN) = 0x800000 | P | W | PS;
        else
            pd[LIN >> 22] = 0x800000 | P | W | PS;
        flush();
        IN(.esi = LIN + 0x1ff000);
        OK("mov eax, [esi]");
        uint32_t entry = pae ? (uint32_t)*pae_pde(LIN) : pd[LIN >> 22];
        EQ(entry & (A | DIRTY), A);
        OK("mov [esi], eax; mov [esi - 0x10000], eax");
        entry = pae ? (uint32_t)*pae_pde(LIN) : pd[LIN >> 22];
        EQ(entry & (A | DIRTY), A | DIRTY);
        stop();
    }
}

/* Reserved bits: error code bit 3, with P set. SDM 3A 4.7 and tables 4-4, 4-6, 4-9 to 4-11. */
static void reserved_bits(void)
{
    start(false, CR4_PSE);
    pd[LIN >> 22] = 0x800000 | P | W | PS | 1 << 21;
    flush();
    IN(.esi = LIN + 4);
    FAULT("mov eax, [esi]", PF, 9);
    EQ(out.cr2, LIN + 4);
    FAULT("mov [esi], eax", PF, 11);
    in.cs = UCODE;
    FAULT("mov [esi], eax", PF, 15);
    pd[LIN >> 22] = 0x800000 | W | PS | 1 << 21; /* not present: the rest does not matter */
    flush();
    FAULT("mov eax, [esi]", PF, 4);
    stop();
    start(true, 0);
    static const uint64_t bad[] = {1ull << 62, 1ull << 52, 1ull << 51};
    for (size_t i = 0; i < COUNT(bad); i++) {
        map(LIN, addr(frame[0]), P | W | U | bad[i]);
        flush();
        IN(.esi = LIN);
        FAULT("mov eax, [esi]", PF, 9);
        map(LIN, addr(frame[0]), P | W | U);
        *pae_pde(LIN) |= bad[i];
        flush();
        FAULT("mov [esi], eax", PF, 11);
        *pae_pde(LIN) &= ~bad[i];
        flush();
        OK("mov [esi], eax");
    }
    if (!nx_on) /* without EFER.NXE the bit is reserved */
        goto no_nx;
    stop();
    nx_on = false;
    start(true, 0);
    nx_on = true;
no_nx:
    map(LIN, addr(frame[0]), P | W | U | NX);
    flush();
    FAULT("mov eax, [esi]", PF, 9);
    *pae_pde(LIN) = 0x800000 | P | W | PS | 1 << 13;
    flush();
    FAULT("mov eax, [esi]", PF, 9);
    /* A PDPTE with a reserved bit is a #GP of MOV to CR3, which then changes nothing. */
    static const uint32_t bad_pdpte[] = {2, 4, 0x20, 0x100};
    for (size_t i = 0; i < COUNT(bad_pdpte); i++) {
        uint64_t *other = (uint64_t *)frame_new();
        memcpy(other, pdpt, 32);
        other[2] |= bad_pdpte[i];
        IN(.ebx = addr(other), .eax = addr(pdpt));
        UNLESS_QEMU(PDPTE) FAULT("mov cr3, ebx", GP, 0);
        EQ(read_cr3(), addr(pdpt));
        other[2] &= ~(uint64_t)P; /* not present: ignored */
        OK("mov cr3, ebx; mov ecx, cr3; mov cr3, eax");
        EQ(out.ecx, addr(other));
    }
    stop();
}

/* PDPTEs are registers: a change in memory counts with the next MOV to CR3. SDM 3A 4.4.1. */
static void pdptes_are_loaded(void)
{
    start(true, 0);
    map(LIN, addr(frame[0]), P | W);
    frame[0][0] = 1;
    uint64_t was = pdpt[1];
    pdpt[1] = 0;
    IN(.esi = LIN);
    flush();
    FAULT("mov eax, [esi]", PF, 0);
    pdpt[1] = was;
    UNLESS_QEMU(PDPTE) FAULT("mov eax, [esi]", PF, 0); /* not loaded yet */
    flush();
    OK("mov eax, [esi]");
    EQ(out.eax, 1);
    pdpt[1] = 0;
    IN(.esi = LIN + 0x1000 * 5);
    map(LIN, addr(frame[0]), P | W); /* the helper makes a new directory: not loaded either */
    pdpt[1] = was;
    map(LIN + 0x5000, addr(frame[0]), P | W);
    OK("mov eax, [esi]");
    stop();
}

/* A translation that was used hot may not be used after its entry changed and was invalidated. */
static void invalidation_in(bool in_pae)
{
    start(in_pae, CR4_PGE);
    for (uint32_t i = 0; i < 4; i++)
        frame[i][0] = frame[i][1023] = 100 + i;
    for (uint32_t n = 0; n < 24; n++) {
        uint32_t global = n & 4 ? G : 0;
        map(LIN, addr(frame[n & 3]), P | W | U | global);
        switch (n % 5) {
        case 0:
            invlpg(LIN + 0x123);
            break;
        case 1:
            write_cr4(read_cr4() & ~CR4_PGE);
            write_cr4(read_cr4() | CR4_PGE);
            break;
        case 2:
            if (global)
                invlpg(LIN);
            flush();
            break;
        case 3: /* invalidates global pages too, SDM 3A 4.10.4.1 */
            write_cr0(read_cr0() & ~CR0_PG);
            write_cr0(read_cr0() | CR0_PG);
            break;
        default:
            write_cr4(read_cr4() ^ CR4_PGE);
            write_cr4(read_cr4() ^ CR4_PGE);
        }
        IN(.esi = LIN, .ecx = 50, .cs = n & 1 ? UCODE : 0u);
        OK("1: mov eax, [esi]; mov ebx, [esi + 4092]; loop 1b");
        CHECK(out.eax, 100 + (n & 3), "remapped", n);
        CHECK(out.ebx, 100 + (n & 3), "remapped", n);
    }
    /* Absent to present needs no invalidation; present to absent, to read-only, to supervisor does.
     */
    map(LIN, 0, 0);
    invlpg(LIN);
    IN(.esi = LIN, .cs = UCODE);
    FAULT("mov eax, [esi]", PF, 4);
    map(LIN, addr(frame[2]), P | W | U);
    OK("mov eax, [esi]; mov [esi], eax");
    EQ(out.eax, 102);
    map(LIN, addr(frame[2]), P | U | A | DIRTY);
    invlpg(LIN);
    FAULT("mov [esi], eax", PF, 7);
    OK("mov eax, [esi]");
    map(LIN, addr(frame[2]), P | W | A | DIRTY);
    invlpg(LIN);
    FAULT("mov eax, [esi]", PF, 5);
    pde_flags(LIN, 0);
    invlpg(LIN); /* also the paging-structure caches, SDM 3A 4.10.4.1 */
    FAULT("mov eax, [esi]", PF, 4);
    in.cs = 0;
    FAULT("mov eax, [esi]", PF, 0);
    pde_flags(LIN, P | W | U);
    OK("mov eax, [esi]");
    stop();
}

static void invalidation(void)
{
    invalidation_in(false);
    invalidation_in(true);
}

/* Code at one linear address, remapped under the translated and chained callers. */
static void code_remapped(void)
{
    for (int mode = 0; mode < 2; mode++) {
        start(mode, 0);
        for (uint32_t i = 0; i < 4; i++) { /* mov eax, 200 + i; ret */
            memcpy(frame[i], (const uint8_t[]){0xb8, (uint8_t)(200 + i), 0, 0, 0, 0xc3}, 6);
            memcpy((uint8_t *)frame[i] + 4094, (const uint8_t[]){0xb8, (uint8_t)(50 + i)}, 2);
            memcpy(frame[i] + 100, (const uint8_t[]){0, 0, 0, 0xc3}, 4);
        }
        for (uint32_t n = 0; n < 40; n++) {
            map(LIN, addr(frame[n & 3]), P | U | (n & 8 ? W : 0));
            map(LIN + 4096, addr(frame[n >> 2 & 3]), P | U);
            if (n & 16) {
                invlpg(LIN);
                invlpg(LIN + 4096);
            } else {
                flush();
            }
            IN(.esi = LIN, .edi = LIN + 4096, .ecx = 30, .cs = n & 1 ? UCODE : 0u);
            OK("1: call esi; mov ebx, eax; call edi; loop 1b; mov edx, eax; call esi");
            EQ(out.ebx, 200 + (n & 3));
            EQ(out.edx, 200 + (n >> 2 & 3));
            EQ(out.eax, 200 + (n & 3));
        }
        /* An instruction whose bytes come from two pages; then the second page goes away. */
        uint8_t *tail = (uint8_t *)frame[1];
        memcpy(tail, (const uint8_t[]){1, 2, 3, 0xc3}, 4);
        map(LIN, addr(frame[0]), P | U);
        map(LIN + 4096, addr(frame[1]), P | U);
        flush();
        IN(.esi = LIN + 4094, .cs = UCODE);
        OK("call esi; call esi");
        EQ(out.eax, 0x03020132);
        map(LIN + 4096, 0, 0);
        invlpg(LIN + 4096);
        RUN("call esi");
        EQ(out.vector, PF);
        EQ(out.error, pae && nx_on ? 0x14 : 4);
        EQ(out.cr2, LIN + 4096);
        EQ(out.eip, LIN + 4094);
        map(LIN + 4096, addr(frame[2]), P | U);
        memcpy(frame[2], (const uint8_t[]){9, 9, 9, 0xc3}, 4);
        OK("call esi; call esi");
        EQ(out.eax, 0x09090932);
        /* The page of the code that runs goes away: a chained loop must stop. */
        map(LIN, 0, 0);
        flush();
        RUN("call esi");
        EQ(out.eip, LIN + 4094);
        EQ(out.cr2, LIN + 4094);
        stop();
    }
}

/* Two address spaces that differ at LIN, in data and in code; a loop that switches each time. */
static void two_spaces(void)
{
    for (int mode = 0; mode < 2; mode++) {
        start(mode, CR4_PGE);
        void *root[2];
        for (uint32_t s = 0; s < 2; s++) {
            if (s) {
                if (pae) {
                    pdpt = pdpt_new(0);
                    for (uint32_t i = 1; i < 4; i++)
                        (void)pdpt_entry(pdpt, i << 30);
                } else {
                    pd = pd_new(0);
                }
            }
            root[s] = pae ? (void *)pdpt : (void *)pd;
            map(LIN, addr(frame[s]), P | U | W);
            map(LIN + 4096, addr(frame[2 + s]), P | U | W);
            frame[s][0] = 1000 + s;
            memcpy(frame[2 + s],
                   (const uint8_t[]){0xb8, (uint8_t)(7 + s), 0, 0, 0, 0x03, 0x06, 0xc3}, 8);
        }
        IN(.ecx = 2000, .esi = LIN, .edi = LIN + 4096, .ebx = addr(root[0]), .edx = addr(root[1]));
        OK("1: mov cr3, ebx; call edi; add ebp, eax; inc dword ptr [esi]; mov cr3, edx; call edi; "
           "sub ebp, eax; xchg ebx, edx; "
           "xchg ebx, edx; loop 1b; mov cr3, ebx");
        /* Each round adds 7 + its first value, and takes off 8 + 1001. */
        EQ(out.ebp, 2000 * (7 + 1000) + 2000 * 1999 / 2 - 2000 * (8 + 1001));
        EQ(frame[0][0], 3000);
        EQ(frame[1][0], 1001);
        /* In CPL 3, the switch being done by the kernel in between. */
        for (uint32_t n = 0; n < 40; n++) {
            write_cr3(addr(root[n & 1]));
            frame[n & 1][0] = n;
            IN(.esi = LIN, .edi = LIN + 4096, .cs = UCODE, .ecx = 20);
            OK("1: call edi; loop 1b");
            EQ(out.eax, n + 7 + (n & 1));
        }
        stop();
    }
}

/* Accesses over a page boundary: the second page faults with its own address, nothing is written.
 */
static void crossing(void)
{
    for (int mode = 0; mode < 2; mode++) {
        start(mode, 0);
        map(LIN, addr(frame[0]), P | W | U);
        map(LIN + 4096, addr(frame[1]), P | U);
        map(LIN + 8192, 0, 0);
        flush();
        for (uint32_t k = 1; k < 4; k++) {
            memset((uint8_t *)frame[0] + 4088, 0x11, 8);
            frame[1][0] = 0x22222222;
            IN(.esi = LIN + 4096 - k, .eax = 0x33333333, .cs = UCODE, .edx = 1);
            FAULT("mov [esi], eax", PF, 7);
            EQ(out.cr2, LIN + 4096);
            EQ(frame[0][1023], 0x11111111);
            FAULT("add [esi], eax", PF, 7);
            FAULT("xchg [esi], eax", PF, 7);
            FAULT("xadd [esi], eax", PF, 7);
            FAULT("bts dword ptr [esi], 3", PF, 7);
            FAULT("fnstenv [esi]", PF, 7);
            EQ(frame[1][0], 0x22222222);
            OK("mov ecx, [esi]; cmp ecx, 0");
            EQ(out.ecx >> 24, 0x22);
            IN(.esi = LIN + 8192 - k, .cs = UCODE);
            FAULT("mov eax, [esi]", PF, 4);
            EQ(out.cr2, LIN + 8192);
            FAULT("push dword ptr [esi]", PF, 4);
            FAULT("fld qword ptr [esi]", PF, 4);
            FAULT("lgdt [esi]", GP, 0);
            in.cs = 0;
            FAULT("lgdt [esi]", PF, 0);
            IN(.esp = LIN + 4096 + k,
               .cs = UCODE); /* a push into the read-only page, over the edge */
            FAULT("push eax", PF, 7);
            EQ(frame[0][1023], 0x11111111);
            FAULT("call 1f; 1:", PF, 7);
            FAULT("pushad", PF, 7);
            FAULT("enter 8, 0", PF, 7);
            IN(.esp = LIN + 8192 - k, .cs = UCODE);
            FAULT("pop eax", PF, 4);
            FAULT("ret", PF, 4);
            FAULT("popad", PF, 4);
            FAULT("popfd", PF, 4);
            in.ebp = in.esp;
            FAULT("leave", PF, 4);
        }
        stop();
    }
}

/* An instruction that reads and writes needs write access from the start: W is set in the error
 * code also where the page is absent (measured on hardware; SDM 3A 4.7 "the access causing it was a
 * write"). */
static void read_modify_write(void)
{
    start(false, 0);
    map(LIN, 0, 0);
    IN(.esi = LIN, .cs = UCODE);
    const struct snip *code[] = {CODE("inc dword ptr [esi]"), CODE("add [esi], eax"),
                                 CODE("xchg [esi], al"),      CODE("lock xadd [esi], eax"),
                                 CODE("cmpxchg [esi], edx"),  CODE("bts dword ptr [esi], 3"),
                                 CODE("btr [esi], eax"),      CODE("shl dword ptr [esi], 3"),
                                 CODE("not word ptr [esi]"),  CODE("rcl dword ptr [esi]"),
                                 CODE("cmpxchg8b [esi]"),     CODE("shld [esi], eax, 3"),
                                 CODE("sete [esi]"),          CODE("fnstenv [esi]"),
                                 CODE("fnstcw [esi]"),        CODE("mov [esi], ds")};
    for (size_t i = 0; i < COUNT(code); i++) {
        UNLESS_QEMU(RMW) FAULTS(code[i], PF, 6, i);
    }
    stop();
}

/* The tables themselves are mapped somewhere and changed there, by all kinds of stores. */
static void tables_by_alias(void)
{
    start(false, 0);
    uint32_t table = addr(pd_entry(pd, LIN)) & ~0xfffu;
    enum { ALIAS = 0x70000000 };
    map(ALIAS, table, P | W | U);
    map(ALIAS + 4096, addr(pd), P | W | U);
    for (uint32_t i = 0; i < 4; i++)
        frame[i][0] = 300 + i;
    flush();
    for (uint32_t n = 0; n < 16; n++) {
        IN(.esi = ALIAS, .ebx = LIN, .eax = addr(frame[n & 3]) | P | W | U,
           .ecx = addr(frame[~n & 3]) | P | W);
        OK("mov [esi], eax; invlpg [ebx]; mov edx, [ebx]; xchg [esi], ecx; invlpg [ebx]; mov ebp, "
           "[ebx]; mov edi, [esi]");
        EQ(out.edx, 300 + (n & 3));
        EQ(out.ebp, 300 + (~n & 3));
        EQ(out.edi, (addr(frame[~n & 3]) | P | W | A));
        EQ(out.ecx, (addr(frame[n & 3]) | P | W | U | A));
        in.edi = ALIAS, in.ecx = 8;
        OK("rep stosd; mov ecx, cr3; mov cr3, ecx; mov edx, [ebx + 0x7000]; lock btr dword ptr "
           "[esi], 5; lock and dword ptr [esi + 0x1c], 0xffffffdf");
        EQ(out.edx, 300 + (n & 3));
        EQ(pte(LIN + 0x7000) & A, 0);
        EQ(pte(LIN) & A, 0);
        /* Through the directory's alias: a whole 4 MiB goes and comes. */
        in.edi = ALIAS + 4096 + (LIN >> 22) * 4;
        OK("mov edx, [edi]; mov dword ptr [edi], 0; mov ecx, cr3; mov cr3, ecx; mov [edi], edx; "
           "mov eax, [ebx]");
        FAULT("mov dword ptr [edi], 0; mov ecx, cr3; mov cr3, ecx;" AT "mov eax, [ebx]", PF, 0);
        pd[LIN >> 22] = table | P | W | U;
    }
    stop();
}

/* Accesses that the CPU makes itself are supervisor accesses, whatever the CPL. SDM 3A 4.6.1. */
static void implicit_accesses(void)
{
    start(false, 0);
    map(LIN, addr(gdt), P | W);
    map(LIN + 4096, 0, 0);
    flush();
    uint32_t offset = addr(gdt) & 0xfff;
    gdt_load(&(struct dtable){0xffff, LIN + offset});
    uint32_t selector = (4096 - offset + 16) | 3;
    IN(.ebx = selector, .cs = UCODE);
    FAULT("mov ds, ebx", PF, 0);
    EQ(out.cr2, LIN + 4096 + 16);
    FAULT("lar eax, ebx", PF, 0);
    FAULT("verr bx", PF, 0);
    gdt[(FREE >> 3) + 1] = descriptor(0, 0xfffff, 0xcf2); /* not accessed yet */
    IN(.ebx = (FREE + 8) | 3, .cs = UCODE);
    OK("mov es, ebx");
    EQ(gdt[(FREE >> 3) + 1] >> 40 & 1, 1); /* SDM 3A 3.4.5.1: loading sets the accessed bit */
    gdt_load(&(struct dtable){sizeof(gdt) - 1, addr(gdt)});
    stop();
}

/* CR0 and CR4 combinations. SDM 3A 2.5, 4.1.1. */
/* In runs of pushes and pops each finds its own fault, with the ones before it done. */
static void stack_runs(void)
{
    enum { PAGE = 4096, WORDS = 11 };
    const struct snip *pushes = CODE("push eax; mov ebx, ecx; push ecx; mov ebx, edx; push edx;"
                                     "mov ebx, esi; push esi; mov ebx, edi; push edi; mov ebx, ebp;"
                                     "push ebp; mov ebx, eax; push eax; mov ebx, ecx; push ecx;"
                                     "mov ebx, edx; push edx; mov ebx, esi; push esi; nop; nop;"
                                     "call 1f; 1:");
    const struct snip *pops = CODE("pop eax; pop ecx; pop edx; pop ebx; pop ebp; pop esi; pop edi;"
                                   "pop eax; pop ecx; pop edx; ret");
    uint32_t *words = frame[0];

    for (uint32_t mode = 0; mode < 2; mode++) {
        start(mode, 0);
        words = frame[0];
        map(LIN + PAGE, addr(words), P | W | U);
        for (uint32_t n = 0; n < WORDS; n++) {
            IN(.cs = UCODE, .esp = LIN + PAGE + 4 * n, .eax = 1, .ecx = 2, .edx = 3, .esi = 4,
               .edi = 5, .ebp = 6, .eflags = CF | ZF);
            static const uint32_t left[] = {1, 2, 3, 4, 5, 6, 1, 2, 3, 4};
            go(pushes);
            CHECK(out.vector, PF, "vector", n);
            CHECK(out.error, 6, "error code", n);
            CHECK(out.cr2, LIN + PAGE - 4, "cr2", n);
            CHECK(out.esp, LIN + PAGE, "esp", n);
            CHECK(out.eip, pushes->start + 3 * n, "eip", n);
            CHECK(out.ebx, n == 10 ? 4 : n ? left[n] : 0, "what stands between", n);
            CHECK(out.eflags & ARITH, CF | ZF, "flags", n);
            for (uint32_t i = 0; i < n; i++)
                CHECK(words[n - 1 - i], left[i], "a pushed word", n);
        }
        for (uint32_t i = 0; i < PAGE / 4; i++)
            words[i] = i;
        for (uint32_t n = 0; n < WORDS; n++) {
            uint32_t first = PAGE / 4 - n;
            IN(.cs = UCODE, .esp = LIN + PAGE + 4 * first, .edi = 77);
            go(pops);
            CHECK(out.vector, PF, "vector", n);
            CHECK(out.error, 4, "error code", n);
            CHECK(out.cr2, LIN + 2 * PAGE, "cr2", n);
            CHECK(out.esp, LIN + 2 * PAGE, "esp", n);
            CHECK(out.eip, pops->start + n, "eip", n);
            CHECK(out.eax, n > 7 ? first + 7 : n ? first : 0, "popped first", n);
            CHECK(out.edi, n > 6 ? first + 6 : 77, "popped in the middle", n);
            CHECK(out.edx, n > 9 ? first + 9 : n > 2 ? first + 2 : 0, "popped last", n);
        }
        stop();
    }
}

static void mode_bits(void)
{
    UNLESS_QEMU(CR0_BITS)
    {
        IN(.eax = CR0_PG | CR0_ET);
        FAULT("mov cr0, eax", GP, 0); /* PG without PE */
        in.eax = CR0_PE | CR0_ET | 1 << 29;
        FAULT("mov cr0, eax", GP, 0); /* NW without CD */
        IN(.eax = 1 << 15);
        FAULT("mov cr4, eax", GP, 0);
    }
    start(true, 0);
    IN(.eax = 1u << 31);
    UNLESS_QEMU(CR0_BITS) FAULT("mov cr4, eax", GP, 0);
    EQ(read_cr4(), CR4_PAE);
    stop();
    /* One linear address seen with paging off and on, from one loop. */
    start(false, 0);
    map(LIN, addr(frame[0]), P | W);
    frame[0][0] = 9;
    IN(.ecx = 500, .esi = LIN, .edi = addr(frame[0]));
    OK("1: mov eax, cr0; add ebx, [esi]; and eax, 0x7fffffff; mov cr0, eax; add ebx, [edi]; or "
       "eax, 0x80000000; mov cr0, eax; "
       "inc dword ptr [esi]; loop 1b");
    EQ(frame[0][0], 509);
    EQ(out.ebx, 2 * (500 * 9 + 499 * 500 / 2));
    stop();
}

void guest_main(void)
{
    nx_on = cpuid(0x80000001, 0).edx >> 20 & 1;
    GROUP(rights_32);
    GROUP(rights_4m);
    GROUP(rights_pae);
    GROUP(rights_2m);
    GROUP(rights_smep);
    GROUP(rights_smap);
    GROUP(accessed_dirty);
    UNLESS_QEMU(RSVD) GROUP(reserved_bits);
    GROUP(pdptes_are_loaded);
    GROUP(invalidation);
    GROUP(code_remapped);
    GROUP(two_spaces);
    GROUP(crossing);
    GROUP(read_modify_write);
    GROUP(tables_by_alias);
    GROUP(implicit_accesses);
    GROUP(stack_runs);
    GROUP(mode_bits);
}
