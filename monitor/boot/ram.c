/* ram.c - the guest's memory; see ram.h.
 *
 * The memory is reserved lazily (MAP_NORESERVE): a page costs the host something when the guest
 * first writes to it. */
#include "monitor/boot/ram.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

/* RAM and swap together: more than this the guest could never touch. */
static uint64_t host_memory(void)
{
    struct sysinfo info;
    if (sysinfo(&info) < 0)
        return UINT64_MAX;
    return ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
}

static int check_size(uint64_t size, struct mon_error *err)
{
    uint64_t host = host_memory();
    if (size < MON_RAM_MIN)
        return mon_error_set(err, MON_E_MEMORY,
                             "%llu KiB of guest memory is too little for any kernel; give at least "
                             "--memory 2M",
                             (unsigned long long)size >> 10);
    if (size > host || size > MON_RAM_MAX)
        return mon_error_set(err, MON_E_MEMORY,
                             "%llu MiB of guest memory is more than the host's %llu MiB; give less "
                             "with --memory",
                             (unsigned long long)size >> 20, (unsigned long long)host >> 20);
    if (size % 4096)
        return mon_error_set(err, MON_E_USAGE,
                             "%llu bytes of guest memory is no multiple of 4 KiB; round the "
                             "argument of --memory",
                             (unsigned long long)size);
    return MON_OK;
}

int mon_ram_create(struct mon_ram *ram, uint64_t size, struct mon_error *err)
{
    int status = check_size(size, err);
    *ram = (struct mon_ram){.fd = -1, .size = size};
    if (status)
        return status;

    ram->fd = memfd_create("novt-ram", MFD_CLOEXEC);
    if (ram->fd < 0)
        return mon_error_set(err, MON_E_HOST,
                             "cannot create the guest's memory: memfd_create: %s; novt needs "
                             "Linux 4.14 or newer",
                             strerror(errno));
    if (ftruncate(ram->fd, (off_t)size) < 0) {
        status = mon_error_set(err, MON_E_MEMORY,
                               "cannot size the guest's memory to %llu MiB: %s; raise `ulimit -f` "
                               "or give less with --memory",
                               (unsigned long long)size >> 20, strerror(errno));
        goto out;
    }
    void *host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, ram->fd, 0);
    if (host == MAP_FAILED) {
        status = mon_error_set(err, MON_E_MEMORY,
                               "cannot map %llu MiB of guest memory: %s; raise `ulimit -v` or give "
                               "less with --memory",
                               (unsigned long long)size >> 20, strerror(errno));
        goto out;
    }
    ram->host = host;
    return MON_OK;
out:
    close(ram->fd);
    ram->fd = -1;
    return status;
}

void mon_ram_destroy(struct mon_ram *ram)
{
    if (ram->host)
        munmap(ram->host, ram->size);
    if (ram->fd >= 0)
        close(ram->fd);
    *ram = (struct mon_ram){.fd = -1};
}

uint64_t mon_ram_below_4g(const struct mon_ram *ram)
{
    return ram->size < MON_RAM_BELOW_4G ? ram->size : MON_RAM_BELOW_4G;
}

uint64_t mon_ram_above_4g(const struct mon_ram *ram)
{
    return ram->size - mon_ram_below_4g(ram);
}

unsigned mon_ram_ranges(const struct mon_ram *ram, struct mon_ram_range range[MON_RAM_RANGES_MAX])
{
    uint64_t below = mon_ram_below_4g(ram), above = mon_ram_above_4g(ram);
    unsigned n = 0;

    range[n++] = (struct mon_ram_range){0, MON_RAM_LOW_END, 0};
    range[n++] = (struct mon_ram_range){MON_RAM_UPPER, below - MON_RAM_UPPER, MON_RAM_UPPER};
    if (above)
        range[n++] = (struct mon_ram_range){MON_RAM_4G, above, MON_RAM_BELOW_4G};
    return n;
}

void *mon_ram_at(const struct mon_ram *ram, uint64_t gpa, uint64_t size)
{
    struct mon_ram_range range[MON_RAM_RANGES_MAX];
    unsigned n = mon_ram_ranges(ram, range);

    for (unsigned i = 0; i < n; i++) {
        uint64_t into = gpa - range[i].gpa;
        if (gpa >= range[i].gpa && into <= range[i].size && size <= range[i].size - into)
            return ram->host + range[i].offset + into;
    }
    return NULL;
}

bool mon_ram_write(const struct mon_ram *ram, uint64_t gpa, const void *from, uint64_t size)
{
    void *to = mon_ram_at(ram, gpa, size);
    if (!to)
        return false;
    memcpy(to, from, size);
    return true;
}

unsigned mon_ram_e820(const struct mon_ram *ram, struct mon_e820 map[MON_E820_MAX])
{
    uint64_t below = mon_ram_below_4g(ram), above = mon_ram_above_4g(ram);
    unsigned n = 0;

    map[n++] = (struct mon_e820){0, MON_RAM_EBDA, MON_E820_RAM};
    map[n++] = (struct mon_e820){MON_RAM_EBDA, MON_RAM_LOW_END - MON_RAM_EBDA, MON_E820_RESERVED};
    map[n++] =
        (struct mon_e820){MON_RAM_FIRMWARE, MON_RAM_1M - MON_RAM_FIRMWARE, MON_E820_RESERVED};
    map[n++] = (struct mon_e820){MON_RAM_1M, below - MON_RAM_1M, MON_E820_RAM};
    if (above)
        map[n++] = (struct mon_e820){MON_RAM_4G, above, MON_E820_RAM};
    return n;
}
