# novt - how it is built, tested and run. `make help` lists the targets.
#
# Every file is found by wildcard, so a new source needs no edit here:
#
#   runtime/ codecache/ translator/ monitor/cpu/   the engine: libnovt.a, libnovt.so
#   monitor/*.c monitor/devices/ monitor/boot/     the command: build/novt, the library's first embedder
#   examples/NAME.c                                build/examples/NAME
#   tests/unit/*_test.c                            one binary, build/tests/unit
#   guest-support/acpi/NAME.asl                    build/gen/NAME.aml.h with NAME_aml[]
#   tests/SUITE/SUITE.mk                           rules of a suite, with the target tests-SUITE
#
# For the suites' own rules: $(LIBNOVT_A) is the library as it is installed (only novt_* visible),
# $(LIBNOVT_INTERNAL) the same objects with the internal names visible, $(COMMAND_OBJS) the command's
# objects without main.c, $(ENGINE_LIBS) what the engine links with, $(CFLAGS_ALL) how C is compiled.
#
# Variables to set: B (build directory), CI=true (warnings are errors), PREFIX, DESTDIR, CFLAGS,
# RUN_ARGS (further options for `make run`), NOVT_FLAVOUR (the kernel that it boots: cloud-amd64,
# amd64, 686-pae, 686), NOVT_GUEST_CACHE (where downloaded guests are kept).

B ?= build
CC = gcc
LD = ld
OBJCOPY = objcopy
PREFIX ?= /usr/local
DESTDIR ?=
CFLAGS ?= -O2 -g
SAN ?=

VERSION := $(shell awk '/define NOVT_VERSION_(MAJOR|MINOR|PATCH)/ { v = v s $$3; s = "." } \
	END { print v }' include/novt.h)
SOVERSION := $(firstword $(subst ., ,$(VERSION)))

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wvla -Wconversion \
	-Wno-sign-conversion
ifeq ($(CI),true)
WARN += -Werror
endif
CPPFLAGS_ALL := -Iinclude -I. -I$(B)/gen -D_GNU_SOURCE= $(CPPFLAGS)
CFLAGS_ALL = -std=gnu11 $(CFLAGS) $(WARN) -fPIC -fno-omit-frame-pointer $(SAN)
# The guest's vector and x87 state stays in the CPU's registers while the engine's C code runs.
ENGINE_CFLAGS := -mgeneral-regs-only -fvisibility=hidden -fno-tree-loop-distribute-patterns
ENGINE_LIBS := -lZydis -lmimalloc -lunwind -lpthread
COMMAND_LIBS := -lseccomp
LDFLAGS_ALL = $(LDFLAGS) $(SAN) -Wl,--as-needed -Wl,-z,noexecstack

# --- Sources ---------------------------------------------------------------------------------

ENGINE_DIRS := runtime codecache translator monitor/cpu
ENGINE_SRCS := $(sort $(foreach d,$(ENGINE_DIRS),$(wildcard $(d)/*.c $(d)/*.S)))
COMMAND_SRCS := $(sort $(wildcard monitor/*.c monitor/devices/*.c monitor/boot/*.c))
EXAMPLE_SRCS := $(sort $(wildcard examples/*.c))
UNIT_SRCS := $(sort $(wildcard tests/unit/*.c) $(wildcard tests/fuzz/control*.c))
ASL_SRCS := $(sort $(wildcard guest-support/acpi/*.asl))

objects = $(patsubst %,$(B)/obj/%.o,$(basename $(1)))
ENGINE_OBJS := $(call objects,$(ENGINE_SRCS))
COMMAND_ALL_OBJS := $(call objects,$(COMMAND_SRCS))
COMMAND_OBJS := $(filter-out $(B)/obj/monitor/main.o,$(COMMAND_ALL_OBJS))
EXAMPLES := $(patsubst examples/%.c,$(B)/examples/%,$(EXAMPLE_SRCS))
UNIT_OBJS := $(call objects,$(UNIT_SRCS))
GEN_HEADERS := $(patsubst guest-support/acpi/%.asl,$(B)/gen/%.aml.h,$(ASL_SRCS))
.SECONDARY: $(GEN_HEADERS)
HOST_TOOLS := $(patsubst guest-support/%.c,$(B)/tools/%,$(wildcard guest-support/*.c))

LIBNOVT_A := $(B)/libnovt.a
LIBNOVT_INTERNAL := $(B)/libnovt-internal.a
LIBNOVT_SO := $(B)/libnovt.so.$(VERSION)

.PHONY: all tests-guest tests-guest64 check test soak bench run run-i386 run-amd64 install format lint asan ubsan \
	valgrind help clean lib tools unit fetch userland deps
.DEFAULT_GOAL := all
.PRECIOUS: $(B)/obj/%.o
.DELETE_ON_ERROR:

all: lib $(B)/novt $(EXAMPLES) $(B)/novt.pc
lib: $(LIBNOVT_A) $(LIBNOVT_SO)
tools: $(HOST_TOOLS)

help:
	@echo 'make [all]      build/novt, build/libnovt.a, build/libnovt.so, build/examples/*'
	@echo 'make run        boot an unmodified Debian amd64 kernel to a shell (fetches the guest)'
	@echo 'make run-i386   the same with a 32-bit kernel'
	@echo 'make test       everything: lint, unit, golden, guest, differential, boot, stress tests'
	@echo 'make check      the quick part of it, under a minute'
	@echo 'make fuzz       decoder and emitters under libFuzzer; FUZZ_SECONDS=N'
	@echo 'make soak       the tests of equivalence for hours'
	@echo 'make bench      native, novt and QEMU side by side; ONLY=group REPS=n GUESTS_ONLY=amd64'
	@echo 'make lint       include order, host calls, machine paths, format'
	@echo 'make format     rewrite the sources with clang-format'
	@echo 'make asan       the quick tests under AddressSanitizer (in build/asan)'
	@echo 'make ubsan      the quick tests under UndefinedBehaviorSanitizer (in build/ubsan)'
	@echo 'make valgrind   the unit tests and a guest under Valgrind, 20 minutes'
	@echo 'make fetch      every guest that the tests boot; make userland: a Debian userland (root)'
	@echo 'make install    PREFIX=/usr/local DESTDIR='
	@echo 'make clean      remove build/ but for the downloaded guests'

# --- What has to be installed ----------------------------------------------------------------

# One check for everything that the goals of this call need.
NEEDS_TEST := check test bench unit userland asan ubsan valgrind tests-% $(B)/tests/% $(B)/bench/%
NEEDS_RUN := run run-i386 run-amd64 fetch
DEPS := $(if $(filter fuzz,$(MAKECMDGOALS)),fuzz,$(if $(filter $(NEEDS_TEST),$(MAKECMDGOALS)),test,$(if $(filter $(NEEDS_RUN),$(MAKECMDGOALS)),run,build)))
deps:
	@guest-support/deps.sh $(DEPS)

# --- Objects ---------------------------------------------------------------------------------

# Rebuild when the flags change (CI=true, SAN=...), and only then.
FLAGS_NOW := $(CC) $(CFLAGS_ALL) $(ENGINE_CFLAGS) $(CPPFLAGS_ALL)
$(shell mkdir -p $(B); echo '$(FLAGS_NOW)' | cmp -s - $(B)/flags || echo '$(FLAGS_NOW)' >$(B)/flags)

define engine_rules
$(B)/obj/$(1)/%.o: $(1)/%.c $(B)/flags | deps
	@mkdir -p $$(@D)
	$$(CC) $$(CPPFLAGS_ALL) $$(CFLAGS_ALL) $$(ENGINE_CFLAGS) -MMD -MP -c -o $$@ $$<
$(B)/obj/$(1)/%.o: $(1)/%.S $(B)/flags | deps
	@mkdir -p $$(@D)
	$$(CC) $$(CPPFLAGS_ALL) -g -Wa,--noexecstack -MMD -MP -c -o $$@ $$<
endef
$(foreach d,$(ENGINE_DIRS),$(eval $(call engine_rules,$(d))))

# The command's part that runs inside novt_vcpu_run() (monitor/exits.c).
HANDLER_OBJS := $(call objects,$(wildcard monitor/devices/*.c) monitor/exits.c monitor/events.c monitor/machine.c)
$(HANDLER_OBJS): private CFLAGS_ALL += $(ENGINE_CFLAGS)

$(B)/obj/%.o: %.c $(B)/flags | deps $(GEN_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(B)/gen/%.aml.h: guest-support/acpi/%.asl | deps
	@mkdir -p $(@D)
	iasl -vs -p $(B)/gen/$* $< >$(B)/gen/$*.iasl.log || { cat $(B)/gen/$*.iasl.log; exit 1; }
	{ echo 'static const unsigned char $(subst -,_,$*)_aml[] = {'; \
	  od -An -v -tx1 $(B)/gen/$*.aml | sed 's/ \(..\)/0x\1,/g'; echo '};'; } >$@

# --- The library -----------------------------------------------------------------------------

$(LIBNOVT_INTERNAL): $(ENGINE_OBJS)
	@rm -f $@
	$(AR) rcs $@ $^

# One relocatable object, in which everything that is not part of the API becomes local.
$(LIBNOVT_A): $(ENGINE_OBJS)
	@rm -f $@
	$(LD) -r -o $(B)/novt-all.o $^
	$(OBJCOPY) --localize-hidden $(B)/novt-all.o
	$(AR) rcs $@ $(B)/novt-all.o

$(LIBNOVT_SO): $(ENGINE_OBJS) libnovt.map
	$(CC) -shared -Wl,-soname,libnovt.so.$(SOVERSION) -Wl,--version-script,libnovt.map -o $@ \
		$(ENGINE_OBJS) $(LDFLAGS_ALL) $(if $(SAN),,-Wl,-z,defs) $(ENGINE_LIBS)
	ln -sf $(@F) $(B)/libnovt.so.$(SOVERSION)
	ln -sf libnovt.so.$(SOVERSION) $(B)/libnovt.so

$(B)/novt.pc: novt.pc.in include/novt.h
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' $< >$@

# --- Programs --------------------------------------------------------------------------------

$(B)/novt: $(COMMAND_ALL_OBJS) $(LIBNOVT_A)
	$(CC) -o $@ $(COMMAND_ALL_OBJS) $(LIBNOVT_A) $(LDFLAGS_ALL) $(ENGINE_LIBS) $(COMMAND_LIBS)

$(B)/examples/%: $(B)/obj/examples/%.o $(LIBNOVT_A)
	@mkdir -p $(@D)
	$(CC) -o $@ $< $(LIBNOVT_A) $(LDFLAGS_ALL) $(ENGINE_LIBS)

$(B)/tests/unit: $(UNIT_OBJS) $(COMMAND_OBJS) $(LIBNOVT_INTERNAL)
	@mkdir -p $(@D)
	$(CC) -o $@ $(UNIT_OBJS) $(COMMAND_OBJS) $(LIBNOVT_INTERNAL) $(LDFLAGS_ALL) -lcriterion \
		$(ENGINE_LIBS) $(COMMAND_LIBS) -lm

# Tools of the build itself, for the host.
$(B)/tools/%: guest-support/%.c | deps
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O2 -g -D_GNU_SOURCE $(WARN) -o $@ $<

# --- Running a guest -------------------------------------------------------------------------

run: run-amd64
run-i386: $(B)/novt tools | deps
	@guest-support/run-guest.sh $(B) $(or $(NOVT_FLAVOUR),686-pae) $(RUN_ARGS)
run-amd64: $(B)/novt tools | deps
	@guest-support/run-guest.sh $(B) $(or $(NOVT_FLAVOUR),cloud-amd64) $(RUN_ARGS)

fetch: tools | deps
	@for flavour in 686-pae 686 cloud-amd64 amd64 installer-i386 installer-amd64; do \
		guest-support/fetch-guest.sh $(B) $$flavour || exit 1; \
	done
# A Debian userland for guests and for chroot; needs root.
userland: tools | deps
	@guest-support/mkuserland.sh $(B)

# --- Tests -----------------------------------------------------------------------------------

# Sequences of the differential test in make check.
QUICK_DIFF := 8000
CHECK_DIFF := diff
SUITES_QUICK := lint unit golden precise guest
SUITES_ALL := $(SUITES_QUICK) guest64 diff boundary xsave matrix stress latency boot sandbox inject escape fuzz bench debian
unit: $(if $(UNIT_SRCS),$(B)/tests/unit)

-include $(foreach s,$(SUITES_ALL) valgrind,$(wildcard tests/$(s)/$(s).mk))
# What a suite needs built: tests-SUITE, where its .mk file says so. guest.mk calls its target guests.
suite_targets = $(foreach s,$(1),$(if $(wildcard tests/$(s)/$(s).mk),tests-$(s)))
tests-guest: guests
tests-guest64: guests64
$(GUESTS) $(GUESTS:.elf=.o) $(GUESTS64) $(GUESTS64:.elf=.o): | deps

check: all unit $(call suite_targets,$(SUITES_QUICK) $(CHECK_DIFF)) | deps
	@B=$(B) DIFF_COUNT=$(QUICK_DIFF) tests/run --together $(SUITES_QUICK) $(CHECK_DIFF)

# The long versions: hours.
soak: all unit tools fetch tests-guest tests-guest64 tests-diff tests-escape tests-inject | deps
	@B=$(B) tests/matrix/run --soak
	@B=$(B) ESCAPE_COUNT=20000 tests/escape/run --soak
	@B=$(B) tests/inject/run --soak refused
	@B=$(B) tests/inject/run --soak 'call sites'
	@B=$(B) DIFF_COUNT=20000000 tests/diff/run

test: all unit tools fetch $(call suite_targets,$(SUITES_ALL)) | deps
	@B=$(B) tests/run $(SUITES_ALL)

lint:
	@B=$(B) tests/run lint

# Not tests/diff under AddressSanitizer: its oracle runs wild addresses natively, and the shadow is there.
SAN_COMMON := CFLAGS='-O1 -g'
asan:
	+ASAN_OPTIONS=detect_leaks=0:handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0:use_sigaltstack=0 \
	$(MAKE) B=$(B)/asan $(SAN_COMMON) SAN=-fsanitize=address CHECK_DIFF= check
ubsan:
	+UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	$(MAKE) B=$(B)/ubsan $(SAN_COMMON) \
	SAN='-fsanitize=undefined -fno-sanitize-recover=undefined' check
valgrind: all unit tests-valgrind
	@B=$(B) tests/valgrind/run

BENCH_ARGS := $(if $(ONLY),--only $(ONLY)) $(if $(REPS),--reps $(REPS)) \
	$(if $(GUESTS_ONLY),--guests $(GUESTS_ONLY))
include bench/bench.mk
bench: all tools fetch bench-programs | deps
	@guest-support/mkuserland.sh $(B) || echo 'bench: without the userland there is no group real' >&2
	@bench/run --build $(B) $(BENCH_ARGS)

# What tests/lint looks at: all of C but headers that are assembly.
format:
	find . \( -name .git -o -name build -o -path ./$(B) \) -prune -o -name '*.[ch]' -print | \
		xargs grep -LE '^\.macro' | xargs clang-format -i

# --- Installing ------------------------------------------------------------------------------

MAN1 := $(wildcard docs/*.1)
DOCS := README.md CHANGELOG.md LICENSE $(wildcard docs/*.md)
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include \
		$(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/share/man/man1 \
		$(DESTDIR)$(PREFIX)/share/doc/novt
	install -m 755 $(B)/novt $(DESTDIR)$(PREFIX)/bin/novt
	install -m 644 include/novt.h $(DESTDIR)$(PREFIX)/include/novt.h
	install -m 644 $(LIBNOVT_A) $(DESTDIR)$(PREFIX)/lib/libnovt.a
	install -m 755 $(LIBNOVT_SO) $(DESTDIR)$(PREFIX)/lib/$(notdir $(LIBNOVT_SO))
	ln -sf $(notdir $(LIBNOVT_SO)) $(DESTDIR)$(PREFIX)/lib/libnovt.so.$(SOVERSION)
	ln -sf libnovt.so.$(SOVERSION) $(DESTDIR)$(PREFIX)/lib/libnovt.so
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' novt.pc.in \
		>$(DESTDIR)$(PREFIX)/lib/pkgconfig/novt.pc
	$(if $(MAN1),install -m 644 $(MAN1) $(DESTDIR)$(PREFIX)/share/man/man1/)
	install -m 644 $(DOCS) $(DESTDIR)$(PREFIX)/share/doc/novt/

# The downloaded guests stay: they are some 200 MB, and only fetched when missing.
clean:
	@for f in $(B)/*; do [ "$$f" = $(B)/guests ] || rm -rf "$$f"; done

-include $(patsubst %.o,%.d,$(ENGINE_OBJS) $(COMMAND_ALL_OBJS) $(UNIT_OBJS) \
	$(call objects,$(EXAMPLE_SRCS)))
