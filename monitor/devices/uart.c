/* uart.c - a 16550A serial port; see uart.h.
 *
 * Called with the machine's lock held. */
#include "monitor/devices/uart.h"

#include <string.h>

enum { REG_DATA, REG_IER, REG_IIR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCRATCH };

enum {
    IER_RDA = 0x01,
    IER_THRE = 0x02,
    IER_RLS = 0x04,
    IER_MSR = 0x08,
    IER_BITS = 0x0f,
    IIR_NONE = 0x01,
    IIR_MSR = 0x00,
    IIR_THRE = 0x02,
    IIR_RDA = 0x04,
    IIR_RLS = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFO = 0xc0,
    FCR_ENABLE = 0x01,
    FCR_CLEAR_RX = 0x02,
    FCR_CLEAR_TX = 0x04,
    FCR_DMA = 0x08,
    FCR_TRIGGER = 0xc0,
    LCR_DLAB = 0x80,
    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    MCR_BITS = 0x1f,
    LSR_DR = 0x01,
    LSR_OE = 0x02,
    LSR_BI = 0x10,
    LSR_ERRORS = 0x1e,
    LSR_THRE = 0x20,
    LSR_TEMT = 0x40,
    LSR_FIFO_ERROR = 0x80,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
    MSR_TERI = 0x04,
};

#define UART_CLOCK_HZ 1843200u

/* So many reads of the line status in a row are a guest that waits for input, not for room. */
#define POLLS_TO_LISTEN 16
#define OPENING_CHARS   10

static bool fifo_enabled(const struct mon_uart *uart)
{
    return uart->fcr & FCR_ENABLE;
}

static uint8_t capacity(const struct mon_uart *uart)
{
    return fifo_enabled(uart) ? MON_UART_FIFO : 1;
}

static uint8_t trigger_level(const struct mon_uart *uart)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};
    return fifo_enabled(uart) ? levels[uart->fcr >> 6] : 1;
}

static uint64_t char_time(const struct mon_uart *uart)
{
    unsigned data = 5 + (uart->lcr & 3), stop = uart->lcr & 4 ? 2 : 1;
    unsigned bits = 1 + data + (uart->lcr & 8 ? 1 : 0) + stop;
    uint32_t divisor = uart->divisor ? uart->divisor : 65536;
    return mon_muldiv((uint64_t)bits * divisor * 16, MON_NS_PER_S, UART_CLOCK_HZ);
}

/* Modem status inputs: cable plugged in, or the modem control outputs in loopback mode. */
static uint8_t modem_inputs(const struct mon_uart *uart)
{
    if (!(uart->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return MON_BYTE((uart->mcr & MCR_RTS ? MSR_CTS : 0) | (uart->mcr & MCR_DTR ? MSR_DSR : 0) |
                    (uart->mcr & MCR_OUT1 ? MSR_RI : 0) | (uart->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static bool fifo_has_error(const struct mon_uart *uart)
{
    for (unsigned i = 0; i < uart->rx_count; i++)
        if (uart->rx_error[(uart->rx_head + i) % MON_UART_FIFO])
            return true;
    return false;
}

static uint8_t line_status(const struct mon_uart *uart)
{
    uint8_t lsr = 0;
    if (uart->rx_count)
        lsr |= LSR_DR | uart->rx_error[uart->rx_head];
    if (uart->overrun)
        lsr |= LSR_OE;
    if (uart->tx_count == 0)
        lsr |= LSR_THRE | LSR_TEMT;
    if (fifo_enabled(uart) && fifo_has_error(uart))
        lsr |= LSR_FIFO_ERROR;
    return lsr;
}

/* The pending interrupt of highest priority, as IIR's low half. */
static uint8_t interrupt_id(const struct mon_uart *uart)
{
    if (uart->ier & IER_RLS && line_status(uart) & LSR_ERRORS)
        return IIR_RLS;
    if (uart->ier & IER_RDA && uart->rx_count >= trigger_level(uart))
        return IIR_RDA;
    if (uart->ier & IER_RDA && uart->timeout_pending)
        return IIR_TIMEOUT;
    if (uart->ier & IER_THRE && uart->thre_pending)
        return IIR_THRE;
    if (uart->ier & IER_MSR && uart->msr_delta)
        return IIR_MSR;
    return IIR_NONE;
}

/* On a PC, OUT2 connects the interrupt output to the bus. */
static void update_irq(struct mon_uart *uart)
{
    mon_irq_set(&uart->irq, uart->mcr & MCR_OUT2 && interrupt_id(uart) != IIR_NONE);
}

static void update_deadline(struct mon_uart *uart)
{
    uart->deadline = uart->timeout_at;
    if (uart->opens_at && uart->opens_at < uart->deadline)
        uart->deadline = uart->opens_at;
}

/* Four character times without traffic while characters wait raise the timeout. */
static void restart_timeout(struct mon_uart *uart)
{
    uart->timeout_pending = false;
    uart->timeout_at = MON_NEVER;
    if (fifo_enabled(uart) && uart->rx_count && uart->rx_count < trigger_level(uart))
        uart->timeout_at = mon_clock_now(uart->clock) + 4 * char_time(uart);
    update_deadline(uart);
}

static void rx_push(struct mon_uart *uart, uint8_t byte, uint8_t error)
{
    unsigned at = (uart->rx_head + uart->rx_count) % MON_UART_FIFO;
    uart->rx[at] = byte;
    uart->rx_error[at] = error;
    uart->rx_count++;
}

/* Whether the guest takes input: by an interrupt that is connected (a driver's test of IER alone is
 * none), or by polling. In loopback mode the receiver is cut off from the line. */
static bool is_listening(const struct mon_uart *uart)
{
    bool by_interrupt = uart->ier & IER_RDA && uart->mcr & MCR_OUT2;
    return !(uart->mcr & MCR_LOOP) && (by_interrupt || uart->polls >= POLLS_TO_LISTEN);
}

/* Opens or shuts the receiver; again: the FIFO was set up, so wait anew. */
static void settle_receiver(struct mon_uart *uart, bool again)
{
    if (!is_listening(uart))
        uart->opens_at = MON_NEVER;
    else if (uart->opens_at == MON_NEVER || again)
        uart->opens_at = mon_clock_now(uart->clock) + OPENING_CHARS * char_time(uart);
    update_deadline(uart);
}

/* Takes input as room allows. */
static void rx_fill(struct mon_uart *uart)
{
    bool any = false;
    while (uart->opens_at == 0 && uart->rx_count < capacity(uart)) {
        int byte = uart->line.receive ? uart->line.receive(uart->line.opaque) : -1;
        if (byte < 0)
            break;
        rx_push(uart, MON_BYTE(byte), 0);
        any = true;
    }
    if (any)
        restart_timeout(uart);
}

static void rx_loop_back(struct mon_uart *uart, uint8_t byte)
{
    if (uart->rx_count < capacity(uart))
        rx_push(uart, byte, 0);
    else
        uart->overrun = true;
    restart_timeout(uart);
}

static bool tx_byte(struct mon_uart *uart, uint8_t byte)
{
    if (uart->mcr & MCR_LOOP) {
        rx_loop_back(uart, byte);
        return true;
    }
    return !uart->line.send || uart->line.send(uart->line.opaque, byte);
}

/* Sends what waits; the transmitter reports empty once it has become so. */
static void tx_drain(struct mon_uart *uart)
{
    if (uart->tx_count == 0)
        return;
    while (uart->tx_count && tx_byte(uart, uart->tx[uart->tx_head])) {
        uart->tx_head = MON_BYTE((uart->tx_head + 1) % MON_UART_FIFO);
        uart->tx_count--;
    }
    if (uart->tx_count == 0)
        uart->thre_pending = true;
}

void mon_uart_pump(struct mon_uart *uart)
{
    tx_drain(uart);
    rx_fill(uart);
    update_irq(uart);
}

void mon_uart_break(struct mon_uart *uart)
{
    if (uart->rx_count < capacity(uart))
        rx_push(uart, 0, LSR_BI);
    else
        uart->overrun = true;
    restart_timeout(uart);
    update_irq(uart);
}

void mon_uart_update(struct mon_uart *uart, uint64_t now)
{
    if (now < uart->deadline)
        return;
    if (uart->timeout_at <= now) {
        uart->timeout_at = MON_NEVER;
        uart->timeout_pending = true;
    }
    if (uart->opens_at <= now)
        uart->opens_at = 0;
    update_deadline(uart);
    rx_fill(uart);
    update_irq(uart);
}

static uint8_t read_data(struct mon_uart *uart)
{
    uint8_t byte = 0;
    if (uart->rx_count) {
        byte = uart->rx[uart->rx_head];
        uart->rx_head = MON_BYTE((uart->rx_head + 1) % MON_UART_FIFO);
        uart->rx_count--;
    }
    restart_timeout(uart);
    rx_fill(uart);
    return byte;
}

static uint8_t read_interrupt_id(struct mon_uart *uart)
{
    uint8_t id = interrupt_id(uart);
    if (id == IIR_THRE)
        uart->thre_pending = false;
    return MON_BYTE(id | (fifo_enabled(uart) ? IIR_FIFO : 0));
}

static uint8_t read_line_status(struct mon_uart *uart)
{
    if (uart->polls < POLLS_TO_LISTEN && ++uart->polls == POLLS_TO_LISTEN)
        settle_receiver(uart, false);
    uint8_t lsr = line_status(uart);
    uart->overrun = false;
    if (uart->rx_count)
        uart->rx_error[uart->rx_head] = 0;
    return lsr;
}

static uint8_t read_modem_status(struct mon_uart *uart)
{
    uint8_t msr = modem_inputs(uart) | uart->msr_delta;
    uart->msr_delta = 0;
    return msr;
}

static uint32_t port_read(void *device, uint16_t port, unsigned size)
{
    (void)size;
    struct mon_uart *uart = device;
    bool dlab = uart->lcr & LCR_DLAB;
    uint8_t value = 0;

    switch (port & 7) {
    case REG_DATA:
        value = dlab ? MON_BYTE(uart->divisor) : read_data(uart);
        break;
    case REG_IER:
        value = dlab ? MON_BYTE(uart->divisor >> 8) : uart->ier;
        break;
    case REG_IIR:
        value = read_interrupt_id(uart);
        break;
    case REG_LCR:
        value = uart->lcr;
        break;
    case REG_MCR:
        value = uart->mcr;
        break;
    case REG_LSR:
        value = read_line_status(uart);
        break;
    case REG_MSR:
        value = read_modem_status(uart);
        break;
    default:
        value = uart->scratch;
        break;
    }
    update_irq(uart);
    return value;
}

/* A byte for a full transmitter replaces the last one, as on the chip. */
static void write_data(struct mon_uart *uart, uint8_t value)
{
    if (uart->polls < POLLS_TO_LISTEN)
        uart->polls = 0; /* it waited for the transmitter */
    uart->thre_pending = false;
    if (uart->tx_count == capacity(uart))
        uart->tx_count--;
    uart->tx[(uart->tx_head + uart->tx_count++) % MON_UART_FIFO] = value;
    tx_drain(uart);
}

static void write_ier(struct mon_uart *uart, uint8_t value)
{
    bool thre_enabled = value & IER_THRE && !(uart->ier & IER_THRE);
    uart->ier = value & IER_BITS;
    uart->polls = 0;
    settle_receiver(uart, false);
    if (thre_enabled && uart->tx_count == 0)
        uart->thre_pending = true;
}

static void write_fcr(struct mon_uart *uart, uint8_t value)
{
    uart->polls = 0;
    bool toggled = (value ^ uart->fcr) & FCR_ENABLE;
    if (toggled || value & FCR_CLEAR_RX)
        uart->rx_head = uart->rx_count = 0;
    if ((toggled || value & FCR_CLEAR_TX) && uart->tx_count) {
        uart->tx_count = 0;
        uart->thre_pending = true;
    }
    /* The other bits only count together with ENABLE. */
    uart->fcr = value & FCR_ENABLE ? value & (FCR_ENABLE | FCR_DMA | FCR_TRIGGER) : 0;
    restart_timeout(uart);
    settle_receiver(uart, true);
}

static void write_mcr(struct mon_uart *uart, uint8_t value)
{
    uint8_t before = modem_inputs(uart);
    uart->mcr = value & MCR_BITS;
    uint8_t after = modem_inputs(uart), changed = before ^ after;

    uart->msr_delta |= MON_BYTE((changed & (MSR_CTS | MSR_DSR | MSR_DCD)) >> 4);
    if (before & ~after & MSR_RI)
        uart->msr_delta |= MSR_TERI; /* only the trailing edge */
    settle_receiver(uart, false);
}

static void port_write(void *device, uint16_t port, unsigned size, uint32_t wide)
{
    (void)size;
    struct mon_uart *uart = device;
    uint8_t value = MON_BYTE(wide);
    bool dlab = uart->lcr & LCR_DLAB;

    switch (port & 7) {
    case REG_DATA:
        if (dlab)
            uart->divisor = (uint16_t)((uart->divisor & 0xff00) | value);
        else
            write_data(uart, value);
        break;
    case REG_IER:
        if (dlab)
            uart->divisor = (uint16_t)((uart->divisor & 0x00ff) | value << 8);
        else
            write_ier(uart, value);
        break;
    case REG_IIR: /* FCR when written */
        write_fcr(uart, value);
        break;
    case REG_LCR:
        uart->lcr = value;
        break;
    case REG_MCR:
        write_mcr(uart, value);
        break;
    case REG_SCRATCH:
        uart->scratch = value;
        break;
    default: /* LSR and MSR are read-only but for factory tests */
        break;
    }
    update_irq(uart);
}

void mon_uart_init(struct mon_uart *uart, const struct mon_clock *clock, struct mon_irq irq,
                   struct mon_uart_line line)
{
    memset(uart, 0, sizeof(*uart));
    uart->divisor = 12; /* 9600 baud, as firmware leaves it */
    uart->lcr = 3;
    uart->opens_at = uart->timeout_at = uart->deadline = MON_NEVER;
    uart->clock = clock;
    uart->irq = irq;
    uart->line = line;
}

bool mon_uart_add_ports(struct mon_uart *uart, struct mon_bus *bus)
{
    static const struct mon_port_ops ops = {"uart", 1, port_read, port_write};
    return mon_bus_add_ports(bus, 0x3f8, 8, &ops, uart);
}
