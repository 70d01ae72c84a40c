/* i8042.c - the keyboard controller; see i8042.h.
 *
 * Called with the machine's lock held. */
#include "monitor/devices/i8042.h"

#include <string.h>

enum {
    PORT_DATA = 0x60,
    PORT_COMMAND = 0x64,
};

enum {
    STATUS_OUTPUT_FULL = 0x01,
    STATUS_SYSTEM = 0x04,
    STATUS_COMMAND = 0x08,
    STATUS_UNLOCKED = 0x10,
    STATUS_TIMEOUT = 0x40,
    COMMAND_IRQ = 0x01,
    COMMAND_SYSTEM = 0x04,
    COMMAND_NO_KEYBOARD = 0x10,
    COMMAND_NO_AUX = 0x20,
    OUTPUT_NOT_RESET = 0x01,
    OUTPUT_A20 = 0x02,
    KEYBOARD_RESEND = 0xfe,
};

enum {
    KBC_READ_RAM = 0x20,
    KBC_WRITE_RAM = 0x60,
    KBC_DISABLE_AUX = 0xa7,
    KBC_ENABLE_AUX = 0xa8,
    KBC_TEST_AUX = 0xa9,
    KBC_SELF_TEST = 0xaa,
    KBC_TEST_KEYBOARD = 0xab,
    KBC_DISABLE_KEYBOARD = 0xad,
    KBC_ENABLE_KEYBOARD = 0xae,
    KBC_READ_INPUT = 0xc0,
    KBC_READ_OUTPUT = 0xd0,
    KBC_WRITE_OUTPUT = 0xd1,
    KBC_ECHO_KEYBOARD = 0xd2,
    KBC_ECHO_AUX = 0xd3,
    KBC_TO_AUX = 0xd4,
    KBC_PULSE = 0xf0,
};

static void update_irq(struct mon_i8042 *kbc)
{
    mon_irq_set(&kbc->irq, kbc->output_full && kbc->command & COMMAND_IRQ);
}

static void answer(struct mon_i8042 *kbc, uint8_t value)
{
    kbc->output = value;
    kbc->output_full = true;
    kbc->timeout = false;
    update_irq(kbc);
}

static void answer_nobody_there(struct mon_i8042 *kbc)
{
    answer(kbc, KEYBOARD_RESEND);
    kbc->timeout = true;
}

static void set_output_port(struct mon_i8042 *kbc, uint8_t value)
{
    kbc->output_port = value | OUTPUT_NOT_RESET;
    if (!(value & OUTPUT_NOT_RESET))
        mon_request_make(kbc->request, MON_REQUEST_RESET, 0, "8042");
}

static void set_command_bit(struct mon_i8042 *kbc, uint8_t bit, bool on)
{
    kbc->command = on ? kbc->command | bit : kbc->command & MON_BYTE(~bit);
}

/* Bits 0-3 of the output port are pulsed low where the command's are 0; bit 0 is reset. */
static void pulse(struct mon_i8042 *kbc, uint8_t command)
{
    if (!(command & OUTPUT_NOT_RESET))
        mon_request_make(kbc->request, MON_REQUEST_RESET, 0, "8042");
}

static void write_command(struct mon_i8042 *kbc, uint8_t command)
{
    kbc->expects = 0;
    if (command >= KBC_PULSE) {
        pulse(kbc, command);
        return;
    }
    if ((command & 0xe0) == KBC_READ_RAM) {
        answer(kbc, command == KBC_READ_RAM ? kbc->command : kbc->ram[command & 31]);
        return;
    }
    if ((command & 0xe0) == KBC_WRITE_RAM) {
        kbc->expects = command;
        return;
    }

    switch (command) {
    case KBC_DISABLE_AUX:
    case KBC_ENABLE_AUX:
        set_command_bit(kbc, COMMAND_NO_AUX, command == KBC_DISABLE_AUX);
        break;
    case KBC_TEST_AUX:
        answer(kbc, 0x01); /* clock line stuck low: no such port */
        break;
    case KBC_SELF_TEST:
        kbc->command |= COMMAND_SYSTEM;
        answer(kbc, 0x55);
        break;
    case KBC_TEST_KEYBOARD:
        answer(kbc, 0x00); /* the port itself is fine */
        break;
    case KBC_DISABLE_KEYBOARD:
    case KBC_ENABLE_KEYBOARD:
        set_command_bit(kbc, COMMAND_NO_KEYBOARD, command == KBC_DISABLE_KEYBOARD);
        break;
    case KBC_READ_INPUT:
        answer(kbc, 0x80); /* not locked */
        break;
    case KBC_READ_OUTPUT:
        answer(kbc, kbc->output_port);
        break;
    case KBC_WRITE_OUTPUT:
    case KBC_ECHO_KEYBOARD:
    case KBC_ECHO_AUX:
    case KBC_TO_AUX:
        kbc->expects = command;
        break;
    default: /* a controller ignores what it does not know */
        break;
    }
}

static void write_data(struct mon_i8042 *kbc, uint8_t value)
{
    uint8_t command = kbc->expects;
    kbc->expects = 0;

    if (command == KBC_WRITE_RAM) {
        kbc->command = value;
        update_irq(kbc);
    } else if ((command & 0xe0) == KBC_WRITE_RAM) {
        kbc->ram[command & 31] = value;
    } else if (command == KBC_WRITE_OUTPUT) {
        set_output_port(kbc, value);
    } else if (command == KBC_ECHO_KEYBOARD || command == KBC_ECHO_AUX) {
        answer(kbc, value); /* as if from the keyboard: there is no auxiliary port */
    } else {
        kbc->command &= MON_BYTE(~COMMAND_NO_KEYBOARD);
        answer_nobody_there(kbc);
    }
}

static uint8_t read_status(const struct mon_i8042 *kbc)
{
    return MON_BYTE(STATUS_UNLOCKED | (kbc->output_full ? STATUS_OUTPUT_FULL : 0) |
                    (kbc->command & COMMAND_SYSTEM ? STATUS_SYSTEM : 0) |
                    (kbc->expects ? STATUS_COMMAND : 0) |
                    (kbc->output_full && kbc->timeout ? STATUS_TIMEOUT : 0));
}

static uint32_t port_read(void *device, uint16_t port, unsigned size)
{
    (void)size;
    struct mon_i8042 *kbc = device;
    if (port == PORT_COMMAND)
        return read_status(kbc);
    kbc->output_full = false;
    update_irq(kbc);
    return kbc->output;
}

static void port_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
    (void)size;
    if (port == PORT_COMMAND)
        write_command(device, MON_BYTE(value));
    else
        write_data(device, MON_BYTE(value));
}

void mon_i8042_init(struct mon_i8042 *kbc, struct mon_irq irq, struct mon_request *request)
{
    memset(kbc, 0, sizeof(*kbc));
    kbc->command = COMMAND_SYSTEM | COMMAND_NO_KEYBOARD | COMMAND_NO_AUX;
    kbc->output_port = OUTPUT_NOT_RESET | OUTPUT_A20;
    kbc->irq = irq;
    kbc->request = request;
}

bool mon_i8042_add_ports(struct mon_i8042 *kbc, struct mon_bus *bus)
{
    static const struct mon_port_ops ops = {"i8042", 1, port_read, port_write};
    return mon_bus_add_ports(bus, PORT_DATA, 1, &ops, kbc) &&
           mon_bus_add_ports(bus, PORT_COMMAND, 1, &ops, kbc);
}
