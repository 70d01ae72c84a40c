/* verify.h - lockstep checking (NOVT_F_VERIFY); v->verify is NULL when it is off.
 *
 * run.c brackets every entry into translated code with mon_verify_begin() and mon_verify_end();
 * api.c and paging.c report what the slow path does to guest memory in between. */
#ifndef NOVT_MONITOR_CPU_VERIFY_H
#define NOVT_MONITOR_CPU_VERIFY_H

#include "monitor/cpu/vm.h"

/* Makes v->verify if the VM has NOVT_F_VERIFY. 0 or a negative errno. */
int mon_verify_create(struct mon_vcpu *v);
void mon_verify_destroy(struct mon_vcpu *v);
/* How many runs of blocks have been compared. */
uint64_t mon_verify_count(const struct mon_vcpu *v);

/* How many instructions at the current rip, whose bytes are at gpa, may be one block. */
uint32_t mon_verify_block_limit(struct mon_vcpu *v, uint64_t gpa);

/* Executes what the block at rip should do in the slow path, and undoes it. Sets rt_cpu.start and
 * jump_table so that exactly that block runs. */
void mon_verify_begin(struct mon_vcpu *v);
/* Translated code is back, flags joined. MON_EXIT: it did something else; the run area has
 * NOVT_EXIT_INTERNAL and a sentence, the log a report. */
enum mon_rc mon_verify_end(struct mon_vcpu *v, enum rt_exit reason);

/* ---- hooks of the slow path ---- */

/* The page of RAM at host (guest-physical address gpa) may be written now. */
void mon_verify_touch(const struct mon_vcpu *v, uint64_t gpa, uint8_t *host);
/* RAM was written; code: it holds translated code. True: it will be undone, so that stays. */
bool mon_verify_wrote(const struct mon_vcpu *v, bool code);
/* Accessed or dirty bits of the page-table entry at gpa are about to be set. */
void mon_verify_mark(const struct mon_vcpu *v, uint64_t gpa, uint64_t bits);

#endif
