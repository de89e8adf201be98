"""The configuration: one TOML file, fully validated before anything starts, frozen afterwards.

An unknown key or a bad value raises ConfigError with the file, the key and the reason. Environment variables override
only paths: TENANTD_CONFIG (this file), TENANTD_SOCKET, TENANTD_STATE_DIR.
"""

from __future__ import annotations

import bisect
import logging
import os
import tomllib
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    TypeAdapter,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass

from tenantd.engine_settings import CacheConfig as CacheConfig
from tenantd.engine_settings import EmbeddingsConfig as EmbeddingsConfig
from tenantd.engine_settings import EngineConfig as EngineConfig
from tenantd.engine_settings import ImagesConfig as ImagesConfig
from tenantd.engine_settings import ModelConfig as ModelConfig
from tenantd.engine_settings import SamplingConfig as SamplingConfig
from tenantd.errors import ConfigError
from tenantd.limits import LIMITS, MOST, Limit, Limits
from tenantd.listen_settings import ListenConfig as ListenConfig
from tenantd.mistakes import in_words, meant
from tenantd.paths import default_config_path as default_config_path
from tenantd.paths import default_socket as default_socket
from tenantd.paths import default_state_dir as default_state_dir
from tenantd.response_settings import ResponsesConfig as ResponsesConfig
from tenantd.server_settings import ServerConfig as ServerConfig
from tenantd.setting_kinds import File, Line, Lines, Percent, Price, Section
from tenantd.wire.settings import Settings

log = logging.getLogger(__name__)

NANOS = 1_000_000_000
GONE_KEYS: Final = {
    ("engine", "grammar_timeout_s"): "engine.grammar_budget_ms bounds what a request's grammar may take",
}
"""Keys that the previous release had, and what replaces them."""
SECRET_KEYS: Final = {("alerts", "url")}
"""Settings whose value is never shown."""
_WEB_ADDRESS: Final = TypeAdapter(HttpUrl)

MOST_SHOWN_CHARACTERS: Final = 200
"""Of a value in an error message."""


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SchedulerConfig(Settings):
    """How to share the engine between tenants."""


def _default(limit: Limit) -> Any:
    """The setting of a limit's default."""
    kind: Any = Annotated[int | None, Field(ge=0, le=MOST)]
    if limit.choices is not None:
        kind = limit.choices
    examples = None if limit.example is None else [limit.example]
    return kind, Field(limit.default, description=limit.help, examples=examples, strict=limit.choices is None)


_LimitDefaults: Any = create_model(
    "_LimitDefaults",
    __base__=Section,
    **{name: _default(limit) for name, limit in LIMITS.items() if limit.no_default is None},
)


class LimitsConfig(_LimitDefaults):
    """Default limits for tenants without their own (tenantctl tenant set). Unset means unlimited, 0 blocks."""

    default_max_tokens: int = Field(1024, ge=1, le=1 << 24, description="Default max_tokens.")

    @model_validator(mode="before")
    @classmethod
    def _only_what_everybody_can_have(cls, data: Any) -> Any:
        for name, limit in LIMITS.items():
            if limit.no_default is not None and isinstance(data, dict) and name in data:
                raise ValueError(f"{name} {limit.no_default}")
        return data

    def as_limits(self) -> Limits:
        """The defaults of all tenants."""
        return Limits(**self.model_dump(exclude={"default_max_tokens"}))


class BillingConfig(Section):
    """Billing. Prices are read only when the ledger is new; afterwards, use `tenantctl price set`."""

    currency: Line = Field("USD", min_length=1, max_length=8, description="Currency shown on invoices.")
    input_price_per_million: Price = Field(Decimal("0.10"), description="Initial price of a million prompt tokens.")
    output_price_per_million: Price = Field(Decimal("0.40"), description="Initial price of a million generated tokens.")
    engine_hour_price: Price = Field(Decimal("0"), description="Initial price of an hour of engine time.")
    timezone: str = Field("UTC", description="Time zone of billing months, for example Europe/Berlin.")
    issuer: Line = Field("", max_length=200, description="Who issues invoices: your name, as printed on them.")
    issuer_address: Lines = Field("", max_length=500, description="Your address, in one or more lines.")
    issuer_tax_id: Line = Field("", max_length=100, description="Your tax number.")
    terms: Lines = Field("", max_length=1000, description="Terms of payment, printed below the total.")
    tax_name: Line = Field("Tax", max_length=40, description="Name of the tax, for example VAT.")
    tax_percent: Percent = Field(Decimal("0"), description="Tax added to the total, in percent. 0: no tax line.")
    invoice_prefix: str = Field(
        "INV-",
        pattern=r"^[A-Za-z0-9_.-]{0,16}$",
        description="Put before invoice numbers, as in INV-000007. May be empty.",
    )

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except Exception as e:  # zoneinfo raises many kinds for a bad name
            raise ValueError(f"unknown time zone: {value!r}") from e
        return value


class LedgerConfig(Section):
    """Where usage is recorded."""

    state_dir: File | None = Field(
        default=None,
        description="Folder for the ledger. Default: $XDG_STATE_HOME/tenantd.",
        examples=["/var/lib/tenantd"],
    )
    settle_timeout_s: float = Field(
        30, ge=0, le=3600, description="Pause all requests when nothing can be written for this long."
    )
    copy_before_upgrade: bool = Field(
        True, description="Copy the ledger beside itself before a new version of tenantd upgrades it."
    )


class SecurityConfig(Section):
    """Isolation and the audit trail."""

    scrub: bool = Field(False, description="Overwrite the KV cells of released sequences (costs time).")
    audit: Literal["required", "off"] = Field(
        "required", description="Record who did what; if that cannot be written, admit no requests."
    )
    audit_keep_days: int = Field(
        400, ge=0, le=100_000, description="Remove audit entries older than this. 0: keep all."
    )
    anchor: Line = Field(
        "",
        description='Where to copy the head of the audit trail: a file on another disk, or "journal"; empty: nowhere.',
        examples=["/mnt/other-disk/tenantd.anchor"],
    )
    anchor_every_s: float = Field(3600, ge=1, le=86_400, description="How often to copy it.")
    anomalies: bool = Field(True, description="Watch for tenants that seem to be copying the model.")

    @property
    def is_audited(self) -> bool:
        """Whether there is an audit trail."""
        return self.audit == "required"

    @field_validator("anchor")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if value not in ("", "journal") and not value.startswith("/"):
            raise ValueError('must be an absolute path, "journal", or empty')
        return value


class AlertsConfig(Section):
    """Alerts: budgets that are nearly used up, anomalies, engine failures, broken isolation."""

    url: SecretStr = Field(
        SecretStr(""), description="Where to POST alerts as JSON, http or https; empty: nowhere. May hold a token."
    )
    timeout_s: float = Field(10, gt=0, le=300, description="Maximum time for one attempt; failures are retried.")

    @field_validator("url")
    @classmethod
    def _web_address(cls, value: SecretStr) -> SecretStr:
        try:
            if address := value.get_secret_value():
                _WEB_ADDRESS.validate_python(address)  # reads http:///x as http://x
                if not urlsplit(address).hostname:
                    raise ValueError("no host")
        except ValueError:
            raise ValueError("must be a URL with a host, such as https://example.org/hook, or empty") from None
        return value


class LogConfig(Section):
    """The log, written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level logged.")


class Config(Section):
    """The whole file."""

    server: ServerConfig = ServerConfig()
    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    cache: CacheConfig = CacheConfig()
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    images: ImagesConfig = ImagesConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    limits: LimitsConfig = LimitsConfig()
    sampling: SamplingConfig = SamplingConfig()
    responses: ResponsesConfig = ResponsesConfig()
    billing: BillingConfig = BillingConfig()
    ledger: LedgerConfig = LedgerConfig()
    security: SecurityConfig = SecurityConfig()
    alerts: AlertsConfig = AlertsConfig()
    log: LogConfig = LogConfig()

    @property
    def state_dir(self) -> Path:
        return self.ledger.state_dir or default_state_dir()

    @property
    def socket(self) -> Path:
        return self.server.socket or default_socket()

    @property
    def model_name(self) -> str:
        """The name that clients see in `model`."""
        if self.model.name:
            return self.model.name
        return self.model.path.name.removesuffix(".gguf") if self.model.path else "fake"

    @property
    def embeddings_name(self) -> str:
        """The name of the model that embeds."""
        own = self.embeddings
        return own.name or (own.model.name.removesuffix(".gguf") if own.model else self.model_name)


def load_config(path: Path) -> Config:
    """Read and check the file, then apply the environment. Raises ConfigError, whatever is in the file."""
    data = _read(path)
    try:
        return with_environment(parse_config(data, str(path)))
    except ConfigError:
        raise
    except Exception as e:  # a bug; but a reload must not end the daemon, and a start must not be tried again
        raise ConfigError(f"{path}: cannot use it: {e!r}") from e


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        return tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; create it with: tenantctl init --config {path}") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot read it: {e}") from e
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path}: not valid TOML: {e}") from e
    except (ValueError, RecursionError):  # more digits or a deeper nesting than Python's parser can take
        raise ConfigError(f"{path}: {_unreadable(text)}") from None


def _unreadable(text: str) -> str:
    """Which line of a file the parser cannot read, although it may be valid TOML."""
    lines = text.splitlines()

    def fails(count: int) -> bool:
        try:
            tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            return False  # it is cut off
        except (ValueError, RecursionError):
            return True
        return False

    number = bisect.bisect_left(range(len(lines)), True, key=fails)
    key = lines[number - 1].partition("=")[0].strip()[:MOST_SHOWN_CHARACTERS]
    return f"{key} (line {number}): a number has too many digits, or values are nested too deeply"


def parse_config(data: dict[str, Any], source: str) -> Config:
    """Validate a parsed file. `source` names it in errors. Raises ConfigError."""
    try:
        return Config.model_validate(_without_gone_keys(data, source))
    except ValidationError as e:
        raise ConfigError("\n".join(f"{source}: {_explain(error)}" for error in e.errors())) from None


def _without_gone_keys(data: dict[str, Any], source: str) -> dict[str, Any]:
    """`data` without the keys of an earlier release, each of which logs a warning."""
    kept = dict(data)
    for (table, key), reason in GONE_KEYS.items():
        if isinstance(kept.get(table), dict) and key in kept[table]:
            log.warning("%s: %s.%s is no longer used; remove it (%s)", source, table, key, reason)
            kept[table] = {name: value for name, value in kept[table].items() if name != key}
    return kept


def _explain(error: Any) -> str:
    key = _in_words(error["loc"])
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):  # in a model, in a dataclass
        return f"{key}: unknown key{meant(Config, error['loc'])}"
    if isinstance(error["input"], dict):
        return f"{key}: {in_words(error, 'a table')}"
    may_hold_secret = any(secret[: len(error["loc"])] == error["loc"] for secret in SECRET_KEYS)
    shown = "..." if may_hold_secret else _shown(error["input"])
    return f"{key} = {shown}: {in_words(error, 'a table')}"


def _in_words(place: Sequence[str | int]) -> str:
    """server.socket, or server.listen, entry 1: address."""
    words = "".join(f", entry {part + 1}:" if isinstance(part, int) else f".{part}" for part in place)
    return words.replace(":.", ": ").strip(".:")


def _shown(value: Any) -> str:
    try:
        shown = repr(value)
    except (ValueError, RecursionError):  # as in `_unreadable`, but written in another way, such as 0xfff...
        return "..."
    return shown if len(shown) <= MOST_SHOWN_CHARACTERS else f"{shown[:MOST_SHOWN_CHARACTERS]}..."


def with_environment(config: Config) -> Config:
    """Apply TENANTD_SOCKET and TENANTD_STATE_DIR, which override the file."""
    if socket := os.environ.get("TENANTD_SOCKET"):
        config = config.model_copy(update={"server": config.server.model_copy(update={"socket": Path(socket)})})
    if state := os.environ.get("TENANTD_STATE_DIR"):
        config = config.model_copy(update={"ledger": config.ledger.model_copy(update={"state_dir": Path(state)})})
    return config


def price_nanos(price: Decimal) -> int:
    """A price in billionths (1e-9) of the currency unit, exactly."""
    return int(price * NANOS)
