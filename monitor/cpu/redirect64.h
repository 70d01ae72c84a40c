/* redirect64.h - 64-bit instructions on the slow path's buffer. */
#ifndef NOVT_MONITOR_CPU_REDIRECT64_H
#define NOVT_MONITOR_CPU_REDIRECT64_H

#include "translator/tr.h"

/* As tr_emit_redirected(), for 64-bit code. */
size_t mon_emit_redirected64(const struct tr_insn *insn, uint8_t *code, const uint8_t *code_rx,
                             const void *buffer);

#endif
