/* error.h - one failure of the command: its exit status and one sentence for the user.
 *
 * The statuses are even, so that none of them is a --debug-exit status, which is odd. docs/novt.1
 * and the --help text list them. */
#ifndef MON_ERROR_H
#define MON_ERROR_H

enum mon_status {
    MON_OK = 0,
    MON_E_USAGE = 2,     /* bad arguments */
    MON_E_KERNEL = 4,    /* kernel or initrd unreadable or malformed */
    MON_E_MEMORY = 6,    /* too little memory, in the guest or on the host */
    MON_E_HOST = 8,      /* the host lacks something */
    MON_E_INTERNAL = 10, /* a defect of novt */
    MON_E_RESET = 12,    /* reset or triple fault under --no-reboot */
};

struct mon_error {
    int status;     /* enum mon_status */
    char text[512]; /* names the thing and the remedy; no newline */
};

/* Fills err and returns status. */
int mon_error_set(struct mon_error *err, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
