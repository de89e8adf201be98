"""The tables of a ledger: what a new one gets, and what `tenantd.ledger.migrations` upgrades an old one to.

Plain SQL, for STRICT tables with CHECK constraints. Kinds and states grow with the program and are
checked by it, so that no table must be rebuilt for a new one. Columns added later come last, because that is where
an upgrade puts them.
"""

from __future__ import annotations

from typing import Final

# A list without a tenant is for all that have none of their own; `follows_general` ends a tenant's own. The minimum and
# the free tokens are those of a month. `is_configured`: it was made from the configuration file.
PRICES: Final = """CREATE TABLE prices (
    id                       INTEGER PRIMARY KEY,
    currency                 TEXT NOT NULL CHECK (currency <> ''),
    input_nanos_per_million  INTEGER NOT NULL CHECK (input_nanos_per_million >= 0),
    output_nanos_per_million INTEGER NOT NULL CHECK (output_nanos_per_million >= 0),
    engine_hour_nanos        INTEGER NOT NULL CHECK (engine_hour_nanos >= 0),
    effective_micros         INTEGER NOT NULL CHECK (effective_micros >= 0),
    cached_nanos_per_million INTEGER NOT NULL DEFAULT 0,
    minimum_nanos            INTEGER NOT NULL DEFAULT 0,
    free_prompt_tokens       INTEGER NOT NULL DEFAULT 0,
    free_completion_tokens   INTEGER NOT NULL DEFAULT 0,
    tenant_id                INTEGER,
    follows_general          INTEGER NOT NULL DEFAULT 0,
    is_configured            INTEGER NOT NULL DEFAULT 0,
    set_micros               INTEGER NOT NULL DEFAULT 0
) STRICT"""

PRICES_BY_TENANT: Final = "CREATE INDEX prices_by_tenant ON prices (tenant_id, effective_micros)"

# Rows are in order of admission. Price, budget and statistics are those of `ended_micros`, which is NULL while a
# request runs. So is the month, unless its invoice was finalised before the row was settled: then it is the month of
# `billed_micros`. What is billed is the sum of the four amounts less `free_nanos` (a free quota) and `waived_nanos`
# (beyond a budget). `kv_token_micros` adds up how long how many tokens were in a slot. `energy_millijoules` is that of
# GPUs. `tenant` is the name at the time of the request; `tenant_id` identifies the tenant. There is no foreign key,
# because a bill outlives its customer.
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
    adapter              TEXT NOT NULL DEFAULT '',
    ended_micros         INTEGER,
    queue_micros         INTEGER,
    prefill_micros       INTEGER,
    cached_tokens        INTEGER NOT NULL DEFAULT 0,
    kv_token_micros      INTEGER NOT NULL DEFAULT 0,
    swaps                INTEGER NOT NULL DEFAULT 0,
    cached_nanos         INTEGER NOT NULL DEFAULT 0,
    free_nanos           INTEGER NOT NULL DEFAULT 0,
    waived_nanos         INTEGER NOT NULL DEFAULT 0,
    cause                TEXT NOT NULL DEFAULT '',
    free_prompt_tokens   INTEGER NOT NULL DEFAULT 0,
    free_completion_tokens INTEGER NOT NULL DEFAULT 0,
    billed_micros        INTEGER,
    energy_millijoules   INTEGER NOT NULL DEFAULT 0,
    CHECK ((state = 'running') = (price_id IS NULL)),
    CHECK (state <> 'running' OR input_nanos + output_nanos + engine_nanos = 0)
) STRICT"""
REQUESTS_BY_TENANT: Final = "CREATE INDEX requests_by_tenant ON requests (tenant_id, created_micros)"
REQUESTS_BY_END: Final = "CREATE INDEX requests_by_end ON requests (ended_micros) WHERE ended_micros IS NOT NULL"
REQUESTS_BY_BILL: Final = "CREATE INDEX requests_by_bill ON requests (billed_micros) WHERE billed_micros IS NOT NULL"

# Sums of the ended requests of an hour, of UTC, made in the transaction of each row. "" is no key, or no adapter.
# `billed_micros` is 0 where the rows have none.
# `measured` counts those whose duration is known, `started` those with a first token. Sums stop at the largest integer.
# `latencies` counts durations and times to the first token by logarithmic bucket (`tenantd.ledger.buckets`), and
# `latency_days` adds up its hours by day, of UTC; `causes` counts the errors by code.
ROLL_UPS: Final = (
    """CREATE TABLE hours (
    hour_micros        INTEGER NOT NULL,
    tenant_id          INTEGER NOT NULL,
    key_id             TEXT NOT NULL,
    model              TEXT NOT NULL,
    adapter            TEXT NOT NULL,
    price_id           INTEGER NOT NULL REFERENCES prices (id),
    unbilled           INTEGER NOT NULL,
    billed_micros      INTEGER NOT NULL,
    requests           INTEGER NOT NULL,
    completed          INTEGER NOT NULL,
    cancelled          INTEGER NOT NULL,
    disconnected       INTEGER NOT NULL,
    failed             INTEGER NOT NULL,
    interrupted        INTEGER NOT NULL,
    prompt_tokens      INTEGER NOT NULL,
    cached_tokens      INTEGER NOT NULL,
    completion_tokens  INTEGER NOT NULL,
    engine_micros      INTEGER NOT NULL,
    input_nanos        INTEGER NOT NULL,
    cached_nanos       INTEGER NOT NULL,
    output_nanos       INTEGER NOT NULL,
    engine_nanos       INTEGER NOT NULL,
    free_nanos         INTEGER NOT NULL,
    free_prompt_tokens INTEGER NOT NULL,
    free_completion_tokens INTEGER NOT NULL,
    waived_nanos       INTEGER NOT NULL,
    measured           INTEGER NOT NULL,
    duration_micros    INTEGER NOT NULL,
    started            INTEGER NOT NULL,
    first_token_micros INTEGER NOT NULL,
    queue_micros       INTEGER NOT NULL,
    kv_token_micros    INTEGER NOT NULL,
    swaps              INTEGER NOT NULL,
    energy_millijoules INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (hour_micros, tenant_id, key_id, model, adapter, price_id, unbilled, billed_micros)
) STRICT, WITHOUT ROWID""",
    "CREATE INDEX hours_by_tenant ON hours (tenant_id, hour_micros)",
    "CREATE INDEX hours_by_bill ON hours (billed_micros) WHERE billed_micros > 0",
    """CREATE TABLE latencies (
    hour_micros INTEGER NOT NULL,
    tenant_id   INTEGER NOT NULL,
    metric      TEXT NOT NULL,
    bucket      INTEGER NOT NULL,
    requests    INTEGER NOT NULL,
    PRIMARY KEY (hour_micros, tenant_id, metric, bucket)
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE latency_days (
    day_micros INTEGER NOT NULL,
    tenant_id  INTEGER NOT NULL,
    metric     TEXT NOT NULL,
    bucket     INTEGER NOT NULL,
    requests   INTEGER NOT NULL,
    PRIMARY KEY (day_micros, tenant_id, metric, bucket)
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE causes (
    hour_micros INTEGER NOT NULL,
    tenant_id   INTEGER NOT NULL,
    cause       TEXT NOT NULL,
    requests    INTEGER NOT NULL,
    PRIMARY KEY (hour_micros, tenant_id, cause)
) STRICT, WITHOUT ROWID""",
)

# Tokens that a tenant's free quota has given away in a billing month ("2026-11"), added up in the transaction of each
# row.
FREE_USES: Final = """CREATE TABLE free_uses (
    tenant_id         INTEGER NOT NULL,
    month             TEXT NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, month)
) STRICT, WITHOUT ROWID"""

# A budget is a tenant's, or one key's of it ("" is all keys). `amount` is in nano-units of money, tokens, or
# microseconds of engine time. `warn` lists percentages. What was used of it in a period that began at `since_micros` is
# added up in the transaction of each row, and so cannot pass it.
BUDGETS: Final = (
    """CREATE TABLE budgets (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id  INTEGER NOT NULL REFERENCES tenants (id),
    key_id     TEXT NOT NULL DEFAULT '',
    period     TEXT NOT NULL,
    unit       TEXT NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount >= 0),
    warn       TEXT NOT NULL,
    set_micros INTEGER NOT NULL,
    UNIQUE (tenant_id, key_id, period, unit)
) STRICT""",
    """CREATE TABLE budget_uses (
    budget_id    INTEGER NOT NULL REFERENCES budgets (id) ON DELETE CASCADE,
    since_micros INTEGER NOT NULL,
    used         INTEGER NOT NULL DEFAULT 0 CHECK (used >= 0),
    topped_up    INTEGER NOT NULL DEFAULT 0,
    warned       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (budget_id, since_micros)
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE budget_topups (
    number       INTEGER PRIMARY KEY,
    budget_id    INTEGER NOT NULL REFERENCES budgets (id) ON DELETE CASCADE,
    since_micros INTEGER NOT NULL,
    amount       INTEGER NOT NULL,
    reason       TEXT NOT NULL,
    actor        TEXT NOT NULL,
    at_micros    INTEGER NOT NULL
) STRICT""",
)

# Finalised invoices, one for each tenant and month, and credit notes; numbers have no gaps. `document` is the canonical
# JSON that `hash` (SHA-256) is of, `credits` the number of the invoice that a credit note corrects, `audit_number` that
# of the entry of the audit trail that has the hash.
INVOICES: Final = (
    """CREATE TABLE invoices (
    number       INTEGER PRIMARY KEY,
    kind         TEXT NOT NULL,
    tenant_id    INTEGER NOT NULL,
    tenant       TEXT NOT NULL,
    month        TEXT NOT NULL,
    since_micros INTEGER NOT NULL,
    until_micros INTEGER NOT NULL,
    total_nanos  INTEGER NOT NULL,
    document     TEXT NOT NULL,
    hash         BLOB NOT NULL CHECK (length(hash) = 32),
    credits      INTEGER REFERENCES invoices (number),
    at_micros    INTEGER NOT NULL,
    audit_number INTEGER
) STRICT""",
    "CREATE INDEX invoices_by_tenant ON invoices (tenant_id, until_micros)",
    "CREATE UNIQUE INDEX invoices_by_month ON invoices (tenant_id, month) WHERE kind = 'invoice'",
    """CREATE TRIGGER invoices_are_never_changed BEFORE UPDATE ON invoices
    BEGIN SELECT raise(ABORT, 'a finalised invoice never changes: tenantctl invoice credit'); END""",
    """CREATE TRIGGER invoices_are_never_deleted BEFORE DELETE ON invoices
    BEGIN SELECT raise(ABORT, 'a finalised invoice is never deleted: tenantctl invoice credit'); END""",
)

# Until when the rows of requests that have ended were deleted, or are being deleted while `is_done` is 0. The sums of
# their hours stay.
ROW_PRUNINGS: Final = """CREATE TABLE row_prunings (
    number       INTEGER PRIMARY KEY,
    month        TEXT NOT NULL,
    timezone     TEXT NOT NULL,
    until_micros INTEGER NOT NULL,
    requests     INTEGER NOT NULL DEFAULT 0,
    is_done      INTEGER NOT NULL DEFAULT 0,
    at_micros    INTEGER NOT NULL
) STRICT"""

# What a client's `Idempotency-Key` stood for: the hash of the body, and the ids of the requests it made, as JSON.
IDEMPOTENCY: Final = (
    """CREATE TABLE idempotency (
    tenant_id      INTEGER NOT NULL,
    key            TEXT NOT NULL,
    body_hash      BLOB NOT NULL CHECK (length(body_hash) = 32),
    requests       TEXT NOT NULL,
    created_micros INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, key)
) STRICT, WITHOUT ROWID""",
    "CREATE INDEX idempotency_by_time ON idempotency (created_micros)",
)

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
    audit_key      BLOB,
    billing        TEXT NOT NULL DEFAULT '{}',
    cache          TEXT NOT NULL DEFAULT 'default'
) STRICT""",
    "CREATE UNIQUE INDEX tenants_by_name ON tenants (name) WHERE state <> 'removed'",
    KEYS,
    KEYS_BY_TENANT,
)

SCHEMA: Final = (
    PRICES,
    PRICES_BY_TENANT,
    REQUESTS,
    "CREATE INDEX requests_by_time ON requests (created_micros)",
    REQUESTS_BY_TENANT,
    REQUESTS_BY_END,
    REQUESTS_BY_BILL,
    # Contains only running rows, so that start-up finds them at once in a ledger of any size.
    "CREATE INDEX requests_running ON requests (created_micros) WHERE state = 'running'",
    # Written and emptied to test whether the file can be written at all.
    "CREATE TABLE probe (filler BLOB NOT NULL) STRICT",
    *TENANTS,
    *AUDIT,
    *ANOMALIES,
    *ROLL_UPS,
    FREE_USES,
    *BUDGETS,
    *INVOICES,
    *IDEMPOTENCY,
    ROW_PRUNINGS,
)
