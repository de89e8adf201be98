PRAGMA application_id = 1953391732;
PRAGMA user_version = 1;
CREATE TABLE prices (
    id                       INTEGER PRIMARY KEY,
    currency                 TEXT NOT NULL CHECK (currency <> ''),
    input_nanos_per_million  INTEGER NOT NULL CHECK (input_nanos_per_million >= 0),
    output_nanos_per_million INTEGER NOT NULL CHECK (output_nanos_per_million >= 0),
    engine_hour_nanos        INTEGER NOT NULL CHECK (engine_hour_nanos >= 0),
    effective_micros         INTEGER NOT NULL CHECK (effective_micros >= 0)
) STRICT;
CREATE TABLE requests (
    number               INTEGER PRIMARY KEY,
    id                   TEXT NOT NULL UNIQUE CHECK (id <> ''),
    tenant               TEXT NOT NULL CHECK (tenant <> ''),
    kind                 TEXT NOT NULL CHECK (kind IN ('completion', 'chat')),
    model                TEXT NOT NULL,
    state                TEXT NOT NULL CHECK (state IN ('running', 'stop', 'length', 'cancelled',
                                                        'disconnected', 'failed', 'interrupted')),
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
    CHECK ((state = 'running') = (price_id IS NULL)),
    CHECK (state <> 'running' OR input_nanos + output_nanos + engine_nanos = 0)
) STRICT;
CREATE INDEX requests_by_time ON requests (created_micros);
CREATE INDEX requests_by_tenant ON requests (tenant, created_micros);
CREATE INDEX requests_running ON requests (created_micros) WHERE state = 'running';
CREATE TABLE probe (filler BLOB NOT NULL) STRICT;
CREATE TABLE tenants (
    name           TEXT PRIMARY KEY,
    weight         REAL NOT NULL CHECK (weight > 0 AND weight <= 1000000),
    priority       TEXT NOT NULL CHECK (priority IN ('high', 'standard', 'low')),
    state          TEXT NOT NULL CHECK (state IN ('active', 'suspended', 'removed')),
    uids           TEXT NOT NULL,
    limits         TEXT NOT NULL,
    created_micros INTEGER NOT NULL CHECK (created_micros >= 0)
) STRICT, WITHOUT ROWID;
CREATE TABLE keys (
    id             TEXT PRIMARY KEY,
    tenant         TEXT NOT NULL REFERENCES tenants (name),
    hash           TEXT NOT NULL UNIQUE CHECK (length(hash) = 64),
    prefix         TEXT NOT NULL,
    label          TEXT NOT NULL,
    created_micros INTEGER NOT NULL CHECK (created_micros >= 0),
    revoked_micros INTEGER CHECK (revoked_micros >= 0)
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_by_tenant ON keys (tenant, created_micros);
