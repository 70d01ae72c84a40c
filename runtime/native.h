/* native.h - the control block between rt_native_call() and the code that it calls.
 *
 * It lies in the page behind the page of code, so that code reaches it relative to rip: while the
 * guest's instruction runs, all sixteen registers are the guest's. Private to native.S and
 * monitor/cpu/native.c. */
#ifndef NOVT_RUNTIME_NATIVE_H
#define NOVT_RUNTIME_NATIVE_H

#define NATIVE_CODE_SIZE 4096

#define NATIVE_GUEST_SP 0
#define NATIVE_HOST_SP  8
#define NATIVE_RETURN   16

#ifndef __ASSEMBLER__
#include <stdint.h>

struct rt_native_frame {
    uint64_t guest_sp; /* code loads it into rsp first, and stores rsp to it last */
    uint64_t host_sp;  /* code loads it into rsp then */
    const void *ret;   /* and jumps here */
};

/* The value of rt_native_frame.ret; not a function to call. */
void rt_native_return(void);
#endif

#endif
