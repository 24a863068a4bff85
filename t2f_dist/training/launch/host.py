"""This host, as the other hosts of a launch reach it."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from pathlib import Path

SIOCGIFCONF = 0x8912
RECORD_BYTES = (
    40  # of struct ifreq on 64 bits: a name of 16, a family of 2, a port of 2, an IPv4 address of 4, the rest
)


def identity() -> str:
    """The same for all ranks of a host, another for each host: its name, and its kernel's number of this boot.

    The name alone is often `localhost`; the number alone is shared by the containers of a machine.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}"


def address_towards(name: str) -> str | None:
    """The address of this host in packets to `name` (a name or an address), or None where that is this host itself.

    Asks the kernel for the route; nothing is sent. Also None where the name is unknown or there is no route.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(name, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as route:
            route.connect(place)
            own = str(route.getsockname()[0]).partition("%")[0]
    except OSError:
        return None
    return None if ipaddress.ip_address(own).is_loopback else own


def interface_of(address: str) -> str | None:
    """The network interface that has this address, such as `eth0`; None where none has it, or this is not Linux."""
    if sys.platform != "linux":
        return None
    wanted = ipaddress.ip_address(address)
    if wanted.version == 6:
        table = Path("/proc/net/if_inet6")
        rows = [line.split() for line in table.read_text().splitlines()] if table.exists() else []
        return next((row[-1] for row in rows if int(row[0], 16) == int(wanted)), None)
    import fcntl
    from array import array

    # Every IPv4 address of every interface, second ones too: netdevice(7).
    records = array("B", bytes(256 * RECORD_BYTES))
    place, size = records.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFCONF, struct.pack("iP", size, place))
    for start in range(0, struct.unpack("iP", answer)[0], RECORD_BYTES):
        record = records[start : start + RECORD_BYTES].tobytes()
        if record[20:24] == wanted.packed:
            return os.fsdecode(record[:16].partition(b"\0")[0]).partition(":")[0]  # eth0:1 is an address of eth0
    return None
