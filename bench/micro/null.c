/* null.c - a bare-metal guest that ends as soon as it has started: the time of a whole VM. */
#ifdef __x86_64__
#include "guest64.h"
#else
#include "guest.h"
#endif

const char guest_name[] = "null";

void guest_main(void)
{
    IN();
    RUN("nop"); /* some loaders refuse an image with an empty section */
    EQ(out.vector, DONE);
}
