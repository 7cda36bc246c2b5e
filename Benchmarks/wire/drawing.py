"""The picture in docs: bars of all contenders, a panel for each of the most telling rows. Plain SVG, no library."""
import statistics
from xml.sax.saxutils import escape

from .results import cell

PANELS = [
    ("wire.vxlan.tcp-1", "TCP across nodes, 1 stream", "Gbit/s", True),
    ("wire.local.tcp-1", "TCP on one node, 1 stream", "Gbit/s", True),
    ("wire.vxlan.pps-64", "UDP across nodes, 64 B", "kpps", True),
    ("wire.encap-64", "Pod into VXLAN, 64 B", "kpps", True),
    ("wire.vxlan.ping-adaptive", "Ping across nodes, average", "us", False),
    ("wire.vxlan.tcp-1.cpu-per-gbit", "TCP across nodes, CPU of the machine", "s per Gbit", False),
]
COLUMNS, PANEL_WIDTH, BAR, GAP, TITLE, LABEL = 2, 460, 16, 6, 34, 96
COLORS = {"weft": "#d9480f", "kernel": "#868e96"}
OTHER = "#4c8ab8"


def panel(x, y, row, title, unit, more_is_better, samples, contenders):
    by_contender = samples.values.get(row, {})
    values = [(one, statistics.median(by_contender[one.name])) for one in contenders if one.name in by_contender]
    best = max((value for _, value in values), default=0) or 1
    room = PANEL_WIDTH - LABEL - 90
    parts = [f'<text x="{x}" y="{y + 16}" class="title">{escape(title)}</text>',
             f'<text x="{x + PANEL_WIDTH - 20}" y="{y + 16}" class="unit" text-anchor="end">{escape(unit)}, '
             f'{"more" if more_is_better else "less"} is better</text>']
    for index, (one, value) in enumerate(values):
        top = y + TITLE + index * (BAR + GAP)
        width = max(1, room * value / best)
        color = COLORS.get(one.name, OTHER)
        parts += [
            f'<text x="{x + LABEL - 8}" y="{top + BAR - 4}" class="name" text-anchor="end">{escape(one.label)}</text>',
            f'<rect x="{x + LABEL}" y="{top}" width="{width:.1f}" height="{BAR}" rx="2" fill="{color}"/>',
            f'<text x="{x + LABEL + width + 6:.1f}" y="{top + BAR - 4}" class="value">{cell(value)}</text>']
    return parts


def draw(samples, contenders, machine):
    panels = [one for one in PANELS if samples.values.get(one[0])]
    height = TITLE + len(contenders) * (BAR + GAP) + 20
    rows = (len(panels) + COLUMNS - 1) // COLUMNS
    width, total = COLUMNS * PANEL_WIDTH + 20, rows * height + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        # Of its own background, so that it reads on a dark page too.
        f'<rect width="{width}" height="{total}" fill="#ffffff"/>',
        "<style>text{fill:#212529}.title{font-weight:600;font-size:13px}.unit{fill:#6c757d;font-size:11px}"
        ".value{fill:#495057}</style>"]
    for index, (row, title, unit, more) in enumerate(panels):
        x, y = 16 + index % COLUMNS * PANEL_WIDTH, 8 + index // COLUMNS * height
        parts += panel(x, y, row, title, unit, more, samples, contenders)
    parts.append(f'<text x="16" y="{total - 10}" class="unit">{escape(machine)}</text>')
    return "\n".join([*parts, "</svg>", ""])
