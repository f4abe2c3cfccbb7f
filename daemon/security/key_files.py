"""CURVE keys as files and as text. Needs only pyzmq: camera programs import it.

A file is a ZeroMQ certificate, which other ZeroMQ programs read too: `NAME.key` holds the public
half, `NAME.key_secret` both. What can go wrong is a ValueError, and never shows a secret key.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import zmq

KEY_CHARS = 40
MAX_FILE_BYTES = 64 << 10

_Z85 = r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]"  # ZeroMQ RFC 32
_KEY = re.compile(rf"{_Z85}{{{KEY_CHARS}}}")
_FIELD = re.compile(rf"^\s*(public|secret)-key\s*=\s*[\"']({_Z85}{{{KEY_CHARS}}})[\"']\s*$", re.M)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Both halves, as 40 characters each."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a camera program or a gate needs to reach a daemon that wants keys."""

    own: KeyPair
    server_key: str

    def secure(self, socket: "zmq.Socket[bytes]") -> None:
        """Make a socket speak CURVE; before bind or connect."""
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, self.server_key)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, self.own.public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, self.own.secret)


def new_key_pair() -> KeyPair:
    """A pair that nobody else has."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def write_key_pair(pair: KeyPair, name: str, folder: Path) -> tuple[Path, Path]:
    """Write the public and the secret file; the second for its owner alone from the beginning.

    Raises:
        FileExistsError: One is there already; a key in use is never overwritten.
        OSError: The folder cannot be written.
    """
    public_path, secret_path = folder / f"{name}.key", folder / f"{name}.key_secret"
    folder.mkdir(parents=True, exist_ok=True)
    halves = f'curve\n    public-key = "{pair.public}"\n'
    if public_path.exists():
        raise FileExistsError(f"{public_path} exists")
    _write_new(
        secret_path,
        0o600,
        f"# SECRET key of {name}: leave it on the machine that uses it, readable by its program\n"
        f'{halves}    secret-key = "{pair.secret}"\n',
    )
    _write_new(public_path, 0o644, f"# public key of {name}\n{halves}")
    return public_path, secret_path


def read_client_keys(secret_key: str | Path, server_key: str | Path) -> ClientKeys:
    """A program's own secret file, and the daemon's public key or its file.

    Raises:
        ValueError: A key cannot be read or is none.
    """
    return ClientKeys(read_secret_file(Path(secret_key)), read_public_key(str(server_key)))


def optional_client_keys(
    secret_key: Path | None, server_key: str | Path | None
) -> ClientKeys | None:
    """Both or none.

    Raises:
        ValueError: Only one is given, or as of `read_client_keys`.
    """
    if secret_key is not None and server_key is not None:
        return read_client_keys(secret_key, server_key)
    if secret_key is None and server_key is None:
        return None
    raise ValueError("a key of its own and the daemon's public key are needed together")


def read_secret_file(path: Path) -> KeyPair:
    """Read a `.key_secret` file.

    Raises:
        ValueError: It cannot be read, holds no secret key, or everyone may read it.
    """
    text = _read(path)
    if path.stat().st_mode & 0o007:
        raise ValueError(f"{path} may be read by every user: chmod o= {path}")
    return parse_secret(text, str(path))


def parse_secret(text: str, where: str) -> KeyPair:
    """The pair in the text of a `.key_secret` file, or of a secret key alone.

    Raises:
        ValueError: There is no secret key in it; `where` stands in the message, the text not.
    """
    fields: Mapping[str, str] = dict(_FIELD.findall(text))
    secret = fields.get("secret", text.strip())
    if not _KEY.fullmatch(secret):
        raise ValueError(f"{where} holds no secret key: make one with `zsad keys new`")
    return KeyPair(zmq.curve_public(secret.encode()).decode(), secret)


def read_public_key(key_or_file: str) -> str:
    """A public key given as itself, or as the file that holds it.

    Raises:
        ValueError: It is neither.
    """
    if is_key(key_or_file) and not Path(key_or_file).exists():
        return key_or_file
    fields: Mapping[str, str] = dict(_FIELD.findall(_read(Path(key_or_file))))
    if "public" not in fields:
        raise ValueError(f"{key_or_file} holds no public key: name the NAME.key file")
    return fields["public"]


def is_key(text: str) -> bool:
    """Whether the text has the form of a key."""
    return _KEY.fullmatch(text) is not None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode("utf-8", errors="replace")
    except OSError as error:
        shown = "a key file" if is_key(str(path)) else str(path)  # a key taken for a path
        raise ValueError(f"{shown} cannot be read: {error.strerror}") from None


def _write_new(path: Path, mode: int, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
