//! What a lead costs, counted in allocations: they are the same on every machine, so they guard in CI what a clock cannot. Speed
//! itself is measured by `make bench`.

use std::alloc::System;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use lead_gateway::clock::Clock;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use crate::harness::{KEY, World, buyer};
use crate::partner_stub::{Behaviour, Stub};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations of a lead that is posted as JSON, waited for, and accepted by a JSON partner, on the embedded store; those of the
/// test's own client and partner are among them. A change that needs more says here why.
const AT_MOST: f64 = 300.0;
/// Leads that are counted, after some that are not: connections are made, statements prepared.
const COUNTED: usize = 300;
const BEFORE: usize = 100;

#[test]
fn a_lead_costs_no_more_allocations_than_it_did() {
    // In a process of its own: whatever else allocates would be counted, too.
    let counting = ["--exact", "cost::leads_are_counted", "--ignored", "--nocapture", "--test-threads=1"];
    let output = Command::new(std::env::current_exe().unwrap()).args(counting).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let counted = said.lines().find_map(|line| line.split_once("allocations for each lead: "));
    let (_, counted) = counted.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    let counted: f64 = counted.parse().unwrap();
    println!("{counted} allocations for each lead");
    assert!(counted <= AT_MOST, "a lead costs {counted} allocations, and cost {AT_MOST}");
    assert!(counted >= AT_MOST * 0.8, "a lead costs only {counted} allocations: bring the guard down to it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test above, in a process of its own"]
async fn leads_are_counted() {
    let partner = Stub::start(Behaviour::reply(200, "{\"ok\":true}")).await;
    let world = World::new(&buyer("bright", &partner.url("/"), "", "", ""));
    let gateway = world.start_inside(Clock::system()).await;
    let address = gateway.address;
    let counted = tokio::task::spawn_blocking(move || {
        let mut source = Source::connect(address);
        (0..BEFORE).for_each(|n| source.post(n));
        let region = Region::new(ALLOCATOR);
        (BEFORE..BEFORE + COUNTED).for_each(|n| source.post(n));
        let stats = region.change();
        stats.allocations + stats.reallocations
    })
    .await
    .unwrap();
    println!("allocations for each lead: {}", counted / COUNTED);
    assert_eq!(partner.requests().len(), BEFORE + COUNTED);
    gateway.finish().await;
}

/// A source on one connection that allocates next to nothing itself.
struct Source {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Source {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, answer: vec![0; 64 * 1024] }
    }

    /// Posts the `n`th lead and waits for its outcome.
    fn post(&mut self, n: usize) {
        let body = format!(
            "{{\"email\":\"ann.{n:06}@example.com\",\"name\":\"Ann Example\",\"phone\":\"07400 {n:06}\",\"postcode\":\"SW1A 1AA\",\
             \"bill\":\"120.50\",\"birth_date\":\"1980-02-29\"}}"
        );
        let head = format!(
            "POST /v1/campaigns/solar/leads?wait=10 HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {KEY}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
        let mut read = 0;
        while !is_whole(&self.answer[..read]) {
            let more = self.stream.read(&mut self.answer[read..]).unwrap();
            assert!(more > 0, "the gateway hung up");
            read += more;
        }
        let answer = String::from_utf8_lossy(&self.answer[..read]);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"sold\""), "{answer}");
    }
}

/// Whether an answer has come with its whole body.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}
