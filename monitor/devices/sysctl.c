/* sysctl.c - reset, A20, POST and debug-exit ports; see sysctl.h.
 *
 * Called with the machine's lock held. */
#include "monitor/devices/sysctl.h"

#include <string.h>

enum {
    PORT92_RESET = 1 << 0,
    PORT92_A20 = 1 << 1,
    RESET_CPU = 1 << 2,
    RESET_BITS = 0x0e, /* full reset, reset CPU, system reset */
};

static uint32_t port92_read(void *device, uint16_t port, unsigned size)
{
    (void)port;
    (void)size;
    struct mon_sysctl *sysctl = device;
    return sysctl->port92;
}

static void port92_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
    (void)port;
    (void)size;
    struct mon_sysctl *sysctl = device;
    bool reset = value & PORT92_RESET && !(sysctl->port92 & PORT92_RESET);

    sysctl->port92 = MON_BYTE(value);
    if (reset)
        mon_request_make(sysctl->request, MON_REQUEST_RESET, 0, "port 92h");
}

static uint32_t reset_read(void *device, uint16_t port, unsigned size)
{
    (void)port;
    (void)size;
    struct mon_sysctl *sysctl = device;
    return sysctl->reset_control;
}

static void reset_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
    (void)port;
    (void)size;
    struct mon_sysctl *sysctl = device;
    bool reset = value & RESET_CPU && !(sysctl->reset_control & RESET_CPU);

    sysctl->reset_control = value & RESET_BITS;
    if (reset)
        mon_request_make(sysctl->request, MON_REQUEST_RESET, 0, "port CF9h");
}

static uint32_t post_read(void *device, uint16_t port, unsigned size)
{
    (void)port;
    (void)size;
    struct mon_sysctl *sysctl = device;
    return sysctl->post;
}

static void post_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
    (void)port;
    (void)size;
    struct mon_sysctl *sysctl = device;
    sysctl->post = MON_BYTE(value);
}

static void debug_exit_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
    (void)port;
    (void)size;
    struct mon_sysctl *sysctl = device;
    mon_request_make(sysctl->request, MON_REQUEST_DEBUG_EXIT, value, "debug exit");
}

void mon_sysctl_init(struct mon_sysctl *sysctl, struct mon_request *request)
{
    memset(sysctl, 0, sizeof(*sysctl));
    sysctl->port92 = PORT92_A20;
    sysctl->request = request;
}

bool mon_sysctl_add_ports(struct mon_sysctl *sysctl, struct mon_bus *bus)
{
    static const struct mon_port_ops port92_ops = {"port92", 1, port92_read, port92_write};
    static const struct mon_port_ops reset_ops = {"reset", 1, reset_read, reset_write};
    static const struct mon_port_ops post_ops = {"post", 1, post_read, post_write};
    return mon_bus_add_ports(bus, 0x92, 1, &port92_ops, sysctl) &&
           mon_bus_add_ports(bus, MON_PORT_RESET, 1, &reset_ops, sysctl) &&
           mon_bus_add_ports(bus, 0x80, 1, &post_ops, sysctl);
}

bool mon_sysctl_add_debug_exit(struct mon_sysctl *sysctl, struct mon_bus *bus, uint16_t port)
{
    static const struct mon_port_ops ops = {"debug-exit", 4, NULL, debug_exit_write};
    return mon_bus_add_ports(bus, port, 1, &ops, sysctl);
}
