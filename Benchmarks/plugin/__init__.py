"""How long the CNI plugin takes, beside Debian's bridge and host-local: `tools/bench cni`.

  caller.py    runs plugins in a node's network, one after the other or many at once, and takes their times
  command.py   the options, and all of it in order
"""
from .command import add_options, run

__all__ = ["add_options", "run"]
