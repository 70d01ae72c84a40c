# debian.mk - what the Debian guests run besides their own programs: build/tests/debian/programs has
# static binaries of both widths, build/tests/debian/source what the guest's compiler compiles.

DEBIAN_TESTS := $(B)/tests/debian
DEBIAN_PROGRAMS := $(foreach p,cpu calls,$(DEBIAN_TESTS)/programs/$(p)64 $(DEBIAN_TESTS)/programs/$(p)32) \
	$(DEBIAN_TESTS)/programs/pages64
# Preprocessed, so that the guest needs none of the headers; some 5,000 lines.
DEBIAN_UNITS := translator/translate translator/long_operand monitor/cpu/step_fpu
DEBIAN_SOURCES := $(foreach u,$(DEBIAN_UNITS),$(DEBIAN_TESTS)/source/$(notdir $(u)).i)

.PHONY: tests-debian
tests-debian: $(DEBIAN_PROGRAMS) $(DEBIAN_SOURCES)

# No vector registers but those that the program names itself, and no room below the stack pointer:
# the programs change it.
DEBIAN_CFLAGS := -std=gnu11 -O1 -D_GNU_SOURCE $(WARN) -static -no-pie -fno-stack-protector -pthread
$(DEBIAN_TESTS)/programs/%64: tests/debian/programs/%.c $(B)/flags | deps
	@mkdir -p $(@D)
	$(CC) $(DEBIAN_CFLAGS) -mno-red-zone -o $@ $<
$(DEBIAN_TESTS)/programs/%32: tests/debian/programs/%.c $(B)/flags | deps
	@mkdir -p $(@D)
	$(CC) -m32 -msse2 $(DEBIAN_CFLAGS) -o $@ $<

define debian_source
$(DEBIAN_TESTS)/source/$(notdir $(1)).i: $(1).c $(B)/flags | deps
	@mkdir -p $$(@D)
	$$(CC) -E -P $$(CPPFLAGS_ALL) -std=gnu11 -o $$@ $$<
endef
$(foreach u,$(DEBIAN_UNITS),$(eval $(call debian_source,$(u))))
