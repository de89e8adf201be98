"""The files of the models: there, readable, whole as far as their headers tell, with a chat template."""

from __future__ import annotations

from pathlib import Path

from tenantctl.health.scene import Scene
from tenantctl.health.verdicts import Finding, Level, fail, from_message, ok, warn
from tenantctl.model_words import checked_header, in_short
from tenantd.errors import ModelError

NAME = "model"
EMBEDDINGS = "embeddings model"
PROJECTOR = "projector"


def check(scene: Scene) -> list[Finding]:
    """The model that is configured, its projector, and the one for embeddings."""
    config = scene.config
    if config is None:
        return [] if scene.status is None else [_served(scene)]
    if config.engine.backend == "fake":
        findings = [warn(NAME, "the engine makes up text, for tests", 'set engine.backend to "llama"')]
    elif config.model.path is None:
        findings = [_served(scene) if scene.status else _none(scene)]
    else:
        findings = _of_file(config.model.path)
    if config.model.projector is not None and config.engine.backend != "fake":
        findings.append(_of_projector(config.model.projector))
    if (own := config.embeddings.model) is not None:
        findings.append(_of_embeddings(own))
    return findings


def _served(scene: Scene) -> Finding:
    assert scene.status is not None
    engine = scene.status["engine"] or {"model": "a model that is still loading"}
    return ok(NAME, f"{engine['model']}, named when the daemon was started")


def _none(scene: Scene) -> Finding:
    return fail(
        NAME, "no model is configured", f"set model.path in {scene.config_path}, or tenantctl serve --model FILE"
    )


def _of_file(path: Path) -> list[Finding]:
    try:
        header = checked_header(path)
    except ModelError as e:
        return [from_message(NAME, Level.FAIL, e.message, "tenantctl model list shows the models on this machine")]
    findings = [ok(NAME, f"{path.name}: {in_short(header)}")]
    if not header.has_chat_template:
        what = 'no chat template: chats are sent as plain "User: …" text'
        findings.append(warn(NAME, what, "use an instruction-tuned model for chats"))
    return findings


def _of_projector(path: Path) -> Finding:
    from tenantd.banner import size
    from tenantd.llamacpp.projectors import read_projector

    try:
        found = read_projector(path)
    except ModelError as e:
        return from_message(PROJECTOR, Level.FAIL, e.message, "correct model.projector, or unset it")
    return ok(
        PROJECTOR, f"{path.name}: {found.kind}, {size(found.file_bytes)}, sees {found.side} × {found.side} pixels"
    )


def _of_embeddings(path: Path) -> Finding:
    from tenantd.llamacpp.gguf import NotGguf
    from tenantd.llamacpp.header import read_header

    try:
        return ok(EMBEDDINGS, f"{path.name}: {in_short(read_header(path))}")
    except NotGguf as e:
        return from_message(EMBEDDINGS, Level.FAIL, str(e), "correct embeddings.model")
