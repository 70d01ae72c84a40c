#!/usr/bin/env python3
"""tasks.py - the group real: programs that a Debian user runs, timed from inside.

    tasks.py [--times N] [NAME]...

Runs in the Debian userland, in a guest by novt.session=bench and natively in a chroot of the same
files. Each task is a command line; everything that it prints, and the file that it makes, go into a
checksum, which must be the same everywhere. Prints what bench/programs prints: one line
"bench real NAME SECONDS CHECKSUM" for each task, the least of N runs, then "bench: end".
"""
import hashlib
import os
import random
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
WORK = "/tmp/bench"
OUTPUT = f"{WORK}/output"

PYTHON = r"""
import json, re, collections
rows = [{'id': i, 'name': 'row %d' % (i * 7919 % 1009), 'tags': [i % 3, i % 5]} for i in range(6000)]
back = json.loads(json.dumps(rows))
words = collections.Counter(w for r in back for w in re.findall(r'\w+', r['name']))
seen, total = {}, 0
for i in range(150000):
    total = (total * 31 + seen.get(i % 977, i)) % 1000003
    seen[i % 977] = total
print(len(back), sorted(words.items())[:3], total, sum(sorted(str(n) for n in range(3000))[0].encode()))
"""
PERL = r"""
my (%count, $text); srand 1;
$text .= join(' ', map { chr(97 + ($_ * $_) % 26) x (1 + $_ % 5) } 1 .. 40) . "\n" for 1 .. 800;
for my $round (1 .. 6) { $count{$1}++ while $text =~ /\b(\w+)\b/g; (my $t = $text) =~ tr/a-m/n-z/;
$count{length($t)}++ for split /\s+/, $t; }
print "$_ $count{$_}\n" for sort keys %count;
"""
LOOP = "i=0 s=0; while [ $i -lt 60000 ]; do i=$((i + 1)) s=$(((s + i) % 1000)); done; echo $i $s"
FORKS = "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i + 1)); done; echo $i"
KEY = ["-K", "000102030405060708090a0b0c0d0e0f", "-iv", "101112131415161718191a1b1c1d1e1f"]

TASKS = {
    "gcc_O2": ["gcc", "-O2", "-S", "-o", OUTPUT, f"{HERE}/source.c"],
    "gcc_O0": ["gcc", "-O0", "-S", "-o", OUTPUT, f"{HERE}/source.c"],
    "python3": ["python3", "-c", PYTHON],
    "perl": ["perl", "-e", PERL],
    "dash_loop": ["dash", "-c", LOOP],
    "dash_100_forks": ["dash", "-c", FORKS],
    "gzip": ["sh", "-c", f"gzip -n -c {WORK}/text >{OUTPUT}"],
    "xz": ["sh", "-c", f"xz -1 -T1 -c {WORK}/text >{OUTPUT}"],
    "sort": ["sort", "-o", OUTPUT, f"{WORK}/lines"],
    "sha256sum": ["sha256sum", f"{WORK}/random"],
    "openssl_aes": ["openssl", "enc", "-aes-128-ctr", "-in", f"{WORK}/random", "-out", OUTPUT, *KEY],
    "openssl_sha512": ["openssl", "dgst", "-sha512", f"{WORK}/random"],
}


def prepare():
    """The same input everywhere: text with repetitions, lines in no order, bytes."""
    os.makedirs(WORK, exist_ok=True)
    chance = random.Random(7)
    words = ["".join(chance.choices("etaoinshrdlu", k=1 + n % 9)) for n in range(500)]
    with open(f"{WORK}/text", "w", encoding="ascii") as f:
        f.write(" ".join(chance.choices(words, k=250000)))
    with open(f"{WORK}/lines", "w", encoding="ascii") as f:
        f.write("".join(f"{chance.getrandbits(40):x} line\n" for _ in range(60000)))
    with open(f"{WORK}/random", "wb") as f:
        block = chance.randbytes(1 << 20)
        for _ in range(24):
            f.write(block)


def run(command):
    """(seconds, checksum); the checksum names the status of a command that failed."""
    if os.path.exists(OUTPUT):
        os.unlink(OUTPUT)
    start = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    seconds = time.monotonic() - start
    digest = hashlib.sha256(done.stdout + bytes([done.returncode & 255]))
    if os.path.exists(OUTPUT):
        with open(OUTPUT, "rb") as f:
            digest.update(f.read())
    if done.returncode:
        print(f"bench real failed: {command[0]}: {done.stdout[-300:]!r}", flush=True)
    return seconds, digest.hexdigest()[:16]


def main():
    arguments, times = sys.argv[1:], 1
    if arguments[:1] == ["--times"]:
        times, arguments = int(arguments[1]), arguments[2:]
    os.environ.update(PYTHONHASHSEED="0", LC_ALL="C", PERL_HASH_SEED="0")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # a guest has one CPU
    prepare()
    for name, command in TASKS.items():
        if arguments and name not in arguments:
            continue
        runs = [run(command) for _ in range(times)]
        sums = sorted({checksum for _, checksum in runs})
        if len(sums) > 1:
            print(f"bench real {name} differs {' '.join(sums)}", flush=True)
        else:
            print(f"bench real {name} {min(runs)[0]:.6f} {sums[0]}", flush=True)
    print("bench: end", flush=True)


if __name__ == "__main__":
    main()
