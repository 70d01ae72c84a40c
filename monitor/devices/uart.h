/* uart.h - a 16550A serial port with FIFOs (COM1: ports 3F8h-3FFh, IRQ 4).
 *
 * The line is as fast as its two ends: a byte written leaves at once if the sink has room, and
 * received bytes move up as soon as there is room for them. Nothing is ever lost on the way: a full
 * sink leaves the transmitter busy, a full receiver leaves the input with its source. Drivers clear
 * the FIFO while they open the port, and what was typed or piped in while a kernel booted would be
 * lost there; so input also waits until the guest listens (it has connected the receive interrupt,
 * or polls the line status) and ten character times have passed since it last set up the FIFO. Only
 * that and the character timeout look at the programmed baud rate.
 *
 * Source: National Semiconductor PC16550D data sheet. */
#ifndef MON_UART_H
#define MON_UART_H

#include "monitor/devices/bus.h"

#define MON_UART_FIFO 16

/* The other end of the line. */
struct mon_uart_line {
    bool (*send)(void *opaque, uint8_t byte); /* false: no room, call mon_uart_pump() later */
    int (*receive)(void *opaque);             /* the next byte, -1 when there is none */
    void *opaque;
};

struct mon_uart {
    uint8_t ier, fcr, lcr, mcr, scratch;
    uint8_t msr_delta; /* the low half of MSR */
    uint16_t divisor;
    bool thre_pending;    /* the transmitter emptied and nobody was told */
    bool timeout_pending; /* characters waited too long below the trigger level */
    bool overrun;
    uint8_t polls; /* line status reads in a row, without sending or set-up; see is_listening() */
    uint8_t rx[MON_UART_FIFO];
    uint8_t rx_error[MON_UART_FIFO]; /* LSR error bits that belong to the byte */
    uint8_t rx_head, rx_count;
    uint8_t tx[MON_UART_FIFO];
    uint8_t tx_head, tx_count;
    uint64_t opens_at;   /* when the receiver begins to take input; 0: it does, MON_NEVER: shut */
    uint64_t timeout_at; /* when the character timeout ends */
    uint64_t deadline;   /* the earlier of the two */
    const struct mon_clock *clock;
    struct mon_irq irq;
    struct mon_uart_line line;
};

void mon_uart_init(struct mon_uart *uart, const struct mon_clock *clock, struct mon_irq irq,
                   struct mon_uart_line line);
bool mon_uart_add_ports(struct mon_uart *uart, struct mon_bus *bus);

/* Moves bytes in both directions as far as they go: after input arrived or the sink got room. */
void mon_uart_pump(struct mon_uart *uart);

/* A break condition on the receiver. */
void mon_uart_break(struct mon_uart *uart);

void mon_uart_update(struct mon_uart *uart, uint64_t now);

#endif
