/* sensitive.c - sensitive instructions answer for the guest's CPU, never for the host's.
 *
 * Unprivileged ones that read or partly ignore privileged state (SDM 2: SGDT, SIDT, SLDT, STR,
 * SMSW, PUSHF, POPF, LAR, LSL, VERR, VERW, ARPL, PUSH and MOV of segment registers, LDS..LSS, IRET,
 * CPUID, XGETBV), and the privileged ones: their effect at CPL 0 and #GP(0) at CPL 3 (SDM 3A 5.9),
 * IOPL and the I/O permission bitmap (SDM 1 18.5), CR4.TSD, SYSENTER and SYSEXIT (SDM 3A 5.8.7).
 * Values are chosen so that a host's answer would be noticed. Far transfers are in segments.c. */
#include "guest.h"

const char guest_name[] = "sensitive";

static uint32_t memory[16] USER;
static const uint32_t both[] = {0, UCODE};

static void store_tables(void)
{
    static uint64_t other_gdt[GDT_ENTRIES + 3], other_idt[256 + 5];
    for (uint32_t n = 0; n < 8; n++) {
        /* Four different places and limits for each table. */
        struct dtable g = {(uint16_t)(sizeof(gdt) - 1), addr(gdt)},
                      i = {sizeof(idt) - 1, addr(idt)};
        if (n & 1) {
            memcpy(other_gdt + (n >> 1), gdt, sizeof(gdt));
            g = (struct dtable){(uint16_t)(0x2ff + n * 0x10), addr(other_gdt + (n >> 1))};
        }
        if (n & 2) {
            memcpy(other_idt + (n >> 1), idt, sizeof(idt));
            i = (struct dtable){(uint16_t)(0x7ff + n), addr(other_idt + (n >> 1))};
        }
        gdt_load(&g);
        __asm__ volatile("lidt %0" : : "m"(i));
        for (uint32_t c = 0; c < 2; c++) {
            memory[1] = memory[3] = 0xabcdabcd;
            IN(.cs = both[c], .esi = addr(memory));
            OK("sgdt [esi]; sidt [esi + 8]");
            EQ(memory[0], g.limit | g.base << 16);
            EQ(memory[1], 0xabcd0000 | g.base >> 16);
            EQ(memory[2], i.limit | i.base << 16);
            EQ(memory[3], 0xabcd0000 | i.base >> 16);
            OK("mov ecx, 40; 1: sidt [esi]; mov eax, [esi + 2]; add ebx, eax; loop 1b");
            EQ(out.ebx, i.base * 40);
        }
    }
    gdt_load(&(struct dtable){sizeof(gdt) - 1, addr(gdt)});
    __asm__ volatile("lidt %0" : : "m"((struct dtable){sizeof(idt) - 1, addr(idt)}));
    IN();
    FAULT(".byte 0x0f, 0x01, 0xc0", UD, 0); /* SGDT to a register */
    /* LGDT with operand size 16 takes 24 bits of base (SDM 2 LGDT). */
    struct dtable high = {sizeof(gdt) - 1, addr(gdt) | 0x7f000000};
    memcpy(memory, &high, 6);
    IN(.esi = addr(memory));
    OK(".byte 0x66; lgdt [esi]; sgdt [esi + 8]");
    EQ(memory[2], (sizeof(gdt) - 1) | addr(gdt) << 16);
    EQ(memory[3] & 0xffff, addr(gdt) >> 16);
}

static void store_registers(void)
{
    static uint64_t ldt[8];
    for (uint32_t n = 0; n < 8; n++) {
        uint16_t ldt_selector = (uint16_t)(n & 1 ? LDT : n & 2 ? FREE + 0x20 : 0);
        uint16_t tss_selector = (uint16_t)(n & 4 ? FREE + 0x28 : TSS);
        gdt_set(LDT, addr(ldt), sizeof(ldt) - 1, 0x082);
        gdt_set(FREE + 0x20, addr(ldt), sizeof(ldt) - 1, 0x082);
        gdt_set(tss_selector, addr(&tss), sizeof(tss) - 1, 0x089);
        IN(.eax = ldt_selector, .ebx = tss_selector);
        OK("lldt ax; ltr bx; str ecx; sldt edx");
        EQ(out.ecx, tss_selector);
        EQ(out.edx, ldt_selector);
        EQ(gdt[tss_selector >> 3] >> 40 & 0x1f, 0xb); /* LTR makes it busy */
        for (uint32_t c = 0; c < 2; c++) {
            IN(.cs = both[c], .esi = addr(memory), .eax = -1u, .ebx = -1u, .ecx = -1u, .edx = -1u);
            memory[0] = memory[1] = 0x12345678;
            OK("sldt ax; str bx; sldt ecx; str edx; sldt [esi]; str [esi + 4]");
            EQ(out.eax, 0xffff0000 | ldt_selector);
            EQ(out.ebx, 0xffff0000 | tss_selector);
            EQ(out.ecx, ldt_selector);
            EQ(out.edx, tss_selector);
            EQ(memory[0], 0x12340000 | ldt_selector);
            EQ(memory[1], 0x12340000 | tss_selector);
        }
        IN(.ebx = tss_selector);
        FAULT("ltr bx", GP, tss_selector); /* busy */
    }
    gdt_set(TSS, addr(&tss), sizeof(tss) - 1, 0x089);
    IN(.ebx = TSS, .ecx = KDATA, .edx = FREE + 0x30, .esi = LDT | 4);
    gdt_set(FREE + 0x30, 0, 0xffff, 0x002); /* an LDT that is not present */
    OK("xor eax, eax; lldt ax; ltr bx");
    FAULT("lldt cx", GP, KDATA);
    FAULT("ltr cx", GP, KDATA);
    FAULT("lldt dx", NP, FREE + 0x30);
    FAULT("lldt si", GP, LDT | 4); /* TI set */
    FAULT("ltr si", GP, LDT | 4);
    UNLESS_QEMU(LTR) FAULT("ltr ax", GP, 0);
    in.eax = GDT_ENTRIES * 8;
    FAULT("lldt ax", GP, GDT_ENTRIES * 8);
    in.eax = 7 * 8 | 4;
    FAULT("mov ds, eax", GP, 7 * 8 | 4); /* no LDT is loaded */
    uint32_t cr0 = read_cr0();
    for (uint32_t n = 0; n < 8; n++) {
        write_cr0((cr0 & ~(CR0_TS | CR0_MP | CR0_AM | CR0_WP)) | (n & 1 ? CR0_TS : 0u) |
                  (n & 2 ? CR0_MP : 0u) | (n & 4 ? CR0_AM | CR0_WP : 0u));
        uint32_t want = read_cr0();
        EQ(want & 0x3a, (cr0 & 0x30) | (n & 1 ? 8 : 0) | (n & 2 ? 2 : 0));
        for (uint32_t c = 0; c < 2; c++) {
            IN(.cs = both[c], .esi = addr(memory), .eax = -1u);
            memory[0] = 0x12345678;
            OK("smsw ax; smsw ecx; smsw [esi]");
            EQ(out.eax, 0xffff0000 | (want & 0xffff));
            EQ(out.ecx, want);
            EQ(memory[0], 0x12340000 | (want & 0xffff));
        }
    }
    write_cr0(cr0);
    if (!(cpuid(7, 0).ecx & 1 << 2)) /* UMIP: SDM 3A 2.5 */
        return;
    UNLESS_QEMU(UMIP)
    {
        write_cr4(read_cr4() | CR4_UMIP);
        IN(.cs = UCODE, .esi = addr(memory));
        FAULT("sgdt [esi]", GP, 0);
        FAULT("sidt [esi]", GP, 0);
        FAULT("sldt eax", GP, 0);
        FAULT("str eax", GP, 0);
        FAULT("smsw eax", GP, 0);
        in.cs = 0;
        OK("sgdt [esi]; sidt [esi]; sldt eax; str ebx; smsw ecx");
        EQ(out.ebx, TSS);
        write_cr4(read_cr4() & ~CR4_UMIP);
    }
}

/* EFLAGS after POPF or IRET loads `image` over `old`. SDM 2 POPF, IRET. */
static uint32_t flags_loaded(uint32_t old, uint32_t image, uint32_t cpl, bool word)
{
    uint32_t iopl = old >> 12 & 3;
    uint32_t may = ARITH | TF | DFL | NT | (word ? 0u : ACF | ID);
    if (cpl == 0)
        may |= IOPL3;
    if (cpl <= iopl)
        may |= IF;
    return (old & ~may & ~RF) | (image & may) | 2;
}

static void pushf_popf(void)
{
    static const uint32_t images[] = {0,       0xffffffff & ~TF,
                                      IF,      IOPL3,
                                      1 << 12, IF | IOPL3 | NT,
                                      ACF,     ID,
                                      VM,      VIF,
                                      VIP,     NT,
                                      DFL,     ARITH,
                                      0x8028,  RF};
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    for (uint32_t c = 0; c < 2; c++)
        for (uint32_t before = 0; before < 8; before++)
            for (size_t i = 0; i < COUNT(images); i++) {
                uint32_t old = (before & 1 ? IF : 0u) | (before & 2 ? IOPL3 : 0u) |
                               (before & 4 ? NT | ID | CF : 0u);
                IN(.cs = both[c], .eflags = old, .eax = images[i]);
                OK("push eax; popfd; pushfd; pop ebx");
                uint32_t want = flags_loaded(old, images[i], c ? 3 : 0, false);
                EQ(out.ebx, want);
                EQ(out.eflags, want);
                OK("push ax; popfw; pushfd; pop ebx; pushfw; pop cx");
                want = flags_loaded(old, images[i], c ? 3 : 0, true);
                EQ(out.ebx, want);
                EQ(out.ecx, want & 0xffff);
                /* IRET at the same privilege, with the same rules; NT clear, else it is a task
                 * return. */
                IN(.cs = both[c], .eflags = old & ~NT, .eax = images[i] & ~VM);
                OK("push eax; push cs; push offset 1f; iretd; 1: pushfd; pop ebx");
                want = flags_loaded(old & ~NT, images[i], c ? 3 : 0, false);
                if (!c) /* IRET at CPL 0 loads these two */
                    UNLESS_QEMU(VIF) want |= images[i] & (VIF | VIP);
                EQ(out.ebx, want);
            }
    /* PUSHF shows neither RF nor VM. */
    IN(.eflags = RF | CF);
    OK("pushfd; pop eax; pushfd; pop ebx");
    EQ(out.eax, CF | 2);
    EQ(out.ebx, CF | 2);
    /* Hot: a loop that toggles IF by POPF at CPL 3 with IOPL 0 must never see it change. */
    IN(.cs = UCODE, .eflags = IF, .ecx = 500);
    OK("1: pushfd; pop eax; and ebx, eax; or edx, eax; and eax, 0xfffffdff; push eax; popfd; loop "
       "1b");
    EQ(out.edx & IF, IF);
    EQ(out.eflags & IF, IF);
}

static void cli_sti(void)
{
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    for (uint32_t iopl = 0; iopl < 4; iopl++) {
        IN(.cs = UCODE, .eflags = iopl << 12 | CF);
        if (iopl < 3) {
            FAULT("cli", GP, 0);
            FAULT("sti", GP, 0);
        } else {
            OK("sti; pushfd; pop eax; cli; pushfd; pop ebx; sti");
            EQ(out.eax, iopl << 12 | CF | IF | 2);
            EQ(out.ebx, iopl << 12 | CF | 2);
            EQ(out.eflags, iopl << 12 | CF | IF | 2);
        }
        in.cs = 0;
        OK("sti; pushfd; pop eax; cli; pushfd; pop ebx");
        EQ(out.eax & IF, IF);
        EQ(out.ebx & IF, 0);
    }
    IN(.ecx = 1000);
    OK("1: sti; pushfd; cli; pushfd; pop eax; pop ebx; xor eax, ebx; add edx, eax; loop 1b");
    EQ(out.edx, 1000 * IF);
}

struct access {
    bool lar, lsl, verr, verw;
};

/* SDM 2 LAR, LSL, VERR, VERW: which types are valid, and the privilege rule. */
static struct access expected_access(uint32_t type, bool system, uint32_t dpl, uint32_t cpl,
                                     uint32_t rpl)
{
    static const uint16_t lar_types =
        1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12;
    static const uint16_t lsl_types = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11;
    bool conforming = !system && (type & 12) == 12;
    bool allowed = conforming || (cpl <= dpl && rpl <= dpl);
    bool code = type & 8;
    return (struct access){.lar = allowed && (!system || (lar_types >> type & 1)),
                           .lsl = allowed && (!system || (lsl_types >> type & 1)),
                           .verr = allowed && !system && (!code || (type & 2)),
                           .verw = allowed && !system && !code && (type & 2)};
}

static void access_rights(void)
{
    const struct snip *code =
        CODE("lar eax, ebx; setz cl; lsl edx, ebx; setz ch; verr bx; setz al; verw bx; setz ah; "
             "lar esi, ebx; lsl edi, ebx; movzx eax, ax");
    for (uint32_t c = 0; c < 2; c++)
        for (uint32_t type = 0; type < 32; type++)
            for (uint32_t n = 0; n < 16; n++) {
                uint32_t dpl = n & 3, rpl = n & 4 ? 3 : 0, present = n & 8 ? 0x80 : 0;
                uint32_t attr = present | dpl << 5 | type, cpl = c ? 3 : 0;
                bool pages = type & 1;
                gdt_set(FREE, 0x12345678, 0x54321, attr | (pages ? 0xd00u : 0x500u));
                struct access want = expected_access(type & 15, type < 16, dpl, cpl, rpl);
                IN(.cs = both[c], .ebx = FREE | rpl | 0xabcd0000, .esi = 0x11111111,
                   .edi = 0x22222222, .edx = 0x33333333);
                go(code);
                EQ(out.ecx, want.lar | want.lsl << 8);
                EQ(out.eax, want.verr | want.verw << 8);
                uint32_t limit = pages ? 0x54321fff : 0x54321;
                EQ(out.edx, want.lsl ? limit : 0x33333333);
                EQ(out.edi, want.lsl ? limit : 0x22222222);
                uint32_t high = (uint32_t)(gdt[FREE >> 3] >> 32);
                EQ(out.esi & 0xfff0ffff, want.lar ? high & 0x00f0ff00 : 0x11101111);
            }
    gdt_set(FREE, 0x12345678, 0x54321, 0xdf3);
    memory[0] = FREE | 0xffff0000;
    IN(.cs = UCODE, .esi = addr(memory), .eax = -1u, .ecx = -1u, .edx = -1u, .eflags = ARITH);
    OK("lar eax, [esi]; lsl ecx, [esi]; lar dx, [esi]; setz bl; lsl di, [esi]; verr [esi]; setz "
       "bh");
    EQ(out.eax & 0xfff0ffff, 0x00d0f300);
    EQ(out.ecx, 0x54321fff);
    EQ(out.edx, 0xfffff300);
    EQ(out.edi, 0x1fff);
    EQ(out.ebx, 0x101);
    EQ(out.eflags, ARITH | 2); /* only ZF is written */
    static const uint32_t none[] = {0, 1, 3, GDT_ENTRIES * 8, 0xfff8, FREE | 4};
    for (size_t i = 0; i < COUNT(none); i++) {
        IN(.cs = UCODE, .ebx = none[i], .eax = 0x77, .edx = 0x99, .eflags = ARITH);
        OK("lar eax, ebx; setz cl; lsl edx, ebx; setz ch; verr bx; setz bl; verw bx");
        EQ(out.ecx, 0);
        EQ(out.ebx & 0xff, 0);
        EQ(out.eax, 0x77);
        EQ(out.edx, 0x99);
        EQ(out.eflags, (ARITH & ~ZF) | 2);
    }
    /* ARPL raises the RPL of its destination to the source's. */
    for (uint32_t n = 0; n < 16; n++) {
        IN(.cs = both[n & 1], .eax = 0x12340010 | (n & 3), .ecx = 0x56780008 | n >> 2,
           .esi = addr(memory), .eflags = ARITH & ~ZF);
        memory[0] = in.eax;
        OK("arpl ax, cx; setz dl; arpl [esi], cx; setz dh");
        bool raised = (n & 3) < n >> 2;
        EQ(out.eax, raised ? 0x12340010 | n >> 2 : in.eax);
        EQ(memory[0], out.eax);
        EQ(out.edx, raised ? 0x101 : 0);
        EQ(out.eflags & ~ZF, (ARITH & ~ZF) | 2);
    }
}

static void segment_registers(void)
{
    static const uint32_t selectors[] = {KDATA, UDATA, 0, 3, FREE | 3, FREE | 1, FREE, KDATA | 0};
    gdt_set(FREE, 0x1000, 0xfffff, 0xcf3);
    for (uint32_t n = 0; n < 2 * COUNT(selectors); n++) {
        uint32_t cpl3 = n & 1, selector = selectors[n / 2];
        if (cpl3 && selector == KDATA)
            continue;
        IN(.cs = both[cpl3], .ebx = selector | 0x12340000, .esi = addr(memory));
        OK("mov fs, ebx; mov eax, fs; mov gs, bx; push gs; pop edi; mov ecx, -1; mov cx, fs; mov "
           "es, ebx; mov edx, es; push es; pop fs; "
           "push fs; pop gs");
        EQ(out.eax, selector);
        EQ(out.edi & 0xffff, selector);
        EQ(out.ecx, 0xffff0000 | selector);
        EQ(out.edx, selector);
        EQ(out.fs, selector);
        EQ(out.gs, selector);
        memory[0] = 0x55555555;
        OK("mov [esi], bx; mov fs, [esi]; mov dword ptr [esi], 0x66666666; mov [esi], fs; push fs; "
           "pop ax; pop cx");
        EQ(memory[0], 0x66660000 | selector);
        EQ(out.eax, selector);
    }
    /* MOV and POP SS: RPL, DPL and CPL must agree; CS and SS read back the CPL. */
    IN(.cs = UCODE, .eax = UDATA);
    OK("mov ss, eax; push eax; pop ss; mov ecx, ss; mov edx, cs; push cs; pop ebx");
    EQ(out.ecx, UDATA);
    EQ(out.edx, UCODE);
    EQ(out.ebx & 0xffff, UCODE);
    IN();
    OK("mov ecx, ss; mov edx, cs; mov eax, ds");
    EQ(out.ecx, KDATA);
    EQ(out.edx, KCODE);
    static const struct {
        uint32_t cs, selector, error;
    } refused[] = {{0, 0, 0},
                   {0, KCODE, KCODE},
                   {0, UDATA, UDATA & ~3u},
                   {0, KDATA | 3, KDATA},
                   {UCODE, 0, 0},
                   {UCODE, 3, 0},
                   {UCODE, KDATA, KDATA},
                   {UCODE, KDATA | 3, KDATA},
                   {UCODE, UDATA & ~3u, UDATA & ~3u},
                   {UCODE, UCODE, UCODE & ~3u},
                   {0, TSS, TSS},
                   {0, FREE | 4, FREE | 4}};
    for (size_t i = 0; i < COUNT(refused); i++) {
        IN(.cs = refused[i].cs, .eax = refused[i].selector);
        FAULTS(CODE("mov ss, eax"), GP, refused[i].error, i);
    }
    /* LDS, LES, LFS, LGS, LSS: both halves, or neither. */
    memory[0] = 0xcafe1234, memory[1] = FREE | 3, memory[2] = 0xbadbad00, memory[3] = KDATA;
    IN(.cs = UCODE, .esi = addr(memory), .eax = 1, .ecx = 2);
    OK("les eax, [esi]; lfs ecx, [esi]; lgs edx, [esi]; push ds; lds ebx, [esi]; mov edi, ds; pop "
       "ds; mov ebp, [esi]");
    EQ(out.eax, 0xcafe1234);
    EQ(out.ecx, 0xcafe1234);
    EQ(out.edx, 0xcafe1234);
    EQ(out.ebx, 0xcafe1234);
    EQ(out.edi, FREE | 3);
    EQ(out.es, FREE | 3);
    EQ(out.fs, FREE | 3);
    EQ(out.gs, FREE | 3);
    EQ(out.ebp, 0xcafe1234);
    FAULT("les eax, [esi + 8]", GP, KDATA);
    FAULT("lss ecx, [esi + 8]", GP, KDATA);
    FAULT("lds ecx, [esi + 8]", GP, KDATA);
    memory[0] = addr(user_stack_top) - 128, memory[1] = UDATA;
    OK("lss esp, [esi]; push eax");
    EQ(out.esp, addr(user_stack_top) - 132);
    memory[0] = 0x33335678, memory[1] = memory[0] >> 16 | UDATA << 16;
    memory[0] = 0x00235678;
    OK("mov eax, -1; .byte 0x66; les eax, [esi]");
    EQ(out.eax, 0xffff5678);
    EQ(out.es, UDATA);
    FAULT(".byte 0x0f, 0xb4, 0xc0", UD, 0);
}

/* #GP(0) at CPL 3, with any IOPL. */
static void privileged(void)
{
    struct dtable table = {sizeof(gdt) - 1, addr(gdt)};
    memcpy(memory, &table, 6);
    const struct snip *code[] = {
        CODE("hlt"),          CODE("lgdt [esi]"),   CODE("lidt [esi]"),   CODE("lldt ax"),
        CODE("ltr ax"),       CODE("lmsw ax"),      CODE("clts"),         CODE("mov eax, cr0"),
        CODE("mov cr0, eax"), CODE("mov eax, cr2"), CODE("mov cr2, eax"), CODE("mov eax, cr3"),
        CODE("mov cr3, eax"), CODE("mov eax, cr4"), CODE("mov cr4, eax"), CODE("mov eax, dr0"),
        CODE("mov dr0, eax"), CODE("mov eax, dr6"), CODE("mov dr7, eax"), CODE("mov eax, dr7"),
        CODE("invlpg [esi]"), CODE("invd"),         CODE("wbinvd"),       CODE("rdmsr"),
        CODE("wrmsr"),        CODE("rdpmc"),        CODE("sysexit")};
    for (uint32_t iopl = 0; iopl < 4; iopl += 3)
        for (size_t i = 0; i < COUNT(code); i++) {
            IN(.cs = UCODE, .esi = addr(memory), .eflags = iopl << 12, .ecx = 0x174,
               .eax = read_cr0());
            FAULTS(code[i], GP, 0, i);
        }
}

static void control_registers(void)
{
    uint32_t cr0 = read_cr0();
    IN(.eax = cr0 | CR0_TS);
    OK("mov cr0, eax; mov ebx, cr0; smsw ecx; clts; mov edx, cr0; smsw edi");
    EQ(out.ebx, cr0 | CR0_TS);
    EQ(out.ecx, cr0 | CR0_TS);
    EQ(out.edx, cr0 & ~CR0_TS);
    EQ(out.edi, cr0 & ~CR0_TS);
    in.eax = 0xffff0000 | CR0_TS | CR0_MP;
    OK("lmsw ax; mov ebx, cr0; xor eax, eax; lmsw ax; mov ecx, cr0");
    EQ(out.ebx, (cr0 & ~CR0_EM) | CR0_TS | CR0_MP); /* PE stays: LMSW cannot clear it */
    EQ(out.ecx, cr0 & ~(CR0_EM | CR0_TS | CR0_MP));
    in.esi = addr(memory), memory[0] = 0xffffffff;
    OK("lmsw [esi]; mov ebx, cr0; mov eax, cr0; and eax, 0xfffffff1; mov cr0, eax");
    EQ(out.ebx, cr0 | 0xe);
    write_cr0(cr0);
    IN(.eax = 0x12345678, .ecx = 0xabcde000);
    OK("mov cr2, eax; mov ebx, cr2; mov cr3, ecx; mov edx, cr3; xor eax, eax; mov cr3, eax");
    EQ(out.ebx, 0x12345678);
    EQ(out.edx, 0xabcde000);
    IN(.ecx = CR4_TSD | CR4_DE | CR4_PSE);
    OK("mov cr4, ecx; mov edx, cr4; xor eax, eax; mov cr4, eax; mov ebx, cr4");
    EQ(out.edx, CR4_TSD | CR4_DE | CR4_PSE);
    EQ(out.ebx, 0);
    UNLESS_QEMU(OPCODES)
    {
        FAULT(".byte 0x0f, 0x20, 0xc8", UD, 0); /* CR1 */
        FAULT(".byte 0x0f, 0x20, 0xe8", UD, 0); /* CR5 */
        FAULT(".byte 0x0f, 0x22, 0xf8", UD, 0); /* CR7 */
    }
    FAULT(".byte 0x0f, 0x01, 0xf8", UD, 0); /* INVLPG's slot with a register: SWAPGS, 64-bit only */
    /* The mod field of MOV CR and MOV DR is ignored: always registers. SDM 2 MOV. */
    OK(".byte 0x0f, 0x20, 0x00; mov ebx, eax; .byte 0x0f, 0x20, 0x40; mov ecx, eax");
    EQ(out.ebx, cr0);
    EQ(out.ecx, cr0);
    OK("mov eax, 0x10; mov dr0, eax; mov ebx, dr0; mov eax, 0xfffffff4; mov dr3, eax; mov ecx, "
       "dr3; xor eax, eax; mov dr6, eax; mov edx, dr6; "
       "mov dr7, eax; mov esi, dr7; mov dr3, eax; mov dr0, eax");
    EQ(out.ebx, 0x10);
    EQ(out.ecx, 0xfffffff4);
    EQ(out.edx, 0xffff0ff0);
    EQ(out.esi, 0x400);
    OK("mov eax, 0xffff0ff0; mov dr6, eax; mov edx, dr4; mov ecx, dr5"); /* aliases without CR4.DE
                                                                          */
    EQ(out.edx, 0xffff0ff0);
    EQ(out.ecx, 0x400);
    write_cr4(CR4_DE);
    FAULT("mov eax, dr4", UD, 0);
    FAULT("mov dr5, eax", UD, 0);
    write_cr4(0);
    OK("wbinvd; invlpg [esi]; invlpg [0xffffffff]");
    IN(.ecx = 0x12345678);
    UNLESS_QEMU(MSR)
    {
        FAULT("rdmsr", GP, 0);
        FAULT("wrmsr", GP, 0);
    }
    /* TSC, and CR4.TSD. */
    for (uint32_t c = 0; c < 2; c++) {
        IN(.cs = both[c]);
        OK("rdtsc; mov ebx, eax; mov esi, edx; mov ecx, 100; 1: loop 1b; rdtsc; sub eax, ebx; sbb "
           "edx, esi; setnc cl");
        EQ(out.ecx, 1);
        EQ(out.edx, 0);
        EQ(out.eax != 0, 1);
        write_cr4(CR4_TSD);
        if (c) {
            FAULT("rdtsc", GP, 0);
            if (cpuid(0x80000001, 0).edx >> 27 & 1)
                FAULT("rdtscp", GP, 0);
        } else {
            OK("rdtsc");
        }
        write_cr4(0);
    }
    if (cpuid(0x80000001, 0).edx >> 27 & 1) {
        wrmsr(0xc0000103, 0xabcd1234); /* TSC_AUX */
        IN(.cs = UCODE);
        OK("rdtscp");
        EQ(out.ecx, 0xabcd1234);
        wrmsr(0xc0000103, 0);
    }
}

/* Ports: 21h and A1h are the PICs' masks (read back), 80h is harmless. */
static void io_ports(void)
{
    IN(.edx = 0x21);
    OK("mov al, 0x5a; out 0x21, al; mov al, 0; in al, dx; mov cl, al; mov al, 0xff; out dx, al; in "
       "al, 0x21; mov ch, al");
    EQ(out.ecx, 0xff5a);
    IN(.edx = 0xa1, .esi = addr(memory), .edi = addr(memory) + 8);
    memory[0] = 0x04030201, memory[2] = 0xffffffff;
    OK("cld; outsb; insb; mov ecx, 3; rep outsb; in al, dx; mov ecx, 2; rep insb; mov bl, 0xff; "
       "xchg al, bl; out dx, al");
    EQ(memory[2], 0xff040401);
    EQ(out.ebx, 4);
    EQ(out.esi, in.esi + 4);
    EQ(out.edi, in.edi + 3);
    EQ(out.ecx, 0);
    IN(.edx = 0xa1, .esi = addr(memory) + 3, .edi = addr(memory) + 11, .ecx = 2);
    OK("std; rep outsb; insb; cld; mov al, 0xff; out dx, al");
    EQ(memory[2], 0x03040401);
    EQ(out.esi, in.esi - 2);
    OK("out 0x80, al; out 0x80, ax; out 0x80, eax; mov dx, 0x80; out dx, eax");
    /* CPL 3: IOPL, then the bitmap with a bit for each byte of the access. */
    memset(tss.bitmap, 0, sizeof(tss.bitmap));
    tss.bitmap[0x80 / 8] = 1 << 2;                    /* 82h */
    tss.bitmap[8191] = 0x80, tss.bitmap[8192] = 0xff; /* FFFFh, and the closing byte */
    for (uint32_t iopl = 0; iopl < 4; iopl++) {
        IN(.cs = UCODE, .eflags = iopl << 12, .edx = 0x82, .esi = addr(memory),
           .edi = addr(memory));
        OK("in al, 0x80; in ax, 0x80; out 0x83, al; out 0x83, eax; mov dx, 0xfffe; in al, dx");
        if (iopl == 3) {
            OK("in al, 0x82; out 0x81, eax; out dx, al; mov dx, 0xffff; in al, dx");
            continue;
        }
        FAULT("in al, 0x82", GP, 0);
        FAULT("in al, dx", GP, 0);
        FAULT("out 0x82, al", GP, 0);
        FAULT("out dx, ax", GP, 0);
        FAULT("in ax, 0x81", GP, 0);
        FAULT("in eax, 0x80", GP, 0);
        FAULT("out 0x7f, eax", GP, 0);
        OK("in ax, 0x83; in eax, 0x83");
        FAULT("insb", GP, 0);
        FAULT("outsd", GP, 0);
        in.ecx = 5;
        FAULT("rep outsb", GP, 0);
        in.edx = 0xffff;
        FAULT("in al, dx", GP, 0);
        in.edx = 0xfffe;
        FAULT("in ax, dx", GP, 0);
        /* A limit that ends before the bitmap's byte: not allowed. */
        gdt_set(TSS, addr(&tss), offsetof(struct tss, bitmap) + 0x83 / 8, 0x089);
        __asm__ volatile("ltr %w0" : : "r"(TSS));
        OK("in al, 0x7f");
        FAULT("in al, 0x80", GP, 0); /* the CPU reads two bytes */
        FAULT("in al, 0x88", GP, 0);
        gdt_set(TSS, addr(&tss), sizeof(tss) - 1, 0x089);
        __asm__ volatile("ltr %w0" : : "r"(TSS));
        tss.iomap = 0xffff; /* no bitmap */
        FAULT("in al, 0x80", GP, 0);
        tss.iomap = offsetof(struct tss, bitmap);
        OK("in al, 0x80");
    }
    memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
    /* REP INS with a count of 0 checks nothing but the permission. */
    IN(.edx = 0x21, .edi = 0xf0000000);
    OK("rep insb; rep outsd");
}

static void sysenter(void)
{
    if (!(cpuid(1, 0).edx >> 11 & 1))
        return;
    const struct snip *landing = CODE("pushfd; pop ebx; mov eax, cs; mov edi, ss");
    IN(.cs = UCODE);
    wrmsr(0x174, 0);
    FAULT("sysenter", GP, 0);
    in.cs = 0;
    FAULT("sysenter", GP, 0);
    FAULT("sysexit", GP, 0);
    wrmsr(0x174, KCODE);
    wrmsr(0x175, addr(kernel_stack_top) - 64);
    wrmsr(0x176, landing->start);
    EQ(rdmsr(0x174), KCODE);
    EQ(rdmsr(0x175), addr(kernel_stack_top) - 64);
    EQ(rdmsr(0x176), landing->start);
    for (uint32_t n = 0; n < 12; n++) {
        uint32_t flags =
            (n & 1 ? IF : 0u) | (n & 2 ? IOPL3 | CF | DFL : 0u) | (n & 4 ? ACF | ID | NT : 0u);
        IN(.cs = n & 8 ? 0u : UCODE, .eflags = flags, .ecx = 0x1111, .edx = 0x2222, .esi = 0x3333);
        OK("sysenter");
        EQ(out.eax, KCODE);
        EQ(out.edi, KDATA);
        EQ(out.esp, addr(kernel_stack_top) - 64);
        EQ(out.ebx, (flags & ~IF) | 2); /* only IF, VM and RF change */
        EQ(out.ecx, 0x1111);
        EQ(out.edx, 0x2222);
    }
    for (uint32_t n = 0; n < 8; n++) {
        uint32_t flags = (n & 1 ? IF : 0u) | (n & 2 ? IOPL3 | CF : 0u) | (n & 4 ? ACF | ID : 0u);
        IN(.eflags = flags, .edx = landing->start, .ecx = addr(user_stack_top) - 128);
        OK("sysexit");
        EQ(out.eax, UCODE);
        EQ(out.edi, UDATA);
        EQ(out.cs, UCODE);
        EQ(out.ss, UDATA);
        EQ(out.ds, KDATA); /* not changed by SYSEXIT */
        EQ(out.esp, addr(user_stack_top) - 128);
        EQ(out.ebx, flags | 2);
    }
    /* The whole round trip, hot: SYSENTER to a handler that comes back by SYSEXIT. */
    const struct snip *handler = CODE("inc esi; sysexit");
    wrmsr(0x176, handler->start);
    IN(.cs = UCODE, .edi = 300);
    OK("1: mov ecx, esp; lea edx, 2f; sysenter; ud2; 2: dec edi; jnz 1b; mov eax, cs; mov ebx, ss");
    EQ(out.esi, 300);
    EQ(out.eax, UCODE);
    EQ(out.ebx, UDATA);
    wrmsr(0x174, 0);
    wrmsr(0x175, 0);
    wrmsr(0x176, 0);
}

static void cpuid_and_xcr0(void)
{
    struct cpuid zero = cpuid(0, 0), one = cpuid(1, 0);
    EQ(zero.eax >= 1, 1);
    EQ(one.edx & 1, 1);
    for (uint32_t c = 0; c < 2; c++) {
        IN(.cs = both[c], .eax = 0, .ecx = 0x5555, .eflags = ARITH);
        OK("cpuid");
        EQ(out.eax, zero.eax);
        EQ(out.ebx, zero.ebx);
        EQ(out.ecx, zero.ecx);
        EQ(out.edx, zero.edx);
        EQ(out.eflags, ARITH | 2);
        IN(.cs = both[c], .eax = 1, .edi = 200);
        OK("1: mov eax, 1; cpuid; dec edi; jnz 1b");
        EQ(out.eax, one.eax);
        EQ(out.edx, one.edx);
        EQ(out.ecx, one.ecx);
        /* The ID flag can be toggled, which says that CPUID is there. */
        OK("pushfd; pop eax; mov ecx, eax; xor eax, 0x200000; push eax; popfd; pushfd; pop eax; "
           "xor eax, ecx");
        EQ(out.eax, ID);
    }
    if (!(one.ecx >> 26 & 1))
        return;
    /* XSAVE: CPUID reflects CR4.OSXSAVE; XGETBV and XSETBV need it. */
    EQ(one.ecx >> 27 & 1, 0);
    IN(.ecx = 0, .eax = 1);
    FAULT("xgetbv", UD, 0);
    FAULT("xsetbv", UD, 0);
    write_cr4(CR4_OSXSAVE | CR4_OSFXSR);
    EQ(cpuid(1, 0).ecx >> 27 & 1, 1);
    struct cpuid d = cpuid(0xd, 0);
    for (uint32_t c = 0; c < 2; c++) {
        IN(.eax = 3);
        OK("xsetbv; xgetbv");
        EQ(out.eax, 3);
        EQ(out.edx, 0);
        EQ(cpuid(0xd, 0).ebx, 576);
        IN(.cs = both[c], .ecx = 0);
        OK("xgetbv");
        EQ(out.eax, 3);
        in.ecx = 2;
        FAULT("xgetbv", GP, 0);
    }
    if ((d.eax & 7) == 7) {
        IN(.eax = 7);
        OK("xsetbv; xgetbv");
        EQ(out.eax, 7);
        EQ(cpuid(0xd, 0).ebx >= 832, 1);
    }
    IN(.cs = UCODE, .eax = 3);
    FAULT("xsetbv", GP, 0);
    static const uint32_t bad[] = {0, 2, 5, 0x40000001, 1 << 8 | 1};
    for (size_t i = 0; i < COUNT(bad); i++) {
        IN(.eax = bad[i]);
        FAULTS(CODE("xsetbv"), GP, 0, i);
    }
    IN(.eax = 1, .ecx = 0);
    OK("xsetbv; xgetbv");
    EQ(out.eax, 1);
    write_cr4(0);
    EQ(cpuid(1, 0).ecx >> 27 & 1, 0);
}

void guest_main(void)
{
    GROUP(store_tables);
    GROUP(store_registers);
    GROUP(pushf_popf);
    GROUP(cli_sti);
    GROUP(access_rights);
    GROUP(segment_registers);
    GROUP(privileged);
    GROUP(control_registers);
    GROUP(io_ports);
    GROUP(sysenter);
    GROUP(cpuid_and_xcr0);
}
