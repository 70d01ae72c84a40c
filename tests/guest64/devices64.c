/* devices64.c - accesses to devices leave x87, vector and mask registers alone.
 *
 * Whoever answers for a device may use these registers for itself. All of them are filled, then
 * each port of the board, each register of the APICs and the HPET, and the MSRs that are the local
 * APIC's are read and, where that does no harm, written; after every access XSAVE has to store what
 * it stored before the first. An interrupt that a device raises goes the same way. */
#include "guest64.h"

const char guest_name[] = "devices64";

enum { LAPIC = 0xfee00000, IOAPIC = 0xfec00000, HPET = 0xfed00000, SELF_VECTOR = 0x60 };

static uint8_t pattern[64 * 32] __attribute__((aligned(64)));
static uint8_t before[4096] __attribute__((aligned(64)));
static uint8_t after[4096] __attribute__((aligned(64)));
static uint64_t xcr0, image;
static uint32_t interrupts;

static void enable(void)
{
    write_cr4(read_cr4() | 1 << 9 | 1 << 10 | 1 << 18); /* OSFXSR, OSXMMEXCPT, OSXSAVE */
    xcr0 = cpuid(0xd, 0).eax & 0xe7;
    __asm__ volatile("xsetbv" : : "a"((uint32_t)xcr0), "d"(0), "c"(0));
    image = cpuid(0xd, 0).ebx;
}

#define LOW16  "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
#define HIGH16 "16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"

static void fill(void)
{
    static const uint32_t mxcsr = 0x9fc0; /* flush to zero, denormals are zero, all masked */
    for (uint32_t i = 0; i < sizeof(pattern); i += 8) {
        uint64_t value = random64();
        memcpy(pattern + i, &value, 8);
    }
    __asm__ volatile("fninit; fldpi; fldl2e; fldlg2; ldmxcsr %0" : : "m"(mxcsr));
    __asm__ volatile(".irp n," LOW16 "\nmovups \\n*16(%0), %%xmm\\n\n.endr" : : "r"(pattern));
    if (xcr0 & 4)
        __asm__ volatile(".irp n," LOW16 "\nvmovups \\n*32(%0), %%ymm\\n\n.endr" : : "r"(pattern));
    if (xcr0 & 0x80) {
        __asm__ volatile(".irp n," LOW16 "," HIGH16 "\nvmovups \\n*64(%0), %%zmm\\n\n.endr"
                         :
                         : "r"(pattern));
        __asm__ volatile(".irp n,0,1,2,3,4,5,6,7\nkmovq \\n*8(%0), %%k\\n\n.endr" : : "r"(pattern));
    }
}

static void store(uint8_t *to)
{
    __asm__ volatile("xsave64 (%0)" : : "r"(to), "a"((uint32_t)xcr0), "d"(0) : "memory");
}

/* number: which access it was. */
static void unchanged(uint64_t number)
{
    uint32_t differ = 0;
    memset(after, 0, sizeof(after));
    store(after);
    for (uint32_t i = 0; i < image / 8; i++)
        differ += ((uint64_t *)before)[i] != ((uint64_t *)after)[i];
    CHECK(differ, 0, "words of the state that an access changed", number);
}

static void start(void)
{
    enable();
    fill();
    memset(before, 0, sizeof(before));
    store(before);
    map(pml4, LAPIC, LAPIC, P | W | PCD);
    map(pml4, IOAPIC, IOAPIC, P | W | PCD);
    map(pml4, HPET, HPET, P | W | PCD);
    unchanged(0);
}

static void ports(void)
{
    if (rep >= 2)
        return;
    /* Written back as read; the timer's and the clock's index and mode registers as given. */
    static const uint16_t same[] = {0x21, 0xa1, 0x61, 0x80, 0x3f9, 0x3fb, 0x3fc, 0x3ff, 0x4d0};
    static const struct {
        uint16_t port;
        uint8_t value;
    } fixed[] = {{0x43, 0x00}, {0x43, 0xd2}, {0x70, 0x00}, {0x70, 0x32},
                 {0x70, 0x0b}, {0x64, 0xaa}, {0x3f8, '.'}, {0x3f8, '\n'}};
    start();
    for (uint32_t port = 0; port < 0x700; port++) {
        inb((uint16_t)port);
        unchanged(port);
    }
    for (uint32_t i = 0; i < COUNT(same); i++) {
        outb(same[i], inb(same[i]));
        unchanged(same[i]);
    }
    for (uint32_t i = 0; i < COUNT(fixed); i++) {
        outb(fixed[i].port, fixed[i].value);
        unchanged(fixed[i].port);
    }
}

/* The clock takes the time of day from its bytes, and brings them up to date. */
static void calendar(void)
{
    start();
    outb(0x70, 0x0b);
    uint8_t status = inb(0x71);
    for (int update = 0; update < 2; update++) {
        outb(0x70, 0x0b);
        outb(0x71, update ? status & 0x7f : status | 0x80); /* SET */
        unchanged(0x71);
        for (uint8_t i = 0; i < 10; i++) {
            outb(0x70, i);
            uint8_t value = inb(0x71);
            if (i % 2 == 0 && i < 6)
                outb(0x71, value);
            unchanged(i);
        }
    }
}

static void memory(void)
{
    static const uint32_t base[] = {LAPIC, HPET};
    start();
    for (uint32_t n = 0; n < 2; n++)
        for (uint32_t at = 0; at < 0x400; at += 16) {
            *(volatile uint32_t *)(uint64_t)(base[n] + at);
            unchanged(base[n] + at);
        }
    for (uint32_t i = 0; i < 0x40; i++) {
        *(volatile uint32_t *)(uint64_t)IOAPIC = i;
        *(volatile uint32_t *)(uint64_t)(IOAPIC + 16);
        unchanged(IOAPIC + i);
    }
}

static bool taken(struct frame *frame)
{
    if (frame->vector != SELF_VECTOR)
        return false;
    interrupts++;
    *(volatile uint32_t *)(uint64_t)(LAPIC + 0xb0) = 0;
    return true;
}

static void interrupt(void)
{
    start();
    trap_hook = taken;
    *(volatile uint32_t *)(uint64_t)(LAPIC + 0xf0) = 0x1ff;
    for (uint32_t i = 0; i < 100; i++) {
        interrupts = 0;
        *(volatile uint32_t *)(uint64_t)(LAPIC + 0x300) = 0x44000 | SELF_VECTOR;
        while (!*(volatile uint32_t *)&interrupts)
            __asm__ volatile("sti; nop; cli" ::: "memory");
        unchanged(i);
    }
    *(volatile uint32_t *)(uint64_t)(LAPIC + 0xf0) = 0xff;
    trap_hook = NULL;
}

void guest_main(void)
{
    pit_stop();
    pic_init(0); /* firmware may have left the keyboard's interrupt on */
    GROUP(ports);
    GROUP(calendar);
    GROUP(memory);
    GROUP(interrupt);
}
