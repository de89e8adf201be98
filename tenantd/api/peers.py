"""The process at the other end of the Unix socket, as the kernel knows it, and whether it administers."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from typing import Any, Final, NamedTuple

from tenantd.errors import ConfigError

NOBODY: Final = -1
"""The user at the other end of a Unix socket that does not tell."""
SO_PEERGROUPS: Final = 59
"""Of asm-generic/socket.h; Python has no name for it."""
MOST_GROUPS: Final = 256
"""Python reads no longer options. Of a process that is in more groups, none are known."""
_UCRED: Final = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid
_GID: Final = struct.Struct("I")


class Peer(NamedTuple):
    """The process at the other end, according to the kernel (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: Any) -> Peer | None:
    """The peer of a Unix socket; None for other sockets."""
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid, uid, gid)


def groups_of(sock: Any) -> list[int]:
    """The supplementary groups that the peer of a Unix socket had when it connected; none if there are more than can be
    read, or the kernel does not tell."""
    try:
        found: bytes = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MOST_GROUPS * _GID.size)
    except OSError:
        return []
    return [gid for (gid,) in _GID.iter_unpack(found)]


def is_member(uid: int, group: str) -> bool:
    """Whether a user is in a group, as the machine knows its users now. That may ask the network: not for the loop."""
    try:
        user, gid = pwd.getpwuid(uid), grp.getgrnam(group).gr_gid
        return gid in os.getgrouplist(user.pw_name, user.pw_gid)
    except (KeyError, OSError):
        return False


class Administrators:
    """Who administers without a key: root, the daemon's own user, and the members of a group, if one is configured."""

    def __init__(self, group: str) -> None:
        """`group` is a name, or "" for none. Raises ConfigError if there is no such group."""
        try:
            self._gid = grp.getgrnam(group).gr_gid if group else None
        except KeyError:
            raise ConfigError(
                f"server.admin_group: there is no group {group!r}; create it with: groupadd {group}"
            ) from None

    def include(self, peer: Peer, sock: Any) -> bool:
        """Whether the peer of a socket administers."""
        if peer.uid in (0, os.geteuid()):
            return True
        return self._gid is not None and self._gid in (peer.gid, *groups_of(sock))
