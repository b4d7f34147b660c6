-- What leads and deliveries are looked up by: a row for all the hashes of one, in an index that takes them unsorted and is
-- sorted in one go (store/postgres/lookups.rs). In the table `lookup`, a row and a place in the index for each, lies what was
-- written before; it is searched as long as it is kept.
CREATE TABLE found_by (day integer NOT NULL, id uuid NOT NULL, hashes uuid[] NOT NULL) PARTITION BY RANGE (day);
CREATE INDEX found_by_hashes ON found_by USING gin (hashes) WITH (fastupdate = on, gin_pending_list_limit = 16384);

-- Room for an attempt's end beside its beginning, so that it is not entered in the index again.
ALTER TABLE attempt SET (fillfactor = 60);
