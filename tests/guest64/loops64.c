/* loops64.c - loops whose pointers walk: into the next 4 GiB, into absent pages, to where addresses
 * end, and loops that end before they access anything.
 *
 * SDM 1 3.3.7.1 (canonical addresses), SDM 3A 6.5 (faults: the saved state is the instruction's),
 * 4.7 (page-fault exceptions). Every form of a loop is run in C first, access by access, to where
 * it ends or faults. A translator may well look at a pointer once in front of a loop: these are the
 * cases in which that is not enough. */
#include "guest64.h"

const char guest_name[] = "loops64";

enum { PAGES = 4, BYTES = PAGES * 4096, WORDS = BYTES / 8 };
static uint64_t data[WORDS] USER __attribute__((aligned(4096)));
static uint64_t *root;

/* Where data is seen; an absent page on either side. The middle is at a multiple of 4 GiB but for
 * the last program address and the first of the kernel's. */
static const uint64_t places[] = {0xffffe000,        0x1ffffe000,    0x5554ffffe000,
                                  0x7ffefffff000,    0x7fffffffc000, 0xffff800000000000,
                                  0xffffc8fffffff000};
enum { USER_PLACES = 5, LAST = 4, FIRST = 5 };

/* A loop over 8-byte words: pointer + index * scale + 16, by step bytes each turn, rcx turns. */
struct form {
    const struct snip *code;
    uint8_t pointer, index; /* registers; index 0: none */
    int8_t step;            /* of the pointer, or of the index */
    bool stores;
};

static uint64_t place(uint64_t n)
{
    return places[n % (pass_cs == UCODE ? USER_PLACES : COUNT(places))];
}

static void start(void)
{
    frames_reset();
    root = space_new();
    for (uint32_t i = 0; i < COUNT(places); i++)
        for (uint32_t page = 0; page < BYTES; page += 4096)
            map(root, places[i] + page, addr(data) + page, P | W | (i < USER_PLACES ? U : 0u));
    write_cr3(addr(root));
    for (uint32_t i = 0; i < WORDS; i++)
        data[i] = random64();
}

static bool canonical(uint64_t at)
{
    return (uint64_t)((int64_t)(at << 16) >> 16) == at;
}

/* Runs f from the word at `at` on, which is in a place, and compares with what C makes of it. */
static void walk(const struct form *f, uint64_t at, uint64_t base, uint64_t turns, uint64_t n)
{
    uint64_t sum = 0, left = turns, p = at;
    int64_t step = f->index ? f->step * 8 : f->step;

    IN(.cs = pass_cs, .rcx = turns);
    in.r[f->pointer] = at - 16;
    if (f->index) { /* the same address in two parts */
        in.r[f->index] = random64() >> 8 & 0xffff;
        in.r[f->pointer] -= in.r[f->index] * 8;
    }
    for (uint32_t i = 0; i < WORDS; i++)
        data[i] = i * 0x9e3779b97f4a7c15;
    while (left && p - base < BYTES && p + 7 - base < BYTES) {
        if (!f->stores)
            sum += data[(p - base) / 8];
        p += step;
        left--;
    }
    go(f->code);
    CHECK(out.vector, !left ? DONE : canonical(p) ? PF : GP, "how it ends", n);
    CHECK(out.rcx, left, "turns left", n);
    CHECK(out.rax, f->stores ? 0 : sum, "sum", n);
    uint64_t reg = f->index ? f->index : f->pointer;
    CHECK(out.r[reg], in.r[reg] + (turns - left) * (uint64_t)f->step, "pointer", n);
    if (out.vector == PF) {
        CHECK(out.cr2, p, "CR2", n);
        CHECK(out.error, (f->stores ? 2u : 0u) | (pass_cs == UCODE ? 4u : 0u), "error code", n);
    }
    for (uint64_t i = 0, q = at; f->stores && i < turns - left; i++, q += step)
        CHECK(data[(q - base) / 8], turns - i, "stored", n);
}

#define FORMS                                                                                   \
    {                                                                                           \
        {CODE("1: add rax, [rsi + 16]; add rsi, 8; dec rcx; jnz 1b"), RSI, 0, 8, false},        \
            {CODE("1: add rax, [r10 + 16]; lea r10, [r10 - 8]; dec rcx; jnz 1b"), R10, 0, -8,   \
             false},                                                                            \
            {CODE("1: add rax, [rbx + rdx * 8 + 16]; inc rdx; dec rcx; jnz 1b"), RBX, RDX, 1,   \
             false},                                                                            \
            {CODE("1: add rax, [r9 + r11 * 8 + 16]; sub r11, 3; dec rcx; jnz 1b"), R9, R11, -3, \
             false},                                                                            \
            {CODE("1: mov [rdi + 16], rcx; add rdi, 24; dec rcx; jnz 1b"), RDI, 0, 24, true},   \
            {CODE("1: mov [r8 + rbp * 8 + 16], rcx; dec rbp; dec rcx; je 2f; jmp 1b; 2:"), R8,  \
             RBP, -1, true},                                                                    \
            {CODE("1: add rax, [rsi + 16]; sub rsi, 120; dec rcx; jnz 1b"), RSI, 0, -120,       \
             false}, /* of several blocks, each with what the one in front of it knows */       \
            {CODE("1: add rax, [rsi + 16]; jmp 2f; 2: add rsi, 8; dec rcx; jnz 1b"), RSI, 0, 8, \
             false},                                                                            \
            {CODE("1: add rax, [rsi + 16]; jmp 2f; 2: lea rbx, [rsi + 8]; jmp 3f;"              \
                  "3: mov rsi, rbx; dec rcx; je 4f; jmp 1b; 4:"),                               \
             RSI, 0, 8, false},                                                                 \
            {CODE("1: mov [rdi + 16], rcx; jmp 2f; 2: add rdi, 4000; prefetcht0 [rdi]; jmp 3f;" \
                  "3: sub rdi, 3976; prefetchw [rdi]; dec rcx; jnz 1b"),                        \
             RDI, 0, 24, true},                                                                 \
    }

/* Within a place, over multiples of 4 GiB, and out of it on either side. */
static void walks(void)
{
    static struct form forms[10];
    const struct form here[] = FORMS;

    memcpy(forms, here, sizeof(forms));
    start();
    for (uint32_t n = 0; n < COUNT(forms) * 14; n++) {
        const struct form *f = &forms[n % COUNT(forms)];
        uint64_t base = place(n / COUNT(forms)), turns = 1 + random64() % 40;
        walk(f, base + 4096 + random64() % 1024 * 8, base, turns, n);
        /* To the end, whichever that is. */
        walk(f,
             f->step < 0 ? base + 8 * (random64() % 200)
                         : base + BYTES - 8 * (1 + random64() % 200),
             base, 1 + random64() % 400, n);
    }
}

/* A page comes when it is missed; the loop goes on. */
static uint64_t missing, came;

static bool bring(struct frame *frame)
{
    if (frame->vector != PF)
        return false;
    came++;
    map(root, missing, addr(data) + (missing & (BYTES - 1)), P | W | U);
    return true;
}

static void pages_that_come(void)
{
    const uint64_t at = 0x655555550000;

    start();
    for (uint32_t n = 0; n < 4; n++) {
        for (uint32_t page = 0; page < PAGES; page++)
            map(root, at + page * 4096, addr(data) + page * 4096, page == n ? 0 : P | W | U);
        write_cr3(addr(root));
        missing = at + n * 4096;
        came = 0;
        trap_hook = bring;
        uint64_t sum = 0;
        for (uint32_t i = 0; i < WORDS; i++)
            sum += data[i];
        IN(.cs = pass_cs, .rsi = at, .rcx = WORDS, .rdi = at);
        OK("1: add rax, [rsi]; xor r12, [rdi + rdx * 8]; inc rdx; add rsi, 8; dec rcx; jnz 1b");
        CHECK(out.rax, sum, "sum", n);
        CHECK(came, 1, "faults", n);
        trap_hook = NULL;
    }
}

/* No turn comes to the access, so it does not matter where the pointer leads. */
static void loops_that_do_not_access(void)
{
    static const uint64_t nowhere[] = {0x800000000000,     0xffff7fffffffffff, 0x123400000000,
                                       0xffffd00000000000, 0xdeadbeefdeadbeef, 0x6fff12345678,
                                       0xfffffffffffffff8, 0x7fffffffbff0};

    start();
    for (uint32_t n = 0; n < COUNT(nowhere) * 6; n++) {
        uint64_t p = nowhere[n % COUNT(nowhere)], base = place(n);
        const struct snip *loop =
            CODE("1: test rcx, rcx; je 2f; add rax, [rsi]; add rax, [rdi + rdx];"
                 "add rsi, 8; add rdx, 8; dec rcx; jmp 1b; 2:");
        IN(.cs = pass_cs, .rsi = p, .rdi = p);
        go(loop);
        CHECK(out.vector, DONE, "no turn", n);
        IN(.cs = pass_cs, .rsi = base, .rdi = base, .rcx = 100);
        go(loop);
        CHECK(out.vector, DONE, "with turns", n);
        uint64_t sum = 0;
        for (uint32_t i = 0; i < 100; i++)
            sum += 2 * data[i];
        CHECK(out.rax, sum, "sum", n);
        /* Access after access where the first is good. */
        IN(.cs = pass_cs, .rsi = base, .rdi = p, .rcx = 100);
        go(loop);
        CHECK(out.vector, canonical(p) ? PF : GP, "the second access", n);
        CHECK(out.rax, data[0], "the first access", n);
        CHECK(out.rcx, 100, "turns left", n);
    }
}

/* The same loop with pointers of all kinds, in turns; one of them changes its kind in the loop. */
static void kinds_of_pointers(void)
{
    start();
    for (uint32_t n = 0; n < 100; n++) {
        uint64_t base = place(n), other = place(n / COUNT(places));
        uint64_t sum = 0;
        IN(.cs = pass_cs, .rsi = base, .rdi = other, .rcx = 50, .rbx = other);
        for (uint32_t i = 0; i < 50; i++)
            sum += data[i] + data[50 - i];
        OK("1: add rax, [rsi]; add rax, [rdi + rcx * 8]; add rsi, 8; dec rcx; jnz 1b");
        CHECK(out.rax, sum, "sum", n);
        IN(.cs = pass_cs, .rsi = base, .rdi = other, .rcx = 10);
        OK("1: mov rax, [rsi]; add rbx, rax; xchg rsi, rdi; dec rcx; jnz 1b");
        CHECK(out.rbx, data[0] * 10, "exchanged", n);
        IN(.cs = pass_cs, .rsi = base, .rdi = other, .rbx = other + 4096, .rcx = 10);
        OK("1: add rax, [rsi]; jmp 2f; 2: add rax, [rdi]; xchg rsi, rbx; jmp 3f;"
           "3: add rax, [rsi]; dec rcx; jnz 1b");
        CHECK(out.rax, data[0] * 20 + data[512] * 10, "exchanged in another block", n);
    }
}

void guest_main(void)
{
    GROUP(walks);
    GROUP(pages_that_come);
    GROUP(loops_that_do_not_access);
    GROUP(kinds_of_pointers);
}
