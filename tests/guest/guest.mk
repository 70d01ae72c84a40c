# guest.mk - builds the self-checking 32-bit guests: build/tests/guest/NAME.elf.
#
# Included by the top-level Makefile, or used alone: make -f tests/guest/guest.mk guests

GUEST_OUT := build/tests/guest
GUEST_SUPPORT := guest-support/test
GUEST_CC ?= gcc
GUEST_CFLAGS := -m32 -march=i686 -std=gnu11 -O1 -g -ffreestanding -fno-pic -fno-pie \
	-fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none \
	-fno-toplevel-reorder -fno-strict-aliasing -mgeneral-regs-only -mpreferred-stack-boundary=2 \
	-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wvla -Wconversion \
	-Wno-sign-conversion -I$(GUEST_SUPPORT)
GUEST_LDFLAGS := -m32 -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack \
	-T $(GUEST_SUPPORT)/link.ld
GUEST_SOURCES := $(wildcard tests/guest/*.c)
GUESTS := $(patsubst tests/guest/%.c,$(GUEST_OUT)/%.elf,$(GUEST_SOURCES))

.PHONY: guests
guests: $(GUESTS)

$(GUEST_OUT)/%.o: $(GUEST_SUPPORT)/%.c $(GUEST_SUPPORT)/guest.h $(GUEST_SUPPORT)/deviations.def
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_CFLAGS) -c -o $@ $<

$(GUEST_OUT)/%.o: $(GUEST_SUPPORT)/%.S
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_CFLAGS) -c -o $@ $<

$(GUEST_OUT)/%.o: tests/guest/%.c $(GUEST_SUPPORT)/guest.h $(GUEST_SUPPORT)/deviations.def
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_CFLAGS) -c -o $@ $<

$(GUEST_OUT)/%.elf: $(GUEST_OUT)/%.o $(GUEST_OUT)/start.o $(GUEST_OUT)/support.o \
		$(GUEST_SUPPORT)/link.ld
	$(GUEST_CC) $(GUEST_LDFLAGS) -o $@ $(filter %.o,$^)

.SECONDARY: $(GUESTS:.elf=.o) $(GUEST_OUT)/start.o $(GUEST_OUT)/support.o
