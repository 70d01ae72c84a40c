"""real.py - the group real: a Debian userland's programs, in a guest and natively in a chroot.

guest-support/mkuserland.sh makes the userland; bench/real/tasks.py is what runs in it. Natively it
runs in a mount and a process namespace of its own, with a file system in memory at /tmp, as the
guest's whole file system is. That needs root; other users get the guests' times without ratios.
"""
import os
import re
import subprocess

from lib import machines
from lib.value import Value

MEMORY = 2048  # MiB: the unpacked archive takes 240 of them, and the archive as much while it unpacks
TIMES = 1
SOURCE = "bench/programs/integer.c"
LINE = re.compile(r"bench real (\w+) (?:(\d+\.\d+) ([0-9a-f]{16})|differs (.*))")
NATIVE = """
root=$1 files=$2
shift 2
mount -t tmpfs tmp "$root/tmp" && mount -t proc proc "$root/proc" &&
    mount --bind "$files" "$root/etc/novt" || exit 2
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 \
    chroot "$root" /usr/bin/python3 /etc/novt/tasks.py "$@"
"""


def missing(context):
    """What the group lacks, or None."""
    for name in ("userland.cpio", "userland/etc/novt", "busybox-amd64"):
        if not os.path.exists(f"{context.cache}/{name}"):
            return f"no {name}; `make userland` (as root) makes it"
    return None


def make_files(context):
    """The folder that is /etc/novt: the tasks, and a C file without its own header's path."""
    folder = f"{context.work}/novt"
    os.makedirs(folder)
    for name in ("bench", "tasks.py"):
        with open(f"{context.root}/bench/real/{name}", "rb") as f:
            write(f"{folder}/{name}", f.read())
    done = subprocess.run(["gcc", "-E", "-P", "-D_GNU_SOURCE", f"{context.root}/{SOURCE}"],
                          capture_output=True, check=True)
    write(f"{folder}/source.c", done.stdout)
    return folder


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)
    os.chmod(path, 0o755)


def files(context):
    return context.once("real files", lambda: make_files(context))


def make_initramfs(context):
    path = f"{context.work}/real.cpio"
    folder = files(context)
    spec = [f"file init 755 {context.root}/guest-support/userland/init",
            f"file usr/bin/busybox 755 {context.cache}/busybox-amd64", "dir etc/novt 755"]
    spec += [f"file etc/novt/{name} 755 {folder}/{name}" for name in sorted(os.listdir(folder))]
    with open(path, "wb") as out:
        with open(f"{context.cache}/userland.cpio", "rb") as f:
            while chunk := f.read(1 << 20):
                out.write(chunk)
        out.flush()
        subprocess.run([f"{context.build}/tools/mkcpio"], input="\n".join(spec).encode() + b"\n",
                       stdout=out, check=True)
    return path


def argv(context, machine, guest):
    words = ["--times", str(TIMES), *(context.options.program or [])]
    if machine == "native":
        root = os.path.realpath(f"{context.cache}/userland")
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", NATIVE, "native",
                root, files(context), *words]
    initrd = context.once("real initramfs", lambda: make_initramfs(context))
    append = "console=ttyS0 loglevel=0 novt.session=bench " + " ".join(f"novt.bench={w}" for w in words)
    return machines.machine_argv(context.build, machine, guest,
                                 machines.kernel_path(context.cache, guest.kernels[0]), initrd, append,
                                 MEMORY)


def measure(context, machine, guest):
    if guest.name != "amd64":
        return
    lack = missing(context)
    if lack or (machine == "native" and os.geteuid() != 0):
        context.say_once(f"group real, {machine}: {lack or 'chroot needs root'}")
        return
    output, status = machines.run(argv(context, machine, guest), 2 * machines.GUEST_LIMIT)
    for name, seconds, checksum, differs in LINE.findall(output):
        if differs:
            context.results.problem(f"{machine}: {name} gave two results: {differs}")
        elif seconds:
            context.keep(machine, guest, "real", name, Value(float(seconds), checksum))
    for line in re.findall(r"bench real failed: (.*)", output):
        context.results.problem(f"{machine}: {line[:300]}")
    if status is None or "bench: end" not in output:
        last = (output.strip().splitlines() or ["(no output)"])[-1]
        context.results.problem(f"{machine}: real ended before the last task: {last[:200]}")
