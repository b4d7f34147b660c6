-- Times are whole microseconds since 1970 UTC, ids the 16 bytes of a UUIDv7, days YYYYMMDD in UTC.
-- Exchanges, look-ups and refusals live in tables of one day each (store/sqlite/days.rs), made ahead and dropped whole.

CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

-- Campaigns, sources, partners, contracts, and the templates that travel with them: the present version of each,
-- and every version there was.
CREATE TABLE resource (
    kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, document TEXT NOT NULL,
    applied TEXT,                           -- the document as `apply` last wrote it: a difference means "changed elsewhere"
    changed_at INTEGER NOT NULL, changed_by TEXT NOT NULL,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE TABLE resource_history (
    kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, document TEXT,   -- NULL: deleted
    changed_at INTEGER NOT NULL, changed_by TEXT NOT NULL,
    PRIMARY KEY (kind, id, version)
) WITHOUT ROWID;

CREATE TABLE paused (
    kind TEXT NOT NULL, id TEXT NOT NULL, since INTEGER NOT NULL, by TEXT NOT NULL, PRIMARY KEY (kind, id)
) WITHOUT ROWID;

CREATE TABLE token (
    name TEXT PRIMARY KEY, hash BLOB NOT NULL UNIQUE, role TEXT NOT NULL, created_at INTEGER NOT NULL
) WITHOUT ROWID;

-- What people did, and why.
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL,
    reason TEXT
);

CREATE TABLE lead (
    id BLOB PRIMARY KEY, campaign TEXT NOT NULL, source TEXT NOT NULL,
    status TEXT NOT NULL, reason TEXT, test INTEGER NOT NULL, received_at INTEGER NOT NULL,
    version INTEGER NOT NULL,               -- counts the changes to its deliveries: who moves the lead on must have seen them all
    payout INTEGER,
    fields TEXT NOT NULL, meta TEXT NOT NULL, candidates TEXT NOT NULL,
    content_type TEXT NOT NULL, body BLOB NOT NULL, request_id BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE delivery (
    id BLOB PRIMARY KEY, lead BLOB NOT NULL, campaign TEXT NOT NULL, source TEXT NOT NULL,
    partner TEXT NOT NULL, contract TEXT NOT NULL, received_at INTEGER NOT NULL,
    state TEXT NOT NULL, waits INTEGER NOT NULL, verdict TEXT, reason TEXT,
    price INTEGER, reference TEXT, redirect_url TEXT,
    attempt_count INTEGER NOT NULL DEFAULT 0, first_attempt_at INTEGER, held_ms INTEGER NOT NULL DEFAULT 0,
    had_unknown INTEGER NOT NULL DEFAULT 0, due_at INTEGER,
    places TEXT NOT NULL DEFAULT '',        -- the keys of the places it owns, a line each
    redelivery_of BLOB, bypass_limits INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX delivery_lead ON delivery (lead);
CREATE INDEX delivery_contract ON delivery (contract, id);
-- A contract's queue, first in first out by the lead's arrival; and its retries by when they are due.
CREATE INDEX delivery_queue ON delivery (contract, received_at, id, due_at) WHERE state = 'queued';
CREATE INDEX delivery_due ON delivery (contract, due_at, id) WHERE state = 'queued' AND due_at IS NOT NULL;
CREATE INDEX delivery_sending ON delivery (id) WHERE state = 'sending';
CREATE INDEX delivery_unknown ON delivery (id) WHERE state = 'unknown';

CREATE TABLE attempt (
    delivery BLOB NOT NULL, number INTEGER NOT NULL, started_at INTEGER NOT NULL, deadline INTEGER NOT NULL,
    ended_at INTEGER, verdict TEXT, class TEXT, status_code INTEGER, latency_ms INTEGER,
    explanation TEXT, timings TEXT, exchange_day INTEGER,
    PRIMARY KEY (delivery, number)
) WITHOUT ROWID;

-- How many places of a period are taken (model/limit.rs has the keys).
CREATE TABLE place (key TEXT PRIMARY KEY, used INTEGER NOT NULL) WITHOUT ROWID;

-- The number of the last turn each contract had (round robin).
CREATE TABLE turn (contract TEXT PRIMARY KEY, turn INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE idempotency (
    source TEXT NOT NULL, key TEXT NOT NULL, fingerprint BLOB NOT NULL, lead BLOB NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (source, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_at ON idempotency (at);

CREATE TABLE dedupe (hash BLOB PRIMARY KEY, lead BLOB NOT NULL, at INTEGER NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX dedupe_until ON dedupe (until);
