/* memo.h - decoded instructions, remembered by what names them; memo.c says how. */
#ifndef NOVT_TRANSLATOR_MEMO_H
#define NOVT_TRANSLATOR_MEMO_H

#include "translator/tr.h"

#define TR_MEMO_BITS 12

/* All zero: empty. One for a VM, under its lock. */
struct tr_memo {
    struct {
        uint64_t key; /* 0: nothing */
        struct tr_insn insn;
    } slot[1 << TR_MEMO_BITS];
    uint8_t form[2][256]; /* enum memo_form of the opcodes of one byte, and of those behind 0F */
};

/* As tr_decode(); memo may be NULL. */
enum tr_decode_status tr_memo_decode(struct tr_memo *memo, const uint8_t *bytes, size_t avail,
                                     enum tr_mode mode, struct tr_insn *insn);

#endif
