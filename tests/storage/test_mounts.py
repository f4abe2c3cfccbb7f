from pathlib import Path

import pytest

from daemon.storage.mounts import network_file_system

MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
server:/export /mnt/share nfs4 rw,vers=4.2 0 0
//nas/plant /mnt/my\\040nas cifs rw 0 0
/dev/sdb1 /mnt/share/local xfs rw 0 0
user@host: /home/u/remote fuse.sshfs rw 0 0
overlay /srv overlay rw 0 0
server:/late /srv nfs rw 0 0
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/zsad/zsad.db", None),
        ("/mnt/share/zsad.db", "nfs4"),
        ("/mnt/share2/zsad.db", None),
        ("/mnt/my nas/deep/zsad.db", "cifs"),
        ("/mnt/share/local/zsad.db", None),
        ("/home/u/remote/zsad.db", "fuse.sshfs"),
        ("/srv/zsad.db", "nfs"),
    ],
)
def test_the_deepest_and_latest_mount_decides(path: str, kind: str | None) -> None:
    assert network_file_system(Path(path), MOUNTS) == kind
