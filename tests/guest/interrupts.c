/* interrupts.c - external interrupts, single steps and breakpoints come exactly between
 * instructions.
 *
 * SDM 3A 6.3.1, 6.8.1 (IF), 6.8.3 (MOV SS), 6.9 (priorities), SDM 2 STI, HLT, POPF, IRET, REP; SDM
 * 3B 17.2 (DR0-DR7), 17.3.1 (#DB: faults and traps, RF, TF). Interrupts come from the PIT through
 * the PICs at vector 20h; hooks run inside the handler and may end a loop by changing the frame. */
#include "guest.h"

const char guest_name[] = "interrupts";

enum { TIMER = 0x20, HZ_1000 = 1193 };

static uint32_t ticks, ticks_wanted;
static uint32_t memory[4096] USER;
static uint8_t arena[2][65536] USER;

/* A vector log for traps. */
static struct {
    uint32_t vector, eip, eflags, dr6, ecx;
} events[1000];
static uint32_t event_count;

static void timer_start(void)
{
    ticks = 0;
    pic_init(1);
    pit_start(HZ_1000);
}

static void timer_stop(void)
{
    pit_stop();
    pic_init(0);
}

/* Leaves a loop by setting ebp, which every loop here tests, or by skipping `jmp .`. */
static bool on_timer(struct frame *frame)
{
    if (frame->vector != TIMER)
        return false;
    pic_eoi(TIMER);
    if (++ticks >= ticks_wanted) {
        frame->ebp = 1;
        if (*(const uint16_t *)frame->eip == 0xfeeb)
            frame->eip += 2;
    }
    return true;
}

static void timer_in_loops(void)
{
    static const uint32_t selectors[] = {0, UCODE};
    const struct snip *code[] = {
        CODE("jmp ."),
        CODE("1: test ebp, ebp; jz 1b"),
        CODE("1: inc eax; jmp 2f; 2: inc ebx; jmp 3f; 3: inc ecx; test ebp, ebp; jz 1b"),
        CODE("1: call 2f; test ebp, ebp; jz 1b; jmp 3f; 2: inc eax; ret; 3:"),
        CODE(
            "lea esi, 2f; lea edi, 1f; 1: inc eax; jmp esi; 2: test ebp, ebp; jnz 3f; jmp edi; 3:"),
        CODE("1: mov ecx, 1000; 2: loop 2b; test ebp, ebp; je 1b"),
        CODE("1: pushfd; popfd; push eax; pop eax; test ebp, ebp; jz 1b"),
        CODE("lea esi, ticks; 1: mov eax, [esi]; test ebp, ebp; jz 1b"),
    };
    for (size_t i = 0; i < COUNT(code); i++)
        for (uint32_t c = 0; c < 2; c++) {
            timer_start();
            trap_hook = on_timer;
            ticks_wanted = 4;
            IN(.eflags = IF, .cs = selectors[c]);
            go(code[i]);
            trap_hook = NULL;
            timer_stop();
            CHECK(out.vector, DONE, "loop left by a timer", i);
            CHECK(ticks >= 4, 1, "ticks", i);
            CHECK(out.eflags & IF, IF, "IF", i);
            if (i == 2)
                CHECK(out.eax == out.ebx && out.ebx == out.ecx, 1, "counters", i);
        }
}

/* HLT wakes, and the saved EIP is the next instruction's. */
static uint32_t halt_eip;
static bool on_halt(struct frame *frame)
{
    if (frame->vector != TIMER)
        return false;
    pic_eoi(TIMER);
    ticks++;
    halt_eip = frame->eip;
    return true;
}

static void halt(void)
{
    timer_start();
    trap_hook = on_halt;
    IN(.ecx = 5, .ebx = addr(&halt_eip), .esi = 0);
    OK("1: sti; hlt; 2: cli; mov eax, [ebx]; lea edx, 2b; sub eax, edx; or esi, eax; inc edi; loop "
       "1b");
    EQ(out.edi, 5);
    EQ(out.esi, 0);
    EQ(ticks >= 5, 1);
    IN(.ecx = 3, .eflags = IF);
    OK("1: hlt; loop 1b; cli");
    trap_hook = NULL;
    timer_stop();
}

/* Waits with IF = 0 until the PIC has a request pending. */
static void wait_pending(void)
{
    timer_start();
    outb(0x20, 0x0a);
    for (int i = 0; i < 10000000 && !(inb(0x20) & 1); i++)
        ;
}

static uint32_t first_eip;
static bool on_first(struct frame *frame)
{
    if (frame->vector != TIMER)
        return false;
    pic_eoi(TIMER);
    if (!ticks++)
        first_eip = frame->eip;
    outb(0x21, 0xff); /* one is enough */
    return true;
}

static void shadows(void)
{
    static const struct {
        const char *name;
        uint32_t where; /* 1: at AT, 0: not at all */
    } want[] = {{"sti", 1},
                {"sti; cli", 0},
                {"popf", 1},
                {"iret", 1},
                {"sti; hlt", 1},
                {"sti; sti", 1},
                {"sti; jmp", 1},
                {"sti; pushf; popf off", 1},
                {"sti; call", 1},
                {"sti; rep movs", 1},
                {"sti; mov ss with IF", 1}};
    const struct snip *code[] = {
        CODE("sti; inc eax;" AT "inc ebx; inc ecx"),
        CODE("sti; cli; inc eax; inc ebx"),
        CODE("push 0x202; popfd;" AT "inc eax; inc ebx"),
        CODE("push 0x202; push cs; push offset 1f; iretd; 1:" AT "inc eax; inc ebx"),
        CODE("sti; hlt;" AT "inc eax"),
        CODE("sti; sti;" AT "inc eax; inc ebx"),
        CODE("sti; jmp 1f; ud2; 1:" AT "inc eax; jmp 2f; 2: inc ebx"),
        CODE("sti; pushfd;" AT "inc eax"),
        CODE("sti; call 1f; jmp 2f; 1:" AT "ret; 2:"),
        CODE("mov ecx, 0; sti; rep movsb;" AT "inc eax"),
        CODE("mov eax, ss; sti; nop;" AT "mov ss, eax; inc ecx"),
    };
    for (size_t i = 0; i < COUNT(code); i++) {
        wait_pending();
        first_eip = 0;
        trap_hook = on_first;
        IN();
        go(code[i]);
        trap_hook = NULL;
        timer_stop();
        CHECK(out.vector, DONE, want[i].name, i);
        CHECK(first_eip, want[i].where ? code[i]->at : 0, want[i].name, i);
        CHECK(ticks, want[i].where, want[i].name, i);
    }
}

/* Registers and memory survive interrupts at random places; REP is interrupted between iterations.
 */
static uint32_t inside_rep, rep_start, rep_wrong;
static bool on_rep(struct frame *frame)
{
    if (frame->vector != TIMER)
        return false;
    pic_eoi(TIMER);
    ticks++;
    if (frame->eip == rep_start && frame->ecx) {
        inside_rep++;
        uint32_t done = 65536 - frame->ecx;
        if (frame->esi != addr(arena[0]) + done || frame->edi != addr(arena[1]) + done)
            rep_wrong++;
    }
    return true;
}

static void computing(void)
{
    timer_start();
    trap_hook = on_rep;
    IN(.eax = 1, .ecx = 3000000, .edx = 12345, .esi = 1, .eflags = IF, .cs = rep & 1 ? UCODE : 0u);
    OK("1: imul edx, edx, 1103515245; add edx, 12345; add eax, edx; adc ebx, 0; rol esi, 3; xor "
       "esi, edx; dec ecx; jnz 1b");
    uint32_t a = 1, b = 0, s = 1, d = 12345;
    for (uint32_t i = 0; i < 3000000; i++) {
        d = d * 1103515245 + 12345;
        a += d;
        b += a < d;
        s = (s << 3 | s >> 29) ^ d;
    }
    EQ(out.eax, a);
    EQ(out.ebx, b);
    EQ(out.esi, s);
    EQ(out.edx, d);
    for (uint32_t i = 0; i < 65536; i++)
        arena[0][i] = (uint8_t)(i * 31 >> 3);
    const struct snip *copy =
        CODE("1: mov esi, ebx; mov edi, edx; mov ecx, 65536;" AT "rep movsb; dec ebp; jnz 1b");
    rep_start = copy->at;
    IN(.ebx = addr(arena[0]), .edx = addr(arena[1]), .ebp = 300, .eflags = IF,
       .cs = rep & 1 ? UCODE : 0u);
    go(copy);
    EQ(out.vector, DONE);
    EQ(rep_wrong, 0);
    EQ(out.esi, addr(arena[0]) + 65536);
    uint32_t differ = 0;
    for (uint32_t i = 0; i < 65536; i++)
        differ += arena[0][i] != arena[1][i];
    EQ(differ, 0);
    trap_hook = NULL;
    timer_stop();
    EQ(ticks > 0, 1);
}

/* Masked: no interrupt, however long; unmasked: at once. */
static void masked(void)
{
    timer_start();
    outb(0x21, 0xff);
    trap_hook = on_first;
    IN(.ecx = 3000000, .eflags = IF);
    OK("1: loop 1b");
    EQ(ticks, 0);
    first_eip = 0;
    IN(.eflags = IF, .eax = 0xfe);
    OK("out 0x21, al; mov ecx, 100000000; 1: cmp dword ptr [ticks], 0; jne 2f; loop 1b; 2:");
    EQ(ticks, 1);
    trap_hook = NULL;
    timer_stop();
    timer_start();
    trap_hook = on_first;
    IN(.ecx = 3000000);
    OK("1: loop 1b"); /* IF = 0 */
    EQ(ticks, 0);
    trap_hook = NULL;
    timer_stop();
}

/* Single steps. */
static uint32_t resume_from; /* the address of an instruction breakpoint in DR0 */

static bool on_debug(struct frame *frame)
{
    if (frame->vector != DB)
        return false;
    if (event_count < COUNT(events)) {
        events[event_count].vector = frame->vector;
        events[event_count].eip = frame->eip;
        events[event_count].eflags = frame->eflags;
        events[event_count].dr6 = read_dr6();
        events[event_count].ecx = frame->ecx;
    }
    event_count++;
    if (resume_from == frame->eip && (read_dr6() & 1))
        frame->eflags |= RF;
    write_dr6(0xffff0ff0);
    return true;
}

static void step(const struct snip *snip)
{
    event_count = 0;
    write_dr6(0xffff0ff0);
    trap_hook = on_debug;
    in.eflags |= TF;
    go(snip);
    trap_hook = NULL;
}

/* Expects the log to have these offsets from the snippet's start. */
static void steps(const struct snip *snip, const uint8_t *offsets, uint32_t n, int line)
{
    step(snip);
    check(out.vector, DONE, "stepped to the end", __FILE__, line);
    check(event_count, n, "number of steps", __FILE__, line);
    for (uint32_t i = 0; i < n && i < event_count; i++) {
        check(events[i].eip - snip->start, offsets[i], "address of a step", __FILE__, line);
        check(events[i].dr6, 0xffff4ff0, "DR6", __FILE__, line);
    }
}

#define STEPS(text, ...)                                                                      \
    steps(CODE(text), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), \
          __LINE__)

static void single_step(void)
{
    uint32_t sel = rep & 1 ? UCODE : 0;
    memory[0] = 0;
    IN(.cs = sel, .esi = addr(memory));
    STEPS("nop; nop; nop", 1, 2, 3);
    STEPS("mov eax, 1; push eax; pop ebx; add [esi], eax", 5, 6, 7, 9);
    EQ(memory[0], 1);
    STEPS("jmp 1f; nop; 1: jz 2f; nop; 2: nop", 3, 5, 6, 7);
    in.eflags = ZF;
    STEPS("jmp 1f; nop; 1: jz 2f; nop; 2: nop", 3, 6, 7);
    STEPS("call 1f; jmp 2f; 1: ret; 2:", 7, 5, 8);
    STEPS("lea eax, 1f; jmp eax; nop; 1: nop", 6, 9, 10);
    STEPS("mov ecx, 3; 1: loop 1b; nop", 5, 5, 5, 7, 8);
    STEPS("xor eax, eax; cpuid; nop", 2, 4, 5);
    STEPS("fninit; fld1; fstp st(0)", 2, 4, 6);
    /* A step that has been popped away still comes once, with TF clear in its image. */
    STEPS("pushfd; and dword ptr [esp], 0xfffffeff; popfd; nop; nop", 1, 8, 9);
    EQ(events[2].eflags & TF, 0);
    EQ(events[1].eflags & TF, TF);
    IN(.cs = sel, .esi = addr(memory));
    in.eflags = 0;
    /* TF that POPF sets works after the next instruction. */
    const struct snip *set = CODE("pushfd; or dword ptr [esp], 0x100; popfd;" AT
                                  "nop; pushfd; and dword ptr [esp], 0xfffffeff; popfd; nop");
    event_count = 0;
    trap_hook = on_debug;
    go(set);
    trap_hook = NULL;
    EQ(out.vector, DONE);
    EQ(event_count, 4);
    EQ(events[0].eip, set->at + 1);
    EQ(events[3].eip, set->at + 10);
    /* REP: one step for each iteration, RF set between them (measured on hardware). */
    IN(.cs = sel, .esi = addr(memory), .edi = addr(memory) + 64, .ecx = 3);
    STEPS("rep movsb; nop", 0, 0, 2, 3);
    EQ(events[0].ecx, 2);
    EQ(events[1].ecx, 1);
    UNLESS_QEMU(RF) EQ(events[0].eflags & RF, RF);
    EQ(events[2].eflags & RF, 0);
    STEPS("mov ecx, 0; rep stosd; nop", 5, 7, 8);
    STEPS("mov ecx, 2; repe cmpsb; nop", 5, 5, 7, 8);
    /* MOV SS and POP SS hold the step back until after the next instruction. */
    IN(.cs = sel, .eax = sel ? UDATA : KDATA);
    STEPS("mov ss, eax; nop; nop", 3, 4);
    STEPS("push ss; pop ss; mov ecx, esp; nop", 1, 4, 5);
    STEPS("mov ds, eax; mov es, eax; nop", 2, 4, 5);
    if (!sel)
        UNLESS_QEMU(STI_STEP)
    STEPS("sti; nop; cli; nop", 1, 2, 3, 4); /* STI's shadow holds no step back */
    IN(.cs = sel, .ecx = 300);
    step(CODE("1: dec ecx; jmp 2f; 2: jnz 1b"));
    EQ(event_count, 900);
}

/* Events in an instruction that is stepped: the handler starts with TF = 0, and IRET resumes
 * stepping. */
static bool on_step_and_int(struct frame *frame)
{
    if (frame->vector == 0x50) {
        events[event_count].vector = 0x50;
        events[event_count].eip = frame->eip;
        events[event_count++].eflags = frame->eflags;
        return true;
    }
    if (frame->vector == UD || frame->vector == BP) {
        events[event_count].vector = frame->vector;
        events[event_count].eip = frame->eip;
        events[event_count++].eflags = frame->eflags;
        frame->eip += frame->vector == UD ? 2 : 0;
        return true;
    }
    return on_debug(frame);
}

static void single_step_events(void)
{
    gate_set(0x50, 0x50, 0xee);
    IN(.cs = rep & 1 ? UCODE : 0u, .eflags = TF);
    static const struct {
        uint32_t vector, offset;
    } want[] = {{DB, 1}, {0x50, 3}, {DB, 4}, {UD, 4}, {DB, 7}, {BP, 8}, {DB, 9}};
    const struct snip *snip = CODE("nop; int 0x50; nop; ud2; nop; int3; nop");
    event_count = 0;
    write_dr6(0xffff0ff0);
    trap_hook = on_step_and_int;
    go(snip);
    trap_hook = NULL;
    EQ(out.vector, DONE);
    EQ(event_count, COUNT(want));
    for (uint32_t i = 0; i < COUNT(want); i++) {
        CHECK(events[i].vector, want[i].vector, "vector", i);
        CHECK(events[i].eip - snip->start, want[i].offset, "eip", i);
        CHECK(events[i].eflags & TF, TF, "saved TF", i);
    }
    gate_restore(0x50);
    EQ(read_dr6() & 0x4000, 0);
    /* Not continued: TF is in the saved image, and the handler itself was not stepped. */
    IN(.cs = rep & 1 ? UCODE : 0u, .eflags = TF);
    FAULT("nop;" AT, DB, 0);
}

static void breakpoints(void)
{
    uint32_t sel = rep & 1 ? UCODE : 0;
    event_count = 0;
    /* Instruction: a fault before it, with RF as it was: the handler sets it to go on. */
    const struct snip *snip = CODE("mov ecx, 20; 1: inc eax;" AT "inc ebx; loop 1b; nop");
    trap_hook = on_debug;
    write_dr6(0xffff0ff0);
    write_dr0(resume_from = snip->at);
    write_dr7(0x402);
    IN(.cs = sel);
    go(snip);
    EQ(out.vector, DONE);
    EQ(out.ebx, 20);
    EQ(event_count, 20);
    EQ(events[0].eip, snip->at);
    EQ(events[19].eip, snip->at);
    EQ(events[0].dr6 & 0xe00f, 1);
    EQ(events[0].eflags & RF,
       0); /* 17.3.1.1: "except ... in response to instruction breakpoints" */
    /* RF set by IRET suppresses the first one. */
    event_count = 0;
    const struct snip *first = CODE("inc eax; inc ebx; nop");
    write_dr0(resume_from = first->start);
    IN(.cs = sel, .eflags = RF);
    go(first);
    EQ(event_count, 0);
    IN(.cs = sel);
    go(first);
    EQ(event_count, 1);
    write_dr7(0x400);
    go(snip);
    EQ(out.ebx, 20);
    /* Data: a trap after the access; DR6 says which. */
    static const struct {
        uint32_t dr7;    /* R/W and LEN of DR1 */
        uint32_t offset; /* DR1 = memory + offset */
        uint32_t hits;   /* bit i: access i below hits */
    } data[] = {
        {0x1, 0, 0x05}, /* write, 1 byte */
        {0xd, 0, 0x0d}, /* write, 4 bytes */
        {0xf, 0, 0x1f}, /* read or write, 4 bytes */
        {0x5, 2, 0x0d}, /* write, 2 bytes */
        {0x3, 1, 0x07}, /* read or write, 1 byte */
        {0xd, 4, 0x00},
    };
    for (size_t i = 0; i < COUNT(data); i++) {
        const struct snip *accesses = CODE(
            "mov [esi], eax; mov eax, [esi]; add dword ptr [esi], 1; mov word ptr [esi + 2], 7; "
            "movzx ebx, word ptr [esi + 2]; lea ecx, [esi]; nop");
        static const uint8_t after[] = {2, 4, 7, 13, 17};
        write_dr1(addr(memory) + data[i].offset);
        write_dr6(0xffff0ff0);
        write_dr7(0x400 | 4 | data[i].dr7 << 20);
        event_count = 0;
        IN(.cs = sel, .esi = addr(memory));
        go(accesses);
        write_dr7(0x400);
        uint32_t hits = 0;
        for (uint32_t e = 0; e < event_count; e++)
            for (uint32_t k = 0; k < COUNT(after); k++)
                if (events[e].eip - accesses->start == after[k] && (events[e].dr6 & 0xe00f) == 2)
                    hits |= 1u << k;
        CHECK(hits, data[i].hits, "data breakpoint", i);
    }
    /* Pushes and calls write too; the code that was hot without the breakpoint must see it. */
    const struct snip *push = CODE("mov ecx, 10; 1: push eax; pop ebx; loop 1b");
    IN(.cs = sel, .esp = addr(memory) + 64);
    write_dr7(0x400);
    go(push);
    event_count = 0;
    write_dr2(addr(memory) + 60);
    write_dr7(0x400 | 1 << 4 | 0xdu << 24);
    if (sel) { /* at CPL 0 the frame of the trap would hit it as well */
        go(push);
        EQ(event_count, 10);
        EQ(events[3].eip, push->start + 6);
    }
    write_dr7(0x400);
    trap_hook = NULL;
    /* General detect: the access to a debug register faults, and GD is clear in the handler. */
    IN();
    write_dr6(0xffff0ff0);
    UNLESS_QEMU(GD)
    {
        FAULT("mov eax, 0x2400; mov dr7, eax;" AT "mov ebx, dr0", DB, 0);
        EQ(out.dr6 & 0xe000, 0x2000);
        EQ(read_dr7(), 0x400);
    }
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
}

void guest_main(void)
{
    pit_stop();
    GROUP(timer_in_loops);
    GROUP(halt);
    GROUP(shadows);
    GROUP(computing);
    GROUP(masked);
    GROUP(single_step);
    GROUP(single_step_events);
    GROUP(breakpoints);
}
