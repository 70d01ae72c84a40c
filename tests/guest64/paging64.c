/* paging64.c - 4-level paging: sizes, rights at every level, accessed and dirty bits, reserved
 * bits, what INVLPG and CR3 make visible, several address spaces, and tables that are changed by
 * the code that uses them.
 *
 * SDM 3A 4.5 (4-level paging), 4.6 (access rights), 4.7 (page faults), 4.8 (accessed and
 * dirty), 4.10 (TLBs, invalidation, 4.10.4.3: what needs none), 4.10.1 (PCIDs). A processor may
 * always have dropped a translation, so that nothing here needs a stale one. */
#include "guest64.h"

const char guest_name[] = "paging64";

/* Frames for data, at 32 MiB and up: 4 KiB pages from DATA, two 2 MiB pages from BIG. */
enum { DATA = 0x2000000, BIG = 0x2400000, BIG_SIZE = 0x200000 };

static uint64_t memory[512] USER __attribute__((aligned(4096)));
static uint8_t code[8 * 4096] USER_CODE;
static uint64_t *root;

static uint64_t user_bit(void)
{
    return pass_cs == UCODE ? 4 : 0;
}

static uint64_t *frame(uint32_t n)
{
    return (uint64_t *)(DATA + n * 4096ull);
}

static void start(void)
{
    write_cr3(addr(pml4));
    frames_reset();
    root = space_new();
    write_cr3(addr(root));
    for (uint32_t n = 0; n < 64; n++)
        for (uint32_t i = 0; i < 512; i++)
            frame(n)[i] = n * 1000 + i;
}

/* Linear addresses of the cases: the low half for CPL 3, both for CPL 0. */
static uint64_t place(uint32_t n)
{
    static const uint64_t places[] = {0x40000000,         0xffe00000,        0xfc0000000,
                                      0x123440000000,     0x7fffc0000000,    0xffff800000000000,
                                      0xffffc90000000000, 0xfffffffec0000000};
    return places[n % (pass_cs == UCODE ? 5 : COUNT(places))];
}

static bool has_1g(void)
{
    return cpuid(0x80000001, 0).edx >> 26 & 1;
}

static void sizes(void)
{
    start();
    for (uint32_t n = 0; n < 8; n++) {
        uint64_t at = place(n) & ~0x3fffffffull;
        map(root, at + 0x3000, DATA + 5 * 4096, P | W | U);
        map_large(root, at + BIG_SIZE, BIG, P | W | U, 2);
        map_large(root, at + 3 * BIG_SIZE, BIG + BIG_SIZE, P | W | U, 2);
        IN(.cs = pass_cs, .rsi = at + 0x3000, .r8 = at + BIG_SIZE, .r9 = at + 4 * BIG_SIZE - 8,
           .rcx = 50, .rax = n + 1);
        *(uint64_t *)(BIG + 0x1ff8) = 0, *(uint64_t *)(BIG + 2 * BIG_SIZE - 8) = 0, frame(5)[1] = 0;
        OK("1: add [rsi + 8], rax; add [r8 + 0x1ff8], rcx; add [r9], rcx; add rdx, [r9]; mov r10, "
           "[r8 + 0x1ff000]; loop 1b");
        CHECK(frame(5)[1], 50 * (n + 1), "4 KiB", n);
        CHECK(*(uint64_t *)(BIG + 0x1ff8), 50 * 51 / 2, "2 MiB", n);
        CHECK(*(uint64_t *)(BIG + 2 * BIG_SIZE - 8), 50 * 51 / 2, "2 MiB", n);
        FAULTS(CODE("mov rax, [r9 + 8]"), PF, user_bit(), n);
        CHECK(out.cr2, at + 4 * BIG_SIZE, "cr2", n);
        FAULTS(CODE("mov [r8 - 8], rax"), PF, user_bit() | 2, n);
        /* Over the end of one large page into a 4 KiB page. */
        map(root, at + 2 * BIG_SIZE, DATA + 6 * 4096, P | W | U);
        IN(.cs = pass_cs, .rsi = at + 2 * BIG_SIZE - 4, .rax = 0x1122334455667788);
        OK("mov [rsi], rax; mov rbx, [rsi]; add dword ptr [rsi + 2], 0x10000");
        CHECK(out.rbx, 0x1122334455667788, "over the end", n);
        CHECK((uint32_t)frame(6)[0], 0x11223345, "over the end", n);
    }
    if (!has_1g())
        return;
    for (uint32_t n = 0; n < 8; n++) {
        uint64_t at = (place(n) & ~0x3fffffffull) + (n < 4 ? 0x40000000 : n == 4 ? 0 : 0x80000000);
        if (n == 7 || n == 1)
            continue;
        if (n == 4)
            *entry(root, at, 3) = 0;
        map_large(root, at, 0, P | W | U, 3);
        write_cr3(addr(root));
        IN(.cs = pass_cs, .rsi = at + DATA, .r15 = at + addr(memory), .rcx = 20);
        memory[3] = 0;
        OK("1: mov rax, [rsi + 7 * 4096 + 16]; inc qword ptr [r15 + 24]; loop 1b; mov rbx, [rip + "
           "memory + 24]");
        CHECK(out.rax, 7002, "1 GiB", n);
        CHECK(out.rbx, 20, "1 GiB", n);
    }
}

/* Effective rights are those that all levels give; NX that one level gives. */
static void rights_of_levels(void)
{
    start();
    uint64_t at = 0x123440000000;
    map(root, at, DATA, P | W | U);
    memcpy(frame(0), (const uint8_t[]){0xff, 0xc0, 0xc3}, 3); /* inc eax; ret */
    for (uint32_t n = 0; n < 5 * 16; n++) {
        uint32_t level = n % 5;
        uint64_t w = n / 5 & 1 ? W : 0, u = n / 10 & 1 ? U : 0, nx = n / 20 & 1 ? NX : 0,
                 p = n / 40 & 1 ? 0 : P;
        uint64_t was = level ? *entry(root, at, (int)level) : 0;
        if (level) /* the others give everything */
            *entry(root, at, (int)level) = (was & ~(P | W | U | NX)) | p | w | u | nx;
        else
            p = P, w = W, u = U, nx = 0;
        write_cr3(addr(root));
        bool user = pass_cs == UCODE, reads = p && (u || !user), writes = reads && w,
             runs = reads && !nx;
        uint64_t present = p ? 1 : 0;
        IN(.cs = pass_cs, .rsi = at);
        for (int hot = 0; hot < 2; hot++) {
            RUN("mov rbx, [rsi + 64]");
            CHECK(out.vector, reads ? DONE : PF, "read", n);
            if (!reads)
                CHECK(out.error, present | user_bit(), "read", n);
            RUN("mov [rsi + 128], rbx");
            CHECK(out.vector, writes ? DONE : PF, "write", n);
            if (!writes)
                CHECK(out.error, present | 2 | user_bit(), "write", n);
            RUN("call rsi");
            CHECK(out.vector, runs ? DONE : PF, "run", n);
            if (!runs)
                CHECK(out.error, present | 0x10 | user_bit(), "run", n);
        }
        if (level)
            *entry(root, at, (int)level) = was;
    }
}

static bool entry_has(uint64_t at, int level, uint64_t flags)
{
    return (*entry(root, at, level) & (A | DIRTY)) == flags;
}

static void clear_bits(uint64_t at)
{
    for (int level = 1; level < 5; level++)
        *entry(root, at, level) &= ~(uint64_t)(A | (level == 1 ? DIRTY : 0));
    invlpg(at);
}

/* Accessed bits at all levels, dirty only in the last, none by what faults. */
static void accessed_and_dirty(void)
{
    for (uint32_t n = 0; n < 6; n++) {
        start();
        uint64_t at = place(n);
        map(root, at, DATA, P | W | U);
        map(root, at + 4096, DATA + 4096, P | U);
        clear_bits(at + 4096);
        for (uint32_t round = 0; round < 5; round++) {
            clear_bits(at);
            IN(.cs = pass_cs, .rsi = at, .rdi = at + 4096);
            CHECK(entry_has(at, 1, 0), 1, "clear", n);
            OK("mov rax, [rsi]; lea rbx, [rsi]; prefetcht0 [rsi]");
            for (int level = 1; level < 5; level++)
                CHECK(entry_has(at, level, A), 1, "read", n * 8 + level);
            CHECK(entry_has(at + 4096, 1, 0), 1, "the neighbour", n);
            OK("mov rax, [rsi]; mov rbx, [rsi + 8]; mov [rsi], rax");
            CHECK(entry_has(at, 1, A | DIRTY), 1, "write", n);
            for (int level = 2; level < 5; level++)
                CHECK(entry_has(at, level, A), 1, "write", n * 8 + level);
            clear_bits(at);
            OK("lock xadd [rsi], rax; mov r9, [rsi]");
            CHECK(entry_has(at, 1, A | DIRTY), 1, "read-modify-write", n);
            clear_bits(at);
            OK("mov rax, [rsi]; mov rax, [rsi]; cmp [rsi], rax");
            CHECK(entry_has(at, 1, A), 1, "read again", n);
            /* A read-only page never becomes dirty. */
            FAULT("mov [rdi], rax", PF, 3 | user_bit());
            CHECK(*entry(root, at + 4096, 1) & DIRTY, 0, "read-only", n);
            OK("mov rax, [rdi]");
            CHECK(*entry(root, at + 4096, 1) & A, A, "read-only", n);
            *entry(root, at + 4096, 1) &= ~(uint64_t)A;
            invlpg(at + 4096);
            /* Without an invalidation the bits may stay clear, but not the store undone. */
            in.rax = round;
            OK("mov [rsi + 16], rax; mov rbx, [rsi + 16]");
            CHECK(out.rbx, round, "store", n);
        }
        /* Code. */
        memcpy(frame(0), (const uint8_t[]){0xff, 0xc0, 0xc3}, 3);
        for (uint32_t round = 0; round < 4; round++) {
            clear_bits(at);
            IN(.cs = pass_cs, .rsi = at);
            OK("call rsi");
            CHECK(entry_has(at, 1, A), 1, "fetch", n);
        }
        /* Large pages. */
        uint64_t big = at + 2 * BIG_SIZE;
        map_large(root, big, BIG, P | W | U, 2);
        IN(.cs = pass_cs, .rsi = big + 0x12340);
        for (uint32_t round = 0; round < 3; round++) {
            OK("mov rax, [rsi]");
            CHECK(entry_has(big, 2, A), 1, "2 MiB read", n);
            OK("mov [rsi + 0x1000], rax");
            CHECK(entry_has(big, 2, A | DIRTY), 1, "2 MiB write", n);
            *entry(root, big, 2) &= ~(uint64_t)(A | DIRTY);
            invlpg(big);
        }
    }
}

static uint32_t fault_count;

static bool count_and_map(struct frame *frame_)
{
    if (frame_->vector != PF)
        return false;
    fault_count++;
    uint64_t page = read_cr2() & ~0xfffull;
    map(root, page, DATA + (page >> 12 & 63) * 4096, P | W | U);
    return true;
}

/* Demand paging: not present to present needs no invalidation. 64 pages, touched many times. */
static void demand(void)
{
    for (uint32_t n = 0; n < 6; n++) {
        start();
        uint64_t at = place(n);
        fault_count = 0;
        trap_hook = count_and_map;
        ist_all(1);
        IN(.cs = pass_cs, .rsi = at, .rcx = 3);
        OK("1: mov rdi, rsi; mov edx, 64; 2: mov rax, [rdi + 8]; add rbx, rax; inc qword ptr [rdi "
           "+ 16]; add rdi, 4096; dec edx; jnz 2b; loop "
           "1b");
        CHECK(fault_count, 64, "faults", n);
        uint64_t first = at >> 12 & 63, sum = 0;
        for (uint64_t i = 0; i < 64; i++)
            sum += 3 * (((first + i) & 63) * 1000 + 1);
        CHECK(out.rbx, sum, "sum", n);
        CHECK(frame(9)[2], 9002 + 3, "stores", n);
        /* Pages go away and come again, each with an INVLPG: exactly one fault for each. */
        for (uint32_t round = 0; round < 4; round++) {
            for (uint32_t i = 0; i < 64; i += 3) {
                map(root, at + i * 4096, 0, 0);
                invlpg(at + i * 4096);
            }
            fault_count = 0;
            OK("1: mov rdi, rsi; mov edx, 64; 2: mov rax, [rdi + 8]; add rbx, rax; inc qword ptr "
               "[rdi + 16]; add rdi, 4096; dec edx; jnz 2b; "
               "loop 1b");
            CHECK(fault_count, 22, "faults again", n);
            CHECK(out.rbx, sum, "sum again", n);
        }
        trap_hook = NULL;
    }
}

static bool retry(struct frame *frame_)
{
    (void)frame_;
    return frame_->vector == PF && ++fault_count < 4;
}

/* More rights without an INVLPG: at most one fault, which the retry cures (4.10.4.3). Fewer with
 * one. */
static void rights_change(void)
{
    start();
    uint64_t at = 0x123440000000;
    map(root, at, DATA, P | U);
    IN(.cs = pass_cs, .rsi = at, .rax = 5);
    for (uint32_t round = 0; round < 8; round++) {
        map(root, at, DATA, P | U);
        invlpg(at);
        OK("mov rbx, [rsi]; mov rbx, [rsi + 8]");
        FAULT("mov [rsi], rax", PF, 3 | user_bit());
        map(root, at, DATA, P | W | U);
        fault_count = 0;
        trap_hook = retry;
        OK("mov [rsi], rax; mov rbx, [rsi]");
        CHECK(fault_count < 2, 1, "faults", round);
        CHECK(out.rbx, 5, "store", round);
        trap_hook = NULL;
        if (!user_bit())
            continue;
        map(root, at, DATA, P | W);
        invlpg(at);
        FAULT("mov rbx, [rsi]", PF, 5);
        FAULT("mov [rsi], rax", PF, 7);
    }
}

/* The same linear address in two spaces, for data and code; switched in the middle of hot code. */
static uint64_t *roots[4];

static bool next_space(struct frame *frame_)
{
    if (frame_->vector != 0x51)
        return false;
    write_cr3(addr(roots[frame_->rdx & 3]));
    return true;
}

static void spaces(void)
{
    start();
    for (uint32_t n = 0; n < 4; n++) {
        uint64_t at = place(n + (uint32_t)rep);
        for (uint32_t i = 0; i < 4; i++) {
            roots[i] = space_new();
            map(roots[i], at, DATA + i * 4096, P | W | U);
            map(roots[i], at + 4096, addr(code) + i * 4096, P | W | U);
            /* mov eax, i * 100 + 1; ret; on the way from page to page: at 4000 inc ebx; jmp at + 0
             */
            uint8_t *p = code + i * 4096;
            uint32_t value = i * 100 + 1;
            *p = 0xb8;
            memcpy(p + 1, &value, 4);
            p[5] = 0xc3;
            memcpy(p + 256, (const uint8_t[]){0x48, 0x8b, 0x06, 0xc3}, 4); /* mov rax, [rsi]; ret */
            frame(i)[0] = 7000 + i;
        }
        write_cr3(addr(roots[0]));
        if (pass_cs == KCODE) {
            IN(.rsi = at, .rdi = at + 4096, .rbp = at + 4096 + 256, .r8 = addr(roots[0]),
               .r9 = addr(roots[1]), .r10 = addr(roots[2]), .r11 = addr(roots[3]), .rcx = 40);
            OK("1: mov cr3, r8; call rdi; add rbx, rax; add r12, [rsi]; mov cr3, r9; call rdi; add "
               "rbx, rax; add r12, [rsi]; mov cr3, r10; call "
               "rdi; add rbx, rax; call rbp; add r12, rax; mov cr3, r11; call rdi; add rbx, rax; "
               "call rbp; add r12, rax; mov qword ptr [rsi + 64], 3; "
               "inc qword ptr [rsi + 72]; dec rcx; jnz 1b");
        } else {
            gate_set(0x51, 0x51, 0xee);
            trap_hook = next_space;
            IN(.cs = UCODE, .rsi = at, .rdi = at + 4096, .rbp = at + 4096 + 256, .rcx = 160,
               .rdx = 0);
            OK("1: call rdi; add rbx, rax; call rbp; add r12, rax; inc rdx; int 0x51; dec rcx; jnz "
               "1b");
            trap_hook = NULL;
            gate_restore(0x51);
        }
        CHECK(out.rbx, 40 * (1 + 101 + 201 + 301), "code", n);
        CHECK(out.r12, 40 * (7000 + 7001 + 7002 + 7003), "data", n);
        write_cr3(addr(root));
    }
}

/* Global pages: a CR3 write need not drop them, but INVLPG and CR4.PGE do. */
/* What the page at at + 4096 is in space i. */
static uint64_t far_page(uint32_t i)
{
    return addr(code) + (1 + i) * 4096;
}

static uint64_t far_at;

static bool bring_far_page(struct frame *frame_)
{
    if (frame_->vector == 0x51)
        return next_space(frame_);
    if (frame_->vector != PF || frame_->rip != far_at || read_cr2() != far_at)
        return false;
    fault_count++;
    for (uint32_t i = 0; i < 4; i++)
        if (addr(roots[i]) == (read_cr3() & ~0xfffull))
            map(roots[i], far_at, far_page(i), P | W | U);
    return true;
}

/* Direct branches to another page, from code that all spaces share to a page that each has another
 * of, or none at first: where they lead follows the space, and a page that is absent faults there,
 * with the return address pushed. */
static void far_branches(void)
{
    /* call far; add rbx, rax; test eax, eax; jz far + 64; jmp far + 128 */
    static const uint8_t shared[] = {0xe8, 0xfb, 0x0f, 0, 0, 0x48, 0x01, 0xc3, 0x85, 0xc0, 0x0f,
                                     0x84, 0x30, 0x10, 0, 0, 0xe9, 0x6b, 0x10, 0,    0};
    start();
    uint64_t at = place((uint32_t)rep);
    far_at = at + 4096;
    memcpy(code, shared, sizeof(shared));
    for (uint32_t i = 0; i < 4; i++) {
        uint8_t *p = code + (1 + i) * 4096;
        uint32_t value = i * 100;
        *p = 0xb8; /* mov eax, i * 100; ret */
        memcpy(p + 1, &value, 4);
        p[5] = 0xc3;
        memcpy(p + 64, (const uint8_t[]){0x49, 0x83, 0xc4, (uint8_t)(i + 1), 0xc3},
               5); /* add r12 */
        memcpy(p + 128, (const uint8_t[]){0x49, 0x83, 0xc5, (uint8_t)(i + 1), 0xc3}, 5); /* r13 */
        roots[i] = space_new();
        map(roots[i], at, addr(code), P | W | U);
    }
    trap_hook = bring_far_page;
    ist_all(1);
    for (uint32_t round = 0; round < 6; round++) {
        write_cr3(addr(roots[0]));
        fault_count = 0;
        if (pass_cs == KCODE) {
            IN(.rsi = at, .r8 = addr(roots[0]), .r9 = addr(roots[1]), .r10 = addr(roots[2]),
               .r11 = addr(roots[3]), .rcx = 40);
            OK("1: mov cr3, r8; call rsi; mov cr3, r9; call rsi; mov cr3, r10; call rsi; mov cr3, "
               "r11; call rsi; dec rcx; jnz 1b");
        } else {
            gate_set(0x51, 0x51, 0xee);
            IN(.cs = UCODE, .rsi = at, .rcx = 160, .rdx = 0);
            OK("1: call rsi; inc rdx; int 0x51; dec rcx; jnz 1b");
            gate_restore(0x51);
        }
        CHECK(out.rbx, 40 * (0 + 100 + 200 + 300), "calls", round);
        CHECK(out.r12, 40, "conditional branches", round);
        CHECK(out.r13, 40 * (2 + 3 + 4), "jumps", round);
        CHECK(fault_count, round == 0 ? 4 : round & 1 ? 1 : 2, "faults", round);
        for (uint32_t i = 0; i <= (round & 1); i++) { /* some go, without INVLPG but by CR3 */
            map(roots[i + 1], far_at, 0, 0);
        }
    }
    trap_hook = NULL;
    write_cr3(addr(root));
}

static void global_pages(void)
{
    start();
    uint64_t cr4 = read_cr4(), at = 0xffffc90000000000, low = 0x123440000000;
    for (uint32_t round = 0; round < 8; round++) {
        write_cr4(cr4 | CR4_PGE);
        map(root, at, DATA, P | W | G);
        map(root, low, DATA + 4096, P | W | U | G);
        invlpg(at);
        invlpg(low);
        if (pass_cs == KCODE) {
            IN(.rsi = at, .rdi = low, .r8 = addr(root), .rcx = 20);
            OK("1: mov cr3, r8; mov rax, [rsi]; mov rbx, [rdi]; loop 1b");
            EQ(out.rax, 0);
            EQ(out.rbx, 1000);
        }
        map(root, at, DATA + 2 * 4096, P | W | G);
        map(root, low, DATA + 3 * 4096, P | W | U | G);
        if (round & 1) {
            invlpg(at);
            invlpg(low);
        } else {
            write_cr4(cr4);
        }
        IN(.cs = pass_cs, .rsi = at, .rdi = low);
        OK("mov rbx, [rdi]");
        EQ(out.rbx, 3000);
        if (pass_cs == KCODE) {
            OK("mov rax, [rsi]");
            EQ(out.rax, 2000);
        } else {
            FAULT("mov rax, [rsi]", PF, 5);
        }
    }
    write_cr4(cr4);
}

/* Code that changes its own page tables through the direct map, as kernels do, and uses them at
 * once. */
static void tables_by_direct_map(void)
{
    if (pass_cs == UCODE)
        return;
    start();
    for (uint32_t n = 0; n < 8; n++) {
        uint64_t at = place(n);
        map(root, at, DATA, P | W);
        uint64_t pte = addr(entry(root, at, 1)) + DIRECT;
        IN(.rsi = at, .r12 = pte, .rcx = 64 * 10, .r8 = DATA | P | W);
        OK("1: mov rax, rcx; and eax, 63; shl eax, 12; add rax, r8; mov [r12], rax; invlpg [rsi]; "
           "add rbx, [rsi]; mov rdx, [rsi + 8]; add r9, "
           "rdx; loop 1b");
        CHECK(out.rbx, 10 * 1000 * (63 * 64 / 2), "flipped", n);
        CHECK(out.r9, 10 * (1000 * (63 * 64 / 2) + 64), "flipped", n);
        /* By CR3 instead, with a locked exchange and 32-bit halves. */
        IN(.rsi = at, .r12 = pte, .rcx = 64, .r8 = DATA | P | W, .r15 = addr(root));
        OK("1: mov rax, rcx; and eax, 63; shl eax, 12; add rax, r8; mov rdx, rax; xchg [r12], rdx; "
           "mov cr3, r15; add rbx, [rsi]; mov [r12], eax; "
           "mov dword ptr [r12 + 4], 0; mov cr3, r15; add rbx, [rsi]; loop 1b");
        CHECK(out.rbx, 2 * 1000 * (63 * 64 / 2), "by CR3", n);
        /* A 2 MiB page is split into 4 KiB ones, one of which leads elsewhere, and joined again. */
        uint64_t big = at + 2 * BIG_SIZE, *table = frame_new();
        for (uint32_t i = 0; i < 512; i++) {
            table[i] = (BIG + i * 4096) | P | W;
            *(uint64_t *)(BIG + i * 4096ull) = i;
        }
        table[9] = DATA | P | W;
        map_large(root, big, BIG, P | W, 2);
        IN(.rsi = big, .r12 = addr(entry(root, big, 2)) + DIRECT, .rcx = 40, .r8 = BIG | P | W | PS,
           .r9 = addr(table) | P | W);
        OK("1: mov [r12], r9; invlpg [rsi]; invlpg [rsi + 0x8000]; invlpg [rsi + 0x9000]; add rax, "
           "[rsi + 0x8000]; add rbx, [rsi + 0x9000]; mov [r12], "
           "r8; invlpg [rsi + 0x9000]; invlpg [rsi + 0x8000]; add rdx, [rsi + 0x9000]; add rdx, "
           "[rsi + 0x8000]; loop 1b");
        CHECK(out.rax, 8 * 40, "split", n);
        CHECK(out.rbx, 0, "split", n);
        CHECK(out.rdx, 17 * 40, "joined", n);
    }
    /* Whole levels: two directories, two PDPTs. */
    uint64_t at = 0x123440000000, *other, *pdpt, *page;
    start();
    map(root, at, DATA, P | W);
    other = frame_new(), pdpt = frame_new(), page = frame_new();
    page[0] = (DATA + 4096) | P | W;
    other[at >> 21 & 511] = addr(page) | P | W;
    pdpt[at >> 30 & 511] = addr(other) | P | W;
    uint64_t pdpte = *entry(root, at, 3), pml4e = *entry(root, at, 4), pde = *entry(root, at, 2);
    IN(.rsi = at, .r8 = addr(entry(root, at, 2)) + DIRECT, .r9 = addr(entry(root, at, 3)) + DIRECT,
       .r10 = addr(entry(root, at, 4)) + DIRECT, .r11 = pde, .r12 = pdpte, .r13 = pml4e,
       .r14 = addr(root), .rcx = 30, .rdx = addr(page) | P | W, .rdi = addr(other) | P | W,
       .rbp = addr(pdpt) | P | W);
    OK("1: mov [r8], rdx; mov cr3, r14; add rax, [rsi]; mov [r8], r11; mov cr3, r14; add rbx, "
       "[rsi]; mov [r9], rdi; mov cr3, r14; add rax, [rsi]; mov "
       "[r9], r12; invlpg [rsi]; add rbx, [rsi]; mov [r10], rbp; mov cr3, r14; add rax, [rsi]; mov "
       "[r10], r13; mov cr3, r14; add rbx, [rsi]; loop 1b");
    EQ(out.rax, 3 * 30 * 1000);
    EQ(out.rbx, 0);
    /* A recursive slot: the tables as data at linear addresses. */
    enum { SLOT = 300 };
    root[SLOT] = addr(root) | P | W;
    uint64_t self = 0xffff000000000000 | (uint64_t)SLOT << 39;
    IN(.rsi = at, .r8 = self | (at >> 9 & 0x7ffffffff8), .rcx = 64, .r9 = DATA | P | W);
    OK("mov r15, [r8]; 1: mov rax, rcx; dec eax; shl eax, 12; or rax, r9; mov [r8], rax; invlpg "
       "[rsi]; add rbx, [rsi]; loop 1b; mov rdx, [r8]");
    EQ(out.rbx, 1000 * (63 * 64 / 2));
    EQ(out.r15 & ~0xfffull, DATA);
    EQ(out.rdx & 0xfff, P | W | A);
}

/* A code page that changes its frame under hot code. */
static void code_frames(void)
{
    start();
    uint64_t at = place((uint32_t)rep);
    for (uint32_t i = 0; i < 8; i++)
        for (uint32_t k = 0; k < 3; k++) {
            uint8_t *p = code + i * 4096 + k * 1365;
            memcpy(p, (const uint8_t[]){0x83, 0xc3, (uint8_t)(i * 10 + k + 1), 0xc3},
                   4); /* add ebx, n; ret */
        }
    memcpy(code + 2730, (const uint8_t[]){0x83, 0xc3, 3, 0xc3}, 4);
    for (uint32_t round = 0; round < 24; round++) {
        uint32_t i = round * 5 % 8;
        map(root, at, addr(code) + i * 4096, P | W | U);
        invlpg(at);
        IN(.cs = pass_cs, .rsi = at, .rdi = at + 1365, .rbp = at + 2730, .rcx = 10);
        OK("1: call rsi; call rdi; call rbp; loop 1b");
        CHECK(out.rbx, 10 * (30 * i + 6), "code", round);
    }
    if (pass_cs != KCODE)
        return;
    IN(.rsi = at, .r12 = addr(entry(root, at, 1)) + DIRECT, .rcx = 80, .r8 = addr(code) | P | W);
    OK("1: mov eax, ecx; and eax, 7; shl eax, 12; add rax, r8; mov [r12], rax; invlpg [rsi]; call "
       "rsi; loop 1b");
    EQ(out.rbx, 10 * (10 * 28 + 8));
}

static void reserved_bits(void)
{
    start();
    uint64_t at = 0x123440000000, big = at + BIG_SIZE;
    uint32_t width = cpuid(0x80000008, 0).eax & 0xff;
    map(root, at, DATA, P | W | U);
    map_large(root, big, BIG, P | W | U, 2);
    UNLESS_QEMU(RSVD)
    {
        IN(.cs = pass_cs, .rsi = at, .rdi = big);
        for (int level = 1; level < 5; level++) {
            uint64_t *e = entry(root, at, level), was = *e;
            for (uint32_t k = 0; k < 2; k++) {
                if (!k && width < 52)
                    *e = was | 1ull << width;
                else if (level == 4 && k)
                    *e = was | PS;
                else
                    continue;
                write_cr3(addr(root));
                FAULTS(CODE("mov rax, [rsi]"), PF, 9 | user_bit(), level);
                FAULTS(CODE("mov [rsi], rax"), PF, 11 | user_bit(), level);
            }
            *e = was;
            write_cr3(addr(root));
            OK("mov rax, [rsi]");
        }
        uint64_t *e = entry(root, big, 2), was = *e;
        for (uint32_t bit = 13; bit < 21; bit++) {
            *e = was | 1ull << bit;
            invlpg(big);
            FAULTS(CODE("mov rax, [rdi]"), PF, 9 | user_bit(), bit);
        }
        *e = was | 1 << 12; /* PAT */
        invlpg(big);
        OK("mov rax, [rdi]");
        *e = was;
    }
    /* Bits that are ignored, PWT and PCD. */
    for (uint32_t i = 0; i < 3; i++) {
        map(root, at, DATA, P | W | U | PWT | PCD | (i & 1 ? 0x7ull << 52 | 0xe00 : 0));
        invlpg(at);
        IN(.cs = pass_cs, .rsi = at);
        OK("mov rax, [rsi + 8]; mov [rsi + 16], rax");
        EQ(out.rax, 1);
    }
    map(root, at, 0xfffffffffffff000 & ~P & ~NX, 0); /* not present: everything else is free */
    invlpg(at);
    IN(.cs = pass_cs, .rsi = at);
    FAULT("mov rax, [rsi]", PF, user_bit());
}

/* One frame at many linear addresses: what one writes all see. */
static void aliases(void)
{
    start();
    for (uint32_t n = 0; n < 8; n++)
        map(root, place(n) + 0x7000, DATA, P | W | U);
    for (uint32_t n = 0; n < 8; n++)
        memory[n] = place(n) + 0x7000;
    frame(0)[0] = 0;
    IN(.cs = pass_cs, .rsi = HERE(memory), .rcx = 800, .r8 = 0);
    OK("1: mov eax, ecx; and eax, 7; mov rdx, [rsi + rax * 8]; xor eax, 5; mov rdi, [rsi + rax * "
       "8]; inc qword ptr [rdx]; mov rbx, [rdi]; add r8, rbx; "
       "mov [rdi + 8], rbx; cmp [rdx + 8], rbx; jne 2f; loop 1b; 2:");
    EQ(out.rcx, 0);
    EQ(out.r8, 800 * 801 / 2);
    EQ(frame(0)[0], 800);
}

/* Pages in 500 different 64 GiB regions, visited in turn, three times. */
static void many_regions(void)
{
    start();
    enum { REGIONS = 500 };
    uint64_t first = pass_cs == UCODE || rep & 1 ? 0x100000000000 : 0xffffa00000000000;
    for (uint64_t i = 0; i < REGIONS; i++)
        map(root, first + i * 0x1000000000 + i * 0x1000, DATA + (i & 63) * 4096, P | W | U);
    uint64_t sum = 0;
    for (uint64_t i = 0; i < REGIONS; i++)
        sum += (i & 63) * 1000 + 3;
    IN(.cs = pass_cs, .r8 = first, .r9 = 0x1000001000, .rdx = 3);
    OK("1: mov rsi, r8; mov ecx, 500; 2: add rax, [rsi + 24]; mov [rsi + 32], rdx; add rbx, [rsi + "
       "32]; add rsi, r9; loop 2b; dec rdx; jnz 1b");
    EQ(out.rax, 3 * sum);
    EQ(out.rbx, 500 * 6);
    IN(.cs = pass_cs, .r8 = first + 0x1000000000);
    FAULT("mov rax, [r8]", PF, user_bit());
}

static void process_contexts(void)
{
    if (!(cpuid(1, 0).ecx >> 17 & 1) || pass_cs == UCODE)
        return;
    enum { NO_FLUSH = 63 };
    start();
    uint64_t cr4 = read_cr4(), at = 0x123440000000;
    for (uint32_t i = 0; i < 3; i++) {
        roots[i] = space_new();
        map(roots[i], at, DATA + i * 4096, P | W);
    }
    write_cr3(addr(roots[0]));
    write_cr4(cr4 | CR4_PCIDE);
    uint64_t keep = 1ull << NO_FLUSH;
    IN(.rsi = at, .rcx = 30, .r8 = addr(roots[0]) | 1, .r9 = addr(roots[1]) | 2,
       .r10 = addr(roots[2]) | 3, .r11 = keep);
    OK("mov cr3, r8; mov cr3, r9; mov cr3, r10; or r8, r11; or r9, r11; or r10, r11; 1: mov cr3, "
       "r8; add rax, [rsi]; mov cr3, r9; add rbx, [rsi]; mov "
       "cr3, r10; add rdx, [rsi]; loop 1b; mov r12, cr3");
    EQ(out.rax, 0);
    EQ(out.rbx, 30 * 1000);
    EQ(out.rdx, 30 * 2000);
    EQ(out.r12, addr(roots[2]) | 3); /* bit 63 does not stay */
    /* A change in a space that is not the current one; INVPCID, or CR3 without bit 63. */
    map(roots[0], at, DATA + 10 * 4096, P | W);
    IN(.rsi = at, .r8 = addr(roots[0]) | 1);
    OK("mov cr3, r8; mov rax, [rsi]");
    EQ(out.rax, 10000);
    if (cpuid(7, 0).ebx >> 10 & 1) {
        static uint64_t descriptor_[2];
        for (uint32_t type = 0; type < 4; type++)
            for (uint32_t i = 0; i < 3; i++) {
                map(roots[1], at, DATA + (i + 20) * 4096, P | W);
                descriptor_[0] = type < 2 ? 2 : 0, descriptor_[1] = at;
                IN(.rsi = at, .r8 = keep | addr(roots[0]) | 1, .r9 = keep | addr(roots[1]) | 2,
                   .rdx = HERE(descriptor_), .rbx = type);
                OK("mov cr3, r8; invpcid rbx, [rdx]; mov cr3, r9; mov rax, [rsi]");
                CHECK(out.rax, (i + 20) * 1000, "invpcid", type);
            }
        descriptor_[0] = 0x1000;
        IN(.rdx = HERE(descriptor_), .rbx = 1);
        UNLESS_QEMU(INVPCID) FAULT("invpcid rbx, [rdx]", GP, 0);
        in.rbx = 4;
        descriptor_[0] = 0;
        FAULT("invpcid rbx, [rdx]", GP, 0);
    }
    write_cr3(addr(root));
    write_cr4(cr4);
}

/* SMAP: CPL 0 leaves user pages alone unless AC is set. */
static void access_prevention(void)
{
    if (!(cpuid(7, 0).ebx >> 20 & 1))
        return;
    start();
    uint64_t at = 0x123440000000;
    map(root, at, DATA, P | W | U);
    map(root, at + 4096, DATA + 4096, P | W);
    if (pass_cs == UCODE) {
        write_cr4(read_cr4() | CR4_SMAP);
        IN(.cs = UCODE, .rsi = at, .rax = 3);
        OK("mov [rsi], rax; mov rbx, [rsi]; push rbx; pop rcx");
        EQ(out.rcx, 3);
        FAULT("clac", UD, 0);
        write_cr4(read_cr4() & ~(uint64_t)CR4_SMAP);
        return;
    }
    uint64_t base = pass_base;
    pass_base = pass_base ? pass_base : DIRECT;
    for (uint32_t round = 0; round < 3; round++) {
        write_cr4(read_cr4() | CR4_SMAP);
        IN(.rsi = at, .rdi = at + 4096, .rcx = 20);
        FAULT("mov rax, [rsi]", PF, 1);
        FAULT("mov [rsi + 8], rax", PF, 3);
        FAULT("lodsb", PF, 1);
        OK("mov rax, [rdi]");
        OK("1: stac; mov rax, [rsi]; mov [rsi + 8], rax; clac; mov rbx, [rdi]; loop 1b");
        EQ(out.rax, 0);
        EQ(out.rflags & ACF, 0);
        in.rflags = ACF;
        OK("mov rax, [rsi]; mov [rsi], rax");
        FAULT("clac;" AT "mov rax, [rsi]", PF, 1);
        in.rflags = 0;
        write_cr4(read_cr4() & ~(uint64_t)CR4_SMAP);
        OK("mov rax, [rsi]");
        FAULT("stac; clac; nop;" AT "ud2", UD, 0);
    }
    pass_base = base;
}

void guest_main(void)
{
    GROUP(sizes);
    GROUP(rights_of_levels);
    GROUP(accessed_and_dirty);
    GROUP(demand);
    GROUP(rights_change);
    GROUP(spaces);
    GROUP(far_branches);
    GROUP(global_pages);
    GROUP(tables_by_direct_map);
    GROUP(code_frames);
    GROUP(reserved_bits);
    GROUP(aliases);
    GROUP(many_regions);
    GROUP(process_contexts);
    GROUP(access_prevention);
}
