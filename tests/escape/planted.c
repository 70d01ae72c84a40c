/* planted.c - the defects that guard.c has to find, each made on purpose.
 *
 *   planted WHERE BYTES      writes one byte, so far behind WHERE's end, or for -BYTES before its
 * start planted WHERE after      reads it after the VM is destroyed planted WHERE 0 nothing
 *
 * WHERE is what the library allocates for a VM: vm, vcpu; native and undo are the slow path's. Exit
 * status 0 when nobody noticed. */
#include "include/novt.h"
#include "monitor/cpu/step.h"
#include "monitor/cpu/vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct place {
    volatile uint8_t *at;
    size_t size;
};

static struct place place_of(const char *name, struct novt_vm *vm, struct novt_vcpu *vcpu)
{
    struct mon_vcpu *v = (struct mon_vcpu *)vcpu;

    if (!strcmp(name, "vm"))
        return (struct place){(uint8_t *)vm, sizeof(struct mon_vm)};
    if (!strcmp(name, "vcpu"))
        return (struct place){(uint8_t *)vcpu, sizeof(struct mon_vcpu)};
    if (!strcmp(name, "native"))
        return (struct place){(uint8_t *)v->native, sizeof(struct mon_native)};
    return (struct place){v->native->undo, v->native->undo_size};
}

int main(int argc, char **argv)
{
    struct novt_vm *vm;
    struct novt_vcpu *vcpu;
    char err[256];

    if (argc != 3)
        return 2;
    if (novt_vm_create(NULL, &vm, err, sizeof(err)) || novt_vcpu_create(vm, 0, &vcpu)) {
        fprintf(stderr, "planted: %s\n", err);
        return 2;
    }
    struct place place = place_of(argv[1], vm, vcpu);
    long bytes = strtol(argv[2], NULL, 10);
    if (bytes > 0)
        place.at[place.size + (size_t)bytes - 1] ^= 1;
    if (bytes < 0)
        place.at[bytes] ^= 1;
    novt_vm_destroy(vm);
    return strcmp(argv[2], "after") ? 0 : place.at[0] & 0;
}
