/* control_loop.c - a loop whose checks stand in front of it (translator/long_loop.c).
 *
 * What those checks prove is taken to hold in every turn. That is so if it holds at each branch
 * back of what stands in the same places by then: registers that differ from what they were by
 * little, and through which, in that turn, memory was accessed, so that a guard would have been
 * met. */
#include "tests/fuzz/control.h"

#define STEP (8 << 20) /* what one turn may add; guards have 4 GiB */

static bool is_near(const struct control_value *a, const struct control_value *b)
{
    int64_t by = a->offset - b->offset;

    return a->kind == CONTROL_GUEST && b->kind == CONTROL_GUEST && a->value == b->value &&
           by >= -STEP && by <= STEP;
}

/* Whether a place of the guest's that held the value in front has it still, nearly. */
static bool place_keeps(const struct control_state *front, const struct control_state *now,
                        uint32_t value)
{
    for (unsigned i = 0; i < 16; i++) {
        if (i != RT_SP && (i < 9 || i > 11) && front->reg[i].value == value &&
            is_near(&now->reg[i], &front->reg[i]))
            return true;
    }
    for (unsigned i = 0; i < 3; i++) {
        if (front->spilled[i].value == value && is_near(&now->spilled[i], &front->spilled[i]))
            return true;
    }
    return false;
}

static bool is_kept(const struct control *c, const struct control_state *now, uint32_t value)
{
    for (unsigned i = 0; i < c->nsums; i++) {
        if (c->sum[i].value == value)
            return place_keeps(&c->front, now, c->sum[i].base) &&
                   place_keeps(&c->front, now, c->sum[i].index);
    }
    return place_keeps(&c->front, now, value);
}

bool control_touched(const struct control_state *now, uint32_t value)
{
    for (unsigned i = 0; i < now->ntouched; i++) {
        if (now->touched[i] == value)
            return true;
    }
    return false;
}

void control_loop_begin(struct control *c, struct control_state *s)
{
    s->reg[9] = s->reg[10] = (struct control_value){.kind = CONTROL_UNKNOWN};
    s->ntouched = 0;
    c->front = *s;
}

void control_loop_back(struct control *c, const struct control_state *s)
{
    const struct control_value *delta = &c->front.reg[11];

    for (unsigned i = 0; i < c->front.nchecked; i++) {
        if (!is_kept(c, s, c->front.checked[i].of))
            control_say(c, "what was checked in front of the loop is not there any more");
        else if (!control_touched(s, c->front.checked[i].of))
            control_say(c, "a turn of the loop that does not access what was checked in front");
    }
    if (delta->kind == CONTROL_CLASS &&
        (s->reg[11].kind != CONTROL_CLASS || s->reg[11].small != delta->small))
        control_say(c, "the loop's delta is lost");
}
