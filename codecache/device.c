/* device.c - instructions that access devices.
 *
 * An access to device memory faults on the host, and the slow path does it. An instruction that has
 * done so CC_DEVICE_FAULTS times is translated again, as a callout: that costs a thirtieth. An
 * access of it to RAM then costs 200 cycles more, so no other instruction may be taken for it: the
 * table holds physical addresses, with the first bytes there in case the code is another by now.
 * One that faults even so, in another block or because it cannot be a callout (PUSH), has its block
 * translated again a few times more, and then for every 32nd fault.
 *
 * Thread: the vCPU's; cc_device_note() also in the fault handler. */
#include "codecache/cc.h"

#define PROBES 8

static struct cc_device *slot(struct cc *cc, uint64_t gpa, unsigned probe)
{
    return &cc->devices[(cc_mark(gpa) + probe) % CC_DEVICES];
}

static struct cc_device *find(struct cc *cc, uint64_t gpa)
{
    for (unsigned i = 0; i < PROBES; i++) {
        if (slot(cc, gpa, i)->faults && slot(cc, gpa, i)->gpa == gpa)
            return slot(cc, gpa, i);
    }
    return NULL;
}

/* A free entry, or one that has to give way. */
static struct cc_device *take(struct cc *cc, uint64_t gpa)
{
    cc->has_devices = true;
    for (unsigned i = 0; i < PROBES; i++) {
        if (!slot(cc, gpa, i)->faults)
            return slot(cc, gpa, i);
    }
    return slot(cc, gpa, 0);
}

bool cc_device_note(struct cc *cc, uint64_t gpa, uint16_t bytes)
{
    struct cc_device *device = find(cc, gpa);

    if (!device)
        device = take(cc, gpa);
    if (device->gpa != gpa || device->bytes != bytes)
        *device = (struct cc_device){.gpa = gpa, .bytes = bytes};
    device->faults = (uint8_t)(device->faults == UINT8_MAX ? UINT8_MAX - 31 : device->faults + 1);
    if (device->faults >= 2 * CC_DEVICE_FAULTS)
        return device->faults % 32 == 0;
    return device->faults >= CC_DEVICE_FAULTS;
}

bool cc_device_known(struct cc *cc, uint64_t gpa, uint16_t bytes)
{
    const struct cc_device *device = cc->has_devices ? find(cc, gpa) : NULL;

    return device && device->faults >= CC_DEVICE_FAULTS && device->bytes == bytes;
}
