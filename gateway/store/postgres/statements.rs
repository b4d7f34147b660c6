//! The statements of a commit: those of its first round trip lock and read (`found.rs`), those of its second write
//! (`writes.rs`). Prepared once for each of the writer's connections.

use tokio_postgres::{Client, Error, Statement};

use super::mark;

/// Declares the statements of a commit, and prepares them together.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident: $sql:expr;)*) => {
        /// The statements of a commit, prepared on one connection.
        pub(super) struct Statements {
            $($(#[$doc])* pub(super) $name: Statement,)*
        }

        impl Statements {
            pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
                let ($($name,)*) = tokio::try_join!($(client.prepare($sql)),*)?;
                Ok(Self { $($name),* })
            }
        }
    };
}

statements! {
    /// Makes the keys its own or waits for who has them. Not outside of a transaction: one that did not begin must leave
    /// nothing behind.
    lock_keys: "INSERT INTO idempotency AS old (source, key, fingerprint, lead, at)
         SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::uuid[], $5::bigint[]) AS new (source, key, fingerprint, lead, at)
         WHERE pg_current_xact_id_if_assigned() IS NOT NULL ORDER BY source, key
         ON CONFLICT (source, key) DO UPDATE SET at = old.at
         RETURNING source, key, fingerprint, lead, at";
    lock_people: "INSERT INTO dedupe AS old (hash, lead, at, until)
         SELECT * FROM unnest($1::bytea[], $2::uuid[], $3::bigint[], $4::bigint[]) AS new (hash, lead, at, until)
         WHERE pg_current_xact_id_if_assigned() IS NOT NULL ORDER BY hash
         ON CONFLICT (hash) DO UPDATE SET at = old.at
         RETURNING hash, lead, at, until";
    /// With whether its partner or contract is paused, and whose it is: true for who holds those tables' locks since the
    /// transaction began.
    lock_deliveries: "SELECT id, state, attempt_count, had_unknown, places,
                EXISTS (SELECT 1 FROM paused WHERE paused.kind = 'partner' AND paused.id = delivery.partner)
                  OR EXISTS (SELECT 1 FROM paused WHERE paused.kind = 'contract' AND paused.id = delivery.contract),
                (SELECT owner FROM gateway WHERE token = delivery.gateway)
         FROM delivery WHERE id = ANY($1) ORDER BY id FOR UPDATE";
    lock_free_deliveries: "SELECT id, state, attempt_count, had_unknown, places,
                EXISTS (SELECT 1 FROM paused WHERE paused.kind = 'partner' AND paused.id = delivery.partner)
                  OR EXISTS (SELECT 1 FROM paused WHERE paused.kind = 'contract' AND paused.id = delivery.contract),
                (SELECT owner FROM gateway WHERE token = delivery.gateway)
         FROM delivery WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED";
    lock_leads: "SELECT id, version, campaign, source, received_at FROM lead WHERE id = ANY($1) ORDER BY id FOR UPDATE";
    lock_free_leads: "SELECT id, version, campaign, source, received_at FROM lead WHERE id = ANY($1) ORDER BY id
         FOR UPDATE SKIP LOCKED";
    /// After their deliveries are locked, so that it sees what was written by who held those.
    read_attempts: "SELECT attempt.delivery, attempt.number, CASE WHEN ended_at IS NOT NULL THEN verdict END, class FROM attempt
         JOIN unnest($1::uuid[], $2::integer[]) AS wanted (delivery, number)
           ON attempt.delivery = wanted.delivery AND attempt.number = wanted.number";
    /// Before a transaction that counts them, and outside of it.
    make_places: "INSERT INTO place (key, used) SELECT key, 0 FROM unnest($1::text[]) AS new (key) ORDER BY key
         ON CONFLICT (key) DO NOTHING";
    read_places: "SELECT key, used FROM place WHERE key = ANY($1::text[])";
    lock_places: "SELECT key, used FROM place WHERE key = ANY($1::text[]) ORDER BY key FOR UPDATE";
    lock_free_places: "SELECT key, used FROM place WHERE key = ANY($1::text[]) ORDER BY key FOR UPDATE SKIP LOCKED";
    /// Those asked for, and those that the deliveries own.
    read_owned_places: "SELECT key, used FROM place
         WHERE key = ANY ($1::text[] || ARRAY(
             SELECT unnest(string_to_array(places, E'\n')) FROM delivery WHERE id = ANY($2) AND places <> ''))";
    lock_owned_places: "SELECT key, used FROM place
         WHERE key = ANY ($1::text[] || ARRAY(
             SELECT unnest(string_to_array(places, E'\n')) FROM delivery WHERE id = ANY($2) AND places <> ''))
         ORDER BY key FOR UPDATE";
    lock_free_owned_places: "SELECT key, used FROM place
         WHERE key = ANY ($1::text[] || ARRAY(
             SELECT unnest(string_to_array(places, E'\n')) FROM delivery WHERE id = ANY($2) AND places <> ''))
         ORDER BY key FOR UPDATE SKIP LOCKED";

    leave_mark: mark::LEAVE;
    count_and_leave_mark: mark::COUNT_AND_LEAVE;
    /// With what they are looked up by.
    insert_leads: "WITH found_by AS (
             INSERT INTO found_by (day, id, hashes)
             SELECT day, id, hashes::uuid[] FROM unnest($15::integer[], $16::uuid[], $17::text[]) AS new (day, id, hashes))
         INSERT INTO lead (id, campaign, source, status, reason, test, received_at, version, payout, fields, meta, candidates,
                           content_type, body, request_id)
         SELECT id, campaign, source, status, reason, test, received_at, 1, payout, fields, meta, candidates, content_type, body,
                request_id
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::bigint[], $8::bigint[],
                     $9::text[], $10::text[], $11::text[], $12::text[], $13::bytea[], $14::uuid[])
           AS new (id, campaign, source, status, reason, test, received_at, payout, fields, meta, candidates, content_type, body,
                   request_id)";
    /// What is made by a gateway that was taken over belongs to who took it over; one that has never joined enters itself.
    insert_deliveries: "WITH entered AS (
             INSERT INTO gateway (token, name, gate, until, owner)
             SELECT $15::uuid, '', '', clock_timestamp(), $15::uuid
             WHERE NOT EXISTS (SELECT 1 FROM gateway WHERE token = $15::uuid)
             ON CONFLICT (token) DO NOTHING)
         INSERT INTO delivery (id, lead, gateway, campaign, source, partner, contract, received_at, state, waits, reason, price,
                               redelivery_of, bypass_limits, created_at, updated_at)
         SELECT id, lead, home.owner, campaign, source, partner, contract, received_at, state, waits, reason, price,
                redelivery_of, bypass_limits, at, at
         FROM (SELECT coalesce((SELECT owner FROM gateway WHERE token = $15::uuid), $15::uuid) AS owner OFFSET 0) AS home,
             unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[],
                    $9::boolean[], $10::text[], $11::bigint[], $12::uuid[], $13::boolean[], $14::bigint[])
           AS new (id, lead, campaign, source, partner, contract, received_at, state, waits, reason, price, redelivery_of,
                   bypass_limits, at)";
    set_keys: "UPDATE idempotency SET fingerprint = new.fingerprint, lead = new.lead, at = new.at
         FROM unnest($1::text[], $2::text[], $3::bytea[], $4::uuid[], $5::bigint[]) AS new (source, key, fingerprint, lead, at)
         WHERE idempotency.source = new.source AND idempotency.key = new.key";
    drop_keys: "DELETE FROM idempotency USING unnest($1::text[], $2::text[]) AS gone (source, key)
         WHERE idempotency.source = gone.source AND idempotency.key = gone.key";
    set_people: "UPDATE dedupe SET lead = new.lead, at = new.at, until = new.until
         FROM unnest($1::bytea[], $2::uuid[], $3::bigint[], $4::bigint[]) AS new (hash, lead, at, until)
         WHERE dedupe.hash = new.hash";
    drop_people: "DELETE FROM dedupe WHERE hash = ANY($1)";
    /// The deliveries that are sent, with their attempts.
    start_attempts: "WITH started AS (
             UPDATE delivery SET state = 'sending', attempt_count = new.number,
                    first_attempt_at = coalesce(first_attempt_at, new.at), due_at = NULL, places = new.places,
                    held_ms = new.held_ms, updated_at = new.at
             FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $6::text[], $7::bigint[])
               AS new (id, number, at, places, held_ms)
             WHERE delivery.id = new.id)
         INSERT INTO attempt (delivery, number, gateway, started_at, send_before, deadline)
         SELECT delivery, number, $8, started_at, send_before, deadline
         FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[])
           AS new (delivery, number, started_at, send_before, deadline)";
    change_deliveries: "UPDATE delivery SET state = new.state, verdict = coalesce(new.verdict, delivery.verdict),
                reason = coalesce(new.reason, delivery.reason), price = coalesce(new.price, delivery.price),
                reference = coalesce(new.reference, delivery.reference),
                redirect_url = coalesce(new.redirect_url, delivery.redirect_url), due_at = new.due_at,
                had_unknown = delivery.had_unknown OR new.unknown,
                places = CASE WHEN new.give_back THEN '' ELSE delivery.places END, updated_at = new.at
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::bigint[],
                     $9::boolean[], $10::boolean[], $11::bigint[])
           AS new (id, state, verdict, reason, price, reference, redirect_url, due_at, unknown, give_back, at)
         WHERE delivery.id = new.id";
    /// The attempts that ended, with what was sent and came back.
    end_attempts: "WITH kept AS (
             INSERT INTO exchange (day, delivery, number, part, request_head, request_body, request_truncated, response_head,
                                   response_body, response_truncated)
             SELECT * FROM unnest($11::integer[], $12::uuid[], $13::integer[], $14::smallint[], $15::text[], $16::bytea[],
                                  $17::boolean[], $18::text[], $19::bytea[], $20::boolean[]))
         UPDATE attempt SET ended_at = new.at, verdict = new.verdict, class = new.class, status_code = new.status_code,
                latency_ms = new.latency_ms, explanation = new.explanation, timings = new.timings, exchange_day = new.day
         FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::text[], $5::text[], $6::integer[], $7::bigint[], $8::text[],
                     $9::text[], $10::integer[])
           AS new (delivery, number, at, verdict, class, status_code, latency_ms, explanation, timings, day)
         WHERE attempt.delivery = new.delivery AND attempt.number = new.number";
    /// The leads that move on, with the references that partners gave to their deliveries.
    move_leads: "WITH found_by AS (
             INSERT INTO found_by (day, id, hashes)
             SELECT day, id, hashes::uuid[] FROM unnest($5::integer[], $6::uuid[], $7::text[]) AS new (day, id, hashes))
         UPDATE lead SET version = version + 1, status = CASE WHEN new.moves THEN new.status ELSE lead.status END,
                reason = CASE WHEN new.moves THEN new.reason ELSE lead.reason END
         FROM unnest($1::uuid[], $2::boolean[], $3::text[], $4::text[]) AS new (id, moves, status, reason)
         WHERE lead.id = new.id";
    insert_audit: "INSERT INTO audit (at, who, action, subject, reason)
         SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[])";
    insert_refusals: "INSERT INTO refusal (day, id, source, campaign, at, request_head, request_body, request_truncated, status,
                             answer)
         SELECT * FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bytea[],
                              $8::boolean[], $9::integer[], $10::text[])
         ON CONFLICT DO NOTHING";
    set_turns: "INSERT INTO turn (contract, turn) SELECT * FROM unnest($1::text[], $2::bigint[]) AS new (contract, turn)
         ORDER BY contract ON CONFLICT (contract) DO UPDATE SET turn = greatest(turn.turn, excluded.turn)";
}
