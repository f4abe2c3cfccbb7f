"""Refuses to start where another project's package has overwritten this `daemon` package.

`pip install python-daemon` puts its own `daemon/__init__.py` over ours without a word.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import packages_distributions

import daemon
from daemon.errors import ConfigError

OUR_DISTRIBUTION = "zsad"
EX_CONFIG = 78
"""Exit code of sysexits.h that systemd/zsad.service does not restart on."""


class ForeignPackageError(ConfigError):
    """Another distribution owns files of `daemon`. Exit code EX_CONFIG, not 2."""

    exit_code = EX_CONFIG


def refuse_foreign_daemon_package(
    owners: Callable[[], Mapping[str, list[str]]] = packages_distributions,
) -> None:
    """Check that nobody but zsad has installed a package called `daemon` here.

    Args:
        owners: Maps import names to distributions; reads the metadata of everything installed.

    Raises:
        ForeignPackageError: with what to type to repair it.
    """
    foreign = sorted({o for o in owners().get("daemon", ()) if o.lower() != OUR_DISTRIBUTION})
    if foreign:
        names = " ".join(foreign)
        raise ForeignPackageError(
            f"the Python package 'daemon' is also installed by {names}, which overwrites files of "
            f"zsad: run `pip uninstall {names}`, then "
            f"`pip install --force-reinstall --no-deps {OUR_DISTRIBUTION}` (from where zsad was "
            f"installed), and give zsad a virtual environment of its own"
        )
    if daemon.__file__ is None:
        raise ForeignPackageError(
            f"daemon/__init__.py is missing in {list(daemon.__path__)}, as after uninstalling "
            f"python-daemon: run `pip install --force-reinstall --no-deps {OUR_DISTRIBUTION}`"
        )
