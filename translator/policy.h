/* policy.h - the policy table's row for a mnemonic; private to translator/. */
#ifndef NOVT_TRANSLATOR_POLICY_H
#define NOVT_TRANSLATOR_POLICY_H

#include "translator/tr.h"

/* How the feature column is meant (policy.def). */
enum tr_policy_feature { TR_PF_NONE, TR_PF_AUTO, TR_PF_X87, TR_PF_WAIT };

struct tr_policy {
    uint8_t cls;     /* enum tr_class */
    uint8_t feature; /* enum tr_policy_feature */
    uint16_t op;     /* enum tr_op */
};

/* The row for a mnemonic; REFUSED for numbers outside the table. */
const struct tr_policy *tr_policy_get(uint16_t mnemonic);

/* Refines cls and op of a decoded instruction whose mnemonic covers several forms. */
void tr_policy_refine(struct tr_insn *insn);

#endif
