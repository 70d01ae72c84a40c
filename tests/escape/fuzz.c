/* fuzz.c - a guest that accesses ports and device memory at random, and never ends.
 *
 * Every width, IN, OUT, REP INS and REP OUTS, loads and stores, at the addresses where a PC has its
 * devices more often than elsewhere. Resets and power-off are among what it finds; tests/escape/run
 * starts it again. The seed is the time stamp counter. */
#include "guest.h"

const char guest_name[] = "fuzz";

static uint64_t state;
static uint8_t buffer[256];

static uint32_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

static uint16_t any_port(void)
{
    static const uint16_t devices[] = {
        0x20,  0x21,  0xa0,  0xa1,  0x4d0, 0x40,  0x42,  0x43,  0x61,  0x70, 0x71,  0x60,  0x3f8,
        0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fe, 0xcf8, 0xcfc, 0x600, 0x608, 0x80, 0x1f0, 0x3c0, 0x0};
    uint32_t n = next_random();
    if (n & 7)
        return (uint16_t)(devices[(n >> 3) % (sizeof(devices) / 2)] + (n >> 16 & 3));
    return (uint16_t)(n >> 8);
}

static uint32_t any_address(void)
{
    static const uint32_t devices[] = {0xa0000,    0xb8000,    0xfec00000, 0xfec00010,
                                       0xfed00000, 0xfee00000, 0xfee00300, 0xfebf0000,
                                       0xc0000000, 0xe0000000, 0xfffff000, 0x20000000};
    uint32_t n = next_random();
    if (n & 3)
        return devices[(n >> 2) % (sizeof(devices) / 4)] + (n >> 16 & 0x3ff);
    return n | 0x80000000;
}

static void access_ports(void)
{
    uint32_t value = next_random(), port = any_port(), count = 1 + next_random() % 32;
    void *at = buffer;

    switch (next_random() % 10) {
    case 0:
        __asm__ volatile("in %%dx, %%al" : "+a"(value) : "d"(port));
        break;
    case 1:
        __asm__ volatile("in %%dx, %%ax" : "+a"(value) : "d"(port));
        break;
    case 2:
        __asm__ volatile("in %%dx, %%eax" : "+a"(value) : "d"(port));
        break;
    case 3:
    case 4:
        __asm__ volatile("out %%al, %%dx" : : "a"(value), "d"(port));
        break;
    case 5:
        __asm__ volatile("out %%ax, %%dx" : : "a"(value), "d"(port));
        break;
    case 6:
        __asm__ volatile("out %%eax, %%dx" : : "a"(value), "d"(port));
        break;
    case 7:
        __asm__ volatile("rep insb" : "+D"(at), "+c"(count) : "d"(port) : "memory");
        break;
    case 8:
        __asm__ volatile("rep insl" : "+D"(at), "+c"(count) : "d"(port) : "memory");
        break;
    default:
        __asm__ volatile("rep outsw" : "+S"(at), "+c"(count) : "d"(port) : "memory");
        break;
    }
}

static void access_memory(void)
{
    uint32_t at = any_address(), value = next_random();

    switch (next_random() % 7) {
    case 0:
        value = *(volatile uint8_t *)at;
        break;
    case 1:
        value = *(volatile uint16_t *)at;
        break;
    case 2:
        value = *(volatile uint32_t *)at;
        break;
    case 3:
        *(volatile uint8_t *)at = (uint8_t)value;
        break;
    case 4:
        *(volatile uint32_t *)at = value;
        break;
    case 5:
        __asm__ volatile("lock xaddl %0, (%1)" : "+r"(value) : "r"(at) : "memory");
        break;
    default:
        __asm__ volatile("fildll (%0); fistpll (%0)" : : "r"(at) : "memory");
        break;
    }
}

void guest_main(void)
{
    __asm__ volatile("rdtsc" : "=A"(state));
    state |= 1;
    for (;;) {
        if (next_random() & 3)
            access_ports();
        else
            access_memory();
    }
}
