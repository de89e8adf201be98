"""The daemon's entry: arguments, configuration, logging, exit codes. `tenantd.lifecycle` has the rest of its life."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import uvloop

from tenantd import __version__, signals
from tenantd.config import Config, default_config_path, load_config, with_environment
from tenantd.errors import ConfigError, TenantdError
from tenantd.lifecycle import Daemon
from tenantd.logs import StderrHandler, keep_standard_descriptors
from tenantd.process_limits import allow_many_connections, give_back_large_blocks, write_no_core
from tenantd.serving.stopping import StopClock

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
    """Serve until told to stop. Returns the exit code: 0, or the error's (78 for what a restart would not help).

    The last a program does: once it has returned, the process ends, if need be without waiting for a thread.
    """
    keep_standard_descriptors()
    load = _loader(config_path, model)
    errors = StderrHandler()
    clock = StopClock()
    try:
        config = load()
        set_up_logging(config, errors)
        environment = dict(os.environ)
        hide_gpus()
        write_no_core()
        give_back_large_blocks()
        allow_many_connections()
        daemon = Daemon(config, load, environment, clock)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(_exit_code(daemon, errors))
            clock.closed(code)  # the runner waits for threads, and may wait for long
    except ConfigError as e:
        errors.say(f"tenantd: {e.message}")
        code = e.exit_code
    signals.ignore()
    errors.close()
    return code


async def _exit_code(daemon: Daemon, errors: StderrHandler) -> int:
    try:
        await daemon.run()
    except TenantdError as e:
        errors.say(f"tenantd: {e.message}")
        return e.exit_code
    return 0


def _loader(config_path: Path | None, model: Path | None) -> Callable[[], Config]:
    """How to read the configuration, the first time and at each reload. It raises ConfigError."""

    def load() -> Config:
        path = config_path or default_config_path()
        if model is not None and config_path is None and not path.exists():
            config = with_environment(Config())  # a model on the command line is all that is needed
        else:
            config = load_config(path)
        if model is not None:
            config = config.model_copy(update={"model": config.model.model_copy(update={"path": model})})
        if config.engine.backend == "llama" and config.model.path is None:
            raise ConfigError(f"which model? set model.path in {path}, or pass --model")
        return config

    return load


def set_up_logging(config: Config, handler: StderrHandler) -> None:
    """Time, level, message on standard error."""
    logging.basicConfig(level=config.log.level.upper(), handlers=[handler], force=True)
    # It warns of each request that is not HTTP: whoever sends those could fill the log. They are counted instead.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def hide_gpus() -> None:
    """Keep this process off the GPU, before llama.cpp is imported: it only tokenises, the memory is the engine's."""
    for name in GPU_VARIABLES:
        os.environ[name] = ""
