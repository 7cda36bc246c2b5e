"""Golden replays: packets built by scapy go through weft-vrouter's packet path, scapy and tshark read what comes out.

Run with Debian's python, to which python3-scapy belongs: /usr/bin/python3 -m pytest -q Tests/Golden
"""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import weft  # noqa: E402


def pytest_configure(config):
    for program in (weft.PROGRAM, weft.PROGRAM.parent / "weft"):
        if not program.exists():
            raise pytest.UsageError(f"{program} is missing; build it: swift build -c release --product {program.name}")


@pytest.fixture(scope="session", autouse=True)
def program(tmp_path_factory):
    weft.program = tmp_path_factory.mktemp("program") / weft.PROGRAM.name
    shutil.copy(weft.PROGRAM, weft.program)


@pytest.fixture
def replay(tmp_path):
    """Runs a replay in a directory of its own; more than one in a test each get their own."""
    count = 0

    def run(inputs, tables=None, **options):
        nonlocal count
        count += 1
        directory = tmp_path / str(count)
        directory.mkdir()
        return weft.replay(directory, inputs, tables, **options)

    return run
