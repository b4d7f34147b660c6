-- What a lead brought is written once and never changed: it lies apart from where the lead stands, in the order of
-- arrival, so that a lead which moves on costs a line and not a page.
CREATE TABLE lead_data (
    seq INTEGER PRIMARY KEY,
    fields TEXT NOT NULL, meta TEXT NOT NULL, candidates TEXT NOT NULL,
    content_type TEXT NOT NULL, body BLOB NOT NULL, request_id BLOB NOT NULL
);
ALTER TABLE lead RENAME TO lead_before;
CREATE TABLE lead (
    id BLOB PRIMARY KEY, campaign TEXT NOT NULL, source TEXT NOT NULL,
    status TEXT NOT NULL, reason TEXT, test INTEGER NOT NULL, received_at INTEGER NOT NULL,
    version INTEGER NOT NULL,               -- counts the changes to its deliveries: who moves the lead on must have seen them all
    payout INTEGER,
    data INTEGER NOT NULL                   -- lead_data.seq
) WITHOUT ROWID;
INSERT INTO lead_data (seq, fields, meta, candidates, content_type, body, request_id)
    SELECT row_number() OVER (ORDER BY id), fields, meta, candidates, content_type, body, request_id FROM lead_before;
INSERT INTO lead (id, campaign, source, status, reason, test, received_at, version, payout, data)
    SELECT id, campaign, source, status, reason, test, received_at, version, payout, row_number() OVER (ORDER BY id)
    FROM lead_before;
DROP TABLE lead_before;

-- What leads and deliveries are found by: keyed hashes of 16 bytes each, a row for all of one lead or delivery. They come
-- in the order of arrival and lie here until there are enough of them to be written sorted (store/sqlite/lookups.rs).
CREATE TABLE lookup_tail (seq INTEGER PRIMARY KEY, id BLOB NOT NULL, day INTEGER NOT NULL, hashes BLOB NOT NULL);
