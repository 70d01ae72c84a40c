"""programs.py - the groups that one static program measures itself, and booting to that program.

bench/programs is built for each architecture into one static program. In a guest it is the first
process: it runs what it is asked for, prints one line for each program and powers off. Natively the
same file runs as it is.

The boot group is the CPU seconds (user and system, all threads) that the process has used when the
guest's first process prints its first line.
"""
import re
import subprocess

from lib import machines
from lib.value import Value

GROUPS = ["integer", "memory", "fp", "simd", "os"]
LINE = re.compile(r"bench (\w+) (\w+) (?:(\d+\.\d+) ([0-9a-f]{16})|(skip)|differs (.*))")
USERLAND = b"bench: userland"
TIMES = 2  # runs of each program in one process


def make_initramfs(context, guest):
    """The program, the dynamically linked one that it executes, and that one's libraries."""
    path = f"{context.work}/bench-{guest.name}.cpio"
    program = guest.program(context.build)
    files = {"bin/bench": program, "bin/dynamic": f"{program}-dynamic"}
    listed = subprocess.run(["ldd", f"{program}-dynamic"], capture_output=True, text=True, check=True)
    for library in re.findall(r"(?:^|\s)(/\S+)", listed.stdout):
        files[library.lstrip("/")] = library
    folders = {"dev": 755, "tmp": 777, "proc": 755}
    for name in files:
        parts = name.split("/")[:-1]
        for n in range(len(parts)):
            folders.setdefault("/".join(parts[:n + 1]), 755)
    spec = [f"dir {name} {mode}" for name, mode in folders.items()]
    spec += ["nod dev/console 600 c 5 1", "nod dev/null 666 c 1 3", "nod dev/zero 666 c 1 5"]
    spec += [f"file {name} 755 {source}" for name, source in files.items()]
    with open(path, "wb") as out:
        subprocess.run([f"{context.build}/tools/mkcpio"], input="\n".join(spec).encode() + b"\n",
                       stdout=out, check=True)
    return path


def initramfs(context, guest):
    return context.once(("initramfs", guest.name), lambda: make_initramfs(context, guest))


def guest_argv(context, machine, guest, kernel, names):
    append = "console=ttyS0 loglevel=0 rdinit=/bin/bench -- --init " + " ".join(names)
    return machines.machine_argv(context.build, machine, guest, kernel, initramfs(context, guest),
                                 append)


def parse(context, machine, guest, output, status):
    for group, name, seconds, checksum, _skip, differs in LINE.findall(output):
        if differs:
            context.results.problem(f"{machine}: {guest.name} {name} gave two results: {differs}")
        elif seconds:
            context.keep(machine, guest, group, name, Value(float(seconds), checksum))
    if status is None:
        context.results.problem(f"{machine}: {guest.name} programs took over {machines.GUEST_LIMIT} s")
    elif "bench: end" not in output:
        last = (output.strip().splitlines() or ["(no output)"])[-1]
        context.results.problem(f"{machine}: {guest.name} ended before the last program: {last[:200]}")


def measure(context, machine, guest, groups):
    names = [*(["--times", str(TIMES)]), *groups]
    names += context.options.program or []
    if machine == "native":
        argv = [guest.program(context.build), *names]
    else:
        kernel = machines.kernel_path(context.cache, guest.kernels[0])
        argv = guest_argv(context, machine, guest, kernel, names)
    parse(context, machine, guest, *machines.run(argv))


def measure_boot(context, machine, guest):
    """CPU seconds until the guest's first process spoke, for each kernel and way to start it."""
    if machine == "native":
        return
    for flavour in guest.kernels:
        for pvh in (False, True):
            name = f"{flavour} {'PVH' if pvh else 'bzImage'}"
            argv = guest_argv(context, machine, guest,
                              machines.kernel_path(context.cache, flavour, pvh), ["none"])
            context.note(f"{machine} boots {name}")
            with machines.Running(argv) as running:
                if running.wait_for(USERLAND):
                    seconds = machines.cpu_seconds(running.pid)
                    context.keep(machine, guest, "boot", name, Value(seconds))
                else:
                    context.results.problem(f"{machine}: {name}: no userland; last output: "
                                            f"{running.output[-200:].decode(errors='replace')!r}")
