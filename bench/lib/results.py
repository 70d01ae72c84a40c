"""results.py - what was measured: kept, compared with native, printed and appended to a CSV file.

A result belongs to a machine and a key (guest, group, name). Of several measurements of one the least
counts. A checksum, where there is one, must be the same on every machine.
"""
import csv
import datetime
import math
import os
import re
import subprocess

from lib import micro


class Results:
    def __init__(self):
        self.machines = {}
        self.problems = []

    def keep(self, machine, key, value):
        table = self.machines.setdefault(machine, {})
        old = table.get(key)
        if old and old.checksum != value.checksum:
            self.problem(f"{machine}: {key[0]} {key[2]} gave {old.checksum}, then {value.checksum}")
        if not old or (value.number > old.number) == value.more:
            table[key] = value

    def problem(self, text):
        if text not in self.problems:
            self.problems.append(text)

    def get(self, machine, key):
        value = self.machines.get(machine, {}).get(key)
        return value.number if value else None

    def unit(self, key):
        return next(t[key].unit for t in self.machines.values() if key in t)

    def qemu(self, key):
        """The better one of QEMU's two CPU models."""
        values = [table[key] for table in (self.machines.get(m, {}) for m in ("qemu", "qemu-max"))
                  if key in table]
        if not values:
            return None
        return (max if values[0].more else min)(value.number for value in values)

    def keys(self, guest, group):
        every = dict.fromkeys(k for table in self.machines.values() for k in table)
        return [k for k in every if k[:2] == (guest, group)]

    def check(self):
        """Whatever computed something else than natively is an error, and not a time."""
        native = self.machines.get("native", {})
        for machine, table in self.machines.items():
            for key in list(table):
                want = native.get(key)
                if want and want.checksum != table[key].checksum:
                    self.problem(f"{machine}: {key[0]} {key[2]} computed {table[key].checksum},"
                                 f" natively {want.checksum}")
                    del table[key]

    def check_names(self, names):
        """Whatever was asked for by name, or anything at all, has to have a figure."""
        found = {key[2] for table in self.machines.values() for key in table}
        for name in names:
            if name not in found:
                self.problem(f"no figure of a program '{name}'; is there one of that name?")
        if not found:
            self.problem("nothing was measured: no group that was chosen has anything for these"
                         " guests and machines")


# --- The host ---------------------------------------------------------------------------------


def host_cpu():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
        text = f.read()
    fields = dict(re.findall(r"^(model name|model|stepping)\s*: (.*)$", text, re.M))
    return f"{fields.get('model name', '?')} (model {fields.get('model', '?')})"


def commit(root):
    def git(*arguments):
        return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True,
                              check=False).stdout.strip()

    head = git("rev-parse", "--short", "HEAD") or "none"
    return head + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%MZ")


HEAD = ["native", "novt", "QEMU", "novt/native", "QEMU/native", "QEMU/novt"]
BEGIN, END = "<!-- bench/run --docs: begin -->", "<!-- bench/run --docs: end -->"
PLAIN = ["micro", "translation", "density"]
PUBLISHED = {"micro": micro.VMWARE_NAMES}

# --- Tables -----------------------------------------------------------------------------------


def mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def number(value):
    """Four significant digits, as a person reads them."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"


def ratios(results, key):
    """novt/native, QEMU/native, QEMU/novt; None where there is nothing to divide."""
    native, novt, qemu = results.get("native", key), results.get("novt", key), results.qemu(key)
    return [a / b if a and b else None for a, b in ((novt, native), (qemu, native), (qemu, novt))]


def name_of(results, key):
    unit = results.unit(key)
    return key[2] + ("" if unit == "s" else f" ({unit})")


def plain_rows(results, guest, group):
    """A group without native times, or few: the figures of novt and QEMU, and published ones of VMware."""
    keys, published = list(results.keys(guest, group)), PUBLISHED.get(group)
    native = any(results.get("native", key) for key in keys)
    rows = []
    for key in keys:
        rows.append([name_of(results, key), number(results.get("novt", key)), number(results.qemu(key))])
        if native:
            rows[-1].insert(1, number(results.get("native", key)))
        if published:
            rows[-1].append(number(published.get(key[2])))
    return [*(["native"] if native else []), "novt", "QEMU", *(["VMware, 2006"] if published else [])], rows


def ratio_rows(results, guest, group):
    """Native, novt, QEMU and three ratios; the last row is the mean."""
    rows, columns = [], ([], [], [])
    for key in results.keys(guest, group):
        row = ratios(results, key)
        for column, ratio in zip(columns, row):
            if ratio:
                column.append(ratio)
        values = [results.get("native", key), results.get("novt", key), results.qemu(key)]
        rows.append([name_of(results, key), *map(number, values),
                     *(f"{r:.2f}" if r else "-" for r in row)])
    if len(rows) > 1 and any(columns):
        rows.append(["geometric mean", "", "", "",
                     *(f"{mean(c):.2f}" if c else "-" for c in columns)])
    return HEAD, rows


def group_rows(results, guest, group):
    """(column heads, rows) of text for one group."""
    form = plain_rows if group in PLAIN else ratio_rows
    return form(results, guest, group)


def run_line(options, root, load):
    return (f"{host_cpu()}, {os.cpu_count()} CPUs, Linux {os.uname().release}, commit {commit(root)}, "
            f"{now()}, load average up to {load:.1f}; the least of {options.reps} repetitions, in seconds"
            " where nothing else is said")


def print_tables(results, guests, groups):
    for guest in guests:
        for group in groups:
            head, rows = group_rows(results, guest, group)
            if not rows:
                continue
            print()
            for row in [[f"{guest} {group}", *head], *rows]:
                print(f"{row[0]:34}" + "".join(f" {cell:>11}" for cell in row[1:]))


def markdown_tables(results, guests, groups):
    lines = []
    for guest in guests:
        for group in groups:
            head, rows = group_rows(results, guest, group)
            if not rows:
                continue
            lines += ["", f"### {group}, {guest}", "", "| " + " | ".join(["", *head]) + " |",
                      "|---|" + "---:|" * len(head)]
            lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines).lstrip("\n") + "\n"


def summary_table(results, guests, groups):
    """The geometric means alone."""
    lines = ["| | programs | " + " | ".join(HEAD[3:]) + " |", "|---|" + "---:|" * 4]
    for guest in guests:
        for group in (g for g in groups if g not in PLAIN):
            every = [ratios(results, key) for key in results.keys(guest, group)]
            means = [mean([row[n] for row in every if row[n]]) for n in range(3)]
            if any(means):
                lines.append(f"| {group}, {guest} | {len(every)} | "
                             + " | ".join(f"{m:.2f}" if m else "-" for m in means) + " |")
    return "\n".join(lines) + "\n"


def page(results, guests, groups, line):
    return (f"{line}.\n\n{summary_table(results, guests, groups)}\n"
            f"{markdown_tables(results, guests, groups)}")


def write_markdown(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def replace_section(path, text):
    """Puts the text between the two comments of a page that say where it belongs."""
    with open(path, encoding="utf-8") as f:
        before, rest = f.read().split(BEGIN)
    after = rest.split(END)[1]
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"{before}{BEGIN}\n{text}{END}{after}")


# --- Where results go -------------------------------------------------------------------------


def unusable(csv_path, page):
    """What stands in the way of writing the results, as lines; asked before anything is measured."""
    lines = []
    try:
        os.makedirs(os.path.dirname(os.path.abspath(csv_path)), exist_ok=True)
        with open(csv_path, "a+", encoding="ascii", errors="replace") as f:
            f.seek(0)
            head = f.readline().rstrip("\r\n")
        if not head:
            os.unlink(csv_path)
        elif head != ",".join(COLUMNS):
            lines.append(f"{csv_path} has other columns than bench/run writes; name another file with"
                         " --csv, or move it away")
    except OSError as error:
        lines.append(f"cannot write the results: {error}; name another file with --csv")
    if page:
        try:
            with open(page, "r+", encoding="utf-8") as f:
                text = f.read()
            if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
                lines.append(f"{page} has no place for the tables: the lines {BEGIN} and {END}, once")
        except OSError as error:
            lines.append(f"cannot write the page: {error}")
    return lines


# --- CSV --------------------------------------------------------------------------------------

COLUMNS = ["date", "commit", "cpu", "host_kernel", "guest", "repetitions", "machine", "group", "name",
           "value", "unit"]


def append_csv(path, results, repetitions, root):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    new = not os.path.exists(path)
    fixed = [now(), commit(root), host_cpu(), os.uname().release]
    with open(path, "a", newline="", encoding="ascii", errors="replace") as f:
        out = csv.writer(f, lineterminator="\n")
        if new:
            out.writerow(COLUMNS)
        for machine, table in results.machines.items():
            for (guest, group, name), value in table.items():
                out.writerow([*fixed, guest, repetitions, machine, group, name,
                              f"{value.number:.9g}", value.unit])
