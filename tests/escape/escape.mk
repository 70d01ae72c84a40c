# escape.mk - guests that try to get out: build/tests/escape/escape.

ESCAPE := $(B)/tests/escape/escape
ESCAPE_OBJS := $(patsubst %,$(ESCAPE).%.o,escape machine generate watch)

.PHONY: tests-escape
tests-escape: $(ESCAPE)

$(ESCAPE).%.o: tests/escape/%.c $(B)/flags | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(ESCAPE): $(ESCAPE_OBJS) $(LIBNOVT_A)
	$(CC) -o $@ $^ $(LDFLAGS_ALL) $(ENGINE_LIBS)

-include $(ESCAPE_OBJS:.o=.d)
