"""Tells whether a path lies on a network file system, from the text of /proc/mounts."""

import re
from pathlib import Path, PurePosixPath

_NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"),
        *("beegfs", "gpfs", "ocfs2", "gfs2", "ncpfs", "fuse.sshfs", "fuse.glusterfs"),
        *("fuse.ceph-fuse", "fuse.s3fs", "fuse.rclone", "fuse.davfs", "davfs"),
    }
)


def network_file_system(path: Path, mounts: str) -> str | None:
    """The type of the network file system that `path` lies on; None on a local disk.

    Args:
        path: Absolute and resolved.
        mounts: Lines `device mount_point type options 0 0`; a space in a name is octal 040.
    """
    best: tuple[int, str] = (0, "")
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        mount_point = PurePosixPath(_unescape(fields[1]))
        # the deepest mount point counts, and of two on the same folder the later one
        if path.is_relative_to(mount_point) and len(mount_point.parts) >= best[0]:
            best = (len(mount_point.parts), fields[2])
    return best[1] if best[1] in _NETWORK else None


def _unescape(name: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), name)
