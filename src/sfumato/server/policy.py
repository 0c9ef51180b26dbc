"""Who may ask, and from where: names of this server, pages that may call it, and what may be asked at most.

A page that any browser shows can send requests to any address, this machine's too. Its browser tells where it
comes from: `Origin` and `Sec-Fetch-Site` name the page, `Host` the name it used. A name that somebody's own
name server made point here (DNS rebinding) is none of ours.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import urlsplit

from sfumato.app.settings import Settings
from sfumato.errors import RequestError

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
PUBLIC = ("/login", "/healthz", "/readyz")  # answered to everybody, and with nothing worth knowing
FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_SUBPATH = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._-]*)+")
_DEFAULT_PORTS: Mapping[str, str] = MappingProxyType({"http": ":80", "https": ":443"})


class RefusedError(Exception):
    """A request that is answered here and goes no further."""

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        """Say why.

        Args:
            status: of HTTP.
            code: stable, for programs.
            detail: one line, for people.
            headers: beside the usual ones.
        """
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers = dict(headers or {})


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is let in."""

    bind: str = "127.0.0.1"  # address that is listened at
    hosts: frozenset[str] = frozenset()  # further names of this server, in lower case
    origins: frozenset[str] = frozenset()  # pages elsewhere that may call it: https://example.org
    subpath: str = ""  # where a proxy shows it: /sfumato
    login: bool = False  # whether everybody has to say who they are, this machine's own user too
    encrypted: bool = False  # whether it speaks TLS itself
    max_body: int = 128 * 2**20  # bytes
    max_bodies: int = 512 * 2**20  # bytes of all requests under way
    max_headers: int = 32 * 2**10  # bytes
    patience: float = 60.0  # seconds that a client may take for the next piece
    rate: float = 200.0  # requests a second of one client
    connections: int = 1000  # requests under way; half of them of one client

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.bind)

    @classmethod
    def of(cls, settings: Settings, bind: str, *, login: bool) -> Policy:
        """The policy of the settings. Raises RequestError: one makes no sense or lets everybody in."""
        origins = frozenset(each.rstrip("/").lower() for each in _words(settings.cors))
        for each in origins:
            if "*" in each or origin_of(each) is None:
                raise RequestError(
                    f"cors={each!r}: name each page that may call, like https://example.org; "
                    "one for all would let every website in"
                )
        subpath = settings.subpath.rstrip("/")
        if subpath and not _SUBPATH.fullmatch(subpath):
            raise RequestError(f"subpath={settings.subpath!r} is not of the form /sfumato")
        if (settings.tls_cert is None) != (settings.tls_key is None):
            raise RequestError("tls_cert and tls_key belong together; give both or none")
        for path in (settings.tls_cert, settings.tls_key):
            if path is not None and not path.is_file():
                raise RequestError(f"{path}: no such file; tls_cert and tls_key name PEM files")
        return cls(
            bind=bind,
            hosts=frozenset(each.lower() for each in _words(settings.hosts)),
            origins=origins,
            subpath=subpath,
            login=login,
            encrypted=settings.tls_cert is not None,
            max_body=settings.max_body,
            max_bodies=4 * settings.max_body,
            rate=settings.rate_limit,
            connections=settings.max_connections,
        )


def _words(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word]


@lru_cache(256)
def is_loopback(address: str) -> bool:
    """Whether an address or name means this machine only."""
    name = address.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    ip = _ip(name)
    mapped = getattr(ip, "ipv4_mapped", None)
    return ip is not None and (mapped or ip).is_loopback


@lru_cache(256)
def host_name(header: str) -> str | None:
    """The name in a Host header, in lower case and without its port; None = malformed."""
    name, _, port = header.rpartition(":")
    if not name or "]" in port:
        name, port = header, ""
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5):
        return None
    if name.startswith("["):
        return name if name.endswith("]") and _ip(name[1:-1]) is not None else None
    allowed = all(letter.isalnum() or letter in ".-_" for letter in name)
    return name.lower().rstrip(".") if name and name.isascii() and allowed and len(name) < 254 else None


def knows_host(policy: Policy, name: str) -> bool:
    """Whether a name is one of this server's.

    No name server can make a bare address point elsewhere, so they are fine where more than this machine
    listens; names have to be this machine's own or among `policy.hosts`.
    """
    if is_loopback(name) or name in {host.rpartition(":")[0] or host for host in policy.hosts}:
        return True
    if policy.local:
        return False
    own = socket.gethostname().lower()
    return _ip(name.strip("[]")) is not None or name in (own, own.partition(".")[0], f"{own}.local")


def origin_of(text: str) -> tuple[str, str] | None:
    """Scheme and place (without the scheme's own port) of an Origin header; None = `null` or malformed."""
    try:
        parts = urlsplit(text.lower())
        port = parts.port
    except ValueError:
        return None
    extra = parts.path or parts.query or parts.fragment or "@" in parts.netloc
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or extra:
        return None
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = f"{name}:{port}" if port is not None else name
    return parts.scheme, place.removesuffix(_DEFAULT_PORTS[parts.scheme])


def is_own_page(policy: Policy, origin: str, host: str) -> bool:
    """Whether a page is one of this server's.

    Args:
        policy: names its `hosts`: what a proxy before it is called.
        origin: the Origin header.
        host: the Host header.
    """
    parts = origin_of(origin)
    if parts is None:
        return False
    scheme, place = parts
    return place == host.lower().removesuffix(_DEFAULT_PORTS[scheme]) or place in policy.hosts


def check_page(policy: Policy, headers: Mapping[str, str], *, method: str, socketed: bool) -> bool:
    """Refuse what a page of another site makes a browser send; whether the sender is surely one of our own.

    A link from elsewhere may be followed. Programs send neither header.

    Args:
        policy: which pages may.
        headers: of the request, their names in lower case.
        method: of HTTP.
        socketed: whether a WebSocket is to be opened.

    Raises:
        RefusedError: the page is not one of ours.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None:
        if is_own_page(policy, origin, headers.get("host", "")):
            return True
        if origin.lower() in policy.origins:
            return True
        raise RefusedError(403, "origin", "this page may not call the server; see the setting cors")
    if site in (None, "none", "same-origin"):
        return site is not None
    followed = (
        method in ("GET", "HEAD")
        and not socketed
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest", "document") == "document"
    )
    if not followed:
        raise RefusedError(403, "origin", "this page may not call the server; see the setting cors")
    return False


def is_trusted(policy: Policy, headers: Mapping[str, str], client: str | None, host: str) -> bool:
    """Whether a request is surely from this machine's user, who needs no token.

    Args:
        policy: has no `login` if so.
        headers: of the request; a proxy's mean that it is somebody else's.
        client: address it comes from.
        host: name it used.
    """
    return (
        not policy.login
        and policy.local
        and client is not None
        and is_loopback(client)
        and is_loopback(host)
        and not any(name in headers for name in FORWARDED)
    )


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
