/* vm86.c - virtual-8086 mode and real mode.
 *
 * SDM 3B 20.1 (real-address mode), 20.2 (virtual-8086: entering by IRET and by a task switch,
 * leaving, what depends on IOPL), 20.3 (interrupts through the IDT), 20.2.7-20.2.8 (I/O), 20.3.3
 * (CR4.VME); SDM 3A 9.9 (switching modes); "Virtual-8086 Mode Exceptions" of each instruction in
 * SDM 2.
 *
 * 16-bit snippets are copied to LOW and run there at offset 0. Real mode is entered by real_run
 * below: it leaves protected mode, runs the snippet at LOW by a far call, and comes back. */
#include "guest.h"

const char guest_name[] = "vm86";

enum {
    LOW = 0x6000,
    CS16 = 0x600,
    DATA = 0x20000,
    DS16 = 0x2000,
    STACK = 0x30000,
    SS16 = 0x3000,
    SP16 = 0x1000
};
enum { S0 = FREE, S1 = FREE + 8, TASK = FREE + 16 };

#define CODE16(text) CODE(".code16\n" text)

/* One byte at a linear address below 1 MiB. */
static volatile uint8_t *low8(uint32_t linear)
{
    return (volatile uint8_t *)linear;
}

static uint32_t low16(uint32_t linear)
{
    return (uint32_t)(low8(linear)[0] | low8(linear)[1] << 8);
}

static void put16(uint32_t linear, uint32_t value)
{
    low8(linear)[0] = (uint8_t)value;
    low8(linear)[1] = (uint8_t)(value >> 8);
}

#define V86(...) (IN(__VA_ARGS__), v86_defaults())

static void v86_defaults(void)
{
    in.cs = CS16;
    in.ss = SS16;
    in.esp = SP16;
    in.ds = DS16;
    if (!in.es)
        in.es = DS16;
}

static void v86_go(const struct snip *snip)
{
    memcpy((void *)LOW, (const void *)snip->start, snip->end + 2 - snip->start);
    in.eflags |= VM;
    go(snip);
}

static void v86_ok(const struct snip *snip, int line)
{
    v86_go(snip);
    check(out.vector, DONE, "vector", __FILE__, line);
    check(out.eip, snip->end + 2 - snip->start, "end", __FILE__, line);
    check(out.cs, CS16, "CS", __FILE__, line);
    check(out.eflags & VM, VM, "VM", __FILE__, line);
}

static void v86_fault(const struct snip *snip, uint32_t vector, uint32_t error, int line)
{
    v86_go(snip);
    check(out.vector, vector, "vector", __FILE__, line);
    check(out.error, error, "error code", __FILE__, line);
    check(out.eip, snip->at - snip->start, "saved IP", __FILE__, line);
    check(out.cs, CS16, "saved CS", __FILE__, line);
    check(out.eflags & VM, VM, "saved VM", __FILE__, line);
}

#define V86_OK(text)                   v86_ok(CODE16(text), __LINE__)
#define V86_FAULT(text, vector, error) v86_fault(CODE16(text), vector, error, __LINE__)

static void v86_basics(void)
{
    put16(DATA + 0x10, 0x1234);
    put16(DATA + 0x12, 0x5678);
    V86(.eflags = IOPL3, .esi = 0xabcd0010, .edi = 0x20, .eax = 0x99990000, .fs = 0x2001,
        .gs = 0x1fff);
    V86_OK("mov ax, [si]; mov bx, fs:[0]; mov cx, gs:[0x20]; mov dx, cs; mov bp, ss; push ds; pop "
           "di; mov [0x30], es");
    EQ(out.eax, 0x99991234);
    EQ(out.ebx, 0x1234);
    EQ(out.ecx, 0x1234);
    EQ(out.edx, CS16);
    EQ(out.ebp, SS16);
    EQ(out.edi, DS16);
    EQ(low16(DATA + 0x30), DS16);
    EQ(out.ds, DS16);
    EQ(out.es, DS16);
    EQ(out.fs, 0x2001);
    EQ(out.gs, 0x1fff);
    EQ(out.ss, SS16);
    EQ(out.esp, SP16);
    /* Any value may be loaded; the base is 16 times it, the limit stays. */
    V86(.eflags = IOPL3, .eax = 0x2001, .ebx = 0xffff);
    V86_OK("mov es, ax; mov cx, es:[0]; mov fs, bx; mov dx, fs:[0x10]; mov gs, cx; mov si, gs; mov "
           "di, fs");
    EQ(out.ecx, 0x1234);
    EQ(out.edx, *(uint16_t *)0x100000); /* FFFF:0010 is 1 MiB, with A20 on */
    EQ(out.esi, 0x1234);
    EQ(out.edi, 0xffff);
    /* Stack, near and far calls, loops; 32-bit operands and addresses. */
    V86(.eflags = IOPL3, .ecx = 500, .esi = 0x10);
    V86_OK("1: call 2f; push ax; pop bx; loop 1b; jmp 3f; 2: inc ax; ret; 3: mov edx, [si]; mov "
           "edi, [esi + 2]; push edx; pop bp; pop si");
    EQ(out.eax, 500);
    EQ(out.ebx, 500);
    EQ(out.edx, 0x56781234);
    EQ(out.edi & 0xffff, 0x5678);
    EQ(out.ebp, 0x1234);
    EQ(out.esi, 0x5678);
    V86(.eflags = IOPL3, .ecx = 100);
    V86_OK("1: push cs; call 2f; inc bx; loop 1b; jmp 3f; 2: inc dx; retf; 3: push cs; call 4f; 4: "
           "pop ax; add ax, 8; push ax; retf; ud2; "
           "mov si, 0x55"); /* AX: behind the UD2 */
    EQ(out.edx, 100);
    EQ(out.ebx, 100);
    EQ(out.esi, 0x55);
    /* Strings wrap in their segment; LES and LDS take any selector; ES is what STOS uses. */
    V86(.eflags = IOPL3, .esi = 0xfffe, .edi = 0x40, .ecx = 4, .es = 0x2100);
    put16(DATA + 0xfffe, 0xbeef);
    put16(DATA, 0xcafe);
    V86_OK("rep movsb; les bx, [0x10]; mov ax, es; mov dx, 0x2000; mov es, dx");
    EQ(low16(DATA + 0x1040), 0xbeef);
    EQ(low16(DATA + 0x1042), 0xcafe);
    EQ(out.esi, 2);
    EQ(out.ebx, 0x1234);
    EQ(out.eax, 0x5678);
    UNLESS_QEMU(LIMITS)
    {
        V86(.eflags = IOPL3, .esi = 0xffff, .ebp = 0xffff, .edi = 0x10000);
        V86_FAULT("mov ax, [si]", GP, 0);
        V86_FAULT("mov [bp], ax", SS, 0);
        V86_FAULT(".byte 0x67, 0x8a, 0x07", GP, 0); /* mov al, [edi]: an offset past FFFFh */
        V86_FAULT("mov sp, 1;" AT "push ax", SS, 0);
    }
}

/* With IOPL 3 nothing traps; IF is the real one, IOPL and VM stay. */
static void v86_flags(void)
{
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    V86(.eflags = IOPL3 | IF | CF);
    V86_OK("pushf; pop ax; cli; pushf; pop bx; sti; pushf; pop cx; pushfd; pop edx");
    EQ(out.eax, IOPL3 | IF | CF | 2);
    EQ(out.ebx, IOPL3 | CF | 2);
    EQ(out.ecx, IOPL3 | IF | CF | 2);
    EQ(out.edx, IOPL3 | IF | CF | 2); /* VM is not in the image */
    V86(.eflags = IOPL3, .eax = 0x0fff & ~TF, .ebx = 0x00240202);
    V86_OK("push ax; popf; pushf; pop cx; push ebx; popfd; pushfd; pop edx");
    EQ(out.ecx, (0x0fd7 & ~TF) | IOPL3 | 2);
    EQ(out.edx, IOPL3 | ACF | ID | IF | 2);
    EQ(out.eflags & (VM | IOPL3), VM | IOPL3);
    V86(.eflags = IOPL3, .eax = 0x0203);
    V86_OK("push ax; push cs; call 1f; jmp 2f; 1: iret; 2: pushf; pop cx"); /* IRET stays in V86 */
    EQ(out.ecx, 0x0203 | IOPL3);
    V86(.eflags = IOPL3, .ecx = 300);
    V86_OK("1: sti; pushf; cli; pushf; pop ax; pop bx; xor ax, bx; add dx, ax; loop 1b");
    EQ(out.edx, (uint16_t)(300 * IF));
    gate_set(0x50, 0x50, 0xee);
    V86_FAULT("int 0x50;" AT, 0x50, 0);
    V86_FAULT("int3;" AT, BP, 0);
    gate_restore(0x50);
    V86_FAULT("int 0x50", GP, 0x50 * 8 + 2); /* DPL 0 */
}

static void v86_traps(void)
{
    for (uint32_t iopl = 0; iopl < 3; iopl++) {
        V86(.eflags = iopl << 12 | IF | OFL);
        V86_FAULT("cli", GP, 0);
        V86_FAULT("sti", GP, 0);
        V86_FAULT("pushf", GP, 0);
        V86_FAULT("popf", GP, 0);
        V86_FAULT("pushfd", GP, 0);
        V86_FAULT("popfd", GP, 0);
        V86_FAULT("iret", GP, 0);
        V86_FAULT("int 0x21", GP, 0);
        V86_FAULT("int 0xff", GP, 0);
        V86_FAULT("mov ax, 5; inc ax;" AT "cli", GP, 0);
        EQ(out.eax, 6);
        V86_FAULT("int3;" AT, BP, 0); /* INT3 and INTO do not look at IOPL */
        V86_FAULT("into;" AT, OF, 0);
    }
    V86(.eflags = IOPL3, .esi = 0x10);
    const struct snip *privileged[] = {
        CODE16("hlt"),          CODE16("lgdt [si]"),    CODE16("lidt [si]"),    CODE16("clts"),
        CODE16("mov eax, cr0"), CODE16("mov cr0, eax"), CODE16("mov eax, dr7"), CODE16("rdmsr"),
        CODE16("wrmsr"),        CODE16("invd"),         CODE16("wbinvd"),       CODE16("lmsw ax"),
        CODE16("invlpg [si]")};
    for (size_t i = 0; i < COUNT(privileged); i++)
        CASE(i), v86_fault(privileged[i], GP, 0, __LINE__);
    const struct snip *undefined[] = {
        CODE16("lar ax, bx"),  CODE16("lsl ax, bx"), CODE16("verr ax"), CODE16("verw ax"),
        CODE16("sldt ax"),     CODE16("str ax"),     CODE16("lldt ax"), CODE16("ltr ax"),
        CODE16("arpl ax, bx"), CODE16("ud2")};
    for (size_t i = 0; i < COUNT(undefined); i++)
        CASE(i), v86_fault(undefined[i], UD, 0, __LINE__);
    struct dtable table;
    V86(.eflags = IOPL3, .esi = 0x80);
    V86_OK("smsw ax; sgdt [si]; .byte 0x66; sidt [si + 8]");
    EQ(out.eax, read_cr0() & 0xffff);
    memcpy(&table, (void *)(DATA + 0x80), 6);
    EQ(table.limit, sizeof(gdt) - 1);
    V86(.eflags = IOPL3, .eax = 1);
    V86_FAULT("xor bx, bx;" AT "div bx", DE, 0);
    V86(.eflags = IOPL3, .esi = 0x90);
    put16(DATA + 0x90, 1);
    put16(DATA + 0x92, 2);
    V86_FAULT("bound ax, [si]", BR, 0);
}

/* On the way to the handler all data segment registers are nulled; the frame has their values. */
static uint32_t handler_segments;
static bool on_entry(struct frame *frame)
{
    handler_segments = (frame->ds | frame->es | frame->fs | frame->gs) & 0xffff;
    return false;
}

static void v86_entry(void)
{
    V86(.eflags = IOPL3, .fs = 0x1111, .gs = 0x2222, .eax = 7);
    trap_hook = on_entry;
    handler_segments = 0xffff;
    V86_OK("nop");
    trap_hook = NULL;
    EQ(handler_segments, 0);
    EQ(out.fs, 0x1111);
    EQ(out.gs, 0x2222);
    EQ(out.ds, DS16);
}

/* I/O looks at the bitmap alone, whatever IOPL is. */
static void v86_io(void)
{
    memset(tss.bitmap, 0, sizeof(tss.bitmap));
    tss.bitmap[0x80 / 8] = 1 << 2; /* 82h */
    tss.bitmap[8192] = 0xff;
    V86(.eflags = IOPL3, .edx = 0x82);
    V86_OK("in al, 0x80; out 0x83, al; in ax, 0x80");
    V86_FAULT("in al, dx", GP, 0);
    V86_FAULT("out 0x82, al", GP, 0);
    V86_FAULT("in ax, 0x81", GP, 0);
    V86_FAULT("insb", GP, 0);
    V86_FAULT("out dx, eax", GP, 0);
    memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
    V86_FAULT("in al, 0x80", GP, 0);
}

/* A small monitor: reflects INT n, and does CLI, STI, PUSHF, POPF and IRET for a guest with IOPL 0.
 */
static uint32_t reflected;
static bool on_reflect(struct frame *frame)
{
    if (frame->vector != GP || !(frame->eflags & VM))
        return false;
    uint32_t pc = (frame->cs & 0xffff) * 16 + (frame->eip & 0xffff),
             stack = (frame->ss & 0xffff) * 16;
    uint32_t sp = frame->esp;
    reflected++;
    switch (*low8(pc)) {
    case 0xcd:
        if (low8(pc)[1] == 0xff)
            return false;
        put16(stack + (sp - 2), frame->eflags);
        put16(stack + (sp - 4), frame->cs);
        put16(stack + (sp - 6), frame->eip + 2);
        frame->esp = sp - 6;
        frame->eip = low16(low8(pc)[1] * 4u);
        frame->cs = low16(low8(pc)[1] * 4u + 2);
        return true;
    case 0xcf:
        frame->eip = low16(stack + sp);
        frame->cs = low16(stack + sp + 2);
        frame->eflags = (frame->eflags & 0xffff0000) | (low16(stack + sp + 4) & 0xfd5) | IF | 2;
        frame->esp = sp + 6;
        return true;
    case 0x9c:
        put16(stack + (sp - 2), frame->eflags);
        frame->esp = sp - 2;
        break;
    case 0xfa:
    case 0xfb:
        break;
    default:
        return false;
    }
    frame->eip++;
    return true;
}

static void v86_monitor(void)
{
    uint32_t was = *(uint32_t *)(0x21 * 4);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    /* 0400:0010 is the handler: inc dx; stc in the saved flags; iret */
    static const uint8_t handler[] = {0x42, 0x55, 0x89, 0xe5, 0x80, 0x4e, 0x06, 0x01, 0x5d, 0xcf};
    memcpy((void *)0x4010, handler, sizeof(handler));
    *(uint32_t *)(0x21 * 4) = 0x04000010;
    V86(.eflags = IF, .ecx = 200);
    reflected = 0;
    trap_hook = on_reflect;
    v86_go(CODE16("1: clc; int 0x21; adc bx, 0; cli; sti; pushf; pop ax; loop 1b"));
    trap_hook = NULL;
    EQ(out.vector, GP); /* the closing INT FFh, as IOPL is 0 */
    EQ(out.edx, 200);
    EQ(out.ebx, 200);
    EQ(out.ecx, 0);
    EQ(reflected, 200 * 5 + 1);
    *(uint32_t *)(0x21 * 4) = was;
}

static uint32_t ticks;
static bool on_timer(struct frame *frame)
{
    if (frame->vector != 0x20)
        return false;
    pic_eoi(0x20);
    if (++ticks == 3)
        frame->ebp = 1;
    return true;
}

static void v86_interrupts(void)
{
    ticks = 0;
    pic_init(1);
    pit_start(1193);
    trap_hook = on_timer;
    V86(.eflags = IOPL3 | IF, .fs = 0x77);
    V86_OK("1: inc ax; test bp, bp; jz 1b; cli");
    EQ(out.fs, 0x77);
    EQ(out.ds, DS16);
    EQ(ticks >= 3, 1);
    trap_hook = NULL;
    pit_stop();
    pic_init(0);
}

/* Virtual-8086 code is CPL 3 for paging. */
static void v86_paging(void)
{
    frames_reset();
    uint32_t *pd = pd_new(0);
    for (uint32_t page = 0; page < 0x110000; page += 4096)
        pd_map(pd, page, page, P | W | U);
    pd_map(pd, DATA + 0x3000, DATA + 0x3000, P | W);
    pd_map(pd, DATA + 0x4000, DATA + 0x4000, P | U);
    pd_map(pd, DATA + 0x5000, DATA + 0x6000, P | U);
    paging_on(pd, 0);
    put16(DATA + 0x6008, 0x4321);
    V86(.eflags = IOPL3, .esi = 0x3004, .edi = 0x4004, .ebx = 0x5008);
    V86_OK("mov ax, [bx]; mov cx, [di]");
    EQ(out.eax, 0x4321);
    V86_FAULT("mov ax, [si]", PF, 5);
    EQ(out.cr2, DATA + 0x3004);
    V86_FAULT("mov [di], ax", PF, 7);
    EQ(out.cr2, DATA + 0x4004);
    paging_off();
}

static struct tss task;

static void v86_task(void)
{
    const struct snip *snip = CODE16("mov ax, ds; mov bx, [0x10]");
    memcpy((void *)LOW, (const void *)snip->start, snip->end + 2 - snip->start);
    memset(&task, 0, sizeof(task));
    task.eflags = VM | IOPL3 | 2;
    task.cs = CS16, task.ss = SS16, task.esp = SP16, task.ds = DS16, task.es = 0x1234,
    task.fs = 0xffff;
    task.esp0 = addr(trap_stack_top), task.ss0 = KDATA, task.iomap = 104;
    gdt_set(TASK, addr(&task), 103, 0x089);
    put16(DATA + 0x10, 0x1234);
    IN();
    OK(".byte 0xea; .long 0; .word 0x50");
    EQ(out.eax, DS16);
    EQ(out.ebx, 0x1234);
    EQ(out.es, 0x1234);
    EQ(out.fs, 0xffff);
    EQ(out.eflags & VM, VM);
    gdt_unbusy(TSS);
    __asm__ volatile("ltr %w0; clts" : : "r"(TSS));
}

/* CR4.VME: a virtual IF, and INT n by a bitmap of 32 bytes below the I/O map. SDM 3B 20.3.3, table
 * 20-2. */
static void v86_vme(void)
{
    if (!(cpuid(1, 0).edx >> 1 & 1))
        return;
    uint32_t was = *(uint32_t *)(0x21 * 4);
    write_cr4(CR4_VME);
    tss.iomap = offsetof(struct tss, bitmap) + 32;
    memset(tss.bitmap, 0, 32);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    static const uint8_t handler[] = {0x42, 0xcf}; /* inc dx; iret */
    memcpy((void *)0x4010, handler, sizeof(handler));
    *(uint32_t *)(0x21 * 4) = 0x04000010;
    *(uint32_t *)(0xff * 4) = 0;
    tss.bitmap[0xff / 8] = 0x80; /* INT FFh is not redirected: #GP with IOPL < 3 */
    V86(.eflags = IF, .ecx = 50);
    v86_go(CODE16("1: int 0x21; sti; pushf; pop ax; cli; pushf; pop bx; loop 1b"));
    EQ(out.vector, GP);
    EQ(out.edx, 50);
    EQ(out.eax, IOPL3 | IF | 2); /* the image shows VIF as IF, and IOPL 3 */
    EQ(out.ebx, IOPL3 | 2);
    EQ(out.eflags & (IF | VIF), IF);
    V86(.eflags = IF | VIP);
    V86_FAULT("cli;" AT "sti", GP, 0); /* VIP: the monitor has an interrupt for it */
    tss.bitmap[0x21 / 8] |= 1 << (0x21 % 8);
    V86(.eflags = IF);
    V86_FAULT("int 0x21", GP, 0);
    *(uint32_t *)(0x21 * 4) = was;
    tss.iomap = offsetof(struct tss, bitmap);
    memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
    write_cr4(0);
}

/* Real mode. real_run(), copied to REAL_CODE, switches there, far-calls LOW, and comes back.
 * Registers go in and out through `real`; FS keeps the 4 GiB limit and the base that it had
 * ("unreal"). */
enum { REAL_CODE = 0x7000 };

struct real {
    uint32_t eax, ebx, ecx, edx, esi, edi, eflags;
};
struct real real;
extern uint8_t real_first[], real_last[];
void real_run(void);

__asm__(".text\n"
        "real_run:\n"
        "        pushal\n"
        "        movl %esp, real_esp\n"
        "        ljmp $0x40, $real_16 - real_first\n"
        "real_32:\n"
        "        movl $0x10, %eax\n"
        "        movl %eax, %ds\n"
        "        movl %eax, %es\n"
        "        movl %eax, %fs\n"
        "        movl %eax, %gs\n"
        "        movl %eax, %ss\n"
        "        movl real_esp, %esp\n"
        "        popal\n"
        "        ret\n"
        ".data\n.balign 4\n"
        "real_esp: .long 0\n"
        ".text\n"
        ".code16\n"
        "real_first:\n"
        "real_ivt: .word 0x3ff\n"
        "        .long 0\n"
        "real_target: .word 0\n"
        "        .word 0x600\n"
        "real_image: .skip 28\n"
        "        .balign 4\n"
        "real_16:\n"
        "        movw $0x48, %ax\n" /* 64 KiB limits, base 0 */
        "        movw %ax, %ds\n"
        "        movw %ax, %es\n"
        "        movw %ax, %ss\n"
        "        movw %ax, %gs\n"
        "        movw $0x50, %ax\n" /* FS: base 12340h, 4 GiB */
        "        movw %ax, %fs\n"
        "        movl %cr0, %eax\n"
        "        andb $0xfe, %al\n"
        "        movl %eax, %cr0\n"
        "        ljmp $0x700, $real_mode - real_first\n"
        "real_mode:\n"
        "        movw $0x3000, %ax\n"
        "        movw %ax, %ss\n"
        "        movl $0x1000, %esp\n"
        "        movw $0x2000, %ax\n"
        "        movw %ax, %ds\n"
        "        movw %ax, %es\n"
        "        lidtl %cs:real_ivt - real_first\n"
        "        movl %cs:real_image - real_first, %eax\n"
        "        movl %cs:real_image - real_first + 4, %ebx\n"
        "        movl %cs:real_image - real_first + 8, %ecx\n"
        "        movl %cs:real_image - real_first + 12, %edx\n"
        "        movl %cs:real_image - real_first + 16, %esi\n"
        "        movl %cs:real_image - real_first + 20, %edi\n"
        "        pushl %cs:real_image - real_first + 24\n"
        "        popfl\n"
        "        lcall *%cs:real_target - real_first\n"
        "        pushfl\n"
        "        popl %cs:real_image - real_first + 24\n"
        "        cli\n"
        "        movl %eax, %cs:real_image - real_first\n"
        "        movl %ebx, %cs:real_image - real_first + 4\n"
        "        movl %ecx, %cs:real_image - real_first + 8\n"
        "        movl %edx, %cs:real_image - real_first + 12\n"
        "        movl %esi, %cs:real_image - real_first + 16\n"
        "        movl %edi, %cs:real_image - real_first + 20\n"
        "        movl %cr0, %eax\n"
        "        orb $1, %al\n"
        "        movl %eax, %cr0\n"
        "        ljmpl $8, $real_32\n"
        "real_last:\n"
        ".code32\n");

/* Runs a 16-bit snippet in real mode; it must end in RETF, so that its INT FFh is not reached. */
static void real_go(const struct snip *snip)
{
    enum { IMAGE = REAL_CODE + 10 };
    gdt_set(S0, REAL_CODE, 0xffff, 0x09b);
    gdt_set(S1, 0, 0xffff, 0x093);
    gdt_set(FREE + 16, 0x12340, 0xfffff, 0xc93);
    memcpy((void *)REAL_CODE, real_first, (uint32_t)(real_last - real_first));
    memcpy((void *)LOW, (const void *)snip->start, snip->end + 2 - snip->start);
    real.eflags |= 2;
    memcpy((void *)IMAGE, &real, sizeof(real));
    real_run();
    memcpy(&real, (void *)IMAGE, sizeof(real));
    __asm__ volatile("cld; lidt %0" : : "m"((struct dtable){sizeof(idt) - 1, addr(idt)}));
}

#define REAL(...)      (real = (struct real){__VA_ARGS__})
#define REAL_RUN(text) real_go(CODE16(text "; retf"))

static void ivt_set(uint32_t vector, uint32_t at)
{
    *(volatile uint32_t *)(vector * 4) = at;
}

static void real_basics(void)
{
    put16(DATA + 0x10, 0x1234);
    put16(DATA + 0x12, 0x5678);
    REAL(.esi = 0x10, .ecx = 300);
    REAL_RUN("smsw ax; mov bx, cs; mov edx, [si]; 1: call 2f; loop 1b; jmp 3f; 2: inc di; ret; 3: "
             "mov si, ss");
    EQ(real.eax & 1, 0);
    EQ(real.ebx, CS16);
    EQ(real.edx, 0x56781234);
    EQ(real.edi, 300);
    EQ(real.esi, SS16);
    /* Loading a segment register sets the base alone; any value will do. */
    REAL(.ebx = 0x2001, .ecx = 0xffff);
    REAL_RUN("mov es, bx; mov ax, es:[0]; mov gs, cx; mov dx, gs:[0x10]; mov si, gs; push ds; push "
             "0x1ff0; pop ds; mov di, [0x110]; pop ds");
    EQ(real.eax, 0x1234);
    EQ(real.edx, *(uint16_t *)0x100000);
    EQ(real.esi, 0xffff);
    EQ(real.edi, 0x1234);
    /* All flags can be written; VM cannot. */
    REAL(.ebx = 0x7e00 & ~(uint32_t)IF);
    REAL_RUN("push bx; popf; pushf; pop ax; push 0; popf; sti; pushf; pop cx; cli; pushf; pop dx");
    EQ(real.eax, (0x7e00 & ~IF) | 2);
    EQ(real.ecx, IF | 2);
    EQ(real.edx, 2);
    REAL(.eax = 5, .ebx = 0x01234567, .ecx = 3);
    REAL_RUN("mul ebx; push eax; pop si; pop di; rep stosb; xchg ax, bx; std; cld");
    EQ(real.esi, 0x05b05b03 & 0xffff);
    EQ(real.edi, (0x05b0 + 3) & 0xffff);
    EQ(real.ecx, 0);
}

static void real_unreal(void)
{
    /* FS still has the base and limit of protected mode: 1 MiB and more is in reach. */
    uint32_t *far_word = (uint32_t *)0x400010;
    *far_word = 0x89abcdef;
    REAL(.ebx = 0x400010 - 0x12340);
    REAL_RUN("mov eax, fs:[ebx]; inc dword ptr fs:[ebx]; mov cx, fs; mov edi, fs:[ebx]");
    EQ(real.eax, 0x89abcdef);
    EQ(real.edi, 0x89abcdf0);
    EQ(*far_word, 0x89abcdf0);
    EQ(real.ecx, 0x50);
    /* A load sets the base only: the limit stays 4 GiB. */
    REAL(.ebx = 0x400010 - 0x20000, .ecx = 0x2000);
    REAL_RUN("mov fs, cx; mov eax, fs:[ebx]; mov dx, fs");
    EQ(real.eax, 0x89abcdf0);
    EQ(real.edx, 0x2000);
}

/* Interrupts and exceptions through the table at 0: FLAGS, CS, IP; no error codes. */
static void real_interrupts(void)
{
    static const uint8_t handler[] = {0x55, 0x89, 0xe5, /* push bp; mov bp, sp */
                                      0x8b, 0x46, 0x02, /* mov ax, [bp + 2]: IP */
                                      0x8b, 0x5e, 0x04, /* mov bx, [bp + 4]: CS */
                                      0x8b, 0x76, 0x06, /* mov si, [bp + 6]: FLAGS */
                                      0x41,             /* inc cx */
                                      0x9c, 0x5a,       /* pushf; pop dx */
                                      0x83, 0x46, 0x02,
                                      0x02, /* add word [bp + 2], 2: for faults of two bytes */
                                      0x5d, 0xcf}; /* pop bp; iret */
    memcpy((void *)0x4010, handler, sizeof(handler));
    memcpy((void *)0x4080, handler, 15);
    memcpy((void *)0x408f, handler + 19, 2); /* the same, without the addition: for INT n */
    ivt_set(0x60, 0x04000080);
    ivt_set(3, 0x04000080);
    ivt_set(0, 0x04000010);
    ivt_set(6, 0x04000010);
    ivt_set(13, 0x04000010);
    ivt_set(4, 0x04000080);
    REAL(.eflags = CF | DFL);
    REAL_RUN("int 0x60; mov di, ax; cld");
    EQ(real.edi, 2);
    EQ(real.ebx, CS16);
    EQ(real.esi, CF | DFL | 2);
    EQ(real.edx & (IF | TF | CF), CF);
    REAL(.ecx = 0);
    REAL_RUN("mov di, 200; 1: int 0x60; int3; dec di; jnz 1b; mov di, 0x7fff; inc di; into");
    EQ(real.ecx, 401);
    REAL();
    REAL_RUN("xor bx, bx; div bl; nop"); /* #DE: IP of the DIV */
    EQ(real.ecx, 1);
    EQ(real.eax & 0xffff, 2);
    REAL();
    REAL_RUN("nop; ud2");
    EQ(real.ecx, 1);
    EQ(real.eax, 1);
    REAL();
    REAL_RUN("nop; .byte 0x63, 0xc3"); /* ARPL is undefined in real mode */
    EQ(real.ecx, 1);
    EQ(real.eax, 1);
    UNLESS_QEMU(LIMITS)
    {
        REAL(.ebx = 0xffff, .edi = 0);
        REAL_RUN("nop; mov si, [bx]; nop"); /* a word at FFFFh: #GP, vector 13, no error code */
        EQ(real.ecx, 1);
        EQ(real.eax, 1);
    }
    /* LIDT moves the table in real mode as well. */
    memcpy((void *)(DATA + 0x400), (void *)0, 0x400);
    *(uint32_t *)(DATA + 0x400 + 0x61 * 4) = 0x04000080;
    ivt_set(0x61, 0x04000010);
    put16(DATA + 0x20, 0x3ff);
    put16(DATA + 0x22, (DATA + 0x400) & 0xffff);
    put16(DATA + 0x24, (DATA + 0x400) >> 16);
    REAL();
    REAL_RUN(".byte 0x66; lidt [0x20]; int 0x61; mov di, 7");
    EQ(real.ecx, 1);
    EQ(real.edi, 7);
}

/* The switch itself, hot: protected mode to real mode and back, with paging off and on in between.
 */
static void mode_switches(void)
{
    for (uint32_t i = 0; i < 40; i++) {
        REAL(.eax = i, .ebx = 3);
        REAL_RUN("mul bx; inc ax");
        EQ(real.eax, i * 3 + 1);
        IN(.eax = i, .cs = i & 1 ? UCODE : 0u);
        OK("lea eax, [eax * 4 + 2]");
        EQ(out.eax, i * 4 + 2);
        V86(.eflags = IOPL3, .eax = i);
        V86_OK("add ax, ax");
        EQ(out.eax, i * 2);
    }
}

void guest_main(void)
{
    GROUP(v86_basics);
    GROUP(v86_flags);
    GROUP(v86_traps);
    GROUP(v86_entry);
    GROUP(v86_io);
    GROUP(v86_monitor);
    GROUP(v86_interrupts);
    GROUP(v86_paging);
    GROUP(v86_task);
    GROUP(v86_vme);
    GROUP(real_basics);
    GROUP(real_unreal);
    GROUP(real_interrupts);
    GROUP(mode_switches);
}
