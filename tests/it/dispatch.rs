//! Dispatch: one test per kind of partner trouble, each holding the exact kind of fault and what the partner saw.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use lead_gateway::clock;
use lead_gateway::dispatch::breaker::{Breaker, Health, OPEN_FIRST, OPEN_MAX, Stand, THRESHOLD};
use lead_gateway::dispatch::retry::{Again, GiveUp, LONGEST_RETRY_AFTER, Tried, next_delay, plan};
use lead_gateway::dispatch::target::Egress;
use lead_gateway::dispatch::{DispatchConfig, Dispatcher, Transport};
use lead_gateway::model::contract::Retry;
use lead_gateway::model::delivery::{Class, Explanation, Judgement, Verdict};
use lead_gateway::model::exchange::{Outgoing, Reply, SendFault, SendFaultKind, Sent};
use lead_gateway::model::units::{Rate, Span};
use lead_gateway::pace::Pace;
use proptest::prelude::*;

use super::partner_stub::{Authority, Behaviour, Received, Step, Stub, Unconnectable, gzip, refused};

const SECRET: &str = "s3cret-key";

fn local() -> DispatchConfig {
    DispatchConfig::new(Egress::new(vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]))
}

fn dispatcher() -> Dispatcher {
    Dispatcher::new(local()).unwrap()
}

/// Long enough for anything that is to succeed.
fn patient() -> Transport {
    Transport::shared(Duration::from_secs(10), Duration::from_secs(20))
}

/// For a partner that will not answer.
fn hasty() -> Transport {
    Transport::shared(Duration::from_millis(200), Duration::from_millis(300))
}

fn post(url: impl Into<String>, body: impl Into<Bytes>) -> Outgoing {
    Outgoing {
        http_method: "POST",
        url: url.into(),
        headers: vec![
            ("Content-Type".to_owned(), "application/json".to_owned()),
            ("X-Api-Key".to_owned(), SECRET.to_owned()),
        ],
        body: body.into(),
        masked: None,
        secrets: Vec::new(),
        backup: None,
        send_before: None,
    }
}

fn get(url: impl Into<String>) -> Outgoing {
    Outgoing { http_method: "GET", headers: Vec::new(), ..post(url, "") }
}

async fn send(transport: Transport, outgoing: &Outgoing) -> Sent {
    dispatcher().send(&transport, outgoing).await
}

fn reply(sent: Sent) -> Reply {
    sent.result.unwrap_or_else(|fault| panic!("no reply: {fault:?}"))
}

/// The fault, which must be of this kind and must not give away anything that was sent.
fn fault(sent: Sent, kind: SendFaultKind) -> SendFault {
    let fault = sent.result.expect_err("there should be no reply");
    assert_eq!(fault.kind, kind, "{}", fault.message);
    assert!(!fault.message.contains(SECRET) && !fault.message.contains("email="), "{}", fault.message);
    fault
}

// What is sent, and what comes back

#[tokio::test]
async fn a_post_arrives_as_it_was_rendered_and_the_reply_comes_back_whole() {
    let partner = Stub::start(Behaviour::reply_with(201, &[("X-Ref", "A-17")], r#"{"code":1}"#)).await;
    let dispatcher = dispatcher();
    let outgoing = post(partner.url("/leads?campaign=solar"), r#"{"name":"Zoë & Co"}"#);

    let sent = dispatcher.send(&patient(), &outgoing).await;

    assert!(sent.timings.first_byte.is_some() && sent.timings.connect.is_some(), "{:?}", sent.timings);
    assert!(sent.timings.dns.is_none() && sent.timings.tls.is_none(), "{:?}", sent.timings);
    let reply = reply(sent);
    assert_eq!((reply.status, reply.header("x-ref"), &reply.body[..]), (201, Some("A-17"), &b"{\"code\":1}"[..]));
    let request = &partner.requests()[0];
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/leads?campaign=solar"));
    assert_eq!(request.text(), r#"{"name":"Zoë & Co"}"#);
    assert_eq!(request.header("transfer-encoding"), None);
}

#[tokio::test]
async fn the_headers_on_the_wire_are_those_of_the_request_and_those_the_dispatcher_says_it_adds() {
    let partner = Stub::start(Behaviour::ok("")).await;
    let dispatcher = dispatcher();
    for outgoing in [post(partner.url("/"), "{}"), post(partner.url("/"), ""), get(partner.url("/?a=1"))] {
        reply(dispatcher.send(&patient(), &outgoing).await);
        let wire = partner.requests().pop().unwrap();
        let lower = |headers: Vec<(String, String)>| {
            let mut headers: Vec<_> = headers.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
            headers.sort();
            headers
        };
        let mut told = outgoing.headers.clone();
        told.extend(dispatcher.added_headers(&outgoing));
        assert_eq!(lower(wire.headers), lower(told), "{} {:?}", outgoing.http_method, outgoing.body);
    }
}

#[tokio::test]
async fn a_header_given_twice_or_in_utf_8_arrives_so() {
    let partner = Stub::start(Behaviour::ok("")).await;
    let mut outgoing = post(partner.url("/"), "{}");
    outgoing.headers =
        vec![("X-Tag".into(), "one".into()), ("X-Tag".into(), "two".into()), ("X-Name".into(), "Zoë".into())];
    reply(send(patient(), &outgoing).await);
    let request = &partner.requests()[0];
    let tags: Vec<_> =
        request.headers.iter().filter(|(name, _)| name == "X-Tag").map(|(_, value)| value.as_str()).collect();
    assert_eq!(tags, ["one", "two"]);
    assert_eq!(request.header("x-name"), Some("Zoë"));
}

#[tokio::test]
async fn a_get_has_no_body() {
    let partner = Stub::start(Behaviour::ok("OK")).await;
    assert_eq!(reply(send(patient(), &get(partner.url("/ping?email=a%40b.example"))).await).body, "OK");
    let request = &partner.requests()[0];
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/ping?email=a%40b.example"));
    assert!(request.raw.ends_with(b"\r\n\r\n") && request.header("content-length").is_none());
}

#[tokio::test]
async fn replies_are_read_however_they_are_framed() {
    let text = "a reply of some length ".repeat(1000);
    for behaviour in [
        Behaviour::ok(&text),
        Behaviour::chunked(text.as_bytes(), 700),
        Behaviour::close_delimited(text.as_bytes()),
        Behaviour::continue_first(&text),
        Behaviour::gzip(text.as_bytes()),
        Behaviour::reply_with(200, &[("content-encoding", "X-GZIP, identity")], gzip(text.as_bytes())),
        Behaviour::reply_with(200, &[("Content-Encoding", "deflate")], deflated(&text, true)),
        Behaviour::reply_with(200, &[("Content-Encoding", "deflate")], deflated(&text, false)),
    ] {
        let partner = Stub::start(behaviour.clone()).await;
        let reply = reply(send(patient(), &post(partner.url("/"), "{}")).await);
        assert_eq!((reply.status, reply.body), (200, Bytes::from(text.clone())), "{behaviour:?}");
    }
}

fn deflated(text: &str, zlib: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 100);
    flate2::Compress::new(flate2::Compression::fast(), zlib)
        .compress_vec(text.as_bytes(), &mut out, flate2::FlushCompress::Finish)
        .unwrap();
    out
}

#[tokio::test]
async fn an_empty_reply_that_claims_to_be_compressed_is_empty() {
    let partner = Stub::start(Behaviour::reply_with(200, &[("Content-Encoding", "gzip")], "")).await;
    assert_eq!(reply(send(patient(), &post(partner.url("/"), "{}")).await).body, "");
}

#[tokio::test]
async fn a_redirect_is_a_reply_and_is_not_followed() {
    let elsewhere = Stub::start(Behaviour::ok("never")).await;
    let partner = Stub::start(Behaviour::redirect(&elsewhere.url("/"))).await;
    let reply = reply(send(patient(), &post(partner.url("/"), "{}")).await);
    assert_eq!((reply.status, reply.header("Location")), (302, Some(elsewhere.url("/").as_str())));
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn connections_are_used_again() {
    let partner = Stub::start(Behaviour::ok("OK")).await;
    let dispatcher = dispatcher();
    for _ in 0..20 {
        let sent = dispatcher.send(&patient(), &post(partner.url("/"), "{}")).await;
        assert_eq!(reply(sent).body, "OK");
    }
    assert_eq!((partner.requests().len(), partner.connections()), (20, 1));
}

// Surely not sent

#[tokio::test]
async fn a_refused_connection_is_not_sent() {
    let address = refused().await;
    let fault = fault(send(patient(), &post(format!("http://{address}/"), "{}")).await, SendFaultKind::NotSent);
    assert!(fault.message.contains("refused"), "{}", fault.message);
}

#[tokio::test]
async fn a_connection_that_is_never_made_is_not_sent() {
    let partner = Unconnectable::start().await;
    let url = format!("http://{}/?email=a", partner.address);
    let fault = fault(send(hasty(), &post(url, "{}")).await, SendFaultKind::NotSent);
    assert!(fault.message.contains("connecting"), "{}", fault.message);
}

#[tokio::test]
async fn a_timeout_shorter_than_the_connect_timeout_is_not_sent_while_connecting() {
    let partner = Unconnectable::start().await;
    let transport = Transport::shared(Duration::from_secs(9), Duration::from_millis(200));
    let sent = send(transport, &post(format!("http://{}/", partner.address), "{}")).await;
    assert!((200..5_000).contains(&sent.timings.total), "{:?}", sent.timings);
    fault(sent, SendFaultKind::NotSent);
}

#[tokio::test]
async fn a_tls_handshake_that_hangs_is_not_sent() {
    let partner = Stub::start(Behaviour::hang_at_once()).await;
    let url = format!("https://{}/?email=a", partner.address());
    let fault = fault(send(hasty(), &post(url, "{}")).await, SendFaultKind::NotSent);
    assert!(fault.message.contains("TLS"), "{}", fault.message);
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_not_sent() {
    let partner =
        Stub::start(Behaviour(vec![Step::Await, Step::Write(b"220 mail ready\r\n".to_vec()), Step::Hang])).await;
    let url = format!("https://{}/", partner.address());
    fault(send(patient(), &post(url, "{}")).await, SendFaultKind::NotSent);
    assert!(partner.requests().is_empty());
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_not_sent() {
    let fault =
        fault(send(hasty(), &post("http://no-such-partner.invalid/?email=a", "{}")).await, SendFaultKind::NotSent);
    assert!(fault.message.contains("looked up") || fault.message.contains("looking up"), "{}", fault.message);
}

#[tokio::test]
async fn an_invalid_certificate_is_not_sent() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let dispatcher = Dispatcher::new(DispatchConfig { extra_roots_pem: Some(authority.pem()), ..local() }).unwrap();
    for (what, certificate) in [
        ("unknown authority", stranger.serve(&["127.0.0.1"])),
        ("another name", authority.serve(&["partner.example"])),
        ("expired", authority.serve_expired(&["127.0.0.1"])),
    ] {
        let partner = Stub::start_tls(Behaviour::ok("never"), certificate).await;
        let sent = dispatcher.send(&patient(), &post(partner.url("/?email=a"), "{}")).await;
        let fault = fault(sent, SendFaultKind::NotSent);
        assert!(fault.message.contains("certificate"), "{what}: {}", fault.message);
        assert_eq!(partner.bytes(), 0, "{what}");
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_the_operator_adds_it() {
    let authority = Authority::new();
    let partner = Stub::start_tls(Behaviour::ok("OK"), authority.serve(&["127.0.0.1"])).await;
    let dispatcher = Dispatcher::new(DispatchConfig { extra_roots_pem: Some(authority.pem()), ..local() }).unwrap();
    let sent = dispatcher.send(&patient(), &post(partner.url("/"), "{}")).await;
    assert!(sent.timings.tls.is_some(), "{:?}", sent.timings);
    assert_eq!(reply(sent).body, "OK");

    let nonsense = Dispatcher::new(DispatchConfig { extra_roots_pem: Some(b"no pem".to_vec()), ..local() });
    assert!(nonsense.unwrap_err().to_string().contains("PEM"));
}

#[tokio::test]
async fn what_is_no_request_is_not_sent() {
    let partner = Stub::start(Behaviour::ok("never")).await;
    let url = partner.url("/?email=a");
    let with = |name: &str, value: &str| {
        let mut outgoing = post(url.clone(), "{}");
        outgoing.headers.push((name.to_owned(), value.to_owned()));
        outgoing
    };
    for outgoing in [
        with("X Bad", SECRET),
        with("X-Bad", "s3cret-key\r\nX-Injected: 1"),
        with("Content-Length", "3"),
        with("Transfer-Encoding", "chunked"),
        with("X-Large", &"x".repeat(200 * 1024)),
        Outgoing { http_method: "PUT", ..post(url.clone(), "{}") },
        post("/leads?email=a", "{}"),
        post("ftp://127.0.0.1/?email=a", "{}"),
        post("file:///etc/passwd", "{}"),
        post(format!("http://ada:{SECRET}@{}/", partner.address()), "{}"),
    ] {
        fault(send(patient(), &outgoing).await, SendFaultKind::NotSent);
    }
    assert_eq!(partner.connections(), 0);
}

// Only where it may

#[tokio::test]
async fn a_private_address_is_refused_in_every_spelling_and_by_name() {
    let partner = Stub::start(Behaviour::ok("never")).await;
    let port = partner.address().port();
    let public_only = Dispatcher::new(DispatchConfig::new(Egress::default())).unwrap();
    for host in [
        "localhost",
        "LOCALHOST",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "%31%32%37.0.0.1",
        "１２７.0.0.1",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ] {
        let sent = public_only.send(&patient(), &post(format!("http://{host}:{port}/?email=a"), "{}")).await;
        let fault = fault(sent, SendFaultKind::NotSent);
        assert!(fault.message.contains("[egress] allow"), "{host}: {}", fault.message);
    }
    assert_eq!(partner.connections(), 0);
}

#[tokio::test]
async fn a_name_for_an_allowed_network_is_reached() {
    let partner = Stub::start(Behaviour::ok("OK")).await;
    let url = format!("http://localhost:{}/", partner.address().port());
    let sent = send(patient(), &post(url, "{}")).await;
    assert!(sent.timings.dns.is_some(), "{:?}", sent.timings);
    assert_eq!(reply(sent).body, "OK");
    assert_eq!(partner.requests()[0].header("host").unwrap(), format!("localhost:{}", partner.address().port()));
}

#[test]
fn every_range_that_is_not_public_is_refused_and_public_addresses_are_not() {
    let egress = Egress::default();
    let vet = |address: &str| egress.vet_answer("partner.example", &[address.parse().unwrap()]);
    for address in [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "169.254.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::2",
        "::8.8.8.8",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:10.0.0.1",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:2::1",
        "2001:10::1",
        "2001:db8::1",
        "2002:808:808::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "ff02::1",
    ] {
        assert!(vet(address).is_err(), "{address} should be refused");
    }
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.1",
        "100.63.255.255",
        "100.128.0.1",
        "126.0.0.1",
        "128.0.0.1",
        "169.253.0.1",
        "172.15.255.255",
        "172.32.0.1",
        "192.0.1.1",
        "192.167.0.1",
        "192.169.0.1",
        "198.17.0.1",
        "198.20.0.1",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "2606:4700:4700::1111",
        "2a00:1450::1",
        "2001:4860:4860::8888",
    ] {
        assert_eq!(vet(address), Ok(()), "{address} should be public");
    }
}

#[test]
fn one_forbidden_answer_refuses_the_name_and_no_answer_is_none() {
    let egress = Egress::new(vec!["10.1.0.0/16".parse().unwrap()]);
    let answer = |addresses: &[&str]| {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        egress.vet_answer("partner.example", &addresses).is_ok()
    };
    assert!(answer(&["8.8.8.8", "10.1.2.3", "::ffff:10.1.2.3"]));
    assert!(!answer(&["8.8.8.8", "10.2.0.1"]));
    assert!(!answer(&["8.8.8.8", "8.8.4.4", "::1"]));
    assert!(!answer(&[]));
}

#[tokio::test]
async fn a_proxy_from_the_environment_is_ignored() {
    // The environment of this process is shared by threads, so the check runs in a child with its own.
    const PROXY: &str = "LEAD_GATEWAY_TEST_PROXY";
    if std::env::var_os(PROXY).is_some() {
        let partner = Stub::start(Behaviour::ok("OK")).await;
        assert_eq!(reply(send(patient(), &post(partner.url("/"), "{}")).await).body, "OK");
        return;
    }
    let proxy = Stub::start(Behaviour::ok("from the proxy")).await;
    let mut child = tokio_command();
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(name, proxy.url("/"));
    }
    child.env(PROXY, "1").env_remove("NO_PROXY").env_remove("no_proxy");
    let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    assert_eq!(proxy.connections(), 0);
}

fn tokio_command() -> std::process::Command {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "dispatch::a_proxy_from_the_environment_is_ignored"]);
    child
}

// Sent, and then trouble

#[tokio::test]
async fn silence_is_a_timeout_before_the_head_in_it_and_in_the_body() {
    for (behaviour, partial) in [
        (Behaviour::hang_at_once(), None),
        (Behaviour::hang_after_reading(), None),
        (Behaviour::hang_mid_head(), None),
        (Behaviour::hang_mid_body("{\"code\":"), Some("{\"code\":")),
    ] {
        for outgoing in [post("/?email=a", "{}"), get("/?email=a")] {
            let partner = Stub::start(behaviour.clone()).await;
            let sent = send(hasty(), &Outgoing { url: partner.url(&outgoing.url), ..outgoing }).await;
            assert!((300..5_000).contains(&sent.timings.total), "{:?}", sent.timings);
            let fault = fault(sent, SendFaultKind::Timeout);
            assert_eq!(fault.partial.map(|reply| reply.body), partial.map(Bytes::from), "{behaviour:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_reply_is_a_reset() {
    for behaviour in [
        Behaviour::reset_before_reading(),
        Behaviour::reset_after_reading(),
        Behaviour::close_after_reading(),
        Behaviour::close_mid_head(),
        Behaviour::raw("").then(Step::Reset),
    ] {
        for outgoing in [post("/?email=a", "{}"), get("/?email=a"), post("/?email=a", vec![b'x'; 4 << 20])] {
            let partner = Stub::start(behaviour.clone()).await;
            let sent = send(patient(), &Outgoing { url: partner.url(&outgoing.url), ..outgoing }).await;
            assert!(fault(sent, SendFaultKind::Reset).partial.is_none(), "{behaviour:?}");
            assert_eq!(partner.connections(), 1, "never sent twice: {behaviour:?}");
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_incomplete_and_shows_how_far_it_came() {
    for behaviour in [
        Behaviour::close_mid_body("{\"code\":"),
        Behaviour::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"code\":\r\n").then(Step::Close),
        Behaviour::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"code\":\r\nzz\r\n")
            .then(Step::Hang),
    ] {
        let partner = Stub::start(behaviour.clone()).await;
        let fault = fault(send(patient(), &post(partner.url("/"), "{}")).await, SendFaultKind::Incomplete);
        let partial = fault.partial.unwrap();
        assert_eq!((partial.status, partial.body), (200, Bytes::from("{\"code\":")), "{behaviour:?}");
    }
    // A reset may overtake what was written before it, so only the kind is sure.
    let partner =
        Stub::start(Behaviour::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").then(Step::Await).then(Step::Reset))
            .await;
    let sent = send(hasty(), &post(partner.url("/"), "{}")).await;
    assert!(matches!(sent.result.unwrap_err().kind, SendFaultKind::Timeout | SendFaultKind::Incomplete));
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_incomplete() {
    for behaviour in [
        Behaviour::malformed(),
        Behaviour::raw("<html>no http</html>\r\n\r\n").then(Step::Close),
        Behaviour::raw("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n").then(Step::Close),
        Behaviour::raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
            .then(Step::Hang),
        Behaviour::endless_head(),
    ] {
        let partner = Stub::start(behaviour.clone()).await;
        let fault = fault(send(patient(), &post(partner.url("/"), "{}")).await, SendFaultKind::Incomplete);
        assert!(!fault.message.is_empty(), "{behaviour:?}");
    }
}

#[tokio::test]
async fn endless_and_huge_replies_are_cut_at_the_limit() {
    for behaviour in [Behaviour::endless_body(), Behaviour::huge(50 << 20)] {
        let partner = Stub::start(behaviour).await;
        let sent = send(patient(), &post(partner.url("/"), "{}")).await;
        let partial = fault(sent, SendFaultKind::Incomplete).partial.unwrap();
        assert_eq!((partial.status, partial.body.len()), (200, 1 << 20));
        partner.wait_until_idle().await;
    }
}

#[tokio::test]
async fn a_reply_of_just_the_limit_is_whole_and_one_byte_more_is_not() {
    let dispatcher = Dispatcher::new(DispatchConfig { reply_limit: 1000, ..local() }).unwrap();
    for size in [1000, 1001] {
        for behaviour in [
            Behaviour::ok(vec![b'x'; size]),
            Behaviour::gzip(&vec![b'x'; size]),
            Behaviour::reply_with(200, &[("Content-Encoding", "deflate")], deflated(&"x".repeat(size), true)),
        ] {
            let partner = Stub::start(behaviour).await;
            let sent = dispatcher.send(&patient(), &post(partner.url("/"), "{}")).await;
            if size == 1000 {
                assert_eq!(reply(sent).body.len(), 1000);
            } else {
                assert_eq!(fault(sent, SendFaultKind::Incomplete).partial.unwrap().body.len(), 1000);
            }
        }
    }
}

#[tokio::test]
async fn a_gzip_bomb_is_incomplete() {
    let partner = Stub::start(Behaviour::gzip_bomb(32 << 20)).await;
    let fault = fault(send(patient(), &post(partner.url("/"), "{}")).await, SendFaultKind::Incomplete);
    assert!(fault.message.contains("decompresses"), "{}", fault.message);
    assert_eq!(fault.partial.unwrap().body.len(), 1 << 20);
}

#[tokio::test]
async fn a_reply_in_a_coding_that_we_do_not_read_or_that_is_broken_is_incomplete() {
    let whole = gzip(b"{\"code\":1}");
    let text = "some text ".repeat(100);
    let zlib = deflated(&text, true);
    for (coding, body) in [
        ("br", &b"\x0b\x02\x80OK\x03"[..]),
        ("zstd", b"(\xb5/\xfd"),
        ("gzip, gzip", &whole),
        ("gzip", b"{\"code\":1}"),
        ("gzip", &whole[..whole.len() - 4]),
        ("deflate", &zlib[..zlib.len() / 2]),
    ] {
        let partner = Stub::start(Behaviour::reply_with(200, &[("Content-Encoding", coding)], body)).await;
        let fault = fault(send(patient(), &post(partner.url("/"), "{}")).await, SendFaultKind::Incomplete);
        assert_eq!(fault.partial.unwrap().status, 200, "{coding}");
    }
}

// Pooled connections, and the exact line between sent and not sent

#[tokio::test]
async fn a_pooled_connection_that_the_partner_closed_while_idle_costs_nothing() {
    let partner = Stub::start(Behaviour::ok("OK").then(Step::Close)).await;
    let dispatcher = dispatcher();
    for number in 1..=100 {
        let outgoing = if number % 2 == 0 { get(partner.url("/")) } else { post(partner.url("/"), "{}") };
        assert_eq!(reply(dispatcher.send(&patient(), &outgoing).await).body, "OK");
        // The closing has arrived: the gateway has closed its end too.
        partner.wait_until_idle().await;
        assert_eq!((partner.requests().len(), partner.connections()), (number, number));
    }
}

// On one thread the runtime looks at its sockets between the partner's reset and the next request. A reset that the
// kernel has not delivered by then is a race that nobody can win; it must be rare, and is never taken for "not sent".
#[tokio::test]
async fn a_request_on_a_pooled_connection_that_is_being_reset_is_moved_or_unknown_and_never_seen_twice() {
    let partner = Stub::start(Behaviour::ok("OK").then(Step::Reset)).await;
    let dispatcher = dispatcher();
    let mut lost = 0;
    for number in 0..200 {
        let outgoing = post(partner.url("/"), format!("lead-{number}"));
        if let Err(fault) = dispatcher.send(&patient(), &outgoing).await.result {
            assert_eq!(fault.kind, SendFaultKind::Reset, "{}", fault.message);
            lost += 1;
        }
        partner.wait_until_idle().await;
    }
    let mut seen: Vec<String> = partner.requests().iter().map(Received::text).collect();
    let all = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), all, "seen twice");
    assert!(all + lost >= 200, "{all} seen and {lost} lost");
    assert!(lost <= 10, "{lost} of 200 were lost");
}

#[tokio::test]
async fn bytes_that_come_unasked_on_an_idle_connection_are_never_taken_for_a_reply() {
    let unasked = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n".to_vec();
    let partner = Stub::start(Behaviour::ok("OK").then(Step::Write(unasked)).then(Step::Close)).await;
    let dispatcher = dispatcher();
    for number in 1..=50 {
        let sent = dispatcher.send(&patient(), &post(partner.url("/"), "{}")).await;
        assert_eq!(reply(sent).body, "OK");
        partner.wait_until_idle().await;
        assert_eq!(partner.requests().len(), number);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_to_be_not_sent_was_never_seen_by_the_partner() {
    // Connect time-outs around the time that a connection takes, so that many requests are withdrawn at the very moment
    // of being handed over; and the partner sees each body at most once.
    let partner = Stub::start(Behaviour::ok("OK")).await;
    let mut not_sent = Vec::new();
    let mut replied = 0;
    for round in 0..60_u64 {
        // With an empty pool.
        let dispatcher = dispatcher();
        let mut sending = tokio::task::JoinSet::new();
        for number in 0..10_u64 {
            let id = format!("lead-{round}-{number}");
            let (dispatcher, url) = (dispatcher.clone(), partner.url("/"));
            let limit = Duration::from_micros(40 * (round % 20) + 7 * number);
            sending.spawn(async move {
                let transport = Transport::shared(limit, Duration::from_secs(20));
                (id.clone(), dispatcher.send(&transport, &post(url, id)).await)
            });
        }
        while let Some(sent) = sending.join_next().await {
            let (id, sent) = sent.unwrap();
            match sent.result {
                Ok(_) => replied += 1,
                Err(fault) => {
                    assert_eq!(fault.kind, SendFaultKind::NotSent, "{}", fault.message);
                    not_sent.push(id);
                }
            }
        }
    }
    partner.wait_until_idle().await;
    let mut seen: Vec<String> = partner.requests().iter().map(Received::text).collect();
    assert!(not_sent.iter().all(|id| !seen.contains(id)), "said to be not sent, and seen");
    assert_eq!(seen.len(), replied);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), replied, "seen twice");
    assert!(replied > 0 && !not_sent.is_empty(), "{replied} replied, {} not sent: no race was run", not_sent.len());
}

#[tokio::test]
async fn one_hanging_partner_does_not_delay_another() {
    let (slow, quick) = (Stub::start(Behaviour::hang_after_reading()).await, Stub::start(Behaviour::ok("OK")).await);
    let dispatcher = Arc::new(dispatcher());
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (dispatcher, url) = (Arc::clone(&dispatcher), slow.url("/"));
        waiting.spawn(async move { dispatcher.send(&patient(), &post(url, "{}")).await });
    }
    slow.wait_for_requests(50).await;
    for _ in 0..20 {
        assert_eq!(reply(dispatcher.send(&patient(), &post(quick.url("/"), "{}")).await).body, "OK");
    }
}

// When to try again

fn retry() -> Retry {
    Retry { max_attempts: 5, first: Span::seconds(10), max: Span::seconds(900), give_up_after: Span::seconds(3600) }
}

fn tried(attempts: u32) -> Tried {
    Tried { attempts, first_at: at(0), held: Duration::ZERO, retry_after: None }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

#[test]
fn pauses_double_up_to_the_longest_with_a_fifth_of_jitter() {
    let middle: Vec<u64> = (1..=9).map(|made| next_delay(&retry(), made, 0.5).as_secs()).collect();
    assert_eq!(middle, [10, 20, 40, 80, 160, 320, 640, 900, 900]);
    assert_eq!(next_delay(&retry(), 1, 0.0), Duration::from_secs(8));
    assert_eq!(next_delay(&retry(), 1, 1.0), Duration::from_secs(12));
    assert_eq!(next_delay(&retry(), 50, 1.0), Duration::from_mins(15), "jitter never passes the longest pause");
    assert_eq!(next_delay(&retry(), u32::MAX, 0.0), Duration::from_mins(12));
}

#[test]
fn a_retry_after_is_a_lower_bound_and_at_most_an_hour() {
    let again = |seconds| {
        let asked = Tried { retry_after: Some(Duration::from_secs(seconds)), ..tried(1) };
        plan(&Retry { give_up_after: Span::seconds(100_000), ..retry() }, asked, at(0), 0.5)
    };
    assert_eq!(again(3), Again::At(at(10)));
    assert_eq!(again(120), Again::At(at(120)));
    assert_eq!(again(86_400), Again::At(at(i64::try_from(LONGEST_RETRY_AFTER.as_secs()).unwrap())));
}

#[test]
fn it_gives_up_when_attempts_or_time_are_used_up_and_held_time_does_not_count() {
    assert_eq!(plan(&retry(), tried(5), at(1), 0.5), Again::GiveUp(GiveUp::AttemptsUsed(5)));
    assert_eq!(plan(&retry(), tried(4), at(3520), 0.5), Again::At(at(3600)));
    assert_eq!(plan(&retry(), tried(4), at(3521), 0.5), Again::GiveUp(GiveUp::TooLate(Duration::from_hours(1))));
    let held = Tried { held: Duration::from_hours(2), ..tried(4) };
    assert_eq!(plan(&retry(), held, at(3521 + 7000), 0.5), Again::At(at(3601 + 7000)));
}

proptest! {
    #[test]
    fn no_pause_is_shorter_than_four_fifths_of_the_first_or_longer_than_the_longest(
        first in 1_u64..100_000, more in 0_u64..10_000_000, made in 1_u32..1_000, draw in 0.0_f64..1.0,
    ) {
        let (first, max) = (Duration::from_millis(first), Duration::from_millis(first + more));
        let pause = next_delay(&Retry { first: Span(first), max: Span(max), ..retry() }, made, draw);
        prop_assert!(pause <= max && pause >= first.mul_f64(0.799), "{pause:?}");
    }
}

// How fast

proptest! {
    #[test]
    fn no_window_ever_sees_more_than_the_rate_toward_a_partner(
        count in 1_u32..40, per in 1_u64..5_000, steps in proptest::collection::vec(0_u64..2_000, 1..300),
    ) {
        let (start, per) = (clock::instant(), Duration::from_millis(per));
        let pace = Pace::never_above(Rate { count, per }, start);
        let (mut now, mut passed) = (start, Vec::new());
        for step in steps {
            now += Duration::from_millis(step) / 10;
            while pace.ready(now).is_ok() {
                passed.push(now);
            }
        }
        for window in passed.windows(count as usize + 1) {
            prop_assert!(window[count as usize] - window[0] >= per, "{} in less than {per:?}", count + 1);
        }
    }

    #[test]
    fn whoever_waits_as_told_gets_through_at_nearly_the_whole_rate(count in 1_u32..200, per in 10_u64..20_000) {
        let (start, per) = (clock::instant(), Duration::from_millis(per).max(Duration::from_millis(2 * u64::from(count))));
        let pace = Pace::never_above(Rate { count, per }, start);
        let mut now = start;
        for _ in 0..count * 5 {
            if let Err(wait) = pace.ready(now) {
                now += wait;
                prop_assert_eq!(pace.ready(now), Ok(()), "after waiting as told");
            }
        }
        prop_assert!(now - start <= per.mul_f64(5.0 * 1.12), "{:?} for five times {per:?}", now - start);
    }
}

#[test]
fn a_source_may_send_its_whole_count_at_once_and_is_told_how_long_to_wait() {
    let start = clock::instant();
    let pace = Pace::with_bursts("50/10s".parse().unwrap(), start);
    assert_eq!((0..60).filter(|_| pace.ready(start).is_ok()).count(), 50);
    assert_eq!(pace.ready(start), Err(Duration::from_millis(200)));
    assert_eq!(pace.ready(start + Duration::from_millis(200)), Ok(()));
    assert_eq!((0..60).filter(|_| pace.ready(start + Duration::from_mins(1)).is_ok()).count(), 50);
}

// The breaker

fn breaker() -> Breaker {
    Breaker::new(Duration::from_mins(1))
}

/// Opens it at this second by the troubles it takes.
fn trip(breaker: &mut Breaker, second: i64) {
    for _ in 0..THRESHOLD {
        let permit = breaker.allow(at(second)).unwrap();
        breaker.record(at(second), permit, Health::Trouble);
    }
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap()
}

#[test]
fn it_opens_after_five_troubles_in_a_row_and_not_before() {
    let mut breaker = breaker();
    for health in [Health::Trouble, Health::Trouble, Health::Trouble, Health::Trouble, Health::Well, Health::Unclear] {
        let permit = breaker.allow(at(0)).unwrap();
        breaker.record(at(0), permit, health);
    }
    assert_eq!(breaker.state(at(0)), Stand::Closed);
    trip(&mut breaker, 1);
    assert_eq!(breaker.state(at(1)), Stand::Open { until: at(31) });
    assert_eq!(breaker.allow(at(30)).unwrap_err(), at(31));
    assert_eq!(breaker.state(at(31)), Stand::HalfOpen);
}

#[test]
fn one_misconfiguration_opens_it_at_once() {
    let mut breaker = breaker();
    let permit = breaker.allow(at(0)).unwrap();
    breaker.record(at(0), permit, Health::Misconfigured);
    assert_eq!(breaker.state(at(0)), Stand::Open { until: at(30) });
}

#[test]
fn it_stays_open_longer_with_every_failed_probe_up_to_ten_minutes_and_a_definite_answer_closes_it() {
    let mut breaker = breaker();
    trip(&mut breaker, 0);
    let (mut now, mut open_for) = (0, seconds(OPEN_FIRST));
    for _ in 0..8 {
        now += open_for;
        let probe = breaker.allow(at(now)).unwrap();
        assert_eq!(breaker.allow(at(now)).unwrap_err(), at(now + 60), "one probe at a time");
        breaker.record(at(now), probe, Health::Trouble);
        open_for = (open_for * 2).min(seconds(OPEN_MAX));
        assert_eq!(breaker.state(at(now)), Stand::Open { until: at(now + open_for) });
    }
    now += open_for;
    let probe = breaker.allow(at(now)).unwrap();
    breaker.record(at(now), probe, Health::Well);
    assert_eq!(breaker.state(at(now)), Stand::Closed);
    trip(&mut breaker, now);
    assert_eq!(breaker.state(at(now)), Stand::Open { until: at(now + 30) }, "the time starts anew");
}

#[test]
fn a_lost_probe_is_replaced_and_its_late_report_changes_nothing_unless_it_is_good() {
    let mut breaker = breaker();
    trip(&mut breaker, 0);
    let lost = breaker.allow(at(30)).unwrap();
    assert_eq!(breaker.state(at(89)), Stand::Open { until: at(90) });
    let second = breaker.allow(at(90)).unwrap();
    breaker.record(at(91), lost, Health::Trouble);
    assert_eq!(breaker.state(at(91)), Stand::Open { until: at(150) }, "the second probe is still out");
    breaker.record(at(92), second, Health::Unclear);
    assert_eq!(breaker.state(at(92)), Stand::HalfOpen, "given back unused");
}

#[test]
fn attempts_from_before_it_opened_do_not_keep_it_open_but_can_close_it() {
    let mut breaker = breaker();
    let early: Vec<_> = (0..3).map(|_| breaker.allow(at(0)).unwrap()).collect();
    trip(&mut breaker, 1);
    let mut early = early.into_iter();
    breaker.record(at(2), early.next().unwrap(), Health::Trouble);
    breaker.record(at(2), early.next().unwrap(), Health::Misconfigured);
    assert_eq!(breaker.state(at(2)), Stand::Open { until: at(31) });
    breaker.record(at(3), early.next().unwrap(), Health::Well);
    assert_eq!(breaker.state(at(3)), Stand::Closed);
}

#[test]
fn an_attempts_health_follows_its_verdict() {
    let health = |class, verdict, status| {
        let judgement = Judgement {
            verdict,
            class,
            explanation: Explanation::default(),
            reason: None,
            reference: None,
            redirect_url: None,
            price: None,
            retry_after: None,
        };
        Health::of(&judgement, status)
    };
    for verdict in [Verdict::Accepted, Verdict::Rejected, Verdict::Duplicate] {
        assert_eq!(health(Class::Response, verdict, Some(500)), Health::Well, "a SOAP fault may be a clear no");
    }
    assert_eq!(health(Class::Response, Verdict::Retryable, Some(503)), Health::Trouble);
    assert_eq!(health(Class::Response, Verdict::Unknown, Some(500)), Health::Trouble);
    assert_eq!(health(Class::Response, Verdict::Retryable, Some(429)), Health::Unclear);
    assert_eq!(health(Class::Response, Verdict::Unknown, Some(200)), Health::Unclear);
    assert_eq!(health(Class::Configuration, Verdict::Retryable, Some(401)), Health::Misconfigured);
    for class in [Class::NotSent, Class::Timeout, Class::Reset, Class::Incomplete] {
        assert_eq!(health(class, Verdict::Unknown, None), Health::Trouble);
    }
    assert_eq!(health(Class::Crash, Verdict::Unknown, None), Health::Unclear);
}
