/* pic.h - the two cascaded 8259A interrupt controllers of a PC, with the ELCR.
 *
 *     IRQ 0-7  -> master (ports 20h, 21h) -> INTR
 *     IRQ 8-15 -> slave  (ports A0h, A1h) -> the master's IRQ 2
 *
 * Time plays no part here. Source: Intel 8259A data sheet (order 231468-003); ELCR: 82371SB (PIIX3)
 * data sheet. Differs from the chip in one thing, as chipsets do: an edge is latched, so a request
 * whose line falls before the acknowledge is still delivered, not turned into a spurious IRQ 7. */
#ifndef MON_PIC_H
#define MON_PIC_H

#include "monitor/devices/bus.h"

struct mon_pic_chip {
    uint8_t line;      /* input pins as they are */
    uint8_t irr;       /* requests: latched edges, or levels */
    uint8_t isr;       /* in service */
    uint8_t imr;       /* masked */
    uint8_t elcr;      /* level-triggered inputs */
    uint8_t elcr_mask; /* ELCR bits that can be set */
    uint8_t base;      /* vector of input 0 */
    uint8_t icw1, icw4;
    uint8_t icw_next; /* which ICW the data port expects next: 2, 3, 4, or 0 for none */
    uint8_t lowest;   /* input with the lowest priority; 7 unless rotated */
    bool read_isr;    /* the command port reads ISR, not IRR */
    bool poll;        /* the next read is a poll */
    bool special_mask;
    bool rotate_on_aeoi;
};

enum { MON_PIC_MASTER, MON_PIC_SLAVE };

struct mon_pic {
    struct mon_pic_chip chip[2];
};

void mon_pic_init(struct mon_pic *pic);
bool mon_pic_add_ports(struct mon_pic *pic, struct mon_bus *bus);

/* Sets input line 0-15; opaque is the struct mon_pic. Line 2 is the cascade and cannot be set. */
void mon_pic_set_line(void *opaque, unsigned line, bool level);

/* The master's INTR output. */
bool mon_pic_has_interrupt(const struct mon_pic *pic);

/* The acknowledge cycle: the vector to deliver. Without a request: the spurious vector, IRQ 7. */
uint8_t mon_pic_acknowledge(struct mon_pic *pic);

/* Whether a rising edge on the line would change anything: neither masked nor already requested. */
bool mon_pic_line_is_useful(const struct mon_pic *pic, unsigned line);

#endif
