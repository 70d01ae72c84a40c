/* heap.c - mimalloc's heaps by malloc(), preloaded under Valgrind, and part of tests/escape's
 * guard.so.
 *
 * Valgrind takes over malloc() and free() of libmimalloc; a VM's own heap (monitor/cpu/api.c) would
 * stay mimalloc's, whose mi_free() is the same code as free(). Here a heap is a list of blocks, so
 * that Memcheck sees their bounds and their end too. */
#include <stdlib.h>
#include <string.h>

struct heap {
    void *block[64];
    unsigned n;
};

struct heap *mi_heap_new(void);
void *mi_heap_zalloc(struct heap *heap, size_t size);
void *mi_heap_zalloc_aligned(struct heap *heap, size_t size, size_t alignment);
void mi_heap_destroy(struct heap *heap);

struct heap *mi_heap_new(void)
{
    return calloc(1, sizeof(struct heap));
}

void *mi_heap_zalloc_aligned(struct heap *heap, size_t size, size_t alignment)
{
    void *p = NULL;

    if (heap->n == 64 || posix_memalign(&p, alignment, size))
        return NULL;
    heap->block[heap->n++] = p;
    return memset(p, 0, size);
}

void *mi_heap_zalloc(struct heap *heap, size_t size)
{
    return mi_heap_zalloc_aligned(heap, size, 16);
}

void mi_heap_destroy(struct heap *heap)
{
    while (heap->n)
        free(heap->block[--heap->n]);
    free(heap);
}
