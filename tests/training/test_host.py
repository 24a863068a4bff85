"""A host knows how others reach it: on this machine, and on hosts set up as Debian sets them up."""

import json
import sys
from pathlib import Path

import pytest

from t2f_dist.training.launch import host
from tests.hosts import hosts

ROOT = Path(__file__).resolve().parents[2]
ROUTES = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from t2f_dist.training.launch import host
found = {{name: host.address_towards(name) for name in sys.argv[1:]}}
print(json.dumps([found, host.interface_of("10.77.0.1"), host.interface_of("10.78.0.9"), host.identity()]))
"""


def test_itself_is_no_other_host():
    assert host.address_towards("localhost") is None
    assert host.address_towards("127.0.0.1") is None
    assert host.address_towards("nowhere.invalid") is None
    assert host.identity() == host.identity()


@pytest.mark.skipif(sys.platform != "linux", reason="interfaces are known on Linux alone")
def test_the_interface_of_an_address():
    assert host.interface_of("127.0.0.1") == "lo"
    assert host.interface_of("192.0.2.77") is None  # RFC 5737: nobody's


def test_a_host_knows_how_the_others_reach_it():
    with hosts(2) as (first, second):
        first.run(["ip", "address", "add", "10.78.0.9/24", "dev", "eth0"])  # a second address of the same interface
        line = [sys.executable, "-c", ROUTES, "localhost", "host0", "host1", "10.77.0.1", "10.78.0.1"]
        found, interface, second_address, here = json.loads(first.run(line))
        there = json.loads(second.run(line))[-1]
    assert found == {
        "localhost": None,
        "host0": None,  # its own name leads to 127.0.1.1
        "host1": "10.77.0.1",
        "10.77.0.1": "10.77.0.1",
        "10.78.0.1": "10.78.0.9",
    }
    assert (interface, second_address) == ("eth0", "eth0")
    assert here != there
