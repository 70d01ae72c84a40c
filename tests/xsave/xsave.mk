# xsave.mk - the XSAVE family against the host's CPU: build/tests/xsave/xsave.

XSAVE := $(B)/tests/xsave/xsave

.PHONY: tests-xsave
tests-xsave: $(XSAVE)

$(XSAVE).o: tests/xsave/xsave.c $(B)/flags | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -mgeneral-regs-only -MMD -MP -c -o $@ $<

$(XSAVE): $(XSAVE).o $(LIBNOVT_A)
	$(CC) -o $@ $^ $(LDFLAGS_ALL) $(ENGINE_LIBS)

-include $(XSAVE).d
