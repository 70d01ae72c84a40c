/* addressing.c - every way of naming memory reaches the byte that the manual says.
 *
 * SDM 2 2.1.5 (tables 2-1, 2-2, 2-3: ModRM and SIB), SDM 1 3.7.5 (effective address, modulo 2^32 or
 * 2^16), SDM 2: BT ("bit offset"), XLAT, PUSH, POP, ENTER, LEAVE, PUSHA, POPA, XADD, CMPXCHG,
 * CMPXCHG8B, LOCK. forms() generates all ModRM/SIB encodings into one buffer, sets registers so
 * that the address falls into `target`, and runs each as load, store, high-byte load and locked
 * XADD. */
#include "guest.h"

const char guest_name[] = "addressing";

enum { TARGET_SIZE = 4096, FORM_BYTES = 24, MAX_FORMS = 3 * (7 + 256) };

static uint32_t target[TARGET_SIZE / 4] USER;
static uint8_t code[MAX_FORMS * FORM_BYTES] USER_CODE;
static uint32_t seed = 12345;

static uint32_t random32(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    return seed ^= seed << 5;
}

static void fill(void)
{
    for (uint32_t i = 0; i < TARGET_SIZE / 4; i++)
        target[i] = i * 0x9e3779b1 + 0x1234567;
}

static uint32_t byte_at(uint32_t address)
{
    return *(const uint8_t *)address;
}

static uint32_t dword_at(uint32_t address)
{
    uint32_t value;
    memcpy(&value, (const void *)address, 4);
    return value;
}

/* in's general registers by encoding number; 4 is ESP. */
static uint32_t *reg(struct state *s, uint32_t n)
{
    uint32_t *regs[] = {&s->eax, &s->ecx, &s->edx, &s->ebx, &s->esp, &s->ebp, &s->esi, &s->edi};
    return regs[n];
}

struct form {
    uint32_t modrm, sib, disp; /* modrm without reg */
    int base, index;           /* register numbers, -1: none */
    uint32_t scale, disp_size;
};

/* Decodes encoding number n, or returns false past the last. */
static bool form_get(uint32_t n, struct form *f)
{
    uint32_t mod = n / 263, rest = n % 263;
    if (mod > 2)
        return false;
    *f = (struct form){.base = -1, .index = -1, .scale = 1};
    f->disp_size = mod == 0 ? 0 : mod == 1 ? 1 : 4;
    if (rest < 7) {
        uint32_t rm = rest < 4 ? rest : rest + 1;
        f->modrm = mod << 6 | rm;
        if (mod == 0 && rm == 5)
            f->disp_size = 4;
        else
            f->base = (int)rm;
        return true;
    }
    f->sib = rest - 7;
    f->modrm = mod << 6 | 4;
    f->scale = 1u << (f->sib >> 6);
    if ((f->sib >> 3 & 7) != 4)
        f->index = (int)(f->sib >> 3 & 7);
    if (mod == 0 && (f->sib & 7) == 5)
        f->disp_size = 4;
    else
        f->base = (int)(f->sib & 7);
    return true;
}

static uint32_t form_emit(uint8_t *p, const struct form *f, const uint8_t *op, uint32_t op_size,
                          uint32_t reg_field)
{
    uint8_t *first = p;
    memcpy(p, op, op_size);
    p += op_size;
    *p++ = (uint8_t)(f->modrm | reg_field << 3);
    if ((f->modrm & 7) == 4)
        *p++ = (uint8_t)f->sib;
    memcpy(p, &f->disp, f->disp_size);
    p += f->disp_size;
    *p++ = 0xcd;
    *p++ = DONE;
    return (uint32_t)(p - first);
}

/* Fills `in` with random values of which the effective address is in `target`; returns it. */
static uint32_t form_registers(struct form *f, uint32_t pass)
{
    IN(.cs = UCODE);
    for (uint32_t r = 0; r < 8; r++)
        *reg(&in, r) = random32();
    uint32_t want = addr(target) + 64 + random32() % (TARGET_SIZE - 128);
    uint32_t disp = f->disp_size == 0 ? 0 : f->disp_size == 1 ? (uint32_t)(int8_t)f->disp : f->disp;
    if (f->base >= 0 && f->base == f->index) {
        *reg(&in, f->base) = (want - disp) / (1 + f->scale);
    } else if (f->base >= 0) {
        uint32_t index = f->index >= 0 ? *reg(&in, f->index) * f->scale : 0;
        *reg(&in, f->base) = want - disp - index;
    } else if (f->index >= 0) {
        *reg(&in, f->index) = (want - disp) / f->scale;
        if (pass & 1) /* the bits that the scale shifts out do not matter */
            *reg(&in, f->index) |= f->scale == 8   ? 0xe0000000
                                   : f->scale == 4 ? 0xc0000000
                                   : f->scale == 2 ? 0x80000000
                                                   : 0;
    }
    uint32_t ea = disp;
    if (f->base >= 0)
        ea += *reg(&in, f->base);
    if (f->index >= 0)
        ea += *reg(&in, f->index) * f->scale;
    return ea;
}

/* The displacement must be such that an address in range exists: free with a base, near without. */
static void form_disp(struct form *f)
{
    f->disp = random32();
    if (f->disp_size == 1)
        f->disp = (const uint8_t[]){0x00, 0x7f, 0x80, 0xff}[f->disp & 3];
    else if (f->base < 0)
        f->disp = addr(target) + 1024 + (f->index < 0 ? f->disp % 1024 : 0);
    else if (f->base == f->index)
        f->disp &= 0x7ff;
}

static void form_check(uint32_t kind, uint32_t ea, uint32_t before, uint32_t n)
{
    CHECK(out.vector, DONE, "form", n);
    uint32_t bx = in.ebx;
    switch (kind) {
    case 0: /* mov eax, m */
        CHECK(out.eax, before, "load", n);
        break;
    case 1: /* mov m, edx */
        CHECK(dword_at(ea), in.edx, "store", n);
        break;
    case 2: /* mov bh, fs:m */
        CHECK(out.ebx, (bx & 0xffff00ff) | (before & 0xff) << 8, "load of a high byte", n);
        break;
    case 3: /* lock xadd m, ecx */
        CHECK(dword_at(ea), before + in.ecx, "xadd memory", n);
        CHECK(out.ecx, before, "xadd register", n);
        break;
    case 4: /* lea edi, m */
        CHECK(out.edi, ea, "lea", n);
        break;
    case 5: /* add m, ch */
        CHECK(byte_at(ea), (before + (in.ecx >> 8)) & 0xff, "add of a high byte", n);
        break;
    }
    static const int changed[] = {0, -1, 3, 1, 7, -1};
    for (int r = 0; r < 8; r++)
        if (r != changed[kind])
            CHECK(*reg(&out, r), *reg(&in, r), "register kept", n);
}

static void forms(void)
{
    static const struct {
        uint8_t op[4];
        uint32_t size, reg;
    } ops[] = {{{0x8b}, 1, 0}, {{0x89}, 1, 2}, {{0x64, 0x8a}, 2, 7}, {{0xf0, 0x0f, 0xc1}, 3, 1},
               {{0x8d}, 1, 7}, {{0x00}, 1, 5}};
    struct form f;
    for (uint32_t kind = 0; kind < COUNT(ops); kind++) {
        for (uint32_t n = 0; form_get(n, &f); n++) {
            form_disp(&f);
            uint8_t *p = code + n * FORM_BYTES;
            form_emit(p, &f, ops[kind].op, ops[kind].size, ops[kind].reg);
            for (uint32_t pass = 0; pass < 3; pass++) {
                fill();
                uint32_t ea = form_registers(&f, pass), before = dword_at(ea);
                in.eip = addr(p);
                go(CODE("nop"));
                form_check(kind, ea, before, n);
            }
        }
    }
}

/* All 16-bit forms, in memory below 64 KiB; addresses are computed modulo 2^16. */
static void forms_16(void)
{
    static const int8_t base[] = {3, 3, 5, 5, -1, -1, 5, 3}, index[] = {6, 7, 6, 7, 6, 7, -1, -1};
    for (uint32_t mod = 0; mod < 3; mod++)
        for (uint32_t rm = 0; rm < 8; rm++)
            for (uint32_t pass = 0; pass < 8; pass++) {
                bool direct = mod == 0 && rm == 6;
                uint32_t disp = random32();
                IN(.eax = 0x11223344, .ebx = random32(), .ebp = random32(), .esi = random32(),
                   .edi = random32(), .cs = UCODE);
                uint32_t sum = direct ? 0
                                      : (base[rm] >= 0 ? *reg(&in, base[rm]) : 0) +
                                            (index[rm] >= 0 ? *reg(&in, index[rm]) : 0);
                uint32_t want = 0x6000 + random32() % 0x8000;
                if (direct || mod == 2)
                    disp = want - sum;
                else if (index[rm] >= 0)
                    *reg(&in, index[rm]) += want - sum - (mod ? (uint32_t)(int8_t)disp : 0);
                else
                    *reg(&in, base[rm]) += want - sum - (mod ? (uint32_t)(int8_t)disp : 0);
                uint32_t value = random32();
                memcpy((void *)want, &value, 4);
                uint8_t *p = code + rm * 64 + mod * 16;
                uint8_t bytes[] = {0x67, 0x03, (uint8_t)(mod << 6 | rm)};
                memcpy(p, bytes, 3);
                memcpy(p + 3, &disp, 2);
                uint32_t length = direct || mod == 2 ? 5 : 3 + mod;
                memcpy(p + length, (const uint8_t[]){0xcd, DONE}, 2);
                in.eip = addr(p);
                for (int hot = 0; hot < 3; hot++) {
                    go(CODE("nop"));
                    CHECK(out.vector, DONE, "16-bit form", (mod << 3 | rm));
                    CHECK(out.eax, 0x11223344 + value, "16-bit form", (mod << 3 | rm));
                }
            }
}

static void high_bytes(void)
{
    gdt_set(FREE, addr(target) - 0x1000, 0xfffff, 0xcf3);
    gdt_set(FREE + 8, addr(target) + 0x80, 0xfffff, 0xcf3);
    fill();
    uint32_t b = byte_at(addr(target) + 16), c = byte_at(addr(target) + 0x90);
    IN(.eax = 0x11111111, .ebx = 0x1010, .ecx = 0x22222222, .edx = 0x33333333, .fs = FREE | 3,
       .gs = (FREE + 8) | 3, .cs = UCODE);
    OK("mov ah, fs:[ebx]; mov ch, gs:[ebx - 0x1000]; mov dh, fs:[ebx]; mov bh, fs:[ebx]");
    EQ(out.eax, 0x11110011 | b << 8);
    EQ(out.ecx, 0x22220022 | c << 8);
    EQ(out.edx, 0x33330033 | b << 8);
    EQ(out.ebx, 0x10 | b << 8);
    OK("add fs:[ebx], ah; xor gs:[ebx - 0x1000], ch; sub dh, fs:[ebx]; cmp fs:[ebx], dh");
    EQ(byte_at(addr(target) + 16), (b + 0x11) & 0xff);
    EQ(byte_at(addr(target) + 0x90), c ^ 0x22);
    EQ(out.edx, 0x33330033 | ((0x33 - b - 0x11) & 0xff) << 8);
    b = (b + 0x11) & 0xff;
    OK("xchg fs:[ebx], ch; lock xadd fs:[ebx], dh");
    EQ(out.ecx, 0x22220022 | b << 8);
    EQ(out.edx, 0x33330033 | 0x22 << 8);
    EQ(byte_at(addr(target) + 16), 0x55);
    in.eflags = CF | ZF;
    OK("setc fs:[ebx]; mov ch, fs:[ebx]; setne fs:[ebx + 1]; mov ah, gs:[ebx - 0x107f]; movzx edx, "
       "byte ptr fs:[ebx + 1]");
    EQ(out.ecx, 0x22220122);
    EQ(out.edx, 0);
    EQ(out.eax, 0x11110011 | byte_at(addr(target) + 17) << 8);
    in.eflags = 0;
    OK("test fs:[ebx], bh; setz al; mov byte ptr fs:[ebx], 0x5a; movsx ecx, byte ptr fs:[ebx]; "
       "imul edx, fs:[ebx], 3; "
       "cmpxchg fs:[ebx + 8], bh");
    EQ(out.ecx, 0x5a);
    EQ(out.edx, dword_at(addr(target) + 16) * 3);
}

static void moffs_and_xlat(void)
{
    gdt_set(FREE, addr(target) - 0x1000, 0xfffff, 0xcf3);
    fill();
    IN(.fs = FREE | 3, .cs = UCODE, .ebx = addr(target), .eax = 0xaabbcc05);
    OK("xlat");
    EQ(out.eax, 0xaabbcc00 | byte_at(addr(target) + 5));
    in.ebx = 0x1000;
    OK("fs xlat");
    EQ(out.eax, 0xaabbcc00 | byte_at(addr(target) + 5));
    in.ebx = addr(target) - 250, in.eax = 250;
    OK("xlat");
    EQ(out.eax, byte_at(addr(target)));
    in.ebx = 0xfffffff0, in.eax = 0xff; /* wraps to linear EFh */
    *(uint8_t *)0xef = 0x77;
    OK("xlat");
    EQ(out.eax, 0x77);
    in.ebx = 0x1234fff0, in.eax = 0x8f; /* 16-bit: wraps to 7Fh */
    *(uint8_t *)0x7f = 0x66;
    OK(".byte 0x67; xlat");
    EQ(out.eax, 0x66);
    IN(.fs = FREE | 3, .cs = UCODE);
    OK("mov eax, ds:[target]; mov ecx, eax; mov al, fs:[0x1001]; mov fs:[0x1008], eax; mov "
       "ds:[target + 12], ax");
    EQ(out.ecx, target[0]);
    EQ(out.eax, (target[0] & 0xffffff00) | (target[0] >> 8 & 0xff));
    EQ(target[2], out.eax);
    EQ(target[3] & 0xffff, out.eax & 0xffff);
    *(uint32_t *)0x7ff0 = 0xcafe0123;
    OK(".byte 0x67, 0xa1, 0xf0, 0x7f; .byte 0x67, 0x66, 0xa3, 0xf4, 0x7f; .byte 0x67, 0xa2, 0xf6, "
       "0x7f");
    EQ(out.eax, 0xcafe0123);
    EQ(*(uint32_t *)0x7ff4 & 0xffffff, 0x230123);
}

static void stack_forms(void)
{
    uint32_t *sp = (uint32_t *)(user_stack_top - 64), top = addr(sp);
    uint32_t a = 0x11111111;
    IN(.cs = UCODE, .esp = top, .eax = a, .ecx = 2, .edx = 3, .ebx = 4, .ebp = 5, .esi = 6,
       .edi = 7);
    OK("push esp");
    EQ(out.esp, top - 4);
    EQ(sp[-1], top);
    OK("push eax; push esp; pop eax");
    EQ(out.eax, top - 4);
    sp[0] = top - 32;
    OK("pop esp");
    EQ(out.esp, top - 32);
    sp[0] = 0xabcd, sp[1] = 1, sp[2] = 2, sp[3] = 3;
    OK("pop dword ptr [esp + 4]"); /* ESP is incremented before the address is computed */
    EQ(sp[2], 0xabcd);
    EQ(out.esp, top + 4);
    OK("pop dword ptr [esp - 4]");
    EQ(sp[0], 0xabcd);
    sp[0] = 0x77;
    OK("push dword ptr [esp]"); /* the address is computed before ESP is decremented */
    EQ(sp[-1], 0x77);
    OK("push dword ptr [esp + 8]; push dword ptr [esp + 4]; pop eax; pop ebx");
    EQ(out.eax, 0x77);
    EQ(out.ebx, 0xabcd);
    OK("push -1; push 0x7f; pushw -2; push 0x12345678; pop eax; pop cx; pop dword ptr [esp]; pop "
       "edx");
    EQ(out.eax, 0x12345678);
    EQ(out.ecx, 0xfffe);
    EQ(out.edx, 0x7f);
    EQ(out.esp, top);
    OK("pushad");
    EQ(out.esp, top - 32);
    uint32_t order[] = {7, 6, 5, top, 4, 3, 2, a};
    for (uint32_t i = 0; i < 8; i++)
        EQ(sp[(int)i - 8], order[i]);
    for (uint32_t i = 0; i < 8; i++)
        sp[i] = 0x100 + i;
    OK("popad"); /* the ESP in the image is skipped */
    EQ(out.esp, top + 32);
    EQ(out.edi, 0x100);
    EQ(out.ebp, 0x102);
    EQ(out.ebx, 0x104);
    EQ(out.eax, 0x107);
    OK("pushaw; popaw; pushaw; pop eax");
    EQ(out.eax, 0x60007);
    EQ(out.esp, top - 12);
    IN(.cs = UCODE, .esp = top, .ebp = top + 16);
    OK("enter 16, 0");
    EQ(out.ebp, top - 4);
    EQ(out.esp, top - 20);
    EQ(sp[-1], top + 16);
    OK("enter 0x20, 1; mov eax, [ebp - 4]");
    EQ(out.eax, top - 4);
    EQ(out.esp, top - 8 - 0x20);
    sp[3] = 0x333, sp[2] = 0x222;
    OK("enter 8, 3");
    EQ(sp[-2], 0x333);
    EQ(sp[-3], 0x222);
    EQ(sp[-4], top - 4);
    EQ(out.esp, top - 16 - 8);
    EQ(out.ebp, top - 4);
    OK("enter 8, 35; leave"); /* the level is taken modulo 32 */
    EQ(out.esp, top);
    EQ(out.ebp, top + 16);
    sp[4] = 0x4321;
    OK("leave");
    EQ(out.ebp, 0x4321);
    EQ(out.esp, top + 20);
    OK("push ds; push es; push fs; pop eax; pop gs; pop es; push ss; pop ebx; pushw ds; pop cx");
    EQ(out.eax & 0xffff, UDATA);
    EQ(out.ebx & 0xffff, UDATA);
    EQ(out.ecx, UDATA);
    EQ(out.esp, top);
    OK("pushd 9; push offset target; popw ax; popw bx; pop ecx");
    EQ(out.eax | out.ebx << 16, addr(target));
    EQ(out.ecx, 9);
}

/* A register bit offset is a signed index into a bit string that starts at the operand. */
static void bit_offsets(void)
{
    static const int32_t offsets[] = {0,     1,  7,   31,  32,    33,    1000,
                                      16383, -1, -32, -33, -4096, -16384};
    for (size_t i = 0; i < COUNT(offsets); i++) {
        uint32_t bit = (uint32_t)offsets[i] + 16384, *word = &target[bit / 32],
                 mask = 1u << bit % 32;
        memset(target, 0, sizeof(target));
        IN(.eax = (uint32_t)offsets[i], .ebx = addr(target) + 2048, .cs = UCODE);
        OK("bts [ebx], eax; setc cl; bt [ebx], eax; setc ch");
        EQ(out.ecx, 0x100);
        EQ(*word, mask);
        OK("lock btc [ebx], eax; setc cl; bt [ebx], eax; setc ch; lock btc [ebx], eax; lock btr "
           "[ebx], eax; setc dl");
        EQ(out.ecx, 1);
        EQ(out.edx, 1);
        EQ(*word, 0);
        in.eax |= 0xffff0000, in.ebx = addr(target) + 2048;
        int32_t near = (int16_t)in.eax;
        OK("bts [ebx], ax; setc cl");
        EQ(target[(uint32_t)(near + 16384) / 32], 1u << ((uint32_t)near % 32));
        *word = 0;
    }
    memset(target, 0, sizeof(target));
    gdt_set(FREE, addr(target) - 0x1000, 0xfffff, 0xcf3);
    IN(.fs = FREE | 3, .eax = 32 * 1024 + 5, .ecx = 37, .cs = UCODE);
    OK("bts fs:[0], eax; bts dword ptr ds:[target], 37; bts edx, ecx; setc bl");
    EQ(target[0], 1 << 5 | 1 << 5);
    EQ(out.edx, 1 << 5);
    /* Far: 2^31 bits are 256 MiB; the address wraps modulo 2^32. */
    IN(.eax = 0x80000000, .ebx = addr(target) + 0x10000000, .cs = UCODE);
    OK("bts [ebx], eax");
    EQ(target[0], 1 << 5 | 1);
    IN(.eax = 0x7fffffe0, .ebx = addr(target) - 0x0ffffffc + 4, .cs = UCODE);
    OK("bts [ebx], eax");
    EQ(target[1], 1);
}

static uint64_t pair[1024] USER __attribute__((aligned(4096)));

static void exchanges(void)
{
    for (uint32_t where = 0; where < 3; where++) {
        uint64_t *m = (uint64_t *)(addr(pair) + (const uint32_t[]){0, 3, 4096 - 3}[where]);
        *m = 0x1122334455667788;
        IN(.eax = 0x55667788, .edx = 0x11223344, .ebx = 1, .ecx = 2, .esi = addr(m), .cs = UCODE);
        OK("lock cmpxchg8b [esi]");
        EQ(out.eflags, ZF | 2);
        EQ(*m >> 32, 2);
        EQ(*m, 1);
        EQ(out.eax, 0x55667788);
        in.eflags = CF | ZF | SF;
        OK("cmpxchg8b [esi]");
        EQ(out.eflags, CF | SF | 2);
        EQ(out.eax, 1);
        EQ(out.edx, 2);
        IN(.eax = 1, .edx = 0xabcd, .esi = addr(m), .cs = UCODE);
        OK("lock cmpxchg [esi], edx; setz cl; lock cmpxchg [esi], edx; setz ch");
        EQ(out.ecx, 1);
        EQ(out.eax, 0xabcd);
        EQ(*m, 0xabcd);
        IN(.eax = 0xffffffcd, .edx = 0x5500, .esi = addr(m), .cs = UCODE);
        OK("cmpxchg [esi], dh; setz cl; cmpxchg [esi + 1], dx; setz ch; mov bl, 0x11; lock xadd "
           "[esi], bl");
        EQ(out.ecx, 1);
        EQ(out.ebx, 0x55);
        EQ(out.eax, 0xffff00ab);
        *m = 10;
        IN(.eax = 5, .ecx = 0xffffffff, .esi = addr(m), .cs = UCODE);
        OK("lock add [esi], eax; lock inc dword ptr [esi]; lock dec word ptr [esi]; lock neg dword "
           "ptr [esi]; "
           "lock not dword ptr [esi]; lock or byte ptr [esi + 1], 1; lock and dword ptr [esi], "
           "ecx; "
           "lock xor [esi], eax; lock sub dword ptr [esi], 1; lock adc [esi], eax; lock sbb byte "
           "ptr [esi], 0; xchg [esi], eax");
        EQ(out.eax, ((14 | 0x100) ^ 5) - 1 + 5);
        EQ(*m, 5);
    }
    IN(.esi = addr(pair), .cs = UCODE);
    UNLESS_QEMU(LOCK)
    {
        FAULT(".byte 0xf0, 0x89, 0x06", UD, 0);       /* LOCK MOV */
        FAULT(".byte 0xf0, 0x0f, 0xa3, 0x06", UD, 0); /* LOCK BT */
    }
    FAULT(".byte 0xf0, 0x01, 0xc0", UD, 0); /* LOCK ADD to a register */
    FAULT(".byte 0xf0, 0x3b, 0x06", UD, 0); /* LOCK CMP */
    FAULT(".byte 0xf0, 0x03, 0x06", UD, 0); /* LOCK ADD from memory */
    FAULT(".byte 0xf0, 0x90", UD, 0);       /* LOCK NOP */
    FAULT(".byte 0x0f, 0xc7, 0xc8", UD, 0); /* CMPXCHG8B of a register */
    FAULT(".byte 0x8d, 0xc0", UD, 0);       /* LEA of a register */
}

/* Page-crossing and unaligned operands of all sizes, chained in a loop. */
static void unaligned(void)
{
    for (uint32_t offset = 4096 - 9; offset < 4096; offset++) {
        uint8_t *p = (uint8_t *)pair + offset;
        for (int i = 0; i < 16; i++)
            p[i] = (uint8_t)(0x10 + i);
        IN(.esi = addr(p), .ecx = 100, .cs = UCODE);
        OK("1: mov eax, [esi]; mov dx, [esi + 1]; add dword ptr [esi + 3], 0x01010101; push dword "
           "ptr [esi + 1]; pop ebx; "
           "sub dword ptr [esi + 3], 0x01010101; movzx edi, word ptr [esi + 2]; rol dword ptr [esi "
           "+ 5], 8; dec ecx; jnz 1b; "
           "mov ebp, [esi + 5]");
        EQ(out.eax, 0x13121110);
        EQ(out.edx, 0x1211);
        EQ(out.ebx, 0x15141211); /* p[3] and p[4] were incremented at that moment */
        EQ(out.edi, 0x1312);
        EQ(out.ebp, 0x18171615);
    }
}

void guest_main(void)
{
    GROUP(forms);
    GROUP(forms_16);
    GROUP(high_bytes);
    GROUP(moffs_and_xlat);
    GROUP(stack_forms);
    GROUP(bit_offsets);
    GROUP(exchanges);
    GROUP(unaligned);
}
