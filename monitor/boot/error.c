/* error.c - see error.h. */
#include "monitor/boot/error.h"

#include <stdarg.h>
#include <stdio.h>

int mon_error_set(struct mon_error *err, int status, const char *format, ...)
{
    va_list args;
    err->status = status;
    va_start(args, format);
    vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    for (char *c = err->text; *c; c++)
        if (*c == '\n' || *c == '\r')
            *c = ' '; /* a file's name may have any byte; the message is one line */
    return status;
}
