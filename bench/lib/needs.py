"""needs.py - what a measurement needs on this machine, looked at before it starts.

Each thing that is missing is one line that names it and what brings it. The group real says for
itself what it lacks (it is left out then), because its userland needs root.
"""
import os
import shutil

from lib import machines, programs

PACKAGE = "install the package qemu-system-x86, or leave it out with --machines native,novt"


def groups_of(options):
    """What is measured: the groups, and "programs" for single programs without a group."""
    return options.only or ["programs"]


def booted(context, group, guest):
    """Kernels that a group boots."""
    if group == "boot":
        return [machines.kernel_path(context.cache, flavour, pvh)
                for flavour in guest.kernels for pvh in (False, True)]
    if group == "translation":
        return [machines.kernel_path(context.cache, flavour) for flavour in guest.kernels]
    return [machines.kernel_path(context.cache, guest.kernels[0])]


def files(context, group, guest, virtual):
    """(path, the make target that makes it) for one group and guest."""
    build = context.build
    program = guest.program(build)
    if group == "real":
        return [(f"{build}/tools/mkcpio", "tools")] if virtual else []
    if group == "micro":
        return [(f"{build}/bench/micro-{guest.name}", "bench-programs")] if virtual else []
    found = [(program, "bench-programs"), (f"{program}-dynamic", "bench-programs")]
    if virtual:
        found += [(f"{build}/tools/mkcpio", "tools")]
        found += [(path, "fetch") for path in booted(context, group, guest)]
    if virtual and group == "density":
        found += [(f"{build}/bench/null-{guest.name}", "bench-programs")]
    return found


def missing(context, chosen):
    """Lines, one for each thing that is not there."""
    options = context.options
    guests = [machines.GUESTS[name] for name in options.guests]
    virtual = [m for m in chosen if m != "native"]
    wanted = {f"{context.build}/novt": "all"} if "novt" in chosen else {}
    for group in groups_of(options):
        for guest in guests:
            wanted.update(files(context, group, guest, virtual))
    lines = [f"no {path}; `make {target}` makes it" for path, target in wanted.items()
             if not os.path.exists(path)]
    for guest in guests:
        if {"qemu", "qemu-max"} & set(chosen) and not shutil.which(guest.qemu):
            lines.append(f"no {guest.qemu}; {PACKAGE}")
    return lines
