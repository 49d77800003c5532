"""Where the page listens, what it is called there, and from where it can be reached."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from condprep.errors import UsageError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. port: 0 is a free one. Raises UsageError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror}; 127.0.0.1 is this machine alone") from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        raise UsageError(f"--host {host} --port {port}: {error.strerror}; --port 0 takes a free one") from None
    return listening


def address_of(listening: socket.socket, host: str) -> str:
    """For a browser on this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, in_url(host))
    return f"http://{shown}:{listening.getsockname()[1]}/"


def is_local(host: str) -> bool:
    """Whether nobody but this machine can come."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names_of(host: str) -> list[str]:
    """What a request may call this machine: itself and, where others may come, its own names and addresses."""
    names = {"127.0.0.1", "localhost", "[::1]", in_url(host)}
    if not is_local(host):
        names |= {socket.gethostname(), f"{socket.gethostname()}.local"}
        names |= set(map(in_url, _own_addresses()))
    return sorted(names)


def in_url(host: str) -> str:
    """IPv6 has brackets there."""
    return f"[{host}]" if ":" in host else host


def _own_addresses() -> list[str]:
    import psutil

    found = [address for addresses in psutil.net_if_addrs().values() for address in addresses]
    return [one.address.partition("%")[0] for one in found if one.family in (socket.AF_INET, socket.AF_INET6)]
