"""Download images at URLs under limits: only with --allow-urls, and only from the hosts that it names.

A source is untrusted text, so a URL may aim at what only this machine can reach: its own services, the local network,
a cloud's metadata. Therefore the name is resolved first, all of its addresses must be public, the connection goes to
the very address that was checked, and each redirect is checked again. A download is limited in bytes and in time.

Reasons: image_url_refused (scheme, host, address, port or credentials are not allowed), image_fetch_failed (no
response, a status other than 200, too slow), image_too_large.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from visrl_data.core.images import BadImage
from visrl_data.core.versions import visrl_version

MAX_BYTES = 32 * 2**20
SECONDS = 30.0  # for a download, redirects included; looking up a name is not counted
TRIES = 3  # when a server does not respond, or responds with 429 or 5xx
REDIRECTS = 5
ANY_HOST = "any"
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")  # all that has been given out as global unicast
_SPECIAL = [
    ipaddress.ip_network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them: its tunnel may end anywhere
        "2001:db8::/32",  # documentation
        "3fff::/20",
        "168.63.129.16/32",  # Azure's own services, from inside each of its machines
        "192.88.99.0/24",  # relays of 6to4
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
    )
]
_AS_IS = "/%:@!$&'()*+,;=~?"


class _TransientError(Exception):
    """A failure that may be gone at the next try."""


@dataclass(frozen=True, slots=True)
class _HttpResponse:
    status: int
    location: str
    data: bytes


def fetch_image(url: str, hosts: str) -> bytes:
    """Download an image. hosts: "any", or names separated by commas, with * as a wildcard. Raises BadImage."""
    for tries_left in reversed(range(TRIES)):
        try:
            return _fetch(url, hosts, time.monotonic() + SECONDS)
        except _TransientError as error:
            if not tries_left:
                raise BadImage("image_fetch_failed", f"{shown(url)}: {error}; tried {TRIES} times"[:200]) from error
            time.sleep(2.0 ** (TRIES - 1 - tries_left))
    raise AssertionError("unreachable")


def shown(url: str) -> str:
    """Return a URL for messages: without credentials and without its query, which may hold a signature."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname}{parts.path}"[:150]
    return "a malformed URL"


def _fetch(url: str, hosts: str, deadline: float) -> bytes:
    first = url
    for _ in range(REDIRECTS + 1):
        response = _get(_check_url(url, hosts), deadline)
        if response.status == 200:
            return response.data
        if response.status not in (301, 302, 303, 307, 308):
            problem = f"status {response.status}"
            if response.status == 429 or response.status >= 500:
                raise _TransientError(problem)
            raise BadImage("image_fetch_failed", f"{shown(url)}: {problem}")
        try:
            url = urljoin(url, response.location)
        except ValueError as error:
            raise BadImage("image_fetch_failed", f"{shown(url)}: redirects to a malformed URL") from error
    raise BadImage("image_fetch_failed", f"{shown(first)}: more than {REDIRECTS} redirects")


def _check_url(url: str, hosts: str) -> SplitResult:
    """Split a URL that may be looked up. Raises BadImage("image_url_refused") for any other."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").rstrip(".")
    except ValueError as error:
        raise BadImage("image_url_refused", f"a malformed URL: {error}"[:200]) from error
    if parts.scheme not in _PORTS or not host:
        problem = "expected http:// or https://"
    elif parts.username is not None or parts.password is not None:
        problem = "it holds a user name or a password"
    elif port not in (None, _PORTS[parts.scheme]):
        problem = f"port {port} is not allowed"
    elif not any(name == ANY_HOST or fnmatchcase(host, name) for name in _host_names(hosts)):
        problem = f"--allow-urls {hosts} does not name its host"
    else:
        return parts
    raise BadImage("image_url_refused", f"{shown(url)}: {problem}"[:200])


def _host_names(hosts: str) -> list[str]:
    return [name.strip().lower() for name in hosts.split(",") if name.strip()]


def _get(parts: SplitResult, deadline: float) -> _HttpResponse:
    """Send one request and return its answer, cut off at the deadline. Raises _TransientError, BadImage."""
    host, secure = str(parts.hostname), parts.scheme == "https"
    addresses = _public_addresses(host, _PORTS[parts.scheme], shown(parts.geturl()))
    is_late = threading.Event()
    try:
        line = _connect(addresses, _PORTS[parts.scheme], deadline)
        if secure:
            context = ssl.create_default_context()
            line = context.wrap_socket(line, server_hostname=host, do_handshake_on_connect=False)
        watch = threading.Timer(_left(deadline), _hang_up, (line, is_late))
        watch.start()
        try:
            with line:
                if isinstance(line, ssl.SSLSocket):
                    line.do_handshake()
                response = _request(line, parts, host)
        finally:
            watch.cancel()
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        if is_late.is_set() or isinstance(error, TimeoutError):
            raise _TransientError(f"no response within {SECONDS:g} s") from error
        raise _TransientError(f"{type(error).__name__}: {error}"[:100]) from error
    if is_late.is_set():
        raise _TransientError(f"no complete response within {SECONDS:g} s")
    return response


def _connect(addresses: list[str], port: int, deadline: float) -> socket.socket:
    """Connect to the first address that accepts a connection. Raises OSError."""
    for address in addresses[:-1]:
        with contextlib.suppress(OSError):
            return socket.create_connection((address, port), timeout=_left(deadline))
    return socket.create_connection((addresses[-1], port), timeout=_left(deadline))


def _request(line: socket.socket, parts: SplitResult, host: str) -> _HttpResponse:
    connection = http.client.HTTPConnection(host)
    connection.sock = line
    path = quote(parts.path or "/", safe=_AS_IS) + (f"?{quote(parts.query, safe=_AS_IS)}" if parts.query else "")
    connection.request(
        "GET", path, headers={"Host": host, "User-Agent": f"visrl/{visrl_version()}", "Accept": "image/*"}
    )
    response = connection.getresponse()
    if response.status != 200:
        return _HttpResponse(response.status, response.getheader("Location", ""), b"")
    data = response.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise BadImage("image_too_large", f"{shown(parts.geturl())}: more than {MAX_BYTES} bytes")
    if response.length:
        raise _TransientError(f"the response ended {response.length} bytes too early")
    return _HttpResponse(response.status, "", data)


def _hang_up(line: socket.socket, is_late: threading.Event) -> None:
    is_late.set()
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _public_addresses(host: str, port: int, url: str) -> list[str]:
    """Look up a host, all of whose addresses must be public. Raises _TransientError, BadImage."""
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _TransientError(f"{host} cannot be looked up: {error}"[:100]) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    private = [address for address in addresses if not _is_public(address)]
    if private:
        raise BadImage("image_url_refused", f"{url}: {private[0]} is no public address"[:200])
    return addresses


def _is_public(address: str) -> bool:
    """Return whether an address is one of the public Internet: by a list of what is, not of what is not.

    An IPv4 address inside an IPv6 one (mapped, 6to4, NAT64) counts as itself.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is None:
            return ip in _GLOBAL_IPV6 and ip.is_global and not any(ip in network for network in _SPECIAL)
        ip = inner
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _SPECIAL)
