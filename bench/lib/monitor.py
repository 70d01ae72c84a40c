"""monitor.py - the groups about the monitor itself: translation and density.

translation: what the translator takes and makes while each test kernel boots, from `novt run
--stats`: nanoseconds for each guest instruction, host bytes for each guest byte.

density: what one more virtual machine costs its host. The guest has booted, its first process sleeps
for ever, and it is watched for a while (--watch): CPU use of all threads, and memory; natively, a process
that sleeps as often as the guest's kernel wants to be woken, and does nothing else. Of memory, "guest" is
the guest's RAM as far as it has been touched, "monitor" everything else: the process' own resident
pages, its page tables, and the files in memory that it made. Start-up is the wall time of a process
whose guest ends at its first instructions.
"""
import glob
import os
import re
import time

from lib import machines, programs
from lib.value import Value

SETTLE = 2  # seconds after the first process' first line
MEMORY = 512  # MiB
IDLE_USE = "CPU use of an idle guest"


# --- translation ------------------------------------------------------------------------------


def statistics(path):
    with open(path, encoding="ascii", errors="replace") as f:
        return {name: int(value) for name, value in re.findall(r"^(\w+) +(\d+)  \w+$", f.read(), re.M)}


def measure_translation(context, machine, guest):
    if machine != "novt":
        return
    for flavour in guest.kernels:
        path = f"{context.work}/stats"
        argv = programs.guest_argv(context, machine, guest,
                                   machines.kernel_path(context.cache, flavour), ["none"])
        output, status = machines.run([*argv, f"--stats={path}"], machines.BOOT_LIMIT)
        if status != 0 or "bench: end" not in output:
            context.results.problem(f"{machine}: {flavour} did not boot and power off")
            continue
        stat = statistics(path)
        rows = [("time per instruction", stat["time_translating"] / stat["instructions_translated"], "ns"),
                ("host bytes per guest byte", stat["host_bytes_made"] / stat["guest_bytes_translated"],
                 "bytes"),
                ("guest instructions", stat["instructions_translated"], "count"),
                ("time in all", stat["time_translating"] * 1e-9, "s")]
        for name, value, unit in rows:
            context.keep(machine, guest, "translation", f"{flavour}: {name}", Value(value, unit=unit))


# --- density ----------------------------------------------------------------------------------


def cpu_ns(pid):
    """Time on a CPU of all threads (proc(5), /proc/pid/schedstat), in nanoseconds."""
    total = 0
    for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
        with open(path, encoding="ascii") as f:
            total += int(f.read().split()[0])
    return total


def memory_files(pid):
    """{name: bytes} of the files in memory that a process holds open, each once."""
    found = {}
    for path in glob.glob(f"/proc/{pid}/fd/*"):
        try:
            target, info = os.readlink(path), os.stat(path)
        except FileNotFoundError:
            continue
        if target.startswith("/memfd:"):
            found[info.st_ino] = (target, info.st_blocks * 512)
    return list(found.values())


def ram_mapping(pid):
    """Resident bytes of the largest private mapping: QEMU's guest RAM."""
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as f:
        sizes = re.findall(r"^Size: +(\d+) kB\n(?:\w+: .*\n)*?Rss: +(\d+) kB", f.read(), re.M)
    return max(((int(size), int(rss)) for size, rss in sizes), default=(0, 0))[1] * 1024


def memory(machine, pid):
    """(guest, monitor) in bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        status = {k: int(v) * 1024 for k, v in re.findall(r"^(\w+):\s+(\d+) kB", f.read(), re.M)}
    own = status["RssAnon"] + status["RssFile"] + status["VmPTE"]
    if machine == "novt":
        files = memory_files(pid)
        guest = sum(size for name, size in files if name.startswith("/memfd:novt-ram"))
        return guest, own + sum(size for _, size in files) - guest
    guest = ram_mapping(pid)
    return guest, own + status["RssShmem"] - guest


def cpu_share(context, running):
    """Of one CPU, over a while."""
    time.sleep(SETTLE)
    before, start = cpu_ns(running.pid), time.monotonic()
    time.sleep(context.options.watch)
    return (cpu_ns(running.pid) - before) * 1e-9 / (time.monotonic() - start)


def measure_ticks(context, guest):
    """What so many timer interrupts a second cost a process that does nothing else."""
    with machines.Running([guest.program(context.build), "--ticks", str(guest.ticks)]) as running:
        context.keep("native", guest, "density", IDLE_USE, Value(cpu_share(context, running) * 100, unit="%"))


def measure_idle(context, machine, guest):
    argv = programs.guest_argv(context, machine, guest,
                               machines.kernel_path(context.cache, guest.kernels[0]), ["--idle"])
    with machines.Running(argv) as running:
        if not running.wait_for(programs.USERLAND):
            context.results.problem(f"{machine}: the idle guest did not boot")
            return
        share = cpu_share(context, running)
        touched, own = memory(machine, running.pid)
    rows = [(IDLE_USE, share * 100, "%", False),
            ("idle guests per core", 1 / share if share else None, "VMs", True),
            ("memory of the monitor", own / 2**20, "MiB", False),
            ("memory touched by the guest", touched / 2**20, "MiB", False),
            ("VMs per GiB", 2**30 / (own + touched), "VMs", True)]
    for name, value, unit, more in rows:
        if value is not None:
            context.keep(machine, guest, "density", name, Value(value, unit=unit, more=more))


def measure_start(context, machine, guest):
    extra = ["--debug-exit"] if machine == "novt" else \
        ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
    argv = machines.machine_argv(context.build, machine, guest,
                                 f"{context.build}/bench/null-{guest.name}", memory=MEMORY, extra=extra)
    start = time.monotonic()
    output, status = machines.run(argv, 60)
    if status != 33:
        context.results.problem(f"{machine}: the empty guest ended with {status}: {output[-200:]!r}")
        return
    context.keep(machine, guest, "density", "start-up and end of a VM",
                 Value((time.monotonic() - start) * 1000, unit="ms"))


def measure_density(context, machine, guest):
    if machine == "native":
        if guest.ticks:
            measure_ticks(context, guest)
        return
    measure_start(context, machine, guest)
    measure_idle(context, machine, guest)
