"""Weft at the wire, against the kernel, Open vSwitch and DPDK's programs: `tools/bench wire`.

  places.py       nodes and pods for contenders that bring no agent of their own
  contenders.py   what forwards, and how it is set up: one class each
  measures.py     one sample of TCP, packet rate, round trips, CPU
  plan.py         which samples are taken, of whom, how often, in which order
  results.py      rows with ratios and bars, the table for people, the text in docs
  drawing.py      the picture in docs
  command.py      the options, and all of it in order
"""
from .command import add_options, run

__all__ = ["add_options", "run"]
