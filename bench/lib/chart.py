"""chart.py - the ratios to native as an SVG picture: a row for each group, a dot for each program.

The axis is logarithmic: 1 is native speed, further right is slower. The geometric mean of a group is
the bar; QEMU's is the better of its two CPU models. Groups without a native time have no row.
"""
import math
from xml.sax.saxutils import escape

from lib.results import mean, ratios

WIDTH, LEFT, RIGHT, ROW, TOP = 860, 150, 60, 40, 60
MACHINES = [("novt", "#1b6ca8"), ("QEMU", "#c8553d")]  # ratios 0 and 1 of results.ratios()


def rows_of(results, guests, groups):
    """[(label, ([(name, ratio)] of novt, the same of QEMU))]"""
    rows = []
    for guest in guests:
        for group in groups:
            both = [[(key[2], r[n]) for key in results.keys(guest, group)
                     if (r := ratios(results, key))[n]] for n in (0, 1)]
            if any(both):
                rows.append((f"{group}, {guest}", both))
    return rows


class Axis:
    def __init__(self, values):
        self.low = math.floor(math.log10(min([0.9, *values])) * 4) / 4
        self.high = math.ceil(math.log10(max([10, *values])) * 4) / 4

    def x(self, ratio):
        share = (math.log10(ratio) - self.low) / (self.high - self.low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def ticks(self):
        every = [m * 10 ** e for e in range(-2, 4) for m in (1, 2, 5)]
        return [t for t in every if self.low <= math.log10(t) <= self.high]


def text(x, y, content, more=""):
    return f'<text x="{x}" y="{y}" {more}>{escape(content)}</text>'


def draw_row(axis, y, label, both):
    parts = [text(LEFT - 10, y + 22, label, 'text-anchor="end"')]
    for n, (_, colour) in enumerate(MACHINES):
        middle = y + 10 + 16 * n
        average = mean([ratio for _, ratio in both[n]])
        if not average:
            continue
        first, last = sorted((axis.x(1), axis.x(average)))
        parts.append(f'<rect x="{first}" y="{middle - 5}" width="{last - first:.1f}" height="10"'
                     f' fill="{colour}" fill-opacity="0.35"/>')
        parts += [f'<circle cx="{axis.x(ratio)}" cy="{middle}" r="2.5" fill="{colour}">'
                  f"<title>{escape(name)}: {ratio:.2f}</title></circle>" for name, ratio in both[n]]
        parts.append(text(WIDTH - RIGHT + 8, middle + 4, f"{average:.2f}", f'fill="{colour}"'))
    return parts


def write(path, results, guests, groups, line):
    rows = rows_of(results, guests, groups)
    axis = Axis([ratio for _, both in rows for half in both for _, ratio in half])
    height = TOP + ROW * len(rows) + 30
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
             ' font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
             text(10, 18, "Time relative to native (bar: geometric mean; dot: one program)"),
             text(10, 34, line, 'font-size="9" fill="#555"')]
    for n, (name, colour) in enumerate(MACHINES):
        parts.append(text(10 + 60 * n, 52, name, f'fill="{colour}" font-weight="bold"'))
    for tick in axis.ticks():
        x = axis.x(tick)
        parts.append(f'<line x1="{x}" y1="{TOP - 6}" x2="{x}" y2="{height - 24}"'
                     f' stroke="{"#000" if tick == 1 else "#ddd"}"/>')
        parts.append(text(x, height - 8, f"{tick:g}", 'text-anchor="middle" fill="#555"'))
    for n, (label, both) in enumerate(rows):
        parts += draw_row(axis, TOP + ROW * n, label, both)
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join([*parts, "</svg>"]) + "\n")
