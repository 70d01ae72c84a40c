/* sysctl.h - the chipset's small control ports.
 *
 *     92h    system control port A: bit 0 fast reset, bit 1 A20 (always open)
 *     CF9h   reset control: bit 2 going from 0 to 1 resets, bit 1 says how hard
 *     80h    POST code: written by old code to pass the time, reads back
 *     F4h    debug exit (only with --debug-exit; the port can be chosen): a write of v ends the run
 *
 * Source: Intel ICH data sheets (CF9h: RST_CNT; 92h: PORT92). */
#ifndef MON_SYSCTL_H
#define MON_SYSCTL_H

#include "monitor/devices/bus.h"

#define MON_PORT_RESET      0xcf9
#define MON_PORT_DEBUG_EXIT 0xf4

struct mon_sysctl {
    uint8_t port92;
    uint8_t reset_control;
    uint8_t post;
    struct mon_request *request;
};

void mon_sysctl_init(struct mon_sysctl *sysctl, struct mon_request *request);
bool mon_sysctl_add_ports(struct mon_sysctl *sysctl, struct mon_bus *bus);
/* False when the port belongs to another device. */
bool mon_sysctl_add_debug_exit(struct mon_sysctl *sysctl, struct mon_bus *bus, uint16_t port);

#endif
