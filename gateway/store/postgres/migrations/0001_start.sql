-- Times are whole microseconds since 1970 UTC, days YYYYMMDD in UTC; leases alone are kept by the database's own clock.
-- Exchanges, look-ups and refusals are partitioned by day (store/postgres/days.rs): made ahead, dropped whole.

CREATE TABLE meta (key text PRIMARY KEY, value bytea NOT NULL);

-- Counted up by every change of resources, pauses and tokens: each gateway asks this one row a few times a second.
CREATE TABLE change (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    network bigint NOT NULL DEFAULT 0, pauses bigint NOT NULL DEFAULT 0, tokens bigint NOT NULL DEFAULT 0
);
INSERT INTO change DEFAULT VALUES;

-- Every start of a gateway is an incarnation with a token. While `until` lies ahead it lives; afterwards another one makes
-- itself the owner of what it left. Its deliveries keep its token, so a takeover rewrites no delivery.
CREATE TABLE gateway (
    token uuid PRIMARY KEY, name text NOT NULL, gate text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(), until timestamptz NOT NULL, owner uuid NOT NULL,
    -- The version of the network (change.network) that is in force there.
    network bigint NOT NULL DEFAULT 0
);
CREATE INDEX gateway_owner ON gateway (owner);

-- The last commit of each connection, for when the answer to it is lost (store/postgres/mark.rs).
CREATE TABLE committed (
    link uuid PRIMARY KEY, mark uuid NOT NULL, settled boolean NOT NULL DEFAULT false, at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE resource (
    kind text NOT NULL, id text NOT NULL, version bigint NOT NULL, document text NOT NULL,
    applied text,                           -- the document as `apply` last wrote it: a difference means "changed elsewhere"
    changed_at bigint NOT NULL, changed_by text NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE TABLE resource_history (
    kind text NOT NULL, id text NOT NULL, version bigint NOT NULL, document text,   -- NULL: deleted
    changed_at bigint NOT NULL, changed_by text NOT NULL,
    PRIMARY KEY (kind, id, version)
);

CREATE TABLE paused (kind text NOT NULL, id text NOT NULL, since bigint NOT NULL, by text NOT NULL, PRIMARY KEY (kind, id));

CREATE TABLE token (name text PRIMARY KEY, hash bytea NOT NULL UNIQUE, role text NOT NULL, created_at bigint NOT NULL);

-- What people did, and why.
CREATE TABLE audit (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at bigint NOT NULL, who text NOT NULL, action text NOT NULL,
    subject text NOT NULL, reason text
);

CREATE TABLE lead (
    id uuid PRIMARY KEY, campaign text NOT NULL, source text NOT NULL,
    status text NOT NULL, reason text, test boolean NOT NULL, received_at bigint NOT NULL,
    version bigint NOT NULL,                -- counts the changes to its deliveries: who moves the lead on must have seen them all
    payout bigint,
    fields text NOT NULL, meta text NOT NULL, candidates text NOT NULL,
    content_type text NOT NULL, body bytea NOT NULL, request_id uuid NOT NULL
);

CREATE TABLE delivery (
    id uuid PRIMARY KEY, lead uuid NOT NULL, gateway uuid NOT NULL,
    campaign text NOT NULL, source text NOT NULL,
    partner text NOT NULL, contract text NOT NULL, received_at bigint NOT NULL,
    state text NOT NULL, waits boolean NOT NULL, verdict text, reason text,
    price bigint, reference text, redirect_url text,
    attempt_count integer NOT NULL DEFAULT 0, first_attempt_at bigint, held_ms bigint NOT NULL DEFAULT 0,
    had_unknown boolean NOT NULL DEFAULT false, due_at bigint,
    places text NOT NULL DEFAULT '',        -- the keys of the places it owns, a line each
    redelivery_of uuid, bypass_limits boolean NOT NULL DEFAULT false,
    created_at bigint NOT NULL, updated_at bigint NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX delivery_lead ON delivery (lead);
CREATE INDEX delivery_contract ON delivery (contract, id);
-- A contract's queue at one incarnation, first in first out by the lead's arrival; and its retries by when they are due.
CREATE INDEX delivery_queue ON delivery (gateway, contract, received_at, id) WHERE state = 'queued';
CREATE INDEX delivery_due ON delivery (gateway, contract, due_at, id) WHERE state = 'queued' AND due_at IS NOT NULL;
CREATE INDEX delivery_sending ON delivery (id) WHERE state = 'sending';
CREATE INDEX delivery_unknown ON delivery (id) WHERE state = 'unknown';

CREATE TABLE attempt (
    delivery uuid NOT NULL, number integer NOT NULL, gateway uuid NOT NULL,   -- the incarnation that makes it
    started_at bigint NOT NULL, send_before bigint NOT NULL, deadline bigint NOT NULL,
    ended_at bigint, verdict text, class text, status_code integer, latency_ms bigint,
    explanation text, timings text, exchange_day integer,
    PRIMARY KEY (delivery, number)
);

-- How many places of a period are taken (model/limit.rs has the keys).
CREATE TABLE place (key text PRIMARY KEY, used bigint NOT NULL) WITH (fillfactor = 50);

-- The number of the last turn each contract had (round robin).
CREATE TABLE turn (contract text PRIMARY KEY, turn bigint NOT NULL);

CREATE TABLE idempotency (
    source text NOT NULL, key text NOT NULL, fingerprint bytea NOT NULL, lead uuid NOT NULL, at bigint NOT NULL,
    PRIMARY KEY (source, key)
);
CREATE INDEX idempotency_at ON idempotency (at);

CREATE TABLE dedupe (hash bytea PRIMARY KEY, lead uuid NOT NULL, at bigint NOT NULL, until bigint NOT NULL);
CREATE INDEX dedupe_until ON dedupe (until);

CREATE TABLE exchange (
    day integer NOT NULL, delivery uuid NOT NULL, number integer NOT NULL, part smallint NOT NULL,
    request_head text NOT NULL, request_body bytea NOT NULL, request_truncated boolean NOT NULL,
    response_head text, response_body bytea, response_truncated boolean NOT NULL
) PARTITION BY RANGE (day);
CREATE INDEX exchange_delivery ON exchange (delivery, number, part);
-- The day comes last in the keys: so the newest of all days are merged from their indexes, without sorting.
CREATE TABLE lookup (day integer NOT NULL, hash bytea NOT NULL, id uuid NOT NULL, PRIMARY KEY (hash, id, day)) PARTITION BY RANGE (day);
CREATE TABLE refusal (
    day integer NOT NULL, id uuid NOT NULL, source text NOT NULL, campaign text NOT NULL, at bigint NOT NULL,
    request_head text NOT NULL, request_body bytea NOT NULL, request_truncated boolean NOT NULL,
    status integer NOT NULL, answer text NOT NULL,
    PRIMARY KEY (id, day)
) PARTITION BY RANGE (day);
