"""A node with many pods, and restarts of its forwarder: `tools/bench node`.

  places.py    two nodes of Weft with thousands of routes, pods by the hundred, a forwarder that is replaced
  measures.py  CPU and memory of processes, the longest time without packets
  command.py   the options, and all of it in order
"""
from .command import add_options, run

__all__ = ["add_options", "run"]
