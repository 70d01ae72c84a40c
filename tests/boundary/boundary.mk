# boundary.mk - events at every instruction boundary: build/tests/boundary/boundary and its guests.

BOUNDARY := $(B)/tests/boundary/boundary
BOUNDARY_OBJS := $(call objects,$(wildcard tests/boundary/*.c))
BOUNDARY_GUESTS := $(foreach n,16 32 64,$(B)/tests/boundary/guest$(n).bin)
# Where the engine's C code enters translated code, and where it executes one instruction itself.
BOUNDARY_WRAP := $(foreach f,rt_enter rt_enter64 mon_step mon_execute mon_exception_deliver,-Wl,--wrap=$(f))

.PHONY: tests-boundary
tests-boundary: $(BOUNDARY) $(BOUNDARY_GUESTS)

$(BOUNDARY): $(BOUNDARY_OBJS) $(LIBNOVT_INTERNAL)
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(BOUNDARY_WRAP) $(LDFLAGS_ALL) $(ENGINE_LIBS)

$(B)/tests/boundary/guest%.bin: tests/boundary/guest%.S tests/boundary/handlers.h tests/boundary/layout.h | deps
	@mkdir -p $(@D)
	$(CC) -m$(if $(filter 64,$*),64,32) -DGUEST$* -I. -c -o $(@:.bin=.o) $<
	$(LD) -m elf_$(if $(filter 64,$*),x86_64,i386) -Ttext=0 -e 0x10000 --oformat binary -o $@ $(@:.bin=.o)

-include $(BOUNDARY_OBJS:.o=.d)
