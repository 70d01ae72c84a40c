# valgrind.mk - what tests/valgrind/run preloads: build/tests/valgrind/heap.so.

.PHONY: tests-valgrind
tests-valgrind: $(B)/tests/valgrind/heap.so

$(B)/tests/valgrind/heap.so: tests/valgrind/heap.c $(B)/flags | deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -shared -o $@ $<
