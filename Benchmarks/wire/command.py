"""tools/bench wire: its options, and all of it in order."""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import report

from . import contenders, drawing, measures, results
from .places import ROOT, TRAFFIC, BareLab, Cores, run as run_command
from .plan import Effort, Plan

DOCUMENT = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "wire.svg"
POLICY = pathlib.Path("/usr/sbin/policy-rc.d")


def add_options(parser):
    parser.add_argument("--json", metavar="FILE", help="also write the rows as a JSON array")
    parser.add_argument("--quick", action="store_true", help="one round, fewer rows: under 3 minutes")
    parser.add_argument("--strict", action="store_true", help="exit status 1 when a bar is missed")
    parser.add_argument(
        "--publish", action="store_true", help="put table and picture into docs (performance.md, wire.svg)")
    parser.add_argument("--svg", metavar="FILE", help="also draw the picture here")
    parser.add_argument(
        "--contenders", metavar="NAME", nargs="+", choices=contenders.NAMES, default=contenders.NAMES,
        help="only these: " + ", ".join(contenders.NAMES))
    for option, where, kinds in (("--port-kind", "to the fabric", contenders.PORT_KINDS),
                                 ("--pod-port-kind", "to pods", contenders.POD_PORT_KINDS)):
        parser.add_argument(
            option, choices=kinds, help=f"Weft's port {where} (the agent's default)")
    parser.add_argument("--no-install", action="store_true", help="compare with what is installed")


@contextlib.contextmanager
def no_services():
    """Packages are installed for their programs: Debian is not to start services of them on this machine."""
    made = not POLICY.exists()
    if made:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if made:
            POLICY.unlink(missing_ok=True)


def install():
    script = (
        'source tools/lab-packages; install_missing "$weft_lab_needs" || exit 1; '
        'install_missing "$weft_wire_needs" || true')
    with no_services():
        if subprocess.run(["bash", "-c", script], cwd=ROOT).returncode != 0:
            sys.exit("tools/bench: what the lab needs is missing: see above")


def build_programs():
    """weft-vrouter, weft-agent and weft, as tools/demo builds them."""
    script = "source tools/lab-packages; weft_build"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{done.stderr[-8000:]}\ntools/bench: Weft does not build")


def find_contenders(options, cores, notes):
    """Those that can be had; the others are named."""
    found = []
    for one in contenders.all_contenders(cores, options.port_kind, options.pod_port_kind):
        if one.name not in options.contenders:
            continue
        try:
            one.check()
            found.append(one)
        except contenders.Missing as missing:
            notes[one.name] = f"left out: {missing}"
    return found


def bring_up(found, stack, notes):
    """Those that come up. One that does not is named and removed at once."""
    up = []
    for one in found:
        print(f"setting up {one.label}", file=sys.stderr, flush=True)
        # Registered before it exists: an interrupted set-up is removed too.
        stack.callback(take_down, one)
        try:
            one.up()
            up.append(one)
        except (contenders.Missing, AssertionError, OSError) as error:
            text = str(error).strip().splitlines() or [type(error).__name__]
            notes[one.name] = "left out: " + text[0][:300]
            print(f"tools/bench: {one.label}: {error}", file=sys.stderr)
            take_down(one)
    return up


@contextlib.contextmanager
def uninterrupted():
    """A second Ctrl-C does not stop what removes things after the first."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, old):
            signal.signal(number, handler)


def take_down(contender):
    if contender.lab is None:
        return
    with uninterrupted():
        left = contender.down()
    contender.lab = None
    if left:
        print(f"tools/bench: {contender.label} left behind:\n{left}", file=sys.stderr)


def find_generator(effort, cores, rows):
    """The faster kind of generator, whose limit becomes a row."""
    lab = BareLab()
    best = None
    try:
        lab.pod("n1", "blue1")
        lab.pod("n1", "blue1b")
        for kind in ("ring", "xdp"):
            try:
                rate = measures.generator_limit(lab, kind, 64, effort.packet_seconds, cores.generator)
            except AssertionError as error:
                print(f"tools/bench: {error}", file=sys.stderr)
                continue
            rows.append({"name": f"wire.generator.limit-64.{kind}", "value": round(rate / 1e3, 1), "unit": "kpps"})
            if best is None or rate > best[1]:
                best = kind, rate
    finally:
        lab.down()
    if best is None:
        sys.exit("tools/bench: the generator cannot send on a veth: see above")
    return best[0]


def interrupted(number, _frame):
    raise SystemExit(128 + number)


def run(options, build_traffic):
    """Exit status: 0; 1 with --strict when a bar is missed; 2 when there is nothing to measure; 130 after Ctrl-C."""
    if os.geteuid() != 0:
        print("tools/bench: wire needs root, for network namespaces: sudo tools/bench wire", file=sys.stderr)
        return 2
    # Also where a shell started this in the background and ignores Ctrl-C for it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    if options.publish:
        results.find_place(DOCUMENT)
    if not options.no_install:
        install()
    if not options.no_build:
        build_programs()
        build_traffic()
    if not TRAFFIC.exists():
        print(f"tools/bench: {TRAFFIC} is not there: run without --no-build", file=sys.stderr)
        return 2
    run_command(ROOT / "tools" / "lab", "sweep", check=False)
    try:
        return measure(options)
    except KeyboardInterrupt:
        print("tools/bench: interrupted; everything is removed", file=sys.stderr)
        return 130


def measure(options):
    began, machine = time.monotonic(), report.machine()
    effort, cores, notes, first_rows = Effort(options.quick), Cores(), {}, []
    with contextlib.ExitStack() as stack:
        kind = find_generator(effort, cores, first_rows)
        up = bring_up(find_contenders(options, cores, notes), stack, notes)
        if not up:
            print("tools/bench: nothing to measure:", *(f"{name}: {text}" for name, text in notes.items()), sep="\n")
            return 2
        plan = Plan(up, effort, kind)
        plan.samples.notes.update(notes)
        samples = plan.run()
    for row in first_rows:
        report.judge(row, results.BARS)
    rows = first_rows + results.rows_of(samples)
    command = "tools/bench wire" + (" --quick" if options.quick else "")
    for option, kind in (("--port-kind", options.port_kind), ("--pod-port-kind", options.pod_port_kind)):
        command += f" {option} {kind}" if kind else ""
    print(f"\n{machine}; generator: {kind}; {time.monotonic() - began:.0f} s\n")
    report.print_table(rows, samples.notes)
    print()
    results.print_comparison(samples, up)
    missed = report.print_verdict(rows)
    write(options, rows, samples, up, machine, command)
    return 1 if missed and options.strict else 0


def write(options, rows, samples, up, machine, command):
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)
            file.write("\n")
    picture = drawing.draw(samples, up, machine)
    if options.svg:
        pathlib.Path(options.svg).write_text(picture)
    if options.publish:
        results.publish(DOCUMENT, results.markdown(samples, rows, up, machine, command, PICTURE.name))
        PICTURE.write_text(picture)
