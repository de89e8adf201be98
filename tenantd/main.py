"""The daemon's entry point: arguments, configuration, logging, exit codes. `tenantd.lifecycle` does the rest."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import uvloop

from tenantd import __version__, signals
from tenantd.banner import size
from tenantd.config import Config, default_config_path, load_config, with_environment
from tenantd.errors import ConfigError, TenantdError
from tenantd.host_memory import host_memory
from tenantd.lifecycle import Daemon
from tenantd.logs import StderrHandler, keep_standard_descriptors
from tenantd.printable import as_message, wrapped
from tenantd.process_limits import allow_many_connections, give_back_large_blocks, hide_memory
from tenantd.serving.stopping import StopClock
from tenantd.systemd import FOR_ITS_SERVICE, passed_sockets

log = logging.getLogger(__name__)

GPU_VARIABLES: Final = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")


def main() -> NoReturn:
    """`tenantd`."""
    parser = argparse.ArgumentParser(prog="tenantd", description="Serve one GGUF model to many tenants.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration file")
    parser.add_argument("--model", type=Path, metavar="GGUF", help="serve this model instead of the configured one")
    parser.add_argument("--version", action="version", version=f"tenantd {__version__}")
    arguments = parser.parse_args()
    sys.exit(run(arguments.config, arguments.model))


def run(config_path: Path | None, model: Path | None = None) -> int:
    """Serve until asked to stop. Returns the exit code: 0, 74 if settlements are only in the log, or that of the
    error (78 if a restart would not help).

    Call it last: once it has returned, the process exits, if necessary without waiting for threads.
    """
    keep_standard_descriptors()
    hide_memory()
    load = _loader(config_path, model)
    errors = StderrHandler()
    clock = StopClock()
    try:
        config = load()
        set_up_logging(config, errors)
        passed = passed_sockets(os.environ)
        environment = {name: value for name, value in os.environ.items() if name not in FOR_ITS_SERVICE}
        hide_gpus()
        give_back_large_blocks()
        allow_many_connections()
        daemon = Daemon(config, load, environment, clock, passed)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(_exit_code(daemon, errors, config_path or default_config_path()))
            clock.closed(code)  # the runner waits for threads, possibly for long
    except ConfigError as e:
        _complain(errors, e.message)
        code = e.exit_code
    signals.ignore()
    errors.close()
    return code


async def _exit_code(daemon: Daemon, errors: StderrHandler, config_path: Path) -> int:
    try:
        return await daemon.run()
    except TenantdError as e:
        is_of_file = e.message.startswith("server.listen")  # which no option or variable sets
        _complain(errors, f"{config_path}: {e.message}" if is_of_file else e.message)
        return e.exit_code


def _complain(errors: StderrHandler, text: str) -> None:
    """On a terminal, in lines that end between words."""
    lines = as_message(f"tenantd: {text}").split("\n")
    with contextlib.suppress(OSError):  # a file or a pipe
        columns = os.get_terminal_size(2).columns
        lines = [wrapped(line, columns) for line in lines] if columns else lines
    errors.say("\n".join(lines))


def _loader(config_path: Path | None, model: Path | None) -> Callable[[], Config]:
    """A function that reads the configuration, at start and at each reload. It raises ConfigError."""

    def load() -> Config:
        path = config_path or default_config_path()
        if model is not None and config_path is None and not path.exists():
            config = with_environment(Config())  # a model on the command line is enough
        else:
            config = load_config(path)
        if model is not None:
            config = config.model_copy(update={"model": config.model.model_copy(update={"path": model})})
        if config.engine.backend == "llama" and config.model.path is None:
            raise ConfigError(f"which model? set model.path in {path}, or pass --model")
        check_cache_fits(config)
        return config

    return load


def check_cache_fits(config: Config) -> None:
    """Raises ConfigError if all tenants' cached prompts may take more memory than there is; warns if only some
    tenants' may. What else takes memory is added up once the model is known."""
    wanted_bytes, is_on = config.cache.host_bytes, config.cache.default == "on"
    _, total_bytes = host_memory()
    there_is = f"cache.host_bytes is {size(wanted_bytes)}, but the machine has only {size(total_bytes)} of memory"
    if wanted_bytes > total_bytes and is_on:
        raise ConfigError(f"{there_is}; lower it")
    if wanted_bytes > total_bytes:
        log.warning("%s; lower it before you turn on the cache of a tenant", there_is)


def set_up_logging(config: Config, handler: StderrHandler) -> None:
    """Log time, level and message to standard error."""
    logging.basicConfig(level=config.log.level.upper(), handlers=[handler], force=True)
    # uvicorn warns about each malformed request, so anybody could fill the log. They are counted instead.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    for name in ("httpx", "httpcore"):  # they log addresses, and that of alerts may hold a token
        logging.getLogger(name).setLevel(logging.WARNING)


def hide_gpus() -> None:
    """Hide GPUs from this process, before llama.cpp is imported: it only tokenises, and their memory is for the
    engine."""
    for name in GPU_VARIABLES:
        os.environ[name] = ""
