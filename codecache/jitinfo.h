/* jitinfo.h - translated code made known to unwinders, gdb and perf. */
#ifndef NOVT_CODECACHE_JITINFO_H
#define NOVT_CODECACHE_JITINFO_H

#include "codecache/cc.h"

/* A permanent stub, for gdb and perf: it ends where the next one begins. */
struct cc_symbol {
    const char *name;
    const uint8_t *hpc;
};

struct cc_jitinfo;

/* Registers the region. Called before its first block is made: a part of it is used up. perf_map:
 * blocks are written to /tmp/perf-PID.map. NULL: out of memory. */
struct cc_jitinfo *cc_jitinfo_create(struct cc *cc, const struct cc_symbol *symbols, unsigned n,
                                     bool perf_map);
/* Before the region is unmapped. NULL is allowed. */
void cc_jitinfo_destroy(struct cc_jitinfo *info);
/* The calling thread runs the VM's code from now on. */
void cc_jitinfo_thread(struct cc_jitinfo *info);
/* A block has been made, by the thread that will run it. */
void cc_jitinfo_block(struct cc_jitinfo *info, const struct cc_block *b);

#endif
