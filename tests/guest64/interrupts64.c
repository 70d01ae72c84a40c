/* interrupts64.c - external interrupts, single steps and breakpoints come exactly between
 * instructions.
 *
 * SDM 3A 6.3.1, 6.8.1 (IF), 6.8.3 (MOV SS), 6.9 (priorities), SDM 2 STI, HLT, POPF, IRET, REP; SDM
 * 3B 17.2 (DR0-DR7), 17.3.1 (#DB: faults and traps, RF, TF), SYSCALL and SYSRET with TF. Interrupts
 * come from the PIT through the PICs at vector 20h; hooks run inside the handler and may end a loop
 * by changing the frame. */
#include "guest64.h"

const char guest_name[] = "interrupts64";

enum { TIMER = 0x20, HZ_1000 = 1193 };

static uint32_t ticks, ticks_wanted;
static uint64_t memory[2048] USER __attribute__((aligned(64)));
static uint8_t arena[2][65536] USER;

static struct {
    uint64_t vector, rip, rflags, dr6, rcx;
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

/* Leaves a loop by setting r15, which every loop here tests, or by skipping `jmp .`. */
static bool on_timer(struct frame *frame)
{
    if (frame->vector != TIMER)
        return false;
    pic_eoi(TIMER);
    if (++ticks >= ticks_wanted) {
        frame->r15 = 1;
        if (*(const uint16_t *)frame->rip == 0xfeeb)
            frame->rip += 2;
    }
    return true;
}

static void timer_in_loops(void)
{
    const struct snip *code[] = {
        CODE("jmp ."),
        CODE("1: test r15, r15; jz 1b"),
        CODE("1: inc rax; jmp 2f; 2: inc r9; jmp 3f; 3: inc r12; test r15, r15; jz 1b"),
        CODE("1: call 2f; test r15, r15; jz 1b; jmp 3f; 2: inc rax; ret; 3:"),
        CODE("lea rsi, [rip + 2f]; lea r14, [rip + 1f]; 1: inc rax; jmp rsi; 2: test r15, r15; jnz "
             "3f; jmp r14; 3:"),
        CODE("1: mov rcx, 1000; 2: loop 2b; test r15, r15; je 1b"),
        CODE("1: pushfq; popfq; push r8; pop r9; test r15, r15; jz 1b"),
        CODE("lea rsi, [rip + memory]; 1: mov rax, [rsi]; test r15, r15; jz 1b"),
        CODE("mov rbp, rsp; lea r13, [rip + memory + 4096]; 1: mov rsp, r13; push rax; mov rsp, "
             "rbp; push rax; pop rax; test r15, r15; jz 1b"),
        CODE("lea r13, [rip + memory]; 1: lea rdi, [r13]; mov ecx, 100; rep stosq; test r15, r15; "
             "jz 1b"),
    };
    for (size_t i = 0; i < COUNT(code); i++) {
        timer_start();
        trap_hook = on_timer;
        ticks_wanted = 3;
        IN(.rflags = IF, .cs = pass_cs);
        go(code[i]);
        trap_hook = NULL;
        timer_stop();
        CHECK(out.vector, DONE, "loop left by a timer", i);
        CHECK(ticks >= 3, 1, "ticks", i);
        CHECK(out.rflags & IF, IF, "IF", i);
        if (i == 2)
            CHECK(out.rax == out.r9 && out.r9 == out.r12, 1, "counters", i);
    }
}

/* HLT wakes, and the saved RIP is the next instruction's. */
static uint64_t halt_rip;
static bool on_halt(struct frame *frame)
{
    if (frame->vector != TIMER)
        return false;
    pic_eoi(TIMER);
    ticks++;
    halt_rip = frame->rip;
    return true;
}

static void halt(void)
{
    if (pass_cs == UCODE)
        return;
    timer_start();
    trap_hook = on_halt;
    IN(.rcx = 5, .rbx = addr(&halt_rip));
    OK("1: sti; hlt; 2: cli; mov rax, [rbx]; lea rdx, [rip + 2b]; sub rax, rdx; or rsi, rax; inc "
       "r9; loop 1b");
    EQ(out.r9, 5);
    EQ(out.rsi, 0);
    EQ(ticks >= 5, 1);
    IN(.rcx = 3, .rflags = IF);
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

static uint64_t first_rip;
static bool on_first(struct frame *frame)
{
    if (frame->vector != TIMER)
        return false;
    pic_eoi(TIMER);
    if (!ticks++)
        first_rip = frame->rip;
    outb(0x21, 0xff); /* one is enough */
    return true;
}

extern uint8_t syscall_sti[];
__asm__(".text\n"
        "syscall_sti:\n"
        "        movq %rcx, %rbx\n"
        "        sysretq\n");

static void shadows(void)
{
    if (pass_cs == UCODE)
        return;
    static const struct {
        const char *name;
        bool comes; /* at AT, or not at all */
    } want[] = {{"sti", true},
                {"sti; cli", false},
                {"popfq", true},
                {"iretq", true},
                {"sti; hlt", true},
                {"sti; sti", true},
                {"sti; jmp", true},
                {"sti; pushfq", true},
                {"sti; call", true},
                {"sti; rep movs", true},
                {"sti; mov ss", true},
                {"mov cr8", true},
                {"iretq to CPL 3", true},
                {"sysretq", true}};
    const struct snip *code[] = {
        CODE("sti; inc rax;" AT "inc rbx; inc rcx"),
        CODE("sti; cli; inc rax; inc rbx"),
        CODE("push 0x202; popfq;" AT "inc rax; inc rbx"),
        CODE("mov rbx, rsp; mov eax, ss; push rax; push rbx; push 0x202; mov eax, cs; push rax; "
             "lea rax, [rip + 1f]; push rax; iretq; ud2; 1:" AT "inc rax; inc rbx"),
        CODE("sti; hlt;" AT "inc rax"),
        CODE("sti; sti;" AT "inc rax; inc rbx"),
        CODE("sti; jmp 1f; ud2; 1:" AT "inc rax; jmp 2f; 2: inc rbx"),
        CODE("sti; pushfq;" AT "inc rax"),
        CODE("sti; call 1f; jmp 2f; 1:" AT "ret; 2:"),
        CODE("mov ecx, 0; sti; rep movsb;" AT "inc rax"),
        CODE("mov eax, ss; sti; nop;" AT "mov ss, eax; inc rcx"),
        CODE("sti; mov cr8, rax;" AT "inc rax"),
        CODE("push 0x23; push r8; push 0x202; push 0x2b; lea rax, 1f; push rax; iretq; ud2; 1:" AT
             "inc rax; inc rbx"),
        CODE("lea rcx, 1f; mov r11d, 0x202; mov rsp, r8; sysretq; ud2; 1:" AT "inc rax; inc rbx"),
    };
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, STAR_VALUE);
    for (size_t i = 0; i < COUNT(code); i++) {
        wait_pending();
        first_rip = 0;
        trap_hook = on_first;
        IN(.r8 = addr(user_stack_top));
        go(code[i]);
        trap_hook = NULL;
        timer_stop();
        CHECK(out.vector, DONE, want[i].name, i);
        CHECK(first_rip, want[i].comes ? code[i]->at + (i < 12 ? pass_base : 0) : 0, want[i].name,
              i);
        CHECK(ticks, want[i].comes, want[i].name, i);
    }
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_SCE);
}

/* Registers and memory survive interrupts at random places; REP is interrupted between iterations.
 */
static uint64_t inside_rep, rep_start, rep_wrong;
static bool on_rep(struct frame *frame)
{
    if (frame->vector != TIMER)
        return false;
    pic_eoi(TIMER);
    ticks++;
    if (frame->rip == rep_start && frame->rcx) {
        inside_rep++;
        uint64_t done = 65536 - frame->rcx;
        if (frame->rsi != HERE(arena[0]) + done || frame->rdi != HERE(arena[1]) + done)
            rep_wrong++;
    }
    return true;
}

static void computing(void)
{
    enum { ROUNDS = 1000000 };
    timer_start();
    trap_hook = on_rep;
    IN(.rax = 1, .rcx = ROUNDS, .r9 = 12345, .r13 = 1, .r12 = 0x5851f42d4c957f2d, .rflags = IF,
       .cs = pass_cs);
    OK("1: imul r9, r12; add r9, 12345; add rax, r9; adc rbx, 0; rol r13, 3; xor r13, r9; dec rcx; "
       "jnz 1b");
    uint64_t a = 1, b = 0, s = 1, d = 12345;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        d = d * 0x5851f42d4c957f2d + 12345;
        a += d;
        b += a < d;
        s = (s << 3 | s >> 61) ^ d;
    }
    EQ(out.rax, a);
    EQ(out.rbx, b);
    EQ(out.r13, s);
    EQ(out.r9, d);
    for (uint32_t i = 0; i < 65536; i++)
        arena[0][i] = (uint8_t)(i * 31 >> 3);
    const struct snip *copy =
        CODE("1: mov rsi, rbx; mov rdi, rdx; mov ecx, 65536;" AT "rep movsb; dec r8; jnz 1b");
    rep_start = copy->at + pass_base;
    rep_wrong = 0;
    IN(.rbx = HERE(arena[0]), .rdx = HERE(arena[1]), .r8 = 100, .rflags = IF, .cs = pass_cs);
    go(copy);
    EQ(out.vector, DONE);
    EQ(rep_wrong, 0);
    EQ(out.rsi, HERE(arena[0]) + 65536);
    EQ(memcmp(arena[0], arena[1], 65536), 0);
    trap_hook = NULL;
    timer_stop();
    EQ(ticks > 0, 1);
}

/* Vector registers survive too: a loop with all sixteen while the timer runs. */
static void vectors(void)
{
    for (uint32_t i = 0; i < 64; i++)
        memory[i] = i * 0x9e3779b97f4a7c15;
    timer_start();
    trap_hook = on_rep;
    IN(.rsi = HERE(memory), .rcx = 100000, .rflags = IF, .cs = pass_cs);
    OK(".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15; movups xmm\\n, [rsi + \\n * 16]; .endr; 1: "
       ".irp n, 0,2,4,6,8,10,12,14; pxor xmm\\n, xmm1; .endr; paddq xmm15, "
       "xmm9; paddq xmm1, xmm15; dec rcx; jnz 1b; .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15; "
       "movups [rsi + 512 + \\n * 16], xmm\\n; .endr");
    for (uint32_t half = 0; half < 2; half++) {
        uint64_t x[16];
        for (uint32_t n = 0; n < 16; n++)
            x[n] = memory[n * 2 + half];
        for (uint32_t i = 0; i < 100000; i++) {
            for (uint32_t n = 0; n < 16; n += 2)
                x[n] ^= x[1];
            x[15] += x[9];
            x[1] += x[15];
        }
        for (uint32_t n = 0; n < 16; n++)
            CHECK(memory[64 + n * 2 + half], x[n], "vector register", n);
    }
    trap_hook = NULL;
    timer_stop();
}

/* Masked: no interrupt, however long; unmasked: at once. */
static void masked(void)
{
    timer_start();
    outb(0x21, 0xff);
    trap_hook = on_first;
    IN(.rcx = 1000000, .rflags = IF, .cs = pass_cs);
    OK("1: loop 1b");
    EQ(ticks, 0);
    if (pass_cs == KCODE) {
        first_rip = 0;
        IN(.rflags = IF, .rax = 0xfe, .rsi = addr(&ticks));
        OK("out 0x21, al; mov ecx, 100000000; 1: cmp dword ptr [rsi], 0; jne 2f; loop 1b; 2:");
        EQ(ticks, 1);
    }
    trap_hook = NULL;
    timer_stop();
    timer_start();
    trap_hook = on_first;
    IN(.rcx = 1000000, .cs = pass_cs);
    OK("1: loop 1b"); /* IF = 0 */
    EQ(ticks, 0);
    trap_hook = NULL;
    timer_stop();
}

/* A stack of its own for the timer by IST, with a wild rsp in the interrupted code. */
static void wild_stack(void)
{
    ist_all(1);
    timer_start();
    trap_hook = on_timer;
    ticks_wanted = 4;
    IN(.rflags = IF, .cs = pass_cs, .rsp = 0x1234567812345678);
    OK("1: lea rsp, [rsp + 8]; lea rsp, [rsp - 8]; xchg rsp, rax; xchg rax, rsp; test r15, r15; jz "
       "1b");
    EQ(out.rsp, in.rsp);
    trap_hook = NULL;
    timer_stop();
    EQ(ticks >= 4, 1);
}

static uint64_t resume_from; /* the address of an instruction breakpoint in DR0 */

static bool on_debug(struct frame *frame)
{
    if (frame->vector != DB)
        return false;
    if (event_count < COUNT(events)) {
        events[event_count].vector = frame->vector;
        events[event_count].rip = frame->rip;
        events[event_count].rflags = frame->rflags;
        events[event_count].dr6 = read_dr6();
        events[event_count].rcx = frame->rcx;
    }
    event_count++;
    if (resume_from == frame->rip && (read_dr6() & 1))
        frame->rflags |= RF;
    write_dr6(0xffff0ff0);
    return true;
}

static void step(const struct snip *snip)
{
    event_count = 0;
    write_dr6(0xffff0ff0);
    trap_hook = on_debug;
    in.rflags |= TF;
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
        check(events[i].rip - entered, offsets[i], "address of a step", __FILE__, line);
        check(events[i].dr6, 0xffff4ff0, "DR6", __FILE__, line);
    }
}

#define STEPS(text, ...)                                                                      \
    steps(CODE(text), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), \
          __LINE__)

static void single_step(void)
{
    memory[0] = 0;
    IN(.cs = pass_cs, .rsi = HERE(memory));
    STEPS("nop; nop; nop", 1, 2, 3);
    STEPS("mov r8d, 1; push r8; pop r9; add [rsi], r9", 6, 8, 10, 13);
    EQ(memory[0], 1);
    STEPS("jmp 1f; nop; 1: jz 2f; nop; 2: nop", 3, 5, 6, 7);
    in.rflags = ZF;
    STEPS("jmp 1f; nop; 1: jz 2f; nop; 2: nop", 3, 6, 7);
    STEPS("call 1f; jmp 2f; 1: ret; 2:", 7, 5, 8);
    STEPS("lea r10, [rip + 1f]; jmp r10; nop; 1: nop", 7, 11, 12);
    STEPS("mov ecx, 3; 1: loop 1b; nop", 5, 5, 5, 7, 8);
    STEPS("xor eax, eax; cpuid; nop", 2, 4, 5);
    STEPS("mov rbp, rsp; sub rsp, 64; mov rsp, rbp; push rsp; pop rsp", 3, 7, 10, 11, 12);
    STEPS("movups xmm9, [rsi]; mov rax, [rip + memory]; fninit; fld1; fstp st(0)", 4, 11, 13, 15,
          17);
    /* A step that has been popped away still comes once, with TF clear in its image. */
    STEPS("pushfq; and qword ptr [rsp], 0xfffffffffffffeff; popfq; nop; nop", 1, 9, 10);
    EQ(events[2].rflags & TF, 0);
    EQ(events[1].rflags & TF, TF);
    IN(.cs = pass_cs, .rsi = HERE(memory));
    /* TF that POPFQ sets works after the next instruction. */
    const struct snip *set =
        CODE("pushfq; or qword ptr [rsp], 0x100; popfq;" AT
             "nop; pushfq; and qword ptr [rsp], 0xfffffffffffffeff; popfq; nop");
    event_count = 0;
    trap_hook = on_debug;
    go(set);
    trap_hook = NULL;
    EQ(out.vector, DONE);
    EQ(event_count, 4);
    EQ(events[0].rip, set->at + pass_base + 1);
    EQ(events[3].rip, set->at + pass_base + 11);
    /* REP: one step for each iteration. */
    IN(.cs = pass_cs, .rsi = HERE(memory), .rdi = HERE(memory) + 64, .rcx = 3);
    STEPS("rep movsq; nop", 0, 0, 3, 4);
    EQ(events[0].rcx, 2);
    EQ(events[1].rcx, 1);
    UNLESS_QEMU(RF) EQ(events[0].rflags & RF, RF);
    STEPS("mov ecx, 0; rep stosd; nop", 5, 7, 8);
    STEPS("mov ecx, 2; repe cmpsb; nop", 5, 5, 7, 8);
    /* MOV SS holds the step back until after the next instruction. */
    IN(.cs = pass_cs, .rax = pass_cs == UCODE ? UDATA : KDATA);
    STEPS("mov ss, eax; nop; nop", 3, 4);
    STEPS("mov ds, eax; mov fs, eax; nop", 2, 4, 5);
    if (pass_cs == KCODE) {
        UNLESS_QEMU(STI_STEP)
        STEPS("sti; nop; cli; nop", 1, 2, 3, 4); /* STI's shadow holds no step back */
        STEPS("swapgs; swapgs; nop", 3, 6, 7);
        STEPS("mov rcx, cr3; mov cr3, rcx; nop", 3, 6, 7);
    }
    IN(.cs = pass_cs, .rcx = 300);
    step(CODE("1: dec rcx; jmp 2f; 2: jnz 1b"));
    EQ(event_count, 900);
    /* SYSCALL with TF masked by FMASK: no step inside; SYSRET loads TF, which works after the next
     * instruction at the latest. */
    if (pass_cs == UCODE) {
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
        wrmsr(MSR_STAR, STAR_VALUE);
        wrmsr(MSR_LSTAR, addr(syscall_sti));
        wrmsr(MSR_FMASK, TF | IF);
        IN(.cs = UCODE);
        const struct snip *call = CODE("nop; syscall; nop; nop");
        step(call);
        EQ(out.vector, DONE);
        EQ(out.rbx, call->start + 3);
        bool inside = false;
        for (uint32_t i = 0; i < event_count; i++)
            inside |= events[i].rip == addr(syscall_sti) + 3;
        EQ(inside, 0);
        EQ(events[event_count - 1].rip, call->start + 5);
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_SCE);
    }
}

/* Events in an instruction that is stepped: the handler starts with TF = 0, and IRETQ resumes
 * stepping. */
static bool on_step_and_int(struct frame *frame)
{
    if (frame->vector != 0x50 && frame->vector != UD && frame->vector != BP)
        return on_debug(frame);
    events[event_count].vector = frame->vector;
    events[event_count].rip = frame->rip;
    events[event_count++].rflags = frame->rflags;
    frame->rip += frame->vector == UD ? 2 : 0;
    return true;
}

static void single_step_events(void)
{
    gate_set(0x50, 0x50, 0xee);
    IN(.cs = pass_cs, .rflags = TF);
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
        CHECK(events[i].rip - entered, want[i].offset, "rip", i);
        CHECK(events[i].rflags & TF, TF, "saved TF", i);
    }
    gate_restore(0x50);
    EQ(read_dr6() & 0x4000, 0);
    IN(.cs = pass_cs, .rflags = TF);
    FAULT("nop;" AT, DB, 0);
}

static void breakpoints(void)
{
    /* Instruction: a fault before it, with RF as it was: the handler sets it to go on. */
    event_count = 0;
    const struct snip *snip = CODE("mov ecx, 20; 1: inc rax;" AT "inc r9; loop 1b; nop");
    trap_hook = on_debug;
    write_dr6(0xffff0ff0);
    write_dr0(resume_from = snip->at + pass_base);
    write_dr7(0x402);
    IN(.cs = pass_cs);
    go(snip);
    EQ(out.vector, DONE);
    EQ(out.r9, 20);
    EQ(event_count, 20);
    EQ(events[0].rip, snip->at + pass_base);
    EQ(events[19].rip, snip->at + pass_base);
    EQ(events[0].dr6 & 0xe00f, 1);
    /* All 64 bits of the address count. */
    event_count = 0;
    write_dr0(snip->at + pass_base + 0x100000000);
    go(snip);
    EQ(event_count, 0);
    /* RF set by IRETQ suppresses the first one. */
    const struct snip *first = CODE("inc rax; inc rbx; nop");
    write_dr0(resume_from = first->start + pass_base);
    IN(.cs = pass_cs, .rflags = RF);
    go(first);
    EQ(event_count, 0);
    IN(.cs = pass_cs);
    go(first);
    EQ(event_count, 1);
    write_dr7(0x400);
    go(snip);
    EQ(out.r9, 20);
    /* Data: a trap after the access; DR6 says which. LEN 2 is 8 bytes. */
    static const struct {
        uint32_t dr7;    /* R/W and LEN of DR1 */
        uint32_t offset; /* DR1 = memory + offset */
        uint32_t hits;   /* bit i: access i below hits */
    } data[] = {{0x1, 0, 0x05}, {0xd, 0, 0x0d}, {0xf, 0, 0x1f}, {0x5, 2, 0x0d}, {0x3, 1, 0x07},
                {0xd, 4, 0x05}, {0x9, 0, 0x0d}, {0xb, 0, 0x1f}, {0xb, 8, 0}};
    for (size_t i = 0; i < COUNT(data); i++) {
        const struct snip *accesses =
            CODE("mov [r12], rax; mov rax, [r12]; add qword ptr [r12], 1; mov word ptr [r12 + 2], "
                 "7; movzx ebx, word ptr [r12 + 2]; lea "
                 "rcx, [r12]; nop");
        static const uint8_t after[] = {4, 8, 13, 21, 27};
        write_dr1(HERE(memory) + data[i].offset);
        write_dr6(0xffff0ff0);
        write_dr7(0x400 | 4 | data[i].dr7 << 20);
        event_count = 0;
        IN(.cs = pass_cs, .r12 = HERE(memory));
        go(accesses);
        write_dr7(0x400);
        uint32_t hits = 0;
        for (uint32_t e = 0; e < event_count; e++)
            for (uint32_t k = 0; k < COUNT(after); k++)
                if (events[e].rip - entered == after[k] && (events[e].dr6 & 0xe00f) == 2)
                    hits |= 1u << k;
        CHECK(hits, data[i].hits, "data breakpoint", i);
    }
    /* Pushes write too; the code that was hot without the breakpoint must see it. */
    const struct snip *push = CODE("mov ecx, 10; 1: push r15; pop r14; loop 1b");
    IN(.cs = pass_cs, .rsp = HERE(memory) + 256);
    write_dr7(0x400);
    go(push);
    event_count = 0;
    write_dr2(HERE(memory) + 248);
    write_dr7(0x400 | 1 << 4 | 0x9u << 24);
    if (pass_cs == UCODE) { /* at CPL 0 the frame of the trap may hit it as well */
        go(push);
        EQ(event_count, 10);
        EQ(events[3].rip, push->start + 7);
    }
    write_dr7(0x400);
    trap_hook = NULL;
    IN();
    write_dr6(0xffff0ff0);
    UNLESS_QEMU(GD)
    {
        FAULT("mov eax, 0x2400; mov dr7, rax;" AT "mov rbx, dr0", DB, 0);
        EQ(out.dr6 & 0xe000, 0x2000);
        EQ(read_dr7(), 0x400);
    }
    IN(.rax = 0xffff812345678000, .r15 = 0x123456789000);
    OK("mov dr0, rax; mov dr3, r15; mov r8, dr0; mov r9, dr3; mov r10, dr7; mov r11, dr6");
    EQ(out.r8, in.rax);
    EQ(out.r9, in.r15);
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
}

/* The event's place, its DR6.BS and B0 to B3, and RF in its image. */
static void debug_event(uint32_t n, uint32_t offset, uint32_t dr6, uint32_t rf, int line)
{
    check(events[n].rip - entered, offset, "address of #DB", __FILE__, line);
    check(events[n].dr6 & 0xe00f, dr6, "DR6", __FILE__, line);
    check(events[n].rflags & RF, rf, "RF", __FILE__, line);
}
#define EVENT(n, offset, dr6, rf) debug_event(n, offset, dr6, rf, __LINE__)

static void run_debugged(const struct snip *snip, uint32_t dr7)
{
    event_count = 0;
    trap_hook = on_debug;
    write_dr6(0xffff0ff0);
    write_dr7(0x400 | dr7);
    go(snip);
    write_dr7(0x400);
    trap_hook = NULL;
    EQ(out.vector, DONE);
}

/* Breakpoints and steps in one: REP, shadows, INT1 (SDM 3B 17.3.1.1, 17.3.1.2). */
static void breakpoints_and_steps(void)
{
    const uint32_t write_8 = 8u | 0x9u << 20 | 4u; /* DR1: 8 bytes, G1 and L1 */
    const struct snip *copy = CODE("nop; rep movsq; nop");

    if (qemu) /* has RF and held traps only in part */
        return;
    /* At a REP: once, and RF of its iterations' steps keeps it from coming again. */
    write_dr0(resume_from = copy->start + pass_base + 1);
    IN(.cs = pass_cs, .rsi = HERE(memory), .rdi = HERE(memory) + 64, .rcx = 3);
    run_debugged(copy, 2);
    EQ(event_count, 1);
    EVENT(0, 1, 1, 0);
    in.rflags |= TF;
    run_debugged(copy, 2);
    EQ(event_count, 6);
    EVENT(0, 1, 0x4000, 0);
    EVENT(1, 1, 1, 0);
    EVENT(2, 1, 0x4000, RF);
    EVENT(3, 1, 0x4000, RF);
    EVENT(4, 4, 0x4000, 0);
    EVENT(5, 5, 0x4000, 0);
    resume_from = 0;
    /* Data: behind the iteration that writes there, with RF unless it is the last. */
    write_dr1(HERE(memory) + 64 + 8);
    IN(.cs = pass_cs, .rsi = HERE(memory), .rdi = HERE(memory) + 64, .rcx = 3);
    run_debugged(copy, write_8);
    EQ(event_count, 1);
    EVENT(0, 1, 2, RF);
    EQ(events[0].rcx, 1);
    write_dr1(HERE(memory) + 64 + 16);
    run_debugged(copy, write_8);
    EQ(event_count, 1);
    EVENT(0, 4, 2, 0);
    /* A step and data in one #DB. */
    write_dr1(HERE(memory));
    IN(.cs = pass_cs, .r12 = HERE(memory), .rflags = TF);
    run_debugged(CODE("nop; mov [r12], rax; nop"), write_8);
    EQ(event_count, 3);
    EVENT(1, 5, 0x4002, 0);
    /* What MOV SS meets waits for the next instruction, with whose own trap it comes. */
    memory[0] = pass_cs == UCODE ? UDATA : KDATA;
    write_dr1(HERE(memory));
    IN(.cs = pass_cs, .r12 = HERE(memory));
    run_debugged(CODE("mov ss, word ptr [r12]; nop; nop"), write_8 | 3u << 20);
    EQ(event_count, 1);
    EVENT(0, 5, 2, 0);
    in.rflags |= TF;
    run_debugged(CODE("mov ss, word ptr [r12]; nop; nop"), write_8 | 3u << 20);
    EQ(event_count, 2);
    EVENT(0, 5, 0x4002, 0);
    EVENT(1, 6, 0x4000, 0);
    /* INT1 is a trap that says nothing in DR6; behind it stepping goes on. */
    IN(.cs = pass_cs, .rflags = TF);
    run_debugged(CODE("nop; .byte 0xf1; nop"), 0);
    EQ(event_count, 3);
    EVENT(0, 1, 0x4000, 0);
    EVENT(1, 2, 0, 0);
    EVENT(2, 3, 0x4000, 0);
    EQ(events[1].rflags & TF, TF);
}

void guest_main(void)
{
    pit_stop();
    GROUP(timer_in_loops);
    GROUP(halt);
    GROUP(shadows);
    GROUP(computing);
    GROUP(vectors);
    GROUP(masked);
    GROUP(wild_stack);
    GROUP(single_step);
    GROUP(single_step_events);
    GROUP(breakpoints);
    GROUP(breakpoints_and_steps);
}
