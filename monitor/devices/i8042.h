/* i8042.h - the keyboard controller (ports 60h, 64h) with nothing plugged into it.
 *
 * It is there because guests reset the machine through it and probe it at boot. A command to the
 * absent keyboard is answered at once as a timeout (status bit 6, data FEh), so that a probe fails
 * in microseconds and not after its own timeouts; there is no auxiliary (mouse) port. The A20 gate
 * can be read back but is always open.
 *
 * Source: IBM PS/2 Hardware Interface Technical Reference, keyboard and auxiliary device
 * controller. */
#ifndef MON_I8042_H
#define MON_I8042_H

#include "monitor/devices/bus.h"

struct mon_i8042 {
    uint8_t command;     /* the controller command byte */
    uint8_t output_port; /* bit 0: not reset, bit 1: A20 */
    uint8_t expects;     /* command whose data byte comes next; 0 for none */
    bool output_full;
    bool timeout; /* what is in the output buffer stands for a timeout */
    uint8_t output;
    uint8_t ram[32];
    struct mon_irq irq;
    struct mon_request *request;
};

void mon_i8042_init(struct mon_i8042 *kbc, struct mon_irq irq, struct mon_request *request);
bool mon_i8042_add_ports(struct mon_i8042 *kbc, struct mon_bus *bus);

#endif
