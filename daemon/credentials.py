"""Where secrets come from: the environment, or a systemd credential. Never from a setting itself.

A value `${NAME}` in the configuration stands for the secret; the file can then be read by anyone.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import SecretStr

from daemon.errors import ConfigError

CREDENTIALS_FOLDER = "CREDENTIALS_DIRECTORY"
MAX_SECRET_BYTES = 64 << 10

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Secrets(Mapping[str, str]):
    """Secrets by name: the credential of that name (systemd's LoadCredential=), else the variable.

    A credential wins, for its file is readable by the service alone. One trailing newline is not
    part of it.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        folder = environ.get(CREDENTIALS_FOLDER)
        self._folder = None if folder is None else Path(folder)

    def __getitem__(self, name: str) -> str:
        """The secret; KeyError where there is none."""
        if self._folder is not None:
            path = self._folder / name
            if path.is_file():
                with path.open("rb") as file:
                    return file.read(MAX_SECRET_BYTES).decode().removesuffix("\n")
        return self._environ[name]

    def __iter__(self) -> Iterator[str]:
        credentials = () if self._folder is None else (path.name for path in self._folder.iterdir())
        yield from {*self._environ, *credentials}

    def __len__(self) -> int:
        return sum(1 for _ in self)


def reveal(value: SecretStr, secrets: Mapping[str, str], key: str) -> str:
    """The secret that a setting stands for; a setting without `${NAME}` is the secret itself.

    Args:
        key: The setting, for the message.

    Raises:
        ConfigError: there is no secret of that name.
    """
    text = value.get_secret_value()
    match = _VARIABLE.fullmatch(text)
    if match is None:
        return text
    try:
        return secrets[match[1]]
    except KeyError:
        raise ConfigError(
            f"{key}: {match[0]} is neither an environment variable nor a systemd credential "
            f"(LoadCredential={match[1]}:FILE)"
        ) from None
