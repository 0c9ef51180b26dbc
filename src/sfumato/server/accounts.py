"""Who asks: the token of the first start, users with their passwords, and the cookie of a page.

    data/token        one random token, for whoever may read the data folder
    data/users.json   names, roles, passwords as scrypt hashes (RFC 7914), tokens as SHA-256 hashes
    data/secret       signs cookies

All of them belong to their user alone (mode 0600) and are read again when they change.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from sfumato.app.settings import Settings
from sfumato.errors import RequestError
from sfumato.weights.atomic import atomic_file

Role = Literal["admin", "user"]
ROLES: tuple[Role, ...] = get_args(Role)

OWNER = "local"  # of what is asked without an account, and with the token of the first start
COOKIE = "sfumato"
COOKIE_DAYS = 14
MAX_CREDENTIAL = 1024  # characters of what a client sends to say who it is
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_WORK = 2**14, 8, 1  # scrypt's N, r, p: 16 MiB and about 50 ms


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Who asks."""

    owner: str = OWNER
    role: Role = "admin"


@dataclass(frozen=True, kw_only=True)
class User:
    """A user as the file has it."""

    name: str
    role: Role = "user"
    password: str = ""  # "scrypt$N$r$p$salt$hash", in base64; "" = none
    token: str = ""  # SHA-256 of it; "" = none


class Accounts:
    """Knows visitors by what they send. Safe to use from several threads."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        """Read what there is.

        Args:
            settings: where the data folder is; further users (`api_auth`).
            clock: seconds since 1970.

        Raises:
            RequestError: `api_auth` or the file of users is not what it should be.
        """
        self._folder = settings.data
        self._token_file = settings.token_file or settings.data / "token"
        self._given = _given(settings.api_auth)
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[Path, tuple[int, str]] = {}
        self._proved: set[bytes] = set()  # digests of passwords that were right
        self._key = secrets.token_bytes(32)
        self.users()

    @property
    def any(self) -> bool:
        """Whether there is somebody to be."""
        return bool(self._given or self.users())

    def first_token(self) -> str | None:
        """Make the token if there is none yet; the new one, None if there was one."""
        token = secrets.token_urlsafe(32)
        return token if _write_private(self._token_file, token) else None

    def users(self) -> dict[str, User]:
        """The file's users by name. Raises RequestError: it is damaged."""
        return read_users(self._folder, self._read(self._folder / "users.json"))

    def by_token(self, token: str) -> Visitor | None:
        """Whose a token is; None = nobody's. Takes the same time for every wrong one."""
        if not token or len(token) > MAX_CREDENTIAL:
            return None
        found = None
        given = _sha256(token)
        first = self._read(self._token_file).strip()
        if first and hmac.compare_digest(given, _sha256(first)):
            found = Visitor()
        for user in self.users().values():
            if user.token and hmac.compare_digest(given, user.token):
                found = Visitor(owner=user.name, role=user.role)
        return found

    def is_proved(self, name: str, password: str) -> bool:
        """Whether this password was right before, so that to look again costs nothing."""
        return self._digest(name, password) in self._proved

    def by_password(self, name: str, password: str) -> Visitor | None:
        """Who has this name and password; None = nobody. Slow on purpose the first time."""
        if len(name) + len(password) > MAX_CREDENTIAL:
            return None
        user = self.users().get(name)
        digest = self._digest(name, password)
        if digest not in self._proved:
            if name in self._given:
                right = hmac.compare_digest(_sha256(password), _sha256(self._given[name]))
            else:
                stored = user.password if user and user.password else _DUMMY
                right = is_password(password, stored) and user is not None
            if not right:
                return None
            with self._lock:
                if len(self._proved) >= 1000:
                    self._proved.clear()
                self._proved.add(digest)
        return Visitor(owner=name, role=user.role if user and name not in self._given else "user")

    def cookie(self, visitor: Visitor) -> str:
        """What a page of this visitor keeps."""
        name = visitor.owner.encode().hex()
        body = f"{name}.{int(self._clock()) + COOKIE_DAYS * 86400}"
        return f"{body}.{self._signature(visitor.owner, body)}"

    def by_cookie(self, value: str) -> Visitor | None:
        """Whose cookie it is; None = nobody's, too old, or from before the password or token changed."""
        body, _, signature = value.rpartition(".")
        name, _, until = body.partition(".")
        if len(value) > MAX_CREDENTIAL or not until.isdecimal() or int(until) < self._clock():
            return None
        try:
            owner = bytes.fromhex(name).decode()
        except ValueError:
            return None
        if not hmac.compare_digest(signature.encode(), self._signature(owner, body).encode()):
            return None
        if owner == OWNER:
            return Visitor()
        user = self.users().get(owner)
        if user is None and owner not in self._given:
            return None
        return Visitor(owner=owner, role=user.role if user and owner not in self._given else "user")

    def _signature(self, owner: str, body: str) -> str:
        """Of a cookie, made from the secret and the owner's password or token: a new one ends old cookies."""
        if not self._read(self._folder / "secret"):
            _write_private(self._folder / "secret", secrets.token_hex(32))
        user = self.users().get(owner)
        proof = self._given.get(owner) or (asdict(user) if user else self._read(self._token_file).strip())
        key = f"{self._read(self._folder / 'secret')}\n{proof}".encode()
        return hmac.new(key, body.encode(), "sha256").hexdigest()

    def _digest(self, name: str, password: str) -> bytes:
        """Of a password beside what it was compared with; its key is this process's alone."""
        user = self.users().get(name)
        stored = self._given.get(name) or (user.password if user else "")
        return hmac.digest(self._key, f"{stored}\n{name}\n{password}".encode(errors="replace"), "sha256")

    def _read(self, path: Path) -> str:
        """A small file's text, "" if there is none; read again only when it has changed."""
        try:
            stamp = path.stat().st_mtime_ns
        except FileNotFoundError:
            return ""
        seen = self._seen.get(path)
        if seen is None or seen[0] != stamp:
            seen = stamp, path.read_text("utf-8")
            self._seen[path] = seen
        return seen[1]


def read_users(folder: Path, text: str | None = None) -> dict[str, User]:
    """The users of a data folder, by name.

    Args:
        folder: the data folder.
        text: of its file, where it is known already.

    Raises:
        RequestError: the file is damaged.
    """
    path = folder / "users.json"
    if text is None:
        text = path.read_text("utf-8") if path.is_file() else ""
    if not text:
        return {}
    try:
        return {name: User(name=name, **fields) for name, fields in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise RequestError(f"{path} is damaged: {error}; repair or remove it") from error


def change_user(folder: Path, name: str, role: Role | None, password: str | None) -> User:
    """Make a user, or change one.

    Args:
        folder: the data folder.
        name: letters, digits and . _ @ -.
        role: None = as it is; "user" for a new one.
        password: None = as it is.

    Raises:
        RequestError: a name of another form, or a password of less than 8 characters.
        OutputError: the file cannot be written.
    """
    if not _NAME.fullmatch(name) or name == OWNER:
        raise RequestError(f"{name[:40]!r} is no name of a user; use letters, digits and . _ @ -")
    if password is not None and not 8 <= len(password) <= 512:
        raise RequestError("a password has 8 to 512 characters")
    users = read_users(folder)
    user = users.get(name, User(name=name))
    user = replace(user, role=role or user.role)
    if password is not None:
        user = replace(user, password=hash_password(password))
    _write_users(folder, {**users, name: user})
    return user


def new_token(folder: Path, name: str) -> str:
    """Give a user a token, in place of an earlier one. Raises RequestError: there is no such user."""
    users = read_users(folder)
    if name not in users:
        raise RequestError(f"no user {name[:40]!r}; there are {', '.join(users) or 'none'}")
    token = secrets.token_urlsafe(32)
    _write_users(folder, {**users, name: replace(users[name], token=_sha256(token))})
    return token


def remove_user(folder: Path, name: str) -> None:
    """Remove a user; its jobs stay. Raises RequestError: there is no such user."""
    users = read_users(folder)
    if users.pop(name, None) is None:
        raise RequestError(f"no user {name[:40]!r}; there are {', '.join(users) or 'none'}")
    _write_users(folder, users)


def hash_password(password: str) -> str:
    """A password as it is stored: scrypt with a salt of its own."""
    salt = secrets.token_bytes(16)
    n, r, p = _WORK
    parts = ("scrypt", n, r, p, _b64(salt), _b64(_scrypt(password, salt, n, r, p)))
    return "$".join(str(part) for part in parts)


def is_password(password: str, stored: str) -> bool:
    """Whether a password is the one that `hash_password` stored."""
    _, n, r, p, salt, wanted = stored.split("$")
    found = _scrypt(password, base64.b64decode(salt), int(n), int(r), int(p))
    return hmac.compare_digest(found, base64.b64decode(wanted))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    data = password.encode(errors="replace")
    return hashlib.scrypt(data, salt=salt, n=n, r=r, p=p, maxmem=64 * 2**20, dklen=32)


def _write_users(folder: Path, users: Mapping[str, User]) -> None:
    rows = {name: {k: v for k, v in asdict(user).items() if k != "name"} for name, user in users.items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "users.json"
    before = os.umask(0o077)
    try:
        with atomic_file(path) as file:
            file.write(json.dumps(rows, indent=1).encode("ascii"))
    finally:
        os.umask(before)


def _write_private(path: Path, text: str) -> bool:
    """Write a file that its user alone may read; False = there is one, which stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(text + "\n")
        return True
    return False


def _given(text: str | None) -> dict[str, str]:
    """Users of a text like `me:secret,you:other`. Raises RequestError, without what it says."""
    users = {}
    for part in (text or "").split(","):
        name, colon, password = part.strip().partition(":")
        if not name and not colon:
            continue
        if not _NAME.fullmatch(name) or name == OWNER or not password:
            raise RequestError("api_auth is not of the form user:password,user2:password2")
        users[name] = password
    return users


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


_DUMMY = f"scrypt${_WORK[0]}${_WORK[1]}${_WORK[2]}${_b64(bytes(16))}${_b64(bytes(32))}"  # nobody's password
