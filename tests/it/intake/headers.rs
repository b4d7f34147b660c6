//! What stands in headers and queries: keys, idempotency keys, the wish to wait.

use std::time::Duration;

use http::HeaderMap;
use lead_gateway::intake::{auth, idempotency, wait};

#[test]
fn a_key_ring_knows_each_key_of_each_source() {
    let source = |id: &str| id.parse().unwrap();
    let key = |text: &str| auth::configured_key(text).unwrap();
    let (old, new, other) = ("acme-old-0123456789", "acme-new-0123456789", "best-0123456789abc");
    let hashed = auth::hash_text(&auth::hash_key(other));
    assert!(hashed.starts_with("sha256:") && hashed.len() == 7 + 64);
    let ring =
        auth::KeyRing::new([(source("acme"), key(old)), (source("acme"), key(new)), (source("best"), key(&hashed))])
            .unwrap();
    assert_eq!(ring.find(old), Some(&source("acme")));
    assert_eq!(ring.find(new), Some(&source("acme")));
    assert_eq!(ring.find(other), Some(&source("best")));
    for wrong in ["", "acme-old-012345678", "acme-old-0123456789 ", &hashed] {
        assert_eq!(ring.find(wrong), None);
    }
    let shared = auth::KeyRing::new([(source("acme"), key(old)), (source("best"), key(old))]).unwrap_err();
    assert_eq!(shared, [auth::KeyFault::Shared(source("acme"), source("best"))]);
    for (text, fault) in [
        ("fifteen-letters", auth::KeyFault::TooShort),
        ("", auth::KeyFault::TooShort),
        ("a key with some spaces", auth::KeyFault::BadCharacter),
        ("schlüssel-0123456789", auth::KeyFault::BadCharacter),
        ("sha256:abcd", auth::KeyFault::BadHash),
        (&"sha256:".repeat(12), auth::KeyFault::BadHash),
    ] {
        assert_eq!(auth::configured_key(text), Err(fault), "{text}");
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

#[test]
fn a_key_is_found_where_it_may_stand() {
    let found = |pairs: &[(&'static str, &str)], query| {
        auth::credential(&headers(pairs), query).map(|credential| (credential.key, credential.in_query))
    };
    let key = |in_query| Some(("K".to_owned(), in_query));
    assert_eq!(found(&[("authorization", "Bearer K")], Some("key=Q")), key(false));
    assert_eq!(found(&[("authorization", "bearer   K ")], None), key(false));
    assert_eq!(found(&[("x-api-key", "K")], None), key(false));
    assert_eq!(found(&[("authorization", "Basic abc"), ("x-api-key", "K")], None), key(false));
    assert_eq!(found(&[("authorization", "Bearer K"), ("x-api-key", "L")], None), key(false));
    assert_eq!(found(&[], Some("a=b&key=%4B")), key(true));
    assert_eq!(found(&[("x-api-key", "")], Some("key=")), None);
    assert_eq!(found(&[("authorization", "Bearer")], None), None);
    assert_eq!(found(&[], None), None);
}

#[test]
fn an_idempotency_key_is_used_or_refused_but_never_ignored() {
    let longest = "k".repeat(255);
    for good in ["k", "550e8400-e29b-41d4-a716-446655440000", "\"quoted\"", &longest] {
        assert_eq!(idempotency::key(&headers(&[("idempotency-key", good)])), Ok(Some(good)));
    }
    for bad in ["", "two words", &"k".repeat(256)] {
        assert_eq!(idempotency::key(&headers(&[("idempotency-key", bad)])), Err(idempotency::BadKey::Form));
    }
    let mut latin1 = HeaderMap::new();
    latin1.insert("idempotency-key", http::HeaderValue::from_bytes(b"k\xe9y").unwrap());
    assert_eq!(idempotency::key(&latin1), Err(idempotency::BadKey::Form));
    let twice = headers(&[("idempotency-key", "a"), ("idempotency-key", "a")]);
    assert_eq!(idempotency::key(&twice), Err(idempotency::BadKey::Repeated));
    assert_eq!(idempotency::key(&HeaderMap::new()), Ok(None));
    assert_ne!(idempotency::fingerprint(b"{}"), idempotency::fingerprint(b"{ }"));
}

#[test]
fn the_wait_is_the_querys_or_the_headers_or_the_sources() {
    let usual = Some(Duration::from_secs(7));
    let wait = |prefer: &[&str], query| {
        let pairs: Vec<_> = prefer.iter().map(|value| ("prefer", *value)).collect();
        wait::wait(&headers(&pairs), query, usual).map(|wait| wait.as_secs())
    };
    assert_eq!(wait(&[], None), Ok(7));
    assert_eq!(wait(&["wait=10"], None), Ok(10));
    assert_eq!(wait(&["wait=10"], Some("wait=0")), Ok(0));
    assert_eq!(wait(&["respond-async, Wait = \"12\"; x=1"], None), Ok(12));
    assert_eq!(wait(&["foo=\"a, wait=1\\\", wait=2\"", "wait=3, wait=4"], None), Ok(3));
    assert_eq!(wait(&["wait=600"], None), Ok(60));
    assert_eq!(wait(&[], Some("wait=99999999999999999999999")), Ok(60));
    // Not understood, so ignored.
    for prefer in ["wait", "wait=", "wait=-1", "wait=soon", "wait=1.5", "handling=lenient", "wait=soon, wait=5"] {
        assert_eq!(wait(&[prefer], None), Ok(7), "{prefer}");
    }
    for query in ["wait=", "wait=soon", "wait=-1", "wait=+1", "wait=1s"] {
        assert_eq!(wait(&["wait=10"], Some(query)), Err(wait::BadWait), "{query}");
    }
    assert_eq!(wait::wait(&HeaderMap::new(), None, None), Ok(Duration::ZERO));
    assert_eq!(wait::wait(&HeaderMap::new(), None, Some(Duration::from_hours(1))), Ok(wait::MAX_WAIT));
}
