"""flame.py - a flame graph as a plain SVG picture: each box is a function, its width its share.

Stacks grow upwards from the bottom row; a box's title, which browsers show as a tooltip, has the
whole name and the share.
"""
from xml.sax.saxutils import escape, quoteattr

WIDTH, ROW, TOP, MARGIN, NARROW = 1200, 16, 40, 10, 0.4
COLOURS = {"guest code": "#6a9fd4", "translator": "#8fbf6f", "monitor": "#e0b050",
           "host kernel": "#d97a5b"}


class Node:
    def __init__(self):
        self.count = 0
        self.children = {}

    def add(self, stack):
        node = self
        node.count += 1
        for frame in stack:
            node = node.children.setdefault(frame, Node())
            node.count += 1

    def depth(self):
        return 1 + max((child.depth() for child in self.children.values()), default=0)


def colour(root):
    return next((c for name, c in COLOURS.items() if root.startswith(name)), "#b0b0b0")


def boxes(node, total, x, level, root, parts, height):
    for name, child in sorted(node.children.items(), key=lambda item: -item[1].count):
        width = (WIDTH - 2 * MARGIN) * child.count / total
        if width < NARROW:
            continue
        y = height - MARGIN - ROW * (level + 1)
        fill = colour(root or name)
        parts.append(f'<g><title>{escape(name)}: {100 * child.count / total:.2f} %</title>'
                     f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" fill="{fill}"'
                     f' stroke="white" stroke-width="0.5"/>')
        room = int(width / 6.5)
        if room >= 3:
            parts.append(f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(name[:room])}</text>')
        parts.append("</g>")
        boxes(child, total, x, level + 1, root or name, parts, height)
        x += width


def write(path, stacks, title):
    """stacks: lists of names, outermost first; one for each sample."""
    tree = Node()
    for stack in stacks:
        tree.add(stack)
    height = TOP + ROW * tree.depth() + MARGIN
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
             ' font-family="monospace" font-size="11">',
             f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
             f'<text x="{MARGIN}" y="20" font-size="14" aria-label={quoteattr(title)}>'
             f"{escape(title)}</text>"]
    if tree.count:
        boxes(tree, tree.count, MARGIN, 0, "", parts, height)
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join([*parts, "</svg>"]) + "\n")
