"""What a service on this machine needs: which program, files, devices and ports."""

from __future__ import annotations

import glob
import grp
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import tenantctl
import tenantd
from tenantctl.service.unit_text import CLIENTS, Plan
from tenantd import paths
from tenantd.config import Config, load_config
from tenantd.errors import ConfigError
from tenantd.listen_settings import parse_address

HOMES: Final = (Path("/home"), Path("/root"), Path("/run/user"))
"""Folders that ProtectHome= hides."""
FIRST_FREE_PORT: Final = 1024
DEVICE_FILES: Final = {
    "/dev/nvidiactl": "char-nvidia*",
    "/dev/kfd": "/dev/kfd",
    "/dev/dri/renderD*": "char-drm",
    "/dev/dxg": "/dev/dxg",
}
"""Files of GPUs, and how DeviceAllow= names what is needed of them."""
DEVICE_GROUPS: Final = ("render", "video")


def make_plan(*, is_machines: bool, config: Path | None, with_gpu: bool | None) -> Plan:
    """`with_gpu` is None to let the service use the GPUs that are there. Raises ConfigError."""
    path = (config or (paths.SYSTEM_CONFIG if is_machines else paths.default_config_path())).absolute()
    if is_machines and config is None and not path.exists() and (own := paths.default_config_path()).exists():
        raise ConfigError(
            f"{path}: no such file; create it with: tenantctl init --config {path}. For a service of your own, which "
            f"uses {own}: tenantctl service install --user"
        )
    found = load_config(path)
    if is_machines:
        _check_places(found, path)
    _check_models(found, path)
    devices = _devices(with_gpu)
    return Plan(
        is_machines=is_machines,
        command=_command(),
        config=path,
        socket=paths.SYSTEM_SOCKET if is_machines else found.socket.absolute(),
        state_dir=paths.SYSTEM_STATE_DIR if is_machines else found.state_dir.absolute(),
        socket_mode=found.server.socket_mode.zfill(4),
        socket_group=found.server.socket_group or (CLIENTS if is_machines else ""),
        admin_group=found.server.admin_group,
        low_ports=tuple(_low_ports(found)) if is_machines else (),
        waits_for_network=is_machines and bool(found.server.listen),
        devices=devices,
        groups=tuple(filter(_is_group, DEVICE_GROUPS)) if devices else (),
        in_homes=tuple(_in_homes(found, path)),
        written=tuple(_written(found)),
    )


def _command() -> tuple[str, ...]:
    """How to start the daemon of this installation."""
    program = Path(sys.executable).parent / "tenantd"
    return (str(program),) if program.exists() else (sys.executable, "-m", "tenantd")


def _check_places(config: Config, path: Path) -> None:
    """Raises ConfigError if the file names other places than those of the machine's service."""
    for name, given, place in (
        ("server.socket", config.server.socket, paths.SYSTEM_SOCKET),
        ("ledger.state_dir", config.ledger.state_dir, paths.SYSTEM_STATE_DIR),
    ):
        if given not in (None, place):
            raise ConfigError(f"{path}: leave out {name} ({given}): the service of the machine uses {place}")


def _check_models(config: Config, path: Path) -> None:
    if config.engine.backend == "llama" and config.model.path is None:
        raise ConfigError(f"which model? set model.path in {path}")
    models = {
        "model.path": config.model.path,
        "model.projector": config.model.projector,
        "embeddings.model": config.embeddings.model,
    }
    for name, model in models.items():
        if model is not None and not model.is_absolute():
            raise ConfigError(f"{path}: {name} must be an absolute path (got {model}): a service has no current folder")
        if model is not None and not model.is_file():
            raise ConfigError(f"{path}: {name}: no such file: {model}")


def _low_ports(config: Config) -> Iterator[str]:
    for one in config.server.listen:
        if 0 < parse_address(one.address).port < FIRST_FREE_PORT:
            yield one.address


def _devices(with_gpu: bool | None) -> tuple[str, ...]:
    """Those that are there; all kinds if there are none yet, but are to be used."""
    if with_gpu is False:
        return ()
    found = tuple(name for pattern, name in DEVICE_FILES.items() if glob.glob(pattern))
    return found or (tuple(DEVICE_FILES.values()) if with_gpu else ())


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _in_homes(config: Config, config_path: Path) -> Iterator[Path]:
    """What the daemon reads in folders of users: its program, the configuration, models, certificates."""
    packages = [Path(package.__file__ or "").parent for package in (tenantd, tenantctl)]
    program = [Path(prefix) for prefix in (sys.prefix, sys.base_prefix, sys.executable)]
    read = [*program, Path(sys.executable).resolve(), *packages, config_path]
    models = (config.model.path, config.model.projector, config.embeddings.model)
    read += [path for path in models if path is not None]
    read += [path for one in config.server.listen for path in (one.cert, one.key) if path is not None]
    found = {path for path in read if any(path.is_relative_to(home) for home in HOMES)}
    for path in sorted(found):
        if not any(path.is_relative_to(other) for other in found - {path}):
            yield path


def _written(config: Config) -> Iterator[Path]:
    if config.security.anchor.startswith("/"):
        yield Path(config.security.anchor).parent
