/* pages.c MIB - fills that much memory with patterns, reads it back, and says where it is.
 *
 * Half of it is anonymous memory in 2 MiB pages as far as the kernel gives them, half a file in
 * /dev/shm in 4 KiB pages. Every page has its own address in it, at several places. Page frames
 * come from /proc/self/pagemap (root sees them), so that the test knows that memory above 4 GiB was
 * really used. Prints three lines; exits 1 if anything read back is wrong. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE     4096ul
#define FRAME_4G (1ul << 20) /* page frames */
#define STEP     520         /* bytes between the words of a page that are written */

static uint64_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x7fb5d329728ea185ull;
    return x ^ x >> 27;
}

static void fill(char *p, size_t size)
{
    for (size_t page = 0; page < size; page += PAGE)
        for (size_t i = 0; i + 8 <= PAGE; i += STEP)
            *(uint64_t *)(p + page + i) = mix((uint64_t)p + page + i);
}

static size_t count_wrong(const char *p, size_t size)
{
    size_t wrong = 0;
    for (size_t page = 0; page < size; page += PAGE)
        for (size_t i = 0; i + 8 <= PAGE; i += STEP)
            wrong += *(const uint64_t *)(p + page + i) != mix((uint64_t)p + page + i);
    return wrong;
}

/* Pages of the area that are in frames from 4 GiB on. */
static size_t count_high(const char *p, size_t size)
{
    size_t high = 0;
    static uint64_t entry[512];
    int fd = open("/proc/self/pagemap", O_RDONLY);
    if (fd < 0)
        return 0;
    for (size_t page = 0; page < size / PAGE; page += 512) {
        ssize_t got = pread(fd, entry, sizeof entry, (off_t)(((uintptr_t)p / PAGE + page) * 8));
        for (ssize_t i = 0; i < got / 8; i++)
            high += (entry[i] >> 63) && (entry[i] & ((1ull << 55) - 1)) >= FRAME_4G;
    }
    close(fd);
    return high;
}

static char *area(size_t size, int shared)
{
    int fd = -1;
    if (shared) {
        fd = open("/dev/shm/pages", O_RDWR | O_CREAT | O_TRUNC, 0600);
        if (fd < 0 || ftruncate(fd, (off_t)size))
            return NULL;
    }
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
    if (p != MAP_FAILED && !shared)
        madvise(p, size, MADV_HUGEPAGE);
    return p == MAP_FAILED ? NULL : p;
}

int main(int argc, char **argv)
{
    size_t size = argc == 2 ? strtoul(argv[1], NULL, 0) << 19 : 0, wrong = 0, high = 0;
    char *p[2] = {area(size, 0), area(size, 1)};
    if (!p[0] || !p[1]) {
        perror("pages: cannot have that much memory");
        return 1;
    }
    for (int i = 0; i < 2; i++)
        fill(p[i], size);
    for (int i = 0; i < 2; i++) {
        wrong += count_wrong(p[i], size);
        high += count_high(p[i], size);
    }
    printf("pages: %zu in all, %zu wrong words\n", 2 * size / PAGE, wrong);
    printf("pages: %zu MiB above 4 GiB\n", high * PAGE >> 20);
    unlink("/dev/shm/pages");
    return wrong != 0;
}
