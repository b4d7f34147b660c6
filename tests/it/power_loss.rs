//! Power loss, seen in the system calls of the real binary: no yes to a source, and no request to a partner, leaves before
//! a sync of the store's log has returned that began after what makes it true was written. (What `kill -9` cannot show:
//! the kernel keeps what a killed process has written.)

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use lead_gateway::clock;
use tokio::task::JoinSet;

use crate::harness::{Gateway, JsonBody as _, KEY, World, buyer, lead};
use crate::partner_stub::{Behaviour, Stub};

/// Posts in all, and at the same time.
const POSTS: usize = 60;
const AT_ONCE: usize = 6;

/// A gateway whose writes and syncs are written down.
struct Traced {
    gateway: Gateway,
    trace: PathBuf,
}

/// What the gateway did, in order.
#[derive(Debug)]
enum Call {
    /// Bytes for the log: the write has returned.
    Logged(String),
    /// This thread asked for the log to be synced.
    SyncBegan(String),
    /// And has been told that it is.
    Synced(String),
    /// Bytes for a socket, as the write begins.
    Sent(String),
}

impl Traced {
    async fn start(world: &World) -> Self {
        let works = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
        assert!(
            works.as_ref().is_ok_and(|output| output.status.success()),
            "strace must be installed and allowed to trace (make tools installs it; a container needs ptrace): {works:?}"
        );
        let trace = world.path("trace");
        let file = trace.display().to_string();
        let calls = "trace=pwrite64,write,writev,sendto,sendmsg,fsync,fdatasync";
        // -D: the gateway itself is our child, strace its grandchild. -xx: bytes in hex, and a page of the log whole.
        let strace = ["strace", "-D", "-f", "-y", "-xx", "-s", "10000", "-e", calls, "-o", &file];
        let gateway = world.start_as(world.command_under(&strace, &["serve"])).await;
        Self { gateway, trace }
    }

    /// Stops the gateway; what it did.
    async fn stop(self) -> Vec<Call> {
        self.gateway.stop().await;
        let began = clock::instant();
        loop {
            let trace = std::fs::read_to_string(&self.trace).unwrap();
            if trace.lines().any(|line| line.contains("+++ exited with 0 +++")) {
                return calls(&trace);
            }
            assert!(began.elapsed() < Duration::from_secs(30), "strace did not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn calls(trace: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    // Of each thread, the call on the log that has not returned yet.
    let mut open: HashMap<&str, String> = HashMap::new();
    let name_of_log = hex("gateway.db-wal");
    for line in trace.lines() {
        let Some((thread, call)) = line.trim_start().split_once(' ') else { continue };
        let call = call.trim_start();
        let log = call.contains(&name_of_log);
        let sync = call.starts_with("fdatasync(") || call.starts_with("fsync(");
        let write = call.starts_with("pwrite64(") || call.starts_with("write(");
        let returned = !call.ends_with("<unfinished ...>");
        if log && sync {
            calls.push(Call::SyncBegan(thread.to_owned()));
            if returned {
                assert!(call.ends_with("= 0"), "a sync failed: {call}");
                calls.push(Call::Synced(thread.to_owned()));
            } else {
                open.insert(thread, "sync".to_owned());
            }
        } else if log && write {
            if returned {
                calls.push(Call::Logged(call.to_owned()));
            } else {
                open.insert(thread, call.to_owned());
            }
        } else if call.contains(" resumed>") {
            match open.remove(thread).as_deref() {
                Some("sync") => {
                    assert!(call.ends_with("= 0"), "a sync failed: {call}");
                    calls.push(Call::Synced(thread.to_owned()));
                }
                Some(written) => calls.push(Call::Logged(written.to_owned())),
                None => {}
            }
        } else if !log && !sync {
            calls.push(Call::Sent(call.to_owned()));
        }
    }
    calls
}

/// As strace writes bytes.
fn hex(text: &str) -> String {
    let mut hex = String::new();
    for byte in text.bytes() {
        write!(hex, "\\x{byte:02x}").unwrap();
    }
    hex
}

#[tokio::test(flavor = "multi_thread")]
async fn no_yes_leaves_before_the_sync_that_makes_it_true() {
    // Nobody takes them, so that there is nothing but posts.
    let world =
        World::new(&buyer("bright", "http://127.0.0.1:9/", "limits = { total = 1 }", "when_full = \"hold\"", ""));
    let traced = Traced::start(&world).await;
    let (mut posts, mut emails) = (JoinSet::new(), BTreeMap::new());
    for n in 0..POSTS {
        let email = format!("person{n}@example.com");
        let post = traced.gateway.client.post(traced.gateway.url("/v1/campaigns/solar/leads")).bearer_auth(KEY);
        let post = post.json_body(&lead(&email));
        posts.spawn(async move {
            let answer = post.send().await.unwrap();
            assert_eq!(answer.status(), 202);
            let body: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            (body["lead_id"].as_str().unwrap().to_owned(), email)
        });
        if posts.len() >= AT_ONCE {
            emails.extend(posts.join_next().await.unwrap());
        }
    }
    while let Some(answered) = posts.join_next().await {
        emails.extend(answered);
    }
    let calls = traced.stop().await;

    let wanted: Vec<(String, String)> = emails.iter().map(|(id, email)| (hex(id), hex(email))).collect();
    let (mut logged, mut durable, mut answered) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut syncing: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    let yes = hex("HTTP/1.1 202");
    for call in &calls {
        match call {
            Call::Logged(bytes) => {
                logged.extend(wanted.iter().map(|(_, email)| email.as_str()).filter(|email| bytes.contains(email)));
            }
            Call::SyncBegan(thread) => {
                syncing.insert(thread, logged.clone());
            }
            Call::Synced(thread) => durable.extend(syncing.remove(thread.as_str()).unwrap()),
            Call::Sent(bytes) if bytes.contains(&yes) => {
                let (id, email) =
                    wanted.iter().find(|(id, _)| bytes.contains(id)).unwrap_or_else(|| panic!("whose is {bytes}?"));
                assert!(
                    durable.contains(email.as_str()),
                    "answer {} of {POSTS} left before its lead was synced (written: {})",
                    answered.len() + 1,
                    logged.contains(email.as_str()),
                );
                answered.insert(id);
            }
            Call::Sent(_) => {}
        }
    }
    assert_eq!(answered.len(), POSTS, "not every answer was seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_leaves_before_the_sync_of_its_attempt_nor_an_outcome_before_that_of_its_completion() {
    const LEADS: usize = 12;
    let stub = Stub::start(Behaviour::ok(r#"{"ok": true}"#)).await;
    let world = World::new(&buyer("bright", &stub.url("/leads"), "", "", ""));
    let traced = Traced::start(&world).await;
    for n in 0..LEADS {
        // One after the other, so that each has its commits for itself.
        let answer = traced.gateway.post_and_wait(&lead(&format!("a{n}@example.com"))).await;
        assert_eq!((answer.status, answer.at("/status")), (200, "sold".to_owned()));
    }
    let calls = traced.stop().await;

    // Commits since the last outcome was told: of the lead, of its attempt, of its completion.
    let (mut commits, mut logged, mut requests, mut outcomes) = (0, false, 0, 0);
    let mut syncing: HashMap<&str, bool> = HashMap::new();
    let (request, outcome, sold) = (hex("POST /leads"), hex("HTTP/1.1 200"), hex("\"sold\""));
    for call in &calls {
        match call {
            Call::Logged(_) => logged = true,
            Call::SyncBegan(thread) => {
                syncing.insert(thread, std::mem::take(&mut logged));
            }
            Call::Synced(thread) => commits += usize::from(syncing.remove(thread.as_str()).unwrap()),
            Call::Sent(bytes) if bytes.contains(&request) => {
                requests += 1;
                assert!(commits >= 2, "request {requests} left after {commits} commits");
            }
            Call::Sent(bytes) if bytes.contains(&outcome) && bytes.contains(&sold) => {
                outcomes += 1;
                assert!(commits >= 3, "outcome {outcomes} was told after {commits} commits");
                commits = 0;
            }
            Call::Sent(_) => {}
        }
    }
    assert_eq!((requests, outcomes), (LEADS, LEADS));
}
