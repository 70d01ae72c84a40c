# guest64.mk - builds the self-checking 64-bit guests: build/tests/guest64/NAME.elf.
#
# Included by the top-level Makefile, or used alone: make -f tests/guest64/guest64.mk guests64

GUEST64_OUT := build/tests/guest64
GUEST64_SUPPORT := guest-support/test64
GUEST64_CC ?= gcc
GUEST64_CFLAGS := -m64 -march=x86-64 -std=gnu11 -O1 -g -ffreestanding -fno-pic -fno-pie \
	-fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none \
	-fno-toplevel-reorder -fno-strict-aliasing -mgeneral-regs-only -mno-red-zone -mcmodel=small \
	-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wvla -Wconversion \
	-Wno-sign-conversion -I$(GUEST64_SUPPORT)
GUEST64_LDFLAGS := -m64 -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
	-Wl,-z,max-page-size=4096 \
	-T $(GUEST64_SUPPORT)/link.ld
GUEST64_SOURCES := $(wildcard tests/guest64/*.c)
GUESTS64 := $(patsubst tests/guest64/%.c,$(GUEST64_OUT)/%.elf,$(GUEST64_SOURCES))

.PHONY: guests64
guests64: $(GUESTS64)

$(GUEST64_OUT)/%.o: $(GUEST64_SUPPORT)/%.c $(GUEST64_SUPPORT)/guest64.h $(GUEST64_SUPPORT)/deviations.def
	@mkdir -p $(@D)
	$(GUEST64_CC) $(GUEST64_CFLAGS) -c -o $@ $<

$(GUEST64_OUT)/%.o: $(GUEST64_SUPPORT)/%.S
	@mkdir -p $(@D)
	$(GUEST64_CC) $(GUEST64_CFLAGS) -c -o $@ $<

$(GUEST64_OUT)/%.o: tests/guest64/%.c $(GUEST64_SUPPORT)/guest64.h $(GUEST64_SUPPORT)/deviations.def \
		$(wildcard tests/guest64/*.h)
	@mkdir -p $(@D)
	$(GUEST64_CC) $(GUEST64_CFLAGS) -c -o $@ $<

# Multiboot 1 loaders take ELF32: the same segments in another container. NAME.sym is for debuggers.
$(GUEST64_OUT)/%.elf: $(GUEST64_OUT)/%.sym
	objcopy -O elf32-i386 --strip-all $< $@

$(GUEST64_OUT)/%.sym: $(GUEST64_OUT)/%.o $(GUEST64_OUT)/start.o $(GUEST64_OUT)/support.o \
		$(GUEST64_SUPPORT)/link.ld
	$(GUEST64_CC) $(GUEST64_LDFLAGS) -o $@ $(filter %.o,$^)

.SECONDARY: $(GUESTS64:.elf=.o) $(GUESTS64:.elf=.sym) $(GUEST64_OUT)/start.o $(GUEST64_OUT)/support.o
