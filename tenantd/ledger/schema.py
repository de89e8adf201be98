"""The tables of a ledger: what a new one gets, and what `tenantd.ledger.migrations` upgrades an old one to.

Plain SQL, for STRICT tables with CHECK constraints. Kinds and states grow with the program and are
checked by it, so that no table must be rebuilt for a new one. Columns added later come last, because that is where
an upgrade puts them.
"""

from __future__ import annotations

from typing import Final

PRICES: Final = """CREATE TABLE prices (
    id                       INTEGER PRIMARY KEY,
    currency                 TEXT NOT NULL CHECK (currency <> ''),
    input_nanos_per_million  INTEGER NOT NULL CHECK (input_nanos_per_million >= 0),
    output_nanos_per_million INTEGER NOT NULL CHECK (output_nanos_per_million >= 0),
    engine_hour_nanos        INTEGER NOT NULL CHECK (engine_hour_nanos >= 0),
    effective_micros         INTEGER NOT NULL CHECK (effective_micros >= 0)
) STRICT"""

# Rows are in order of admission. `tenant` is the name at the time of the request; `tenant_id` identifies the
# tenant. There is no foreign key, because a bill outlives its customer.
REQUESTS: Final = """CREATE TABLE requests (
    number               INTEGER PRIMARY KEY,
    id                   TEXT NOT NULL UNIQUE CHECK (id <> ''),
    tenant               TEXT NOT NULL CHECK (tenant <> ''),
    kind                 TEXT NOT NULL,
    model                TEXT NOT NULL,
    state                TEXT NOT NULL,
    created_micros       INTEGER NOT NULL CHECK (created_micros >= 0),
    prompt_length_tokens INTEGER NOT NULL CHECK (prompt_length_tokens >= 0),
    max_tokens           INTEGER NOT NULL CHECK (max_tokens >= 0),
    prompt_tokens        INTEGER NOT NULL DEFAULT 0 CHECK (prompt_tokens >= 0),
    completion_tokens    INTEGER NOT NULL DEFAULT 0 CHECK (completion_tokens >= 0),
    engine_micros        INTEGER NOT NULL DEFAULT 0 CHECK (engine_micros >= 0),
    first_token_micros   INTEGER CHECK (first_token_micros >= 0),
    duration_micros      INTEGER CHECK (duration_micros >= 0),
    price_id             INTEGER REFERENCES prices (id),
    input_nanos          INTEGER NOT NULL DEFAULT 0 CHECK (input_nanos >= 0),
    output_nanos         INTEGER NOT NULL DEFAULT 0 CHECK (output_nanos >= 0),
    engine_nanos         INTEGER NOT NULL DEFAULT 0 CHECK (engine_nanos >= 0),
    error                TEXT NOT NULL DEFAULT '',
    unbilled             INTEGER NOT NULL DEFAULT 0,
    interrupted_micros   INTEGER,
    tenant_id            INTEGER NOT NULL,
    key_id               TEXT,
    uid                  INTEGER,
    CHECK ((state = 'running') = (price_id IS NULL)),
    CHECK (state <> 'running' OR input_nanos + output_nanos + engine_nanos = 0)
) STRICT"""
REQUESTS_BY_TENANT: Final = "CREATE INDEX requests_by_tenant ON requests (tenant_id, created_micros)"

# A key without a tenant administers. Tenant and name are those of its tenant. `scopes` are separated by commas. The end
# of a key that was rotated is near, and `replaced_by` is the id of the new one.
KEYS: Final = """CREATE TABLE keys (
    id               TEXT PRIMARY KEY,
    tenant           TEXT,
    hash             TEXT NOT NULL UNIQUE CHECK (length(hash) = 64),
    prefix           TEXT NOT NULL,
    label            TEXT NOT NULL,
    created_micros   INTEGER NOT NULL CHECK (created_micros >= 0),
    revoked_micros   INTEGER CHECK (revoked_micros >= 0),
    tenant_id        INTEGER REFERENCES tenants (id),
    scopes           TEXT NOT NULL,
    expires_micros   INTEGER CHECK (expires_micros >= 0),
    last_used_micros INTEGER CHECK (last_used_micros >= 0),
    replaced_by      TEXT,
    CHECK ((tenant IS NULL) = (tenant_id IS NULL))
) STRICT, WITHOUT ROWID"""
KEYS_BY_TENANT: Final = "CREATE INDEX keys_by_tenant ON keys (tenant_id, created_micros)"

# Entries are only appended; the oldest may be pruned. `hash` is over the entry before it and the other columns.
# `audit_head` has one row, which shows whether the newest entries are missing. Number and hash of the newest pruned
# entry are in `pruned_…`; entries up to `prunable_number` are being pruned, if an entry says so. The triggers prevent
# mistakes. Whoever can write the file can also drop them, and is found out by verification.
AUDIT: Final = (
    """CREATE TABLE audit (
    number     INTEGER PRIMARY KEY,
    at_micros  INTEGER NOT NULL,
    event      TEXT NOT NULL,
    tenant_id  INTEGER,
    tenant     TEXT,
    request_id TEXT,
    detail     TEXT NOT NULL,
    hash       BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT""",
    "CREATE INDEX audit_by_tenant ON audit (tenant_id, number) WHERE tenant_id IS NOT NULL",
    "CREATE INDEX audit_by_request ON audit (request_id) WHERE request_id IS NOT NULL",
    """CREATE TABLE audit_head (
    one           INTEGER PRIMARY KEY CHECK (one = 1),
    number        INTEGER NOT NULL,
    hash          BLOB NOT NULL CHECK (length(hash) = 32),
    pruned_number INTEGER NOT NULL,
    pruned_hash   BLOB NOT NULL CHECK (length(pruned_hash) = 32),
    prunable_number INTEGER NOT NULL
) STRICT""",
    "INSERT INTO audit_head VALUES (1, 0, zeroblob(32), 0, zeroblob(32), 0)",
    """CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
    BEGIN SELECT raise(ABORT, 'entries of the audit trail are never changed'); END""",
    """CREATE TRIGGER audit_is_only_pruned BEFORE DELETE ON audit
    WHEN OLD.number > coalesce((SELECT pruned_number FROM audit_head), 0)
    BEGIN SELECT raise(ABORT, 'the audit trail is only pruned from its beginning: tenantctl audit prune'); END""",
    """CREATE TRIGGER audit_head_is_kept BEFORE DELETE ON audit_head
    BEGIN SELECT raise(ABORT, 'the head of the audit trail is never deleted'); END""",
)

# What the anomaly watch has found. `detail` is JSON: requests, score, threshold and deviations.
ANOMALIES: Final = (
    """CREATE TABLE anomalies (
    number         INTEGER PRIMARY KEY,
    at_micros      INTEGER NOT NULL,
    tenant_id      INTEGER NOT NULL,
    tenant         TEXT NOT NULL,
    action         TEXT NOT NULL,
    detail         TEXT NOT NULL,
    cleared_micros INTEGER
) STRICT""",
    "CREATE INDEX anomalies_by_tenant ON anomalies (tenant_id, number)",
)

# Rows are never deleted. AUTOINCREMENT makes sure that ids are never reused, even if somebody deletes rows by hand.
# A removed tenant keeps its row and frees its name.
TENANTS: Final = (
    """CREATE TABLE tenants (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    name           TEXT NOT NULL,
    weight         REAL NOT NULL CHECK (weight > 0 AND weight <= 1000000),
    priority       TEXT NOT NULL,
    state          TEXT NOT NULL,
    uids           TEXT NOT NULL,
    limits         TEXT NOT NULL,
    created_micros INTEGER NOT NULL CHECK (created_micros >= 0),
    adapter        TEXT NOT NULL DEFAULT '',
    unbilled       INTEGER NOT NULL DEFAULT 0,
    allow_special  INTEGER NOT NULL DEFAULT 0,
    system_prompt  TEXT NOT NULL DEFAULT '',
    system_in_completions INTEGER NOT NULL DEFAULT 0,
    on_anomaly     TEXT NOT NULL DEFAULT 'log',
    throttled_micros INTEGER,
    audit_key      BLOB
) STRICT""",
    "CREATE UNIQUE INDEX tenants_by_name ON tenants (name) WHERE state <> 'removed'",
    KEYS,
    KEYS_BY_TENANT,
)

SCHEMA: Final = (
    PRICES,
    REQUESTS,
    "CREATE INDEX requests_by_time ON requests (created_micros)",
    REQUESTS_BY_TENANT,
    # Contains only running rows, so that start-up finds them at once in a ledger of any size.
    "CREATE INDEX requests_running ON requests (created_micros) WHERE state = 'running'",
    # Written and emptied to test whether the file can be written at all.
    "CREATE TABLE probe (filler BLOB NOT NULL) STRICT",
    *TENANTS,
    *AUDIT,
    *ANOMALIES,
)
