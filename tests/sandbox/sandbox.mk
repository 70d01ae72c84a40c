# sandbox.mk - the launcher of the sandbox tests: build/tests/sandbox/confine.

CONFINE := $(B)/tests/sandbox/confine

.PHONY: tests-sandbox
tests-sandbox: $(CONFINE) guests

$(CONFINE): tests/sandbox/confine.c $(B)/flags | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) -std=gnu11 -O1 -g $(WARN) -o $@ $< -lseccomp
