/* addressing64.c - every way of naming memory in 64-bit mode reaches the byte that the manual says.
 *
 * SDM 2 2.1.5, 2.2.1 (REX, tables 2-2, 2-3, 2-5), 2.2.1.6 (RIP-relative), 2.2.1.4 (direct memory
 * offset MOVs), SDM 1 3.3.7.1 (canonical addresses), 3.4.2.1 and SDM 3A 3.4.4 (FS and GS bases).
 * forms() generates all ModRM/SIB encodings into one buffer, gives all sixteen registers values
 * that put the address into `target`, seen at linear addresses in many places, mostly around
 * multiples of 4 GiB, and runs each as load, store, LEA, locked XADD, byte load, ADD of an
 * immediate, with FS, and with 32-bit addresses. */
#include "guest64.h"

const char guest_name[] = "addressing64";

enum { TARGET = 8192, FORMS = 3 * (14 + 1024), FORM_BYTES = 32 };

static uint8_t target[TARGET] USER __attribute__((aligned(4096)));
static uint8_t code[FORMS * FORM_BYTES] USER_CODE;

/* Where two pages of `target` are seen, middles first at multiples of 4 GiB and 64 GiB. */
static const uint64_t views[] = {0xfffff000,         0x1fffff000,        0xffffff000,
                                 0x7ffffff000,       0x123456789000,     0x7fffffffe000,
                                 0x40000000,         0x80000000,         0xffff800000000000,
                                 0xffff8887fffff000, 0xffffc8fffffff000, 0xfffffffefffff000,
                                 0xffffffffd0000000, 0xffffffffffffd000};
enum { USER_VIEWS = 8, LOW_VIEW = 6 };

static void fill(void)
{
    for (uint32_t i = 0; i < TARGET; i += 8) {
        uint64_t value = i * 0x9e3779b97f4a7c15 + 0x1234567;
        memcpy(target + i, &value, 8);
    }
}

/* A root with the views, loaded. */
static uint64_t *views_map(void)
{
    frames_reset();
    uint64_t *root = space_new();
    for (uint32_t i = 0; i < COUNT(views); i++)
        for (uint32_t page = 0; page < TARGET; page += 4096)
            map(root, views[i] + page, addr(target) + page, P | W | (i < USER_VIEWS ? U : 0u));
    write_cr3(addr(root));
    return root;
}

/* A view that the pass may use. */
static uint64_t view(uint64_t n)
{
    return views[n % (pass_cs == UCODE ? USER_VIEWS : COUNT(views))];
}

static uint64_t qword_at(uint64_t offset)
{
    uint64_t value;
    memcpy(&value, target + offset, 8);
    return value;
}

struct form {
    uint32_t rex, modrm, sib, disp_size; /* modrm without reg */
    int base, index;                     /* register numbers, -1: none */
    uint32_t shift;
    int64_t disp;
    bool has_sib;
};

/* Decodes encoding number n; false for RIP-relative ones. */
static bool form_get(uint32_t n, struct form *f)
{
    uint32_t mod = n / 1038, rest = n % 1038;
    *f = (struct form){.base = -1, .index = -1, .disp_size = mod == 0 ? 0 : mod == 1 ? 1 : 4};
    if (rest < 14) {
        uint32_t rm = rest < 4 ? rest : rest < 11 ? rest + 1 : rest + 2;
        f->base = (int)rm;
        f->rex = rm >> 3;
        f->modrm = mod << 6 | (rm & 7);
        return mod || (rm & 7) != 5;
    }
    rest -= 14;
    uint32_t base = rest & 15, index = rest >> 4 & 15;
    f->has_sib = true;
    f->shift = rest >> 8;
    f->sib = f->shift << 6 | (index & 7) << 3 | (base & 7);
    f->rex = base >> 3 | index >> 3 << 1;
    f->modrm = mod << 6 | 4;
    if (index != 4)
        f->index = (int)index;
    if (mod == 0 && (base & 7) == 5)
        f->disp_size = 4;
    else
        f->base = (int)base;
    return true;
}

static void form_disp(struct form *f)
{
    if (f->disp_size == 1)
        f->disp = (const int8_t[]){0, 127, -128, -1, 8}[random64() % 5];
    else if (f->disp_size == 4)
        f->disp = (int32_t)random64() >> (random64() & 15);
}

/* Sets `in`'s registers so that the address is `want` or near it; returns the address. */
static uint64_t form_registers(struct form *f, uint64_t want)
{
    for (uint32_t i = 0; i < 16; i++)
        in.r[i] = random64() >> (random64() & 31);
    uint64_t rest = want - (uint64_t)f->disp;
    if (f->base >= 0 && f->base == f->index) {
        uint64_t factor = 1 + (1u << f->shift), inverse = 1;
        for (int i = 0; i < 6; i++) /* Newton: exact modulo 2^64 for odd factors */
            inverse *= 2 - factor * inverse;
        in.r[f->base] = f->shift ? rest * inverse : rest / 2 | (random64() & 1ull << 63);
    } else if (f->base >= 0) {
        in.r[f->base] = rest - (f->index >= 0 ? in.r[f->index] << f->shift : 0);
    } else if (f->index >= 0) {
        in.r[f->index] = rest >> f->shift;
        if (f->shift) /* the bits that the scale shifts out do not matter */
            in.r[f->index] |= random64() << (64 - f->shift);
    }
    return (uint64_t)f->disp + (f->base >= 0 ? in.r[f->base] : 0) +
           (f->index >= 0 ? in.r[f->index] << f->shift : 0);
}

enum kind { LOAD, STORE, LEA, XADD, BYTE, IMMEDIATE, WORD, WITH_FS, LOAD_32, LEA_32, KINDS };
static const struct {
    uint8_t prefix, rex_w, two_bytes, opcode;
} kinds[] = {{0, 8, 0, 0x8b},    {0, 8, 0, 0x89},   {0, 8, 0, 0x8d}, {0xf0, 8, 1, 0xc1},
             {0, 0, 0, 0x8a},    {0, 8, 0, 0x81},   {0, 0, 1, 0xb7}, {0x64, 8, 0, 0x03},
             {0x67, 0, 0, 0x8b}, {0x67, 8, 0, 0x8d}};

static uint8_t *form_emit(uint8_t *p, const struct form *f, enum kind kind, uint32_t reg)
{
    if (kinds[kind].prefix)
        *p++ = kinds[kind].prefix;
    *p++ = (uint8_t)(0x40 | kinds[kind].rex_w | reg >> 3 << 2 | f->rex);
    if (kinds[kind].two_bytes)
        *p++ = 0x0f;
    *p++ = kinds[kind].opcode;
    *p++ = (uint8_t)(f->modrm | (reg & 7) << 3);
    if (f->has_sib)
        *p++ = (uint8_t)f->sib;
    memcpy(p, &f->disp, f->disp_size);
    p += f->disp_size;
    if (kind == IMMEDIATE) {
        memcpy(p, (const uint8_t[]){0x78, 0x56, 0x34, 0x92}, 4);
        p += 4;
    }
    *p++ = 0xcd;
    *p++ = DONE;
    return p;
}

static void form_check(enum kind kind, uint32_t reg, uint64_t ea, uint64_t before, uint64_t offset,
                       uint32_t n)
{
    uint64_t was = in.r[reg], now = out.r[reg], after = qword_at(offset);
    CHECK(out.vector, DONE, "form", n);
    switch (kind) {
    case LOAD:
        CHECK(now, before, "load", n);
        break;
    case STORE:
        CHECK(after, was, "store", n);
        break;
    case LEA:
        CHECK(now, ea, "lea", n);
        break;
    case XADD:
        CHECK(now, before, "xadd register", n);
        CHECK(after, before + was, "xadd memory", n);
        break;
    case BYTE:
        CHECK(now, (was & ~0xffull) | (before & 0xff), "byte", n);
        break;
    case IMMEDIATE:
        CHECK(after, before + 0xffffffff92345678, "add immediate", n);
        break;
    case WORD:
        CHECK(now, before & 0xffff, "word", n);
        break;
    case WITH_FS:
        CHECK(now, was + before, "fs", n);
        break;
    case LOAD_32:
        CHECK(now, (uint32_t)before, "load, 32-bit address", n);
        break;
    default:
        CHECK(now, (uint32_t)ea, "lea, 32-bit address", n);
    }
    bool register_changes = kind != STORE && kind != IMMEDIATE;
    for (uint32_t r = 0; r < 16; r++)
        if (r != reg || !register_changes)
            CHECK(out.r[r], in.r[r], "register kept", n);
}

static void forms(void)
{
    ist_all(1); /* rsp may be anything */
    views_map();
    struct form f;
    for (uint32_t n = 0; n < FORMS; n++) {
        if (!form_get(n, &f))
            continue;
        enum kind kind = (n + (uint32_t)rep) % KINDS;
        uint32_t reg = kind == IMMEDIATE ? 0 : (n * 5 + (uint32_t)rep * 3) % 16;
        bool narrow = kind == LOAD_32 || kind == LEA_32, absolute = f.base < 0 && f.index < 0;
        uint64_t offset =
            random64() & 1 ? 4096 - random64() % 16 : 64 + random64() % (TARGET - 128);
        uint64_t at = narrow || absolute ? views[LOW_VIEW] : view(random64()), want = at + offset;
        uint64_t fs_base = kind == WITH_FS ? 0xffff800000000000 | random64() : 0;
        form_disp(&f);
        IN();
        if (absolute)
            f.disp = (int64_t)(int32_t)(want - fs_base), fs_base = want - (uint64_t)f.disp;
        uint64_t ea = form_registers(&f, want - fs_base) + fs_base;
        /* A scale leaves the lowest bits of the address to the displacement. */
        offset = (narrow ? (uint32_t)ea : ea) - at;
        if (kind == WITH_FS && (int64_t)(fs_base << 16) >> 16 != (int64_t)fs_base)
            continue;
        in.cs = pass_cs, in.fs_base = fs_base;
        uint8_t *p = code + n * FORM_BYTES;
        form_emit(p, &f, kind, reg);
        in.rip = HERE(p);
        fill();
        uint64_t before = offset < TARGET - 8 ? qword_at(offset) : 0;
        go(CODE("nop"));
        form_check(kind, reg, ea - fs_base, before, offset, n * 16 + kind);
    }
}

/* RIP-relative operands of instructions with and without immediates, of all sizes. */
static uint64_t data[64] USER __attribute__((aligned(64)));

static void rip_relative(void)
{
    for (uint32_t i = 0; i < COUNT(data); i++)
        data[i] = 0x1111111111111111 * (i & 15);
    IN(.cs = pass_cs, .r8 = 0x8888, .r15 = 0xf0f0f0f0f0f0f0f0, .r12 = 3);
    OK("mov rax, [rip + data + 8]; mov r9d, [rip + data + 16]; mov r10w, [rip + data + 24]; "
       "mov r11b, [rip + data + 32]; movzx r13d, byte ptr [rip + data + 40]; movsx r14, word ptr "
       "[rip + data + 80]; movsxd rbx, dword ptr [rip + data + 88]; lea rbp, [rip + data]; "
       "lea ecx, [rip + data]; lea dx, [rip + data]");
    EQ(out.rax, 0x1111111111111111);
    EQ(out.r9, 0x22222222);
    EQ(out.r10, 0x3333);
    EQ(out.r11, 0x44);
    EQ(out.r13, 0x55);
    EQ(out.r14, 0xffffffffffffaaaa);
    EQ(out.rbx, 0xffffffffbbbbbbbb);
    EQ(out.rbp, HERE(data));
    EQ(out.rcx, (uint32_t)HERE(data));
    EQ(out.rdx, HERE(data) & 0xffff);
    OK("mov [rip + data + 256], r15; mov [rip + data + 264], r8w; mov byte ptr [rip + data + 272], "
       "0x5a; mov word ptr [rip + data + 280], 0x1234; mov dword ptr [rip + data + 288], "
       "0x80000001; mov qword ptr [rip + data + 296], -5; add qword ptr [rip + data + 304], 0x7f; "
       "add dword ptr [rip + data + 312], 0x10000; sub byte ptr [rip + data + 320], 1; "
       "shl qword ptr [rip + data + 328], 4; rol word ptr [rip + data + 336], 3; "
       "bts qword ptr [rip + data + 344], 40; imul r9, [rip + data + 8], 16; imul r10, [rip + data "
       "+ 8], 0x1000; cmp dword ptr [rip + data + 8], 0x11111111; sete r11b; "
       "test byte ptr [rip + data + 8], 0x11; setnz r13b; xchg [rip + data + 352], r12; "
       "lock inc qword ptr [rip + data + 360]; not dword ptr [rip + data + 368]; "
       "shrd [rip + data + 384], r15, cl");
    EQ(data[32], in.r15);
    EQ(data[33], 0x1111111111118888);
    EQ(data[34], 0x222222222222225a);
    EQ(data[35], 0x3333333333331234);
    EQ(data[36], 0x4444444480000001);
    EQ(data[37], -5ull);
    EQ(data[38], 0x6666666666666666 + 0x7f);
    EQ(data[39], 0x7777777777787777);
    EQ(data[40], 0x8888888888888887);
    EQ(data[41], 0x9999999999999990);
    EQ(data[42], 0xaaaaaaaaaaaa5555);
    EQ(data[43], 0xbbbbbbbbbbbbbbbb | 1ull << 40);
    EQ(out.r9, 0x1111111111111110);
    EQ(out.r10, 0x1111111111111000);
    EQ(out.r11 & 1, 1);
    EQ(out.r13 & 1, 1);
    EQ(out.r12, 0xcccccccccccccccc);
    EQ(data[44], 3);
    EQ(data[45], 0xddddddddddddddde);
    EQ(data[46], 0xeeeeeeee11111111);
    UNLESS_QEMU(SHLD)
    {
        OK("shld [rip + data + 376], r15, 8; shrd dword ptr [rip + data + 392], r8d, 4");
        EQ(data[47], 0xfffffffffffffff0);
        EQ(data[49], 0x1111111181111111);
    }
    IN(.cs = pass_cs);
    OK("mov r8d, 500; 1: add qword ptr [rip + data], 3; mov rax, [rip + data]; add rbx, rax; "
       "dec r8d; jnz 1b; push [rip + data + 8]; pop [rip + data + 16]; lea rcx, [rip + 2f]; "
       "mov [rip + data + 24], rcx; call [rip + data + 24]; jmp [rip + data + 32]; 2: lea rdx, "
       "[rip + 3f]; mov [rip + data + 32], rdx; ret; 3: nop");
    EQ(out.rax, 1500);
    EQ(out.rbx, 3 * 500 * 501 / 2);
    EQ(data[2], 0x1111111111111111);
}

/* One page of code and one of data behind it, seen at many places: RIP-relative over multiples of
 * 4 GiB and 64 GiB, forward and backward. */
static void rip_relative_far(void)
{
    static const uint64_t where[] = {
        0x40000000,     0xfffff000,   0xffffff000,        0x7fffff000,        0x123456789000,
        0x7fffffffd000, 0x8000000000, 0xffff8887fffff000, 0xffffc90123fff000, 0xfffffffffffe0000};
    enum { USERS = 7 };
    frames_reset();
    uint64_t *root = space_new();
    for (uint32_t i = 0; i < COUNT(where); i++)
        for (uint32_t page = 0; page < 3 * 4096; page += 4096)
            map(root, where[i] + page, addr(code) + page, P | W | (i < USERS ? U : 0u));
    write_cr3(addr(root));
    /* At 4096 + 16: mov rax, [rip + 2000h - ...]: data at 8192 + 8; add [rip + ...], imm8: data at
     * 0; lea rdx, [rip]: and RET. */
    uint8_t *p = code + 4096 - 4;
    int32_t disp = 8192 + 8 - (4096 - 4 + 7);
    memcpy(p, (const uint8_t[]){0x48, 0x8b, 0x05}, 3);
    memcpy(p + 3, &disp, 4);
    disp = 64 - (4096 - 4 + 7 + 8);
    memcpy(p + 7, (const uint8_t[]){0x48, 0x83, 0x05}, 3);
    memcpy(p + 10, &disp, 4);
    memcpy(p + 14, (const uint8_t[]){5, 0x48, 0x8d, 0x15, 0, 0, 0, 0, 0xc3}, 9);
    uint64_t value = 0xfeedface12345678, sum = 0;
    memcpy(code + 8192 + 8, &value, 8);
    memcpy(code + 64, &sum, 8);
    uint32_t count = pass_cs == UCODE ? USERS : COUNT(where);
    for (uint32_t i = 0; i < count; i++) {
        IN(.cs = pass_cs, .rcx = 20, .r9 = where[i] + 4092);
        OK("1: call r9; add r10, rax; loop 1b");
        sum += 100;
        CHECK(out.r10, value * 20, "load ahead", i);
        CHECK(memcmp(code + 64, &sum, 8), 0, "add behind", i);
        CHECK(out.rdx, where[i] + 4092 + 22, "own address", i);
    }
    /* One site, all places in turn. */
    for (uint32_t i = 0; i < 200; i++)
        data[i & 63] = where[i * 3 % count] + 4092;
    IN(.cs = pass_cs, .rcx = 640, .rsi = HERE(data));
    OK("1: mov eax, ecx; and eax, 63; call [rsi + rax * 8]; add r10, rax; loop 1b");
    EQ(out.r10, value * 640);
}

/* 67h: RIP-relative addresses are truncated, bases and indices too, stores as well. */
static void narrow(void)
{
    frames_reset();
    uint64_t *root = space_new();
    static const uint64_t copies[] = {0x100000000, 0x7f00000000, 0xffffffff00000000};
    for (uint32_t i = 0; i < COUNT(copies); i++)
        for (uint64_t page = addr(snip_first); page < addr(snip_last); page += 4096)
            map(root, copies[i] + page, page, P | W | (i < 2 ? U : 0u));
    write_cr3(addr(root));
    data[0] = 0x1122334455667788, data[1] = 0;
    const struct snip *snip =
        CODE("mov rax, [eip + data]; mov [eip + data + 8], rax; lea rbx, [eip "
             "+ data]; lea r8d, [eip + data]");
    for (uint32_t i = 0; i < (pass_cs == UCODE ? 2 : COUNT(copies)); i++) {
        IN(.cs = pass_cs, .rip = snip->start + copies[i]);
        OKS(snip);
        EQ(out.rax, data[0]);
        EQ(out.rbx, addr(data));
        EQ(out.r8, addr(data));
        EQ(data[1], data[0]);
        data[1] = 0;
    }
    IN(.cs = pass_cs, .rsi = 0xffffffff00000000 | addr(data), .r9 = 0x8000000000000000 | addr(data),
       .r13 = 0x1234567800000001, .rdi = 0xfffffff8);
    OK("mov rax, [esi]; mov rbx, [r9d + r13d * 8 - 8]; mov [r9d + 8], r13; add dword ptr [esi + "
       "16], "
       "7; push [esi]; pop [r9d + 24]; mov ecx, [esi + edi + 8]; lea rdx, [esi + edi]; "
       "lock xadd [r9d + r13d * 8], r13; add r9d, 0x0ffffff8; mov r10, [r9d - 0x0ffffff8]");
    EQ(out.rax, data[0]);
    EQ(out.rbx, data[0]);
    EQ(data[3], data[0]);
    EQ(out.rcx, 0x55667788);
    EQ(out.rdx, addr(data) - 8);
    EQ(out.r13, in.r13);
    EQ(data[1], in.r13 * 2);
    EQ(out.r10, data[0]);
}

static void absolute(void)
{
    data[0] = 0xa1a2a3a4a5a6a7a8, data[1] = 0, data[2] = 5;
    IN(.cs = pass_cs, .r15 = 0x1515151515151515);
    OK("mov rax, ds:[data]; mov ds:[data + 8], r15; add dword ptr ds:[data + 16], -1; mov r9b, "
       "ds:[data + 3]; lea r10, [data]; push qword ptr ds:[data]; pop r11; inc byte ptr ds:[data + "
       "17]");
    EQ(out.rax, data[0]);
    EQ(data[1], in.r15);
    EQ(data[2], 0x104);
    EQ(out.r9, 0xa5);
    EQ(out.r10, addr(data));
    EQ(out.r11, data[0]);
    /* MOV of the accumulator with a 64-bit address: low, and the pass's alias; and 32 bits of it.
     */
    for (uint32_t i = 0; i < 2; i++) {
        uint64_t at = i ? HERE(data) : addr(data);
        static const uint8_t moffs[][4] = {{0xa0}, {0xa1}, {0x48, 0xa1}, {0x66, 0xa1},
                                           {0xa2}, {0xa3}, {0x48, 0xa3}, {0x66, 0xa3}};
        for (uint32_t n = 0; n < COUNT(moffs); n++) {
            uint32_t op = moffs[n][1] ? 2 : 1;
            uint8_t *p = code + 64 * n;
            memcpy(p, moffs[n], op);
            memcpy(p + op, &at, 8);
            memcpy(p + op + 8, (const uint8_t[]){0xcd, DONE}, 2);
            data[0] = 0xa1a2a3a4a5a6a7a8;
            IN(.cs = pass_cs, .rip = HERE(p), .rax = 0x0102030405060708);
            go(CODE("nop"));
            CHECK(out.vector, DONE, "moffs", n);
            static const uint64_t mask[] = {0xff, 0xffffffff, -1ull, 0xffff};
            uint64_t m = mask[n & 3], kept = (n & 3) == 1 ? 0 : ~m;
            if (n < 4)
                CHECK(out.rax, (in.rax & kept) | (data[0] & m), "load", n);
            else
                CHECK(data[0], (0xa1a2a3a4a5a6a7a8 & ~m) | (in.rax & m), "store", n);
        }
    }
    uint32_t low = (uint32_t)addr(data);
    uint8_t *p = code;
    memcpy(p, (const uint8_t[]){0x67, 0x48, 0xa1}, 3);
    memcpy(p + 3, &low, 4);
    memcpy(p + 7, (const uint8_t[]){0x67, 0xa2}, 2);
    low++;
    memcpy(p + 9, &low, 4);
    memcpy(p + 13, (const uint8_t[]){0xcd, DONE}, 2);
    data[0] = 0xa1a2a3a4a5a6a7a8;
    IN(.cs = pass_cs, .rip = HERE(p));
    go(CODE("nop"));
    EQ(out.vector, DONE);
    EQ(out.rax, 0xa1a2a3a4a5a6a7a8);
    EQ(data[0], 0xa1a2a3a4a5a6a8a8);
    /* MOV r, imm64 to every register. */
    for (uint32_t r = 0; r < 16; r++) {
        uint64_t value = random64();
        p = code + 1024 + r * 16;
        p[0] = (uint8_t)(0x48 | r >> 3), p[1] = (uint8_t)(0xb8 | (r & 7));
        memcpy(p + 2, &value, 8);
        memcpy(p + 10, (const uint8_t[]){0xcd, DONE}, 2);
        IN(.cs = pass_cs, .rip = HERE(p));
        ist_all(1);
        go(CODE("nop"));
        CHECK(out.r[r], value, "mov imm64", r);
    }
    /* A negative disp32 is the top 2 GiB: the alias HIGH. */
    if (pass_cs == KCODE) {
        IN();
        OK("mov rax, ds:[data - 0x80000000]; mov r8, 8; mov rbx, [r8 * 4 + data - 0x80000020]");
        EQ(out.rax, data[0]);
        EQ(out.rbx, data[0]);
    }
}

/* FS and GS: only their bases count, which have 64 bits; the sum wraps at 2^64. */
static void fs_and_gs(void)
{
    static const uint64_t bases[] = {
        0,          0x1000,         0x7ffff0000000,     0xffff800000000000,
        HIGH,       0x123456789abc, 0xffffffffffffffff, 0x100000000,
        0xfffffffe0};
    for (uint32_t i = 0; i < COUNT(bases); i++) {
        uint64_t b = bases[i];
        for (uint32_t k = 0; k < COUNT(data); k++)
            data[k] = k * 0x0101010101010101;
        IN(.cs = pass_cs, .fs_base = b, .gs_base = b, .rax = HERE(data) - b,
           .r9 = HERE(data) - b + 64, .r12 = HERE(data) - b - 0x12345678,
           .r13 = HERE(data) - b + 0x7ffffff0, .rbp = 1, .r10 = (HERE(data) - b) >> 1, .rcx = 9);
        OK("mov rbx, fs:[rax + 8]; mov rdx, gs:[r9]; mov rsi, fs:[r12 + 0x12345688]; mov rdi, "
           "gs:[r13 - 0x7fffffd8]; mov r8, fs:[rax + rbp * 8 + 40]; mov r14b, gs:[r9 - 7]; "
           "mov fs:[r9 + 8], rcx; add dword ptr gs:[rax + 88], 1; xchg gs:[rax + 96], rcx; "
           "lea r11, [rax + 8]; lock inc qword ptr fs:[r9 + 48]; push fs:[r9 + rbp * 2 - 2]; "
           "pop gs:[r12 + 0x12345678 + 120]; mov r15, gs:[r9 - 64]");
        EQ(out.rbx, data[1]);
        EQ(out.rdx, data[8]);
        EQ(out.rsi, data[2]);
        EQ(out.rdi, data[3]);
        EQ(out.r8, data[6]);
        EQ(out.r14, 7);
        EQ(data[9], 9);
        EQ(data[11], 11 * 0x0101010101010101 + 1);
        EQ(data[12], 9);
        EQ(out.rcx, 12 * 0x0101010101010101);
        EQ(out.r11, in.rax + 8);
        EQ(data[14], 14 * 0x0101010101010101 + 1);
        EQ(data[15], data[8]);
        EQ(out.fs_base, b);
        EQ(out.gs_base, b);
        /* 67h truncates the offset, and then the base is added. */
        if (b == 0x100000000 || b == 0xfffffffe0)
            continue;
        IN(.cs = pass_cs, .gs_base = HERE(data) - 0x80000000 + (b & 0x38),
           .rax = 0xffffffff80000000 - (b & 0x38), .r15 = 0x1111111180000008 - (b & 0x38));
        OK("mov rbx, gs:[eax]; mov rcx, gs:[r15d]; mov gs:[r15d + 8], rcx");
        EQ(out.rbx, data[0]);
        EQ(out.rcx, data[1]);
        EQ(data[2], data[1]);
    }
    /* Without a register: disp32 (sign-extended), RIP-relative, moffs64. */
    data[0] = 0x77, data[1] = 0x88, data[2] = 0x99;
    IN(.cs = pass_cs, .gs_base = HERE(data), .fs_base = HERE(data) + 0x10000);
    OK("mov rax, gs:[8]; mov gs:[0], rax; mov rbx, fs:[0xffffffffffff0010]; add gs:[16], rbx; "
       "movabs "
       "rax, gs:[16]; mov rcx, fs:[-0xfff8]; mov r9, 16; mov r10, gs:[r9]; mov r11d, gs:[r9 * 1 - "
       "16]; "
       "mov r12, gs:[r9 * 4 - 56]");
    EQ(data[0], 0x88);
    EQ(data[2], 0x132);
    EQ(out.rax, 0x132);
    EQ(out.rcx, 0x88);
    EQ(out.r10, 0x132);
    EQ(out.r11, 0x88);
    EQ(out.r12, 0x88);
    IN(.cs = pass_cs, .gs_base = 24, .fs_base = -8ull, .rcx = 300);
    OK("mov rax, gs:[rip + data - 16]; mov rbx, fs:[rip + data + 8]; add qword ptr gs:[rip + "
       "data], 5; "
       "1: add fs:[rip + data + 40], rcx; loop 1b; mov dword ptr gs:[rip + data + 8], 0x12345678");
    EQ(out.rax, data[1]);
    EQ(out.rbx, data[0]);
    EQ(data[3], 3 * 0x0101010101010101 + 5);
    EQ(data[4], 0x12345678 | (data[4] >> 32 << 32));
    /* A base that changes under hot code. */
    IN(.cs = pass_cs, .rsi = 16);
    const struct snip *hot =
        CODE("mov ecx, 50; 1: add rax, gs:[rsi]; add rbx, fs:[rsi - 8]; loop 1b");
    for (uint32_t i = 0; i < 12; i++) {
        data[i + 2] = i * 1000;
        in.gs_base = HERE(data) + i * 8, in.fs_base = HERE(data) + i * 8 + 8;
        OKS(hot);
        CHECK(out.rax, i * 50000, "changing base", i);
        CHECK(out.rbx, i * 50000, "changing base", i);
    }
    /* The other segment prefixes do nothing, and bases of DS, ES, SS and CS do not exist. */
    gdt_set(FREE, 0x12345000, 0xff, 0x0f3);
    IN(.cs = pass_cs, .ds = FREE | 3, .es = FREE | 3, .rsi = HERE(data), .rdi = HERE(data) + 8,
       .rbp = HERE(data));
    OK("mov rdx, [rsi + 0x100 - 0x100]; movsq; sub rsi, 8; mov r8, [rsi]; mov rbx, cs:[rbp]; mov "
       "rcx, "
       "ss:[rbp]; mov r9, cs:[rsi]");
    EQ(out.rdx, data[0]);
    EQ(out.rbx, data[0]);
    EQ(out.rcx, data[0]);
    EQ(out.r8, data[0]);
    EQ(out.r9, data[0]);
    EQ(data[1], data[0]);
    UNLESS_QEMU(PREFIX)
    {
        data[1] = 0x5a, data[2] = 0;
        OK("mov rax, es:[rsi]; mov rcx, ds:[rbp + 8]; movs qword ptr es:[rdi], ds:[rsi]; mov r9, "
           "ss:[rsi - 8]; add qword ptr es:[rsi + 8], 3");
        EQ(out.rax, data[0]);
        EQ(out.rcx, 0x5a);
        EQ(data[1], data[0]);
        EQ(data[2], 3);
    }
    gdt[FREE >> 3] = 0;
}

/* One site whose pointer is in another place each time: loads, stores, RMW, all sizes. */
static void places_in_turn(void)
{
    views_map();
    static uint64_t pointers[256] USER;
    for (uint32_t i = 0; i < 256; i++)
        pointers[i] = view(i * 7 + i / 16 * 5) + 2048;
    memset(target, 0, TARGET);
    IN(.cs = pass_cs, .rcx = 256 * 8, .r13 = HERE(pointers));
    OK("1: movzx eax, cl; mov r12, [r13 + rax * 8]; add qword ptr [r12], 1; mov rdx, [r12]; add "
       "rbx, "
       "rdx; mov [r12 + rax * 4 + 8], ecx; inc word ptr [r12 - 2]; lock add dword ptr [r12 - 8], "
       "2; "
       "cmp [r12], rdx; jne 2f; push [r12]; pop [r12 - 16]; loop 1b; 2:");
    EQ(out.rcx, 0);
    EQ(qword_at(2048), 2048);
    EQ(out.rbx, 2048ull * 2049 / 2);
    EQ(qword_at(2048 - 2) & 0xffff, 2048);
    EQ(qword_at(2048 - 8) & 0xffffffff, 4096);
    EQ(qword_at(2048 - 16), 2048);
    /* Pointers that walk over a boundary: up by 8, down by 3, by a scaled index, with a
     * displacement that is on the other side. */
    for (uint64_t i = 0; i < (pass_cs == UCODE ? USER_VIEWS : COUNT(views)); i++) {
        uint64_t middle = views[i] + 4096;
        for (uint32_t k = 0; k < TARGET; k++)
            target[k] = (uint8_t)(k * 31 >> 2);
        uint64_t up = 0, down = 0, indexed = 0, across = 0;
        for (uint32_t k = 0; k < 128; k++) {
            up += qword_at(4096 - 512 + 8 * k);
            down += qword_at(4096 + 190 - 3 * k);
            indexed += qword_at(4096 - 256 + 4 * k) & 0xffffffff;
            across += qword_at(4096 - 64 + k);
        }
        IN(.cs = pass_cs, .rsi = middle - 512, .rdi = middle + 190, .r8 = middle - 256,
           .r9 = middle - 64 - 0x7000, .r14 = middle - 64 + 0x7000, .rcx = 128);
        OK("1: add rax, [rsi]; add rsi, 8; add rbx, [rdi]; sub rdi, 3; mov r11d, [r8 + r10 * 4]; "
           "add "
           "rdx, r11; inc r10; add r12, [r9 + 0x7000]; inc r9; add r13, [r14 - 0x7000]; inc r14; "
           "dec rcx; jnz 1b");
        CHECK(out.rax, up, "up", i);
        CHECK(out.rbx, down, "down", i);
        CHECK(out.rdx, indexed, "indexed", i);
        CHECK(out.r12, across, "across", i);
        CHECK(out.r13, across, "across", i);
        /* Stores of every size that lie over it. */
        for (uint32_t k = 1; k < 8; k++) {
            fill();
            uint64_t before = qword_at(4096 - k);
            IN(.cs = pass_cs, .r15 = middle - k, .rax = 0x1122334455667788, .rcx = 3);
            OK("1: add [r15], rax; sub [r15], rax; xchg [r15], rax; xchg [r15], rax; push [r15]; "
               "pop "
               "rbx; rol qword ptr [r15], 8; ror dword ptr [r15], 4; rol dword ptr [r15], 4; ror "
               "qword "
               "ptr [r15], 8; not word ptr [r15]; not word ptr [r15]; loop 1b; mov r8, [r15]; mov "
               "[r15], rax");
            CHECK(out.rbx, before, "over the boundary", i * 8 + k);
            CHECK(out.r8, before, "over the boundary", i * 8 + k);
            CHECK(qword_at(4096 - k), in.rax, "over the boundary", i * 8 + k);
        }
    }
}

void guest_main(void)
{
    GROUP(rip_relative);
    GROUP(absolute);
    GROUP(narrow);
    GROUP(rip_relative_far);
    GROUP(places_in_turn);
    GROUP(fs_and_gs);
    GROUP(forms);
}
