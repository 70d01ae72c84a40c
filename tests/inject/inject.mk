# inject.mk - a host that refuses: build/tests/inject/shim.so.

INJECT := $(B)/tests/inject/shim.so

.PHONY: tests-inject
tests-inject: $(INJECT) guests $(GUESTS64)

$(INJECT): tests/inject/shim.c $(B)/flags | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) -std=gnu11 -O1 -g -fPIC -fno-omit-frame-pointer \
		-mgeneral-regs-only -fno-tree-loop-distribute-patterns $(WARN) -Wno-missing-prototypes -shared -o $@ $< -ldl
