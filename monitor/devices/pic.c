/* pic.c - two 8259A interrupt controllers; see pic.h.
 *
 * A request goes IRR -> (acknowledge) -> ISR -> (EOI). It raises INTR when it is not masked and of
 * higher priority than everything in service. After each change the slave's INTR is copied to the
 * master's input 2 (cascade_update).
 *
 * Called with the machine's lock held. */
#include "monitor/devices/pic.h"

#include <string.h>

enum {
    ICW1_IC4 = 1 << 0,
    ICW1_SNGL = 1 << 1,
    ICW1_LTIM = 1 << 3,
    ICW1_SELECT = 1 << 4,
    ICW4_AEOI = 1 << 1,
    ICW4_SFNM = 1 << 4,
    OCW3_SELECT = 1 << 3,
    OCW3_POLL = 1 << 2,
    CASCADE_LINE = 2,
    SPURIOUS_LINE = 7,
};

static uint8_t level_inputs(const struct mon_pic_chip *chip)
{
    return chip->icw1 & ICW1_LTIM ? 0xff : chip->elcr;
}

/* How many steps the highest-priority bit of mask is below the top; 8 when mask is empty. */
static unsigned best_rank(const struct mon_pic_chip *chip, uint8_t mask)
{
    unsigned ranks = mask * 0x101u >> ((chip->lowest + 1) & 7) & 0xff;
    return ranks ? (unsigned)__builtin_ctz(ranks) : 8;
}

static unsigned rank_to_input(const struct mon_pic_chip *chip, unsigned rank)
{
    return (chip->lowest + 1 + rank) & 7;
}

/* What in-service bits hold back: in special mask mode not the masked ones; in special fully nested
 * mode the master lets a second request of the slave through. */
static uint8_t blocking_inputs(const struct mon_pic *pic, const struct mon_pic_chip *chip)
{
    uint8_t isr = chip->isr;
    if (chip->special_mask)
        isr &= MON_BYTE(~chip->imr);
    if (chip->icw4 & ICW4_SFNM && chip == &pic->chip[MON_PIC_MASTER])
        isr &= MON_BYTE(~(1 << CASCADE_LINE));
    return isr;
}

/* The input that the chip's INTR stands for, or -1. */
static int pending_input(const struct mon_pic *pic, const struct mon_pic_chip *chip)
{
    unsigned wanted = best_rank(chip, chip->irr & MON_BYTE(~chip->imr));
    if (wanted == 8 || wanted >= best_rank(chip, blocking_inputs(pic, chip)))
        return -1;
    return (int)rank_to_input(chip, wanted);
}

static void chip_set_line(struct mon_pic_chip *chip, unsigned input, bool level)
{
    uint8_t bit = MON_BYTE(1 << input);
    bool rising = level && !(chip->line & bit);
    bool by_level = level_inputs(chip) & bit;

    if (level)
        chip->line |= bit;
    else
        chip->line &= MON_BYTE(~bit);
    if (rising || (by_level && level))
        chip->irr |= bit;
    else if (by_level)
        chip->irr &= MON_BYTE(~bit);
}

static void cascade_update(struct mon_pic *pic)
{
    bool intr = pending_input(pic, &pic->chip[MON_PIC_SLAVE]) >= 0;
    chip_set_line(&pic->chip[MON_PIC_MASTER], CASCADE_LINE, intr);
}

void mon_pic_set_line(void *opaque, unsigned line, bool level)
{
    struct mon_pic *pic = opaque;
    if (line == CASCADE_LINE)
        return;
    chip_set_line(&pic->chip[line >> 3 & 1], line & 7, level);
    if (line >= 8)
        cascade_update(pic);
}

bool mon_pic_has_interrupt(const struct mon_pic *pic)
{
    return pending_input(pic, &pic->chip[MON_PIC_MASTER]) >= 0;
}

bool mon_pic_line_is_useful(const struct mon_pic *pic, unsigned line)
{
    const struct mon_pic_chip *chip = &pic->chip[line >> 3 & 1];
    return !((chip->imr | chip->irr) & 1 << (line & 7));
}

static void chip_acknowledge(struct mon_pic_chip *chip, unsigned input)
{
    uint8_t bit = MON_BYTE(1 << input);
    if (!(level_inputs(chip) & bit))
        chip->irr &= MON_BYTE(~bit);
    if (!(chip->icw4 & ICW4_AEOI))
        chip->isr |= bit;
    else if (chip->rotate_on_aeoi)
        chip->lowest = MON_BYTE(input);
}

/* One chip's part of the acknowledge cycle: the input, SPURIOUS_LINE when there is none. */
static unsigned acknowledge_chip(struct mon_pic *pic, unsigned which)
{
    int input = pending_input(pic, &pic->chip[which]);
    if (input < 0)
        return SPURIOUS_LINE;
    chip_acknowledge(&pic->chip[which], (unsigned)input);
    return (unsigned)input;
}

/* The slave's INTR drops during its acknowledge: what is still pending is a new edge. */
static unsigned acknowledge_slave(struct mon_pic *pic)
{
    unsigned input = acknowledge_chip(pic, MON_PIC_SLAVE);
    chip_set_line(&pic->chip[MON_PIC_MASTER], CASCADE_LINE, false);
    cascade_update(pic);
    return input;
}

uint8_t mon_pic_acknowledge(struct mon_pic *pic)
{
    struct mon_pic_chip *master = &pic->chip[MON_PIC_MASTER];
    bool real = mon_pic_has_interrupt(pic);
    unsigned input = acknowledge_chip(pic, MON_PIC_MASTER);

    if (!real || input != CASCADE_LINE)
        return MON_BYTE(master->base + input);
    input = acknowledge_slave(pic);
    return MON_BYTE(pic->chip[MON_PIC_SLAVE].base + input);
}

/* ICW1 clears IMR and the edge detectors: a line that stays high must fall and rise again. */
static void write_icw1(struct mon_pic_chip *chip, uint8_t value)
{
    chip->icw1 = value;
    chip->icw4 = 0;
    chip->imr = 0;
    chip->isr = 0;
    chip->irr = chip->line & level_inputs(chip);
    chip->lowest = 7;
    chip->read_isr = false;
    chip->poll = false;
    chip->special_mask = false;
    chip->rotate_on_aeoi = false;
    chip->icw_next = 2;
}

/* Non-specific EOI: the in-service bit of highest priority, but in special mask mode not a masked
 * one. */
static void end_of_interrupt(struct mon_pic_chip *chip, bool rotate)
{
    uint8_t isr = chip->special_mask ? chip->isr & MON_BYTE(~chip->imr) : chip->isr;
    unsigned rank = best_rank(chip, isr);
    if (rank == 8)
        return;
    unsigned input = rank_to_input(chip, rank);
    chip->isr &= MON_BYTE(~(1 << input));
    if (rotate)
        chip->lowest = MON_BYTE(input);
}

static void write_ocw2(struct mon_pic_chip *chip, uint8_t value)
{
    uint8_t input = value & 7;
    switch (value >> 5) {
    case 0: /* rotate in automatic EOI mode, clear */
    case 4: /* set */
        chip->rotate_on_aeoi = value >> 7;
        break;
    case 1:
    case 5:
        end_of_interrupt(chip, value >> 7);
        break;
    case 3:
    case 7: /* specific EOI, with rotation */
        chip->isr &= MON_BYTE(~(1 << input));
        if (value >> 7)
            chip->lowest = input;
        break;
    case 6:
        chip->lowest = input;
        break;
    default: /* no operation */
        break;
    }
}

static void write_ocw3(struct mon_pic_chip *chip, uint8_t value)
{
    if (value & OCW3_POLL)
        chip->poll = true;
    if ((value & 3) >= 2)
        chip->read_isr = value & 1;
    if ((value >> 5 & 3) >= 2)
        chip->special_mask = value >> 5 & 1;
}

static void write_command(struct mon_pic_chip *chip, uint8_t value)
{
    if (value & ICW1_SELECT)
        write_icw1(chip, value);
    else if (value & OCW3_SELECT)
        write_ocw3(chip, value);
    else
        write_ocw2(chip, value);
}

static void write_data(struct mon_pic_chip *chip, uint8_t value)
{
    switch (chip->icw_next) {
    case 2:
        chip->base = value & 0xf8;
        chip->icw_next = chip->icw1 & ICW1_SNGL ? (chip->icw1 & ICW1_IC4 ? 4 : 0) : 3;
        break;
    case 3: /* the cascade is wired, so its description changes nothing */
        chip->icw_next = chip->icw1 & ICW1_IC4 ? 4 : 0;
        break;
    case 4:
        chip->icw4 = value;
        chip->icw_next = 0;
        break;
    default:
        chip->imr = value;
        break;
    }
}

/* A poll is an acknowledge by a read: bit 7 says whether there was one. */
static uint8_t read_poll(struct mon_pic *pic, unsigned which)
{
    pic->chip[which].poll = false;
    if (pending_input(pic, &pic->chip[which]) < 0)
        return 0;
    if (which == MON_PIC_SLAVE)
        return MON_BYTE(0x80 | acknowledge_slave(pic));
    return MON_BYTE(0x80 | acknowledge_chip(pic, which));
}

static uint32_t port_read(void *device, uint16_t port, unsigned size)
{
    (void)size;
    struct mon_pic *pic = device;
    unsigned which = port & 0x80 ? MON_PIC_SLAVE : MON_PIC_MASTER;
    struct mon_pic_chip *chip = &pic->chip[which];

    if (chip->poll)
        return read_poll(pic, which);
    if (port & 1)
        return chip->imr;
    return chip->read_isr ? chip->isr : chip->irr;
}

static void port_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
    (void)size;
    struct mon_pic *pic = device;
    struct mon_pic_chip *chip = &pic->chip[port & 0x80 ? MON_PIC_SLAVE : MON_PIC_MASTER];

    if (port & 1)
        write_data(chip, MON_BYTE(value));
    else
        write_command(chip, MON_BYTE(value));
    cascade_update(pic);
}

static uint32_t elcr_read(void *device, uint16_t port, unsigned size)
{
    (void)size;
    struct mon_pic *pic = device;
    return pic->chip[port & 1].elcr;
}

static void elcr_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
    (void)size;
    struct mon_pic *pic = device;
    struct mon_pic_chip *chip = &pic->chip[port & 1];

    chip->elcr = MON_BYTE(value) & chip->elcr_mask;
    chip->irr |= chip->line & chip->elcr;
    chip->irr &= MON_BYTE(chip->line | ~chip->elcr);
    cascade_update(pic);
}

void mon_pic_init(struct mon_pic *pic)
{
    memset(pic, 0, sizeof(*pic));
    pic->chip[MON_PIC_MASTER].elcr_mask = 0xf8; /* not the timer, keyboard and cascade */
    pic->chip[MON_PIC_SLAVE].elcr_mask = 0xde;  /* not the RTC and the FPU */
    for (unsigned i = 0; i < 2; i++) {
        pic->chip[i].lowest = 7;
        pic->chip[i].imr = 0xff; /* as firmware leaves it */
    }
}

bool mon_pic_add_ports(struct mon_pic *pic, struct mon_bus *bus)
{
    static const struct mon_port_ops pic_ops = {"pic", 1, port_read, port_write};
    static const struct mon_port_ops elcr_ops = {"elcr", 1, elcr_read, elcr_write};
    return mon_bus_add_ports(bus, 0x20, 2, &pic_ops, pic) &&
           mon_bus_add_ports(bus, 0xa0, 2, &pic_ops, pic) &&
           mon_bus_add_ports(bus, 0x4d0, 2, &elcr_ops, pic);
}
