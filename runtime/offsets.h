/* offsets.h - struct rt_cpu's offsets for assembly; vcpu.c asserts every one. */
#ifndef NOVT_RUNTIME_OFFSETS_H
#define NOVT_RUNTIME_OFFSETS_H

#define CPU_GPR        0
#define CPU_RIP        128
#define CPU_RFLAGS     136
#define CPU_HFLAGS     144
#define CPU_HOST_SP    160
#define CPU_JUMP_TABLE 168
#define CPU_WINDOW     176
#define CPU_EXIT_ARG   184
#define CPU_IN_CACHE   156
#define CPU_INSNS      288
#define CPU_HOST_RSP   344
#define CPU_START      352

#endif
