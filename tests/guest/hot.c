/* hot.c - long-running mixtures that a defect of translation, chaining or lookup would disturb.
 *
 * Nothing here is about one instruction: recursion, indirect calls over many pages, targets that
 * agree in their low 16 bits, coroutines whose returns do not match their calls, code that overlaps
 * itself, very long blocks, more code than a cache may hold at once, and ordinary compiled
 * programs. All results are known numbers or computed twice, by different code. SDM 1 6.4 (calls
 * and returns). */
#include "guest.h"

const char guest_name[] = "hot";

enum { FUNCTIONS = 300, STRIDE = 1236 /* 300 functions over 91 pages */, FREE_RAM = 0x400000 };

static uint32_t table[FUNCTIONS];
static uint32_t numbers[100000];

static uint8_t *put8(uint8_t *p, uint32_t value)
{
    *p = (uint8_t)value;
    return p + 1;
}

static uint8_t *put32(uint8_t *p, uint32_t value)
{
    memcpy(p, &value, 4);
    return p + 4;
}

static uint32_t rol(uint32_t value, uint32_t n)
{
    return value << n | value >> (32 - n);
}

static void recursion(void)
{
    IN(.eax = 23);
    OK("call 1f; jmp 9f; 1: cmp eax, 2; jb 2f; push eax; dec eax; call 1b; pop ecx; push eax; lea "
       "eax, [ecx - 2]; call 1b; "
       "pop ecx; add eax, ecx; 2: ret; 9:");
    EQ(out.eax, 28657);
    /* Ackermann(2, n) with arguments on the stack and RET n. */
    IN(.eax = 2, .ebx = 60);
    OK("push ebx; push eax; call 1f; jmp 9f; "
       "1: mov eax, [esp + 4]; mov ebx, [esp + 8]; test eax, eax; jnz 2f; lea eax, [ebx + 1]; ret "
       "8; "
       "2: test ebx, ebx; jnz 3f; dec eax; push 1; push eax; call 1b; ret 8; "
       "3: dec ebx; push ebx; push eax; call 1b; mov ecx, [esp + 4]; dec ecx; push eax; push ecx; "
       "call 1b; ret 8; 9:");
    EQ(out.eax, 123);
    /* Deep: 1500 frames, twice, the second time with another return site. */
    IN(.ecx = 1500);
    OK("call 1f; mov edx, eax; mov ecx, 1500; call 1f; jmp 9f; 1: dec ecx; jz 2f; call 1b; 2: inc "
       "eax; ret; 9:");
    EQ(out.edx, 1500);
    EQ(out.eax, 3000);
}

/* Function i: add eax, i * K; rol eax, i % 31 + 1; ret. */
static void dispatcher(void)
{
    for (uint32_t i = 0; i < FUNCTIONS; i++) {
        uint8_t *p = (uint8_t *)(FREE_RAM + i * STRIDE);
        table[i] = addr(p);
        p = put32(put8(p, 0x05), i * 0x9e3779b1);
        p = put8(put8(put8(p, 0xc1), 0xc0), i % 31 + 1);
        put8(p, 0xc3);
    }
    static const uint32_t rounds = 100000;
    IN(.eax = 1, .ebx = 7, .ecx = rounds, .esi = addr(table), .edi = FUNCTIONS);
    OK("1: imul ebx, ebx, 1664525; add ebx, 1013904223; mov eax, ebx; mul edi; xchg eax, ebp; call "
       "[esi + edx * 4]; "
       "xchg eax, ebp; dec ecx; jnz 1b; mov eax, ebp");
    uint32_t accumulator = 0, x = 7;
    for (uint32_t i = 0; i < rounds; i++) {
        x = x * 1664525 + 1013904223;
        uint32_t f = (uint32_t)((uint64_t)x * FUNCTIONS >> 32);
        accumulator = rol(accumulator + f * 0x9e3779b1, f % 31 + 1);
    }
    /* The XCHG pair leaves the product's low half in ebp's place only during the call. */
    EQ(out.eax, accumulator);
}

/* 24 targets 64 KiB apart, also 4 KiB and 1 MiB: JMP, CALL, RET into each, in a mixed order. */
static void aliased_targets(void)
{
    static const uint32_t distances[] = {0x10000, 0x1000, 0x8000, 0x20000};
    for (uint32_t d = 0; d < COUNT(distances); d++) {
        for (uint32_t i = 0; i < 24; i++) {
            uint8_t *p = (uint8_t *)(FREE_RAM + 0x123 + i * distances[d]);
            table[i] = addr(p);
            p = put32(put8(put8(p, 0x8d), 0x84),
                      0); /* lea eax, [eax + eax * 2 + imm]: patched below */
            p = (uint8_t *)table[i];
            p = put32(put8(put8(put8(p, 0x8d), 0x84), 0x40), i + 1);
            put8(p, 0xc3);
        }
        IN(.ecx = 3000, .esi = addr(table), .edi = 24);
        OK("1: mov eax, ecx; imul eax, eax, 7919; xor edx, edx; div edi; mov eax, ebx; mov edx, "
           "[esi + edx * 4]; test ecx, 3; jz 2f; jp 3f; "
           "call edx; jmp 4f; 2: push offset 4f; jmp edx; 3: push offset 4f; push edx; ret; 4: mov "
           "ebx, eax; loop 1b");
        uint32_t want = 0;
        for (uint32_t c = 3000; c; c--)
            want = want * 3 + c * 7919 % 24 + 1;
        CHECK(out.ebx, want, "aliased targets", d);
    }
}

/* Two coroutines that switch stacks, so that every RET goes elsewhere than its CALL said. */
static void coroutines(void)
{
    IN(.ecx = 20000, .esi = addr(kernel_stack) + 2048);
    OK("mov dword ptr [esi], offset 5f; mov ebp, esp; "
       "1: call 3f; add eax, 1; call 3f; add eax, 3; loop 1b; jmp 9f; "
       "3: xchg esp, esi; ret; " /* switch */
       "5: add ebx, 1; call 3b; add ebx, 5; call 6f; add ebx, 7; jmp 5b; 6: call 3b; ret; "
       "9: mov esp, ebp");
    EQ(out.eax, 80000);
    /* A round of B has thirteen units and two switches back; A switches 40000 times, so that B
     * stops seven units short of the end of its round 20000. */
    EQ(out.ebx, 20000 * 13 - 7);
}

/* Byte streams entered at two places: the immediate of one instruction is another instruction. */
static void overlapping(void)
{
    IN(.ecx = 1000);
    OK("lea edx, [2f + 1]; 1: test cl, 1; jz 2f; jmp edx; 2: mov eax, 0x01c38348; dec ecx; jnz 1b");
    EQ(out.eax, 0x01c38347); /* at 2f + 1: DEC EAX, ADD EBX, 1 */
    EQ(out.ebx, 500);
    IN(.ecx = 3000);
    OK("1: inc ebx; test bl, 1; jnz 3f; .byte 0xb8; 3: .byte 0x40, 0x41, 0x49, 0x90; loop 1b");
    /* Odd: INC EAX, INC ECX, DEC ECX, NOP. Even: MOV EAX, 90494140h. */
    EQ(out.ebx, 3000);
    EQ(out.eax, 0x90494140);
}

/* A block of 20000 instructions, ending in a page of its own, and a chain of 5000 one-jump blocks.
 */
static void long_blocks(void)
{
    uint8_t *p = (uint8_t *)FREE_RAM;
    for (uint32_t i = 0; i < 20000; i++)
        p = put8(put8(put8(p, 0x83), 0xc0 + (i & 3)), 1 + (i & 7)); /* add r, imm8 */
    put8(p, 0xc3);
    IN(.esi = FREE_RAM, .edi = 3);
    OK("1: call esi; dec edi; jnz 1b");
    EQ(out.eax, 3 * (5000 * 3)); /* i & 7 is 0 or 4: 1 or 5, for eax */
    EQ(out.ebx, 3 * (5000 * 6));
    p = (uint8_t *)FREE_RAM;
    for (uint32_t i = 0; i < 5000; i++) { /* block i at 16 * (i * 2049 % 8192): inc eax; jmp next */
        p = (uint8_t *)(FREE_RAM + (i * 2049 & 8191) * 16);
        p = put8(put8(p, 0x40), 0xe9);
        put32(p, FREE_RAM + ((i + 1) * 2049 & 8191) * 16 - (addr(p) + 4));
    }
    *(uint8_t *)(FREE_RAM + (5000 * 2049 & 8191) * 16) = 0xc3;
    IN(.esi = FREE_RAM, .edi = 5);
    OK("1: call esi; dec edi; jnz 1b");
    EQ(out.eax, 25000);
}

/* 10000 functions, each called twice in a row, the whole twice: more than a small cache holds. */
static void many_functions(void)
{
    enum { COUNT_ = 10000, SIZE = 32 };
    for (uint32_t i = 0; i < COUNT_; i++) {
        uint8_t *p = (uint8_t *)(FREE_RAM + i * SIZE);
        p = put32(put8(p, 0x05), i);                     /* add eax, i */
        p = put8(put8(put8(p, 0xa8), 1), 0x75);          /* test al, 1; jnz +3 */
        p = put8(put8(put8(put8(p, 3), 0x83), 0xc3), 1); /* add ebx, 1 */
        put8(put8(p, 0x41), 0xc3);                       /* inc ecx; ret */
    }
    IN(.esi = FREE_RAM, .edi = COUNT_, .edx = SIZE);
    OK("1: call esi; call esi; add esi, edx; dec edi; jnz 1b");
    uint32_t eax = 0, even = 0;
    for (uint32_t i = 0; i < COUNT_; i++)
        for (int k = 0; k < 2; k++) {
            eax += i;
            even += !(eax & 1);
        }
    EQ(out.eax, eax);
    EQ(out.ebx, even);
    EQ(out.ecx, 2 * COUNT_);
}

static uint32_t crc32(const uint8_t *p, uint32_t n)
{
    uint32_t crc = 0xffffffff;
    while (n--) {
        crc ^= *p++;
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

static int compare_up(uint32_t a, uint32_t b)
{
    return a < b ? -1 : a > b;
}

static int compare_down(uint32_t a, uint32_t b)
{
    return compare_up(b, a);
}

static int compare_low(uint32_t a, uint32_t b)
{
    return compare_up(a & 0xffff, b & 0xffff);
}

static void quick_sort(uint32_t *a, int n, int (*compare)(uint32_t, uint32_t))
{
    while (n > 1) {
        uint32_t pivot = a[n / 2];
        int i = 0, j = n - 1;
        while (i <= j) {
            while (compare(a[i], pivot) < 0)
                i++;
            while (compare(a[j], pivot) > 0)
                j--;
            if (i <= j) {
                uint32_t t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        quick_sort(a, j + 1, compare);
        a += i;
        n -= i;
    }
}

static uint32_t queens(uint32_t row, uint32_t columns, uint32_t left, uint32_t right)
{
    uint32_t count = 0;
    if (row == 8)
        return 1;
    for (uint32_t free_ = ~(columns | left | right) & 0xff; free_; free_ &= free_ - 1) {
        uint32_t bit = free_ & -free_;
        count += queens(row + 1, columns | bit, (left | bit) << 1, (right | bit) >> 1);
    }
    return count;
}

static uint32_t primes_below(uint32_t n)
{
    uint8_t *composite = (uint8_t *)FREE_RAM;
    uint32_t count = 0;
    memset(composite, 0, n);
    for (uint32_t i = 2; i < n; i++) {
        if (composite[i])
            continue;
        count++;
        for (uint32_t j = i * 2; j < n; j += i)
            composite[j] = 1;
    }
    return count;
}

/* A little stack machine: a switch in a loop compiles to an indirect jump. */
static uint32_t interpret(const uint8_t *code, uint32_t n)
{
    uint32_t stack[16] = {0}, sp = 0, pc = 0;
    for (;;) {
        switch (code[pc++]) {
        case 0:
            stack[sp++] = code[pc++];
            break;
        case 1:
            sp--, stack[sp - 1] += stack[sp];
            break;
        case 2:
            sp--, stack[sp - 1] *= stack[sp];
            break;
        case 3:
            stack[sp] = stack[sp - 1], sp++;
            break;
        case 4:
            stack[sp - 1]--;
            break;
        case 5:
            pc = stack[--sp] ? code[pc] : pc + 1;
            break;
        case 6: {
            uint32_t t = stack[sp - 1];
            stack[sp - 1] = stack[sp - 2];
            stack[sp - 2] = t;
        } break;
        case 7:
            stack[sp++] = n;
            break;
        case 8:
            return stack[0];
        case 9:
            stack[sp - 1] ^= stack[sp - 1] >> 15;
            break;
        default:
            return 0xffffffff;
        }
    }
}

static void programs(void)
{
    EQ(crc32((const uint8_t *)"123456789", 9), 0xcbf43926);
    EQ(crc32((const uint8_t *)"The quick brown fox jumps over the lazy dog", 43), 0x414fa339);
    EQ(primes_below(100000), 9592);
    EQ(queens(0, 0, 0, 0), 92);
    int (*const compare[])(uint32_t, uint32_t) = {compare_up, compare_down, compare_low};
    for (int k = 0; k < 3; k++) {
        uint32_t x = 88172645, sum = 0, sorted = 0, wrong = 0;
        for (uint32_t i = 0; i < 20000; i++) {
            x ^= x << 13, x ^= x >> 17, x ^= x << 5;
            numbers[i] = x;
            sum += x;
        }
        quick_sort(numbers, 20000, compare[k]);
        for (uint32_t i = 0; i < 20000; i++) {
            sorted += numbers[i];
            wrong += i && compare[k](numbers[i - 1], numbers[i]) > 0;
        }
        EQ(sorted, sum);
        EQ(wrong, 0);
    }
    /* acc = 1; count = n; do { acc = (acc * 31 + 7) ^ itself >> 15 } while (--count) */
    static const uint8_t code[] = {0, 1, 7, 6, 0, 31, 2, 0, 7, 1, 9, 6, 4, 3, 5, 3, 8};
    uint32_t want = 1;
    for (uint32_t i = 0; i < 30000; i++) {
        want = want * 31 + 7;
        want ^= want >> 15;
    }
    EQ(interpret(code, 30000), want);
    /* 64-bit arithmetic by 32-bit instructions: Fibonacci modulo 2^64, and collatz lengths. */
    uint64_t a = 0, b = 1;
    for (int i = 0; i < 90; i++) {
        uint64_t t = a + b;
        a = b;
        b = t;
    }
    EQ(a >> 32, 2880067194370816120ull >> 32);
    EQ(a, 2880067194370816120ull & 0xffffffff);
    uint32_t longest = 0, best = 0;
    for (uint32_t i = 1; i < 30000; i++) {
        uint32_t length = 1;
        for (uint64_t n = i; n != 1; length++)
            n = n & 1 ? 3 * n + 1 : n >> 1;
        if (length > best)
            best = length, longest = i;
    }
    EQ(longest, 26623);
    EQ(best, 308);
}

void guest_main(void)
{
    GROUP(recursion);
    GROUP(dispatcher);
    GROUP(aliased_targets);
    GROUP(coroutines);
    GROUP(overlapping);
    GROUP(long_blocks);
    GROUP(many_functions);
    GROUP(programs);
}
