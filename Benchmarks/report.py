"""Rows, bars and tables, for everything that tools/bench measures. A row: name, value, unit, bar, ok."""
import os
import re


def bar_of(name, bars):
    """A bar is (name, comparison, number); * in a name stands for a part of it."""
    for pattern, comparison, number in bars:
        if re.fullmatch(re.escape(pattern).replace(r"\*", "[^.]*"), name):
            return comparison, number
    return None


def judge(row, bars):
    """Adds the row's bar as text, and whether it is met; a row without a bar is ok."""
    bar = bar_of(row["name"], bars)
    row["bar"] = f"{bar[0]} {bar[1]}" if bar else ""
    row["ok"] = bar is None or (row["value"] <= bar[1] if bar[0] == "<=" else row["value"] >= bar[1])


def number(value):
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def print_table(rows, notes):
    lines = [("name", "value", "unit", "bar", "")]
    for row in rows:
        state = "" if not row["bar"] else "ok" if row["ok"] else "MISSED"
        lines.append((row["name"], number(row["value"]), row["unit"], row["bar"], state))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    for name, value, unit, bar, state in lines:
        print(f"{name:<{widths[0]}}  {value:>{widths[1]}}  {unit:<{widths[2]}}  {bar:<{widths[3]}}  {state}".rstrip())
    for name, text in notes.items():
        print(f"{name}: {text}")


def print_verdict(rows):
    """The last line; the names of rows that miss their bar."""
    missed = [row["name"] for row in rows if not row["ok"]]
    judged = sum(1 for row in rows if row["bar"])
    print(f"\n{judged - len(missed)} of {judged} bars are met" + (": missed " + ", ".join(missed) if missed else ""))
    return missed


def machine():
    model = "unknown CPU"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    cores, load = os.cpu_count(), os.getloadavg()[0]
    text = f"{cores} cores of {model}, kernel {os.uname().release}, load {load:.1f}"
    return text + (" (MORE THAN CORES: read ratios and instructions, not times)" if load > cores else "")
