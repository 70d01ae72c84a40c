"""micro.py - what single paths cost, measured inside a bare-metal guest (bench/micro/micro.c).

The guest counts TSC ticks; a chain of dependent additions in the same run, one cycle each, turns them
into core cycles. There is no native column: the paths belong to a kernel. VMWARE has the figures of
"A Comparison of Software and Hardware Techniques for x86 Virtualization" (Adams and Agesen, ASPLOS
2006), a 3.8 GHz Pentium 4, for the paths that it has too.
"""
import re

from lib import machines
from lib.value import Value

LINE = re.compile(r"^micro (\w+) (\d+) (\d+)\r?$", re.M)
PASSED = 33  # the guest's checks held: (10h << 1) | 1
NAMES = {
    "direct_jump": "direct jump", "indirect_jump": "indirect jump", "call_ret": "call + ret",
    "call_indirect_ret": "indirect call + ret", "sgdt": "callout (SGDT)",
    "mov_from_cr0": "callout (MOV from CR0)", "cli_sti": "CLI STI NOP", "pushf_popf": "PUSHF POPF",
    "port_in": "IN from a port of the monitor", "port_out": "OUT to a port of the monitor", "rdtsc": "RDTSC",
    "cpuid_0": "CPUID", "cr3_same": "CR3 write: same space", "cr3_other": "CR3 write: other space",
    "invlpg": "INVLPG", "invlpg_load": "INVLPG and load", "pte_write": "PTE write",
    "pte_write_load": "PTE write and INVLPG and load", "page_fault": "page fault end to end",
    "int_iret": "INT n and IRET", "system_call": "system call and back", "mmio_load": "MMIO load",
    "self_ipi": "interrupt to itself with EOI", "hlt_wake": "HLT until wake-up",
}
VMWARE = {"call_ret": 51, "pte_write": 391, "port_in": 214}
VMWARE_NAMES = {NAMES[name]: cycles for name, cycles in VMWARE.items()}


def argv(context, machine, guest):
    extra = ["--debug-exit"] if machine == "novt" else \
        ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
    return machines.machine_argv(context.build, machine, guest,
                                 f"{context.build}/bench/micro-{guest.name}", memory=128, extra=extra)


def measure(context, machine, guest):
    if machine == "native":
        return
    output, status = machines.run(argv(context, machine, guest), 120)
    found = {name: int(ticks) / int(count) for name, ticks, count in LINE.findall(output)}
    cycle = found.pop("add", None)
    if status != PASSED or not cycle:
        last = (output.strip().splitlines() or ["(no output)"])[-1]
        context.results.problem(f"{machine}: micro {guest.name} ended with {status}: {last[:200]}")
        return
    for name, each in found.items():
        context.keep(machine, guest, "micro", NAMES[name], Value(each / cycle, unit="cycles"))
