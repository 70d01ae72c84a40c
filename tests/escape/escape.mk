# escape.mk - guests that try to get out: build/tests/escape/escape, devices and fuzz.elf; a heap with guard
# pages, guard.so, and planted, which tries it.

ESCAPE := $(B)/tests/escape
ESCAPE_OBJS := $(patsubst %,$(ESCAPE)/%.o,escape machine generate watch drift)
# The command's sources once more, with sanitizers.
ESCAPE_SAN := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all
ESCAPE_DEVICES := $(patsubst %.c,$(ESCAPE)/san/%.o,tests/escape/devices.c \
	$(filter-out monitor/main.c,$(COMMAND_SRCS)))

.PHONY: tests-escape
tests-escape: $(ESCAPE)/escape $(ESCAPE)/devices $(ESCAPE)/fuzz.elf $(ESCAPE)/guard.so $(ESCAPE)/planted

$(ESCAPE)/%.o: tests/escape/%.c $(B)/flags | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(ESCAPE)/escape: $(ESCAPE_OBJS) $(LIBNOVT_A)
	$(CC) -o $@ $^ $(LDFLAGS_ALL) $(ENGINE_LIBS)

$(ESCAPE)/guard.so: tests/escape/guard.c tests/valgrind/heap.c $(B)/flags | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) -std=gnu11 -O2 -g -fPIC $(WARN) -shared -o $@ $(filter %.c,$^)

$(ESCAPE)/planted: $(ESCAPE)/planted.o $(LIBNOVT_INTERNAL)
	$(CC) -o $@ $^ $(LDFLAGS_ALL) $(ENGINE_LIBS)

$(ESCAPE)/san/%.o: %.c $(B)/flags | deps $(GEN_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(ESCAPE_SAN) -MMD -MP -c -o $@ $<

$(ESCAPE)/devices: $(ESCAPE_DEVICES) $(LIBNOVT_A)
	$(CC) $(ESCAPE_SAN) -o $@ $^ $(LDFLAGS_ALL) $(ENGINE_LIBS) $(COMMAND_LIBS)

$(ESCAPE)/fuzz.o: tests/escape/fuzz.c $(GUEST_SUPPORT)/guest.h $(GUEST_SUPPORT)/deviations.def
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_CFLAGS) -c -o $@ $<

$(ESCAPE)/fuzz.elf: $(ESCAPE)/fuzz.o $(GUEST_OUT)/start.o $(GUEST_OUT)/support.o
	$(GUEST_CC) $(GUEST_LDFLAGS) -o $@ $^

-include $(ESCAPE_OBJS:.o=.d) $(ESCAPE)/planted.d $(ESCAPE_DEVICES:.o=.d)
