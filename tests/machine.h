/* machine.h - a VM with one vCPU and its RAM, for tests that are programs of their own.
 *
 * The RAM begins at guest-physical 0 and is also mapped here. test_machine_create() returns NULL,
 * or says what failed; the text is valid until the next call, and what there is by then can be
 * destroyed. A test that asks how creation fails does without this.
 *
 * Without vector instructions, for the tests that keep these registers to themselves.
 *
 * Context: any; nothing global but the text. */
#ifndef NOVT_TESTS_MACHINE_H
#define NOVT_TESTS_MACHINE_H

#include "include/novt.h"

#include <sys/mman.h>
#include <unistd.h>

struct test_machine {
    struct novt_vm *vm;
    struct novt_vcpu *vcpu;
    struct novt_run *run; /* of vcpu */
    uint8_t *ram;
    size_t size; /* of the RAM, bytes */
    int fd;      /* of the RAM */
};

static inline const char *test_machine_create(struct test_machine *m,
                                              const struct novt_config *config, size_t size)
{
    static char why[256];

    *m = (struct test_machine){.size = size, .fd = memfd_create("guest", MFD_CLOEXEC)};
    if (m->fd < 0 || ftruncate(m->fd, (off_t)size))
        return "memfd_create";
    void *ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    if (ram == MAP_FAILED)
        return "mmap";
    m->ram = ram;
    if (novt_vm_create(config, &m->vm, why, sizeof(why)) != NOVT_OK)
        return why;
    if (novt_vm_set_memory(m->vm, 0, 0, size, m->fd, 0, 0) != NOVT_OK ||
        novt_vcpu_create(m->vm, 0, &m->vcpu) != NOVT_OK)
        return novt_vm_error(m->vm);
    m->run = novt_vcpu_run_area(m->vcpu);
    return NULL;
}

static inline void test_machine_destroy(struct test_machine *m)
{
    if (m->vm)
        novt_vm_destroy(m->vm);
    if (m->ram)
        munmap(m->ram, m->size);
    if (m->fd >= 0)
        close(m->fd);
    *m = (struct test_machine){.fd = -1};
}

#endif
