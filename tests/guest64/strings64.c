/* strings64.c - string instructions in 64-bit mode: results, registers, flags, the state at a
 * fault.
 *
 * SDM 2: MOVS, STOS, LODS, SCAS, CMPS, INS, OUTS, REP/REPE/REPNE; SDM 1 7.3.9; SDM 3A 6.5 (restart
 * of a faulting iteration). model() executes the manual's "Operation" on a shadow of the arena; the
 * CPU runs the same on the arena itself, which it sees at two linear addresses at a time, mostly
 * over multiples of 4 GiB and 64 GiB; registers, flags and all bytes must agree. Faults in the
 * middle: the registers must name the iteration that faulted, and going on must finish the job. */
#include "guest64.h"

const char guest_name[] = "strings64";

enum { SIZE = 4 * 4096 };
enum op { MOVS, STOS, LODS, SCAS, CMPS };

static uint8_t arena[SIZE] USER __attribute__((aligned(4096)));
static uint8_t shadow[SIZE];
static uint8_t code[4096] USER_CODE;
static const uint8_t opcode[] = {0xa4, 0xaa, 0xac, 0xae, 0xa6};

/* The arena's linear addresses; its middle is two pages further. */
static const uint64_t views[] = {0x40000000,         0xffffe000,         0x1ffffe000,
                                 0xfffffe000,        0x123456789000,     0x7fffffffb000,
                                 0x7fffffe000,       0xffff800000000000, 0xffff8887ffffe000,
                                 0xffffc8ffffffe000, 0xfffffffffffe0000};
enum { USER_VIEWS = 7 };

static uint64_t *views_map(void)
{
    frames_reset();
    uint64_t *root = space_new();
    for (uint32_t i = 0; i < COUNT(views); i++)
        for (uint32_t page = 0; page < SIZE; page += 4096)
            map(root, views[i] + page, addr(arena) + page, P | W | (i < USER_VIEWS ? U : 0u));
    write_cr3(addr(root));
    return root;
}

static uint64_t view(uint64_t n)
{
    return views[n % (pass_cs == UCODE ? USER_VIEWS : COUNT(views))];
}

static void fill(uint32_t pattern)
{
    for (uint32_t i = 0; i < SIZE; i++)
        arena[i] = (uint8_t)(pattern == 0 ? i * 7 + (i >> 8) : pattern == 1 ? 0x5a : i / 24);
    memcpy(shadow, arena, SIZE);
}

static uint64_t get(uint64_t offset, uint32_t size)
{
    uint64_t value = 0;
    memcpy(&value, shadow + offset, size);
    return value;
}

static uint64_t mask_of(uint32_t size)
{
    return size == 8 ? ~0ull : (1ull << size * 8) - 1;
}

static uint64_t compare_flags(uint64_t a, uint64_t b, uint32_t size)
{
    uint64_t r = (a - b) & mask_of(size), parity = r & 0xff, borrows = (~a & b) | ((~a | b) & r);
    uint32_t top = size * 8 - 1;
    parity ^= parity >> 4;
    parity = 0x9669 >> (parity & 15) & 1;
    return (parity ? PFL : 0u) | (r ? 0u : ZF) | (r >> top & 1 ? SF : 0u) | ((a ^ b ^ r) & AF) |
           (borrows >> top & 1) | (((a ^ b) & (a ^ r)) >> top & 1 ? OFL : 0u);
}

/* The manual's operation, on shadow, whose offset 0 is at `source` and at `to`. rep: 0 none, F3h,
 * F2h. */
static void model(struct state *s, enum op op, uint32_t size, uint32_t prefix, uint64_t source,
                  uint64_t to)
{
    uint64_t step = s->rflags & DFL ? 0 - (uint64_t)size : size, mask = mask_of(size), a;
    while (!prefix || s->rcx) {
        switch (op) {
        case MOVS:
            a = get(s->rsi - source, size);
            memcpy(shadow + (s->rdi - to), &a, size);
            break;
        case STOS:
            memcpy(shadow + (s->rdi - to), &s->rax, size);
            break;
        case LODS:
            a = get(s->rsi - source, size);
            s->rax = size == 4 ? a : (s->rax & ~mask) | a;
            break;
        default:
            a = op == SCAS ? s->rax & mask : get(s->rsi - source, size);
            s->rflags =
                (s->rflags & ~(uint64_t)ARITH) | compare_flags(a, get(s->rdi - to, size), size);
        }
        if (op != STOS && op != SCAS)
            s->rsi += step;
        if (op != LODS)
            s->rdi += step;
        if (!prefix)
            return;
        s->rcx--;
        if (op >= SCAS && !(s->rflags & ZF) != (prefix == 0xf2))
            return;
    }
}

static uint8_t *emit(enum op op, uint32_t size, uint32_t prefix, bool narrow)
{
    uint32_t log = size == 8 ? 3 : size / 2;
    uint8_t *p =
        code + ((((uint32_t)op * 4 + log) * 3 + (prefix ? prefix & 3 : 0)) * 2 + narrow) * 16;
    uint8_t *first = p;
    if (size == 2)
        *p++ = 0x66;
    if (narrow)
        *p++ = 0x67;
    if (prefix)
        *p++ = (uint8_t)prefix;
    if (size == 8)
        *p++ = 0x48;
    *p++ = (uint8_t)(opcode[op] | (size > 1));
    memcpy(p, (const uint8_t[]){0xcd, DONE}, 2);
    return first;
}

static void compare(const struct state *want, uint64_t n)
{
    CHECK(out.vector, DONE, "string", n);
    CHECK(out.rax, want->rax, "rax", n);
    CHECK(out.rcx, want->rcx, "rcx", n);
    CHECK(out.rsi, want->rsi, "rsi", n);
    CHECK(out.rdi, want->rdi, "rdi", n);
    CHECK(out.rflags, want->rflags | 2, "rflags", n);
    CHECK(memcmp(arena, shadow, SIZE), 0, "memory", n);
}

/* Source and destination around the arena's middle, also overlapping ones, in one view or in two.
 */
static void all_forms(void)
{
    static const uint32_t counts[] = {0, 1, 2, 5, 64, 65, 400};
    static const int32_t distance[] = {3300, 1, -1, 2, -2, 8, 3000, -3, 64, -7};
    static const uint32_t prefixes[] = {0, 0xf3, 0xf2};
    uint32_t n = (uint32_t)rep;
    views_map();
    for (enum op op = MOVS; op <= CMPS; op++)
        for (uint32_t size = 1; size <= 8; size *= 2)
            for (uint32_t p = 0; p < 3; p++)
                for (uint32_t c = 0; c < COUNT(counts); c++)
                    for (uint32_t backward = 0; backward < 2; backward++) {
                        if (op < SCAS && prefixes[p] == 0xf2)
                            continue;
                        fill(n % 3);
                        uint64_t source = view(n), to = n & 1 ? source : view(n * 5 + 1);
                        uint64_t start = (backward ? 8192 + 1200 : 8192 - 1200) + n % 8;
                        int32_t d = distance[n++ % COUNT(distance)];
                        if (to != source) /* fast strings may look at linear addresses only */
                            d = distance[0];
                        IN(.rax = 0x5a5a5a5a5a5a5a5a, .rcx = counts[c], .rsi = source + start,
                           .rdi = to + start + (uint64_t)(int64_t)d,
                           .rflags = (backward ? DFL : 0u) | (n & 1 ? ARITH : 0u), .cs = pass_cs,
                           .rip = HERE(emit(op, size, prefixes[p], false)), .r9 = 9);
                        struct state want = in;
                        model(&want, op, size, prefixes[p], source, to);
                        go(CODE("nop"));
                        compare(&want, op * 1000 + size * 100 + p * 10 + backward);
                    }
}

/* 67h: ESI, EDI and ECX, whose upper halves clear. */
static void address_32(void)
{
    static const uint32_t prefixes[] = {0, 0xf3, 0xf2};
    uint64_t base = addr(arena);
    for (enum op op = MOVS; op <= CMPS; op++)
        for (uint32_t size = 1; size <= 8; size *= 2)
            for (uint32_t p = 0; p < 3; p++)
                for (uint32_t backward = 0; backward < 2; backward++) {
                    if (op < SCAS && prefixes[p] == 0xf2)
                        continue;
                    fill(1);
                    IN(.rax = 0x5a5a5a5a5a5a5a5a, .rcx = 0x1234567800000021, .rdi = base + 4096 + 3,
                       .rsi = base + 8192 + 5, .rflags = backward ? DFL : 0u, .cs = pass_cs,
                       .rip = HERE(emit(op, size, prefixes[p], true)));
                    struct state want = in;
                    want.rcx = (uint32_t)want.rcx;
                    model(&want, op, size, prefixes[p], base, base);
                    if (!prefixes[p])
                        want.rcx = in.rcx;
                    if (op == STOS || op == SCAS)
                        want.rsi |= 0x9999999900000000;
                    if (op == LODS)
                        want.rdi |= 0x7777777700000000;
                    in.rsi |= 0x9999999900000000, in.rdi |= 0x7777777700000000;
                    go(CODE("nop"));
                    compare(&want, op * 1000 + size * 100 + p * 10 + backward);
                }
    /* From ffffffffh on to 0, on both sides. */
    frames_reset();
    uint64_t *root = space_new();
    map(root, 0xfffff000, addr(arena), P | W | U);
    uint64_t *directory = frame_new(), *table = frame_new(), *pdpt = frame_new();
    memcpy(directory, (void *)(*entry(root, 0, 3) & ~0xfffull), 4096);
    for (uint32_t i = 0; i < 512; i++)
        table[i] = i << 12 | P | W;
    table[0] = (addr(arena) + 4096) | P | W | U;
    directory[0] = addr(table) | P | W | U;
    memcpy(pdpt, (void *)(root[0] & ~0xfffull), 4096);
    pdpt[0] = addr(directory) | P | W | U;
    root[0] = addr(pdpt) | P | W | U;
    write_cr3(addr(root));
    fill(0);
    IN(.cs = pass_cs, .rsi = 0xfffffff0, .rdi = HERE(arena) + 8192, .rcx = 0xabc00000020);
    if (pass_base)
        in.rdi = addr(arena) + 8192;
    OK("addr32 rep movsb");
    EQ(out.rsi, 0x10);
    EQ(out.rcx, 0);
    EQ(memcmp(arena + 8192, shadow + 4096 - 16, 32), 0);
    IN(.cs = pass_cs, .rdi = 0xffffffffffffffe8, .rax = 0x0102030405060708, .rcx = 6);
    OK("addr32 rep stosq");
    EQ(out.rdi, 0x18);
    EQ(*(uint64_t *)(arena + 4096 - 8), in.rax);
    EQ(*(uint64_t *)(arena + 4096 + 16), in.rax);
    EQ(arena[4096 + 24], shadow[4096 + 24]);
}

static void segments(void)
{
    static const uint64_t bases[] = {0, 0x10000, 0xffff800012345678, 0x7ffffffff000, -16ull, HIGH};
    for (uint32_t i = 0; i < COUNT(bases); i++) {
        fill(0);
        IN(.cs = pass_cs, .fs_base = bases[i], .gs_base = bases[i] - 0,
           .rsi = HERE(arena) - bases[i], .rdi = HERE(arena) + 4096, .rcx = 100);
        OK("rep movsb es:[rdi], fs:[rsi]; mov r8, rsi; lodsq rax, gs:[rsi]; mov r9, rax; mov ecx, "
           "3; "
           "repe cmpsb gs:[rsi], es:[rdi]; movsw es:[rdi], fs:[rsi]; lodsb al, fs:[rsi]");
        EQ(memcmp(arena + 4096, shadow, 100), 0);
        EQ(out.r8, in.rsi + 100);
        EQ(out.r9, get(100, 8));
        EQ(out.vector, DONE);
        EQ((out.rax & 0xff) - get(out.rsi - in.rsi - 1, 1), 0);
    }
    /* The destination has no override. */
    IN(.cs = pass_cs, .fs_base = 0x5555, .rdi = HERE(arena), .rcx = 4, .rax = 0x42);
    OK(".byte 0x64, 0xf3, 0xaa; .byte 0x64; stosd; .byte 0x64; scasb");
    EQ(*(uint64_t *)arena, 0x0000004242424242);
}

/* Pages 0 and 2 of a window are there, page 1 is not; the handler maps it, or the case ends. */
static const uint64_t windows[] = {0x60000000, 0xfffff000, 0x2ffffff000, 0xffff9000fffff000};
static uint64_t *space, window_at;
static uint32_t faults;

static bool map_on_fault(struct frame *frame)
{
    if (frame->vector != PF)
        return false;
    faults++;
    uint64_t page = read_cr2() & ~0xfffull;
    map(space, page, addr(arena) + page - window_at, P | W | U);
    return true;
}

static void window(uint32_t pages)
{
    for (uint32_t i = 0; i < 3; i++) {
        map(space, window_at + i * 4096, addr(arena) + i * 4096, pages >> i & 1 ? P | W | U : 0u);
        invlpg(window_at + i * 4096);
    }
}

static void faults_midway(void)
{
    frames_reset();
    space = space_new();
    write_cr3(addr(space));
    ist_all(1); /* the window may be anywhere, the stack is not */
    uint64_t user = pass_cs == UCODE ? 4 : 0;
    for (uint32_t w = 0; w < COUNT(windows); w++) {
        window_at = windows[w];
        for (uint32_t size = 1; size <= 8; size *= 2)
            for (enum op op = MOVS; op <= CMPS; op++)
                for (uint32_t backward = 0; backward < 2; backward++) {
                    bool to = op == STOS || op == SCAS;
                    uint64_t count = size == 8 ? 0x7fffffffffffffff : 40;
                    window(5);
                    fill(op == SCAS || op == CMPS ? 1 : 0);
                    /* Ten iterations fit before the hole; elements are aligned. */
                    uint64_t edge = window_at + (backward ? 8192 + 9 * size : 4096 - 10 * size);
                    uint64_t other = HERE(arena) + 3 * 4096 + 2048;
                    uint64_t step = backward ? 0 - (uint64_t)size : size;
                    uint8_t *instruction = emit(op, size, 0xf3, false);
                    IN(.rax = 0x5a5a5a5a5a5a5a5a, .rcx = count, .rsi = to ? other : edge,
                       .rdi = to ? edge : other, .rflags = backward ? DFL : 0u, .cs = pass_cs,
                       .rip = HERE(instruction), .r15 = 15);
                    go(CODE("nop"));
                    CHECK(out.vector, PF, "fault midway", op);
                    CHECK(out.error, (op == STOS ? 2 : 0) | user, "error", op);
                    CHECK(out.cr2, edge + 10 * step, "cr2", op);
                    CHECK(out.rcx, count - 10, "rcx at the fault", op);
                    CHECK(out.rip, HERE(instruction), "rip at the fault", op);
                    CHECK(out.rsi, op == STOS || op == SCAS ? in.rsi : in.rsi + 10 * step, "rsi",
                          op);
                    CHECK(out.rdi, op == LODS ? in.rdi : in.rdi + 10 * step, "rdi", op);
                    /* And again with the page coming in on the fault: must run to the end. */
                    window(5);
                    faults = 0;
                    in.rcx = 40;
                    trap_hook = map_on_fault;
                    go(CODE("nop"));
                    trap_hook = NULL;
                    CHECK(out.vector, DONE, "continued", op);
                    CHECK(faults, 1, "faults", op);
                    CHECK(out.rcx, 0, "rcx at the end", op);
                    CHECK(out.rsi, op == STOS || op == SCAS ? in.rsi : in.rsi + 40 * step, "rsi",
                          op);
                    CHECK(out.rdi, op == LODS ? in.rdi : in.rdi + 40 * step, "rdi", op);
                }
        /* An element that crosses into the hole faults whole: no byte is written. */
        window(5);
        fill(0);
        IN(.rcx = 4, .rdi = window_at + 4096 - 12, .rax = -1ull, .cs = pass_cs);
        RUN("rep stosq");
        EQ(out.vector, PF);
        EQ(out.cr2, window_at + 4096);
        EQ(out.rcx, 3);
        EQ(out.rdi, window_at + 4096 - 4);
        EQ(arena[4096 - 5], 0xff);
        EQ(memcmp(arena + 4096 - 4, shadow + 4096 - 4, 4), 0);
        /* MOVS reads before it writes; the destination needs write access. */
        window(4);
        IN(.rcx = 4, .rsi = window_at + 4096, .rdi = window_at, .cs = pass_cs);
        FAULT("rep movsb", PF, user);
        EQ(out.cr2, window_at + 4096);
        map(space, window_at, addr(arena), P | U);
        invlpg(window_at);
        IN(.rcx = 4, .rsi = window_at + 8192, .rdi = window_at + 16, .cs = pass_cs);
        FAULT("rep movsb", PF, 3 | user);
        EQ(out.cr2, window_at + 16);
        FAULT("cld;" AT "rep stosb", PF, 3 | user);
    }
}

/* A count of 0 touches nothing, wherever the pointers are; non-canonical ones fault otherwise. */
static void ends(void)
{
    uint64_t *root = views_map();
    ist_all(1);
    IN(.rcx = 0, .rsi = 0xdeadbeefdeadbeef, .rdi = 0x123400000000cafe, .cs = pass_cs,
       .rflags = ARITH);
    OK("rep movsq; rep stosb; rep lodsd; repe cmpsb; repne scasw; rep movsb");
    EQ(out.rsi, in.rsi);
    EQ(out.rdi, in.rdi);
    EQ(out.rflags, ARITH | 2);
    FAULT("mov ecx, 5; nop;" AT "rep movsq", GP, 0);
    EQ(out.rcx, 5);
    IN(.rsi = 0xdeadbeefdeadbeef, .rdi = 0x123400000000cafe, .cs = pass_cs, .rcx = 7);
    FAULT("stosb", GP, 0);
    FAULT("lodsq", GP, 0);
    FAULT("rep scasw", GP, 0);
    FAULT("rep cmpsd", GP, 0);
    /* Up to the last canonical address and over it. */
    map(root, 0x7ffffffff000, addr(arena) + 3 * 4096, P | W | U);
    fill(0);
    IN(.rdi = 0x7ffffffffff0, .rcx = 0x7fffffffffffffff, .rax = 0x11, .cs = pass_cs);
    RUN("rep stosb");
    EQ(out.vector, GP);
    EQ(out.error, 0);
    EQ(out.rdi, 0x800000000000);
    EQ(out.rcx, 0x7fffffffffffffff - 16);
    EQ(out.rip - entered, 0);
    EQ(arena[SIZE - 1], 0x11);
    IN(.rsi = 0x7ffffffff7f0, .rdi = view(2), .rcx = -1ull, .cs = pass_cs);
    RUN("rep movsq");
    EQ(out.vector, GP);
    EQ(out.rsi, 0x800000000000);
    EQ(out.rdi, view(2) + 0x810);
    if (pass_cs == KCODE) { /* down from the first address of the upper half */
        IN(.rdi = 0xffff800000000010, .rcx = 0x7ffffffffffffff0, .rax = 0x22, .rflags = DFL);
        RUN("rep stosb");
        EQ(out.vector, GP);
        EQ(out.rdi, 0xffff7fffffffffff);
        EQ(out.rcx, in.rcx - 17);
        EQ(arena[16], 0x22);
    }
    /* An endless count into an absent page, over one multiple of 4 GiB. */
    IN(.rdi = views[1], .rcx = -1ull, .rax = 0x3333333333333333, .cs = pass_cs);
    RUN("rep stosq");
    EQ(out.vector, PF);
    EQ(out.cr2, views[1] + SIZE);
    EQ(out.rdi, views[1] + SIZE);
    EQ(out.rcx, -1ull - SIZE / 8);
    /* SCAS for what is not there ends the same way. */
    IN(.rdi = views[3], .rcx = -1ull, .rax = 0x77, .cs = pass_cs, .r8 = 1);
    RUN("repne scasb");
    EQ(out.vector, PF);
    EQ(out.cr2, views[3] + SIZE);
    EQ(out.rcx, -1ull - SIZE);
}

/* INS and OUTS: only DX's low 16 bits, EDI or RDI. */
static void ports(void)
{
    if (pass_cs == UCODE)
        return;
    views_map();
    fill(0);
    outb(0x21, 0x5b);
    IN(.rdx = 0xffff00000021, .rdi = view((uint64_t)rep) + 4096 - 4, .rcx = 9, .rsi = 1);
    OK("rep insb");
    EQ(out.rcx, 0);
    EQ(out.rdi, in.rdi + 9);
    for (uint32_t i = 0; i < 9; i++)
        EQ(arena[4092 + i], 0x5b);
    EQ(arena[4092 + 9], shadow[4092 + 9]);
    arena[100] = 0xfe;
    IN(.rdx = 0x21, .rsi = view((uint64_t)rep + 3) + 100, .rcx = 1);
    OK("rep outsb; in al, dx; outsb; mov bl, al");
    EQ(out.rbx, 0xfe);
    EQ(out.rsi, in.rsi + 2);
    outb(0x21, 0xff);
}

/* Large and hot: copies, fills and compares in a loop, source and destination in different places.
 */
static void hot_copies(void)
{
    views_map();
    for (uint32_t i = 0; i < COUNT(views); i++) {
        fill(0);
        uint64_t source = view(i), to = view(i + 1 + (uint32_t)rep);
        IN(.r8 = 60, .r12 = source, .r13 = to + 8192, .cs = pass_cs);
        OK("1: mov rsi, r12; mov rdi, r13; mov ecx, 1024; rep movsq; mov rsi, r12; mov rdi, r13; "
           "mov ecx, "
           "8192; repe cmpsb; setz r9b; sete r10b; add r11, r9; add rbx, r10; inc byte ptr [r12 + "
           "17]; "
           "mov rdi, r12; mov eax, r8d; mov ecx, 3; rep stosb; dec r8; jnz 1b");
        EQ(out.r11, 60);
        EQ(out.rbx, 60);
        EQ(arena[17], (shadow[17] + 60) & 0xff);
        EQ(arena[8192 + 17], (shadow[17] + 59) & 0xff);
        EQ(arena[8192], 2);
        EQ(arena[2], 1);
    }
}

void guest_main(void)
{
    GROUP(all_forms);
    GROUP(address_32);
    GROUP(segments);
    GROUP(faults_midway);
    GROUP(ends);
    GROUP(ports);
    GROUP(hot_copies);
}
