"""Rows with ratios and bars from samples, the table for people, and the text in docs/performance.md."""
import re
import statistics

import report

from .plan import LOAD

#: (name, comparison, number). What misses is explained in docs/performance.md.
BARS = [
    ("wire.vxlan.tcp-1.over-ovs", ">=", 6),
    ("wire.vxlan.tcp-1.over-ovs-xdp", ">=", 3),
    ("wire.vxlan.tcp-1.over-kernel", ">=", 0.5),
    ("wire.local.tcp-1.over-kernel", ">=", 0.6),
    ("wire.local.tcp-1.over-c-loop", ">=", 0.95),
    ("wire.vxlan.pps-64.over-ovs", ">=", 4),
    ("wire.vxlan.pps-64.over-ovs-xdp", ">=", 1.5),
    ("wire.pps-64.over-c-loop", ">=", 0.9),
    ("wire.encap-64.over-kernel", ">=", 3),
    ("wire.vxlan.ping-adaptive.over-kernel", "<=", 4),
    ("wire.local.ping-poll.over-kernel", "<=", 2),
    ("wire.vxlan.cpu-per-gbit.over-ovs", "<=", 0.3),
    ("wire.mplsoudp.tcp-1.over-vxlan", ">=", 0.95),
]

#: Rows of the table for people: (row of samples, what it is called there).
LINES = [
    ("wire.vxlan.tcp-1", "TCP across nodes, 1 stream, Gbit/s"),
    ("wire.vxlan.tcp-1-reverse", "the other direction"),
    ("wire.vxlan.tcp-4", "4 streams"),
    ("wire.vxlan.tcp-4-reverse", "4 streams, the other direction"),
    ("wire.vxlan.tcp-16", "16 streams"),
    ("wire.vxlan.tcp-16-reverse", "16 streams, the other direction"),
    ("wire.mplsoudp.tcp-1", "TCP over MPLS-over-UDP, 1 stream, Gbit/s"),
    ("wire.local.tcp-1", "TCP on one node, 1 stream, Gbit/s"),
    ("wire.local.tcp-4", "4 streams"),
    ("wire.local.tcp-16", "16 streams"),
    ("wire.vxlan.pps-64", "UDP across nodes, 64 B, 1 flow, kpps"),
    ("wire.vxlan.pps-64-flows-1000", "64 B, 1,000 flows"),
    ("wire.vxlan.pps-512", "512 B, 1 flow"),
    ("wire.vxlan.pps-1400", "1400 B, 1 flow"),
    ("wire.local.pps-64", "UDP on one node, 64 B, kpps"),
    ("wire.encap-64", "pod into VXLAN, 64 B, kpps"),
    ("wire.vxlan.ping-adaptive", "ping across nodes, average, us"),
    ("wire.local.ping-adaptive", "ping on one node, average, us"),
    ("wire.local.ping-poll", "ping on one node, workers that spin, us"),
    ("wire.vxlan.request", "request and answer across nodes, idle: average, us"),
    ("wire.vxlan.request.p50", "p50"),
    ("wire.vxlan.request.p99", "p99"),
    ("wire.vxlan.request.p999", "p99.9"),
    ("wire.vxlan.request-loaded", f"beside {LOAD} Mbit/s of TCP: average, us"),
    ("wire.vxlan.request-loaded.p50", "p50"),
    ("wire.vxlan.request-loaded.p99", "p99"),
    ("wire.vxlan.request-loaded.p999", "p99.9"),
    ("wire.vxlan.tcp-1.cpu-per-gbit", "TCP across nodes: CPU seconds per Gbit, machine"),
    ("wire.vxlan.tcp-1.process-cpu-per-gbit", "of the forwarders' processes"),
    (f"wire.vxlan.tcp-{LOAD}m.cpu-per-gbit", f"at {LOAD} Mbit/s, machine"),
    ("wire.vxlan.pps-64.cpu-per-mpkt", "UDP across nodes, 64 B: CPU seconds per million packets, machine"),
    ("wire.vxlan.pps-64.process-cpu-per-mpkt", "of the forwarders' processes"),
]

BEGIN, END = "<!-- tools/bench wire --publish: begin -->", "<!-- tools/bench wire --publish: end -->"


def ratio(samples, one, other):
    """The median of the rounds' ratios; None where either is missing."""
    (row, name), (other_row, other_name) = one, other
    values = samples.values.get(row, {}).get(name, [])
    others = samples.values.get(other_row, {}).get(other_name, [])
    pairs = [value / base for value, base in zip(values, others) if base > 0]
    return statistics.median(pairs) if pairs else None


def rows_of(samples):
    """Every value by contender, and Weft's ratios to the others. Names as in the bars."""
    rows = []

    def add(name, value, unit):
        rows.append({"name": name, "value": round(value, 4), "unit": unit})

    for row, by_contender in list(samples.values.items()):
        for name, values in by_contender.items():
            add(f"{row}.{name}", statistics.median(values), samples.units[row])
        if "weft" in by_contender:
            for name in by_contender:
                value = ratio(samples, (row, "weft"), (row, name)) if name != "weft" else None
                if value is not None:
                    add(f"{row}.over-{name}", value, "")

    def add_ratio(name, one, other):
        value = ratio(samples, one, other)
        if value is not None:
            add(name, value, "")

    add_ratio("wire.mplsoudp.tcp-1.over-vxlan", ("wire.mplsoudp.tcp-1", "weft"), ("wire.vxlan.tcp-1", "weft"))
    add_ratio("wire.pps-64.over-c-loop", ("wire.local.pps-64", "weft"), ("wire.local.pps-64", "c-loop"))
    for name in ("kernel", "ovs", "ovs-xdp", "ovs-dpdk"):
        cpu = "wire.vxlan.tcp-1.cpu-per-gbit"
        add_ratio(f"wire.vxlan.cpu-per-gbit.over-{name}", (cpu, "weft"), (cpu, name))
    for row in rows:
        report.judge(row, BARS)
    missing = [name for name, _, _ in BARS if not any(row["name"] == name for row in rows)]
    for name in missing:
        samples.note(name, "not measured: one of the two sides is missing")
    return rows


def cell(value):
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def lines_of(samples, contenders):
    """(what, values by contender) of all lines for which there are samples."""
    lines = []
    for row, title in LINES:
        by_contender = samples.values.get(row)
        if by_contender:
            lines.append((title, [
                statistics.median(by_contender[one.name]) if one.name in by_contender else None for one in contenders]))
    return lines


def print_comparison(samples, contenders):
    lines = [("", *(one.label for one in contenders))]
    lines += [(title, *(cell(value) for value in values)) for title, values in lines_of(samples, contenders)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for title, *values in lines:
        cells = (f"{value:>{width}}" for value, width in zip(values, widths[1:]))
        print(f"{title:<{widths[0]}}  " + "  ".join(cells))


def markdown(samples, rows, contenders, machine, command, picture):
    """What stands in docs/performance.md between BEGIN and END."""
    text = [BEGIN, f"`{command}`, {machine}; medians.", "", f"![Weft and others, side by side]({picture})", ""]
    text += ["| | " + " | ".join(one.label for one in contenders) + " |", "|---" * (len(contenders) + 1) + "|"]
    for title, values in lines_of(samples, contenders):
        text.append(f"| {title} | " + " | ".join(cell(value) for value in values) + " |")
    text += ["", "| ratio | value | bar | |", "|---|---|---|---|"]
    for row in rows:
        if row["bar"]:
            text.append(f"| {row['name']} | {cell(row['value'])} | {row['bar']} | {'ok' if row['ok'] else 'missed'} |")
    if samples.notes:
        text += [""] + [f"- {name}: {note}" for name, note in samples.notes.items()]
    return "\n".join([*text, END])


def find_place(path):
    """Where the figures stand in a document, and its text. Asked for before anything is measured."""
    text = path.read_text()
    found = re.search(re.escape(BEGIN) + ".*?" + re.escape(END), text, re.DOTALL)
    if not found:
        raise SystemExit(f"tools/bench: {path} has no place for the figures: lines {BEGIN} and {END}")
    return text, found


def publish(path, figures):
    """Puts the figures into the document where the last ones were."""
    text, found = find_place(path)
    path.write_text(text[: found.start()] + figures + text[found.end() :])
