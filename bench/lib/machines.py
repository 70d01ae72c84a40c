"""machines.py - what is measured: guests (an architecture and its kernels) on machines.

A machine is "native", "novt", "qemu" or "qemu-max"; machine_argv() gives the command that boots a
kernel there. Native has no kernel: its programs run as they are, or in a chroot. QEMU runs with its
default CPU and with -cpu max, because either is the slower one for some programs.

Everything that runs longer than its limit is killed and is a problem, not a measurement.
"""
import dataclasses
import os
import select
import signal
import subprocess
import time

GUEST_LIMIT = 900  # seconds for one guest run
BOOT_LIMIT = 120


@dataclasses.dataclass(frozen=True)
class Guest:
    """An architecture: where its benchmark program and initial file system are, and its kernels."""

    name: str  # i386 or amd64
    qemu: str
    kernels: tuple  # flavours; the first one runs the programs
    ticks: int  # timer interrupts a second that the first one asks for when it is idle; 0: few

    def program(self, build):
        return f"{build}/bench/bench-{self.name}"


GUESTS = {
    "i386": Guest("i386", "qemu-system-i386", ("686-pae",), 250),
    "amd64": Guest("amd64", "qemu-system-x86_64", ("cloud-amd64", "amd64"), 0),
}
MACHINES = ["native", "novt", "qemu", "qemu-max"]


def kernel_path(cache, flavour, pvh=False):
    return f"{cache}/{'vmlinux' if pvh else 'vmlinuz'}-{flavour}"


def machine_argv(build, machine, guest, kernel, initrd=None, append="", memory=512, extra=()):
    """The command that boots a kernel on a virtual machine, with its console on standard output."""
    if machine == "novt":
        argv = [f"{build}/novt", "run", "--kernel", kernel, "--memory", f"{memory}M", "--no-reboot"]
        argv += ["--initrd", initrd] if initrd else []
        argv += ["--append", append] if append else []
    else:
        argv = [guest.qemu, "-accel", "tcg", "-m", str(memory), "-nodefaults", "-display", "none",
                "-serial", "stdio", "-no-reboot", "-kernel", kernel]
        argv += ["-cpu", "max"] if machine == "qemu-max" else []
        argv += ["-initrd", initrd] if initrd else []
        argv += ["-append", append] if append else []
    return argv + list(extra)


def run(argv, limit=GUEST_LIMIT, **more):
    """(output, status) of a command; the status is None when it was killed at its limit."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, start_new_session=True, **more) as process:
        try:
            output, _ = process.communicate(timeout=limit)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            status = None
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return output.decode(errors="replace"), status


def cpu_seconds(pid):
    """User and system time of a process with all its threads (proc(5), /proc/pid/stat)."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Running:
    """A guest that has been started and is watched from outside; a context manager that ends it."""

    def __init__(self, argv):
        self.started = time.monotonic()
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        self.output = b""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    @property
    def pid(self):
        return self.process.pid

    def wait_for(self, text, limit=BOOT_LIMIT):
        """Reads the console until the text is there; False when the guest ends or is too slow."""
        end = time.monotonic() + limit
        while text not in self.output:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return False
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                return False
            self.output += chunk
        return True
