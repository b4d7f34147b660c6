//! A hundred partners that are dead, slow or ill-mannered beside one that is well: it does not notice, and what they take of
//! the machine is bounded. The real binary.

use std::time::Duration;

use lead_gateway::clock;
use serde_json::json;

use crate::harness::{Gateway, World, buyer, memory};
use crate::partner_stub::{Behaviour, Stub, Unconnectable, refused};

const BAD: usize = 100;
/// Deliveries that wait at each of them.
const WAITING: usize = 12;

/// The ill-mannered; dropping them ends them.
struct Bad {
    _stubs: Vec<Stub>,
    _holes: Unconnectable,
    /// A URL for each of the hundred.
    urls: Vec<String>,
}

impl Bad {
    async fn start() -> Self {
        let holes = Unconnectable::start().await;
        let stubs = vec![
            Stub::start(Behaviour::hang_at_once()).await,
            Stub::start(Behaviour::hang_after_reading()).await,
            Stub::start(Behaviour::hang_mid_head()).await,
            Stub::start(Behaviour::hang_mid_body("{\"ok\"")).await,
            Stub::start(Behaviour::reset_before_reading()).await,
            Stub::start(Behaviour::reset_after_reading()).await,
            Stub::start(Behaviour::endless_body()).await,
        ];
        let mut kinds: Vec<String> = stubs.iter().map(|stub| stub.url("/")).collect();
        kinds.push(format!("http://{}/", refused().await));
        kinds.push(format!("http://{}/", holes.address));
        // A server that takes the connection and never answers the TLS handshake.
        kinds.push(stubs[0].url("/").replace("http:", "https:"));
        let urls = kinds.iter().cycle().take(BAD).cloned().collect();
        Self { _stubs: stubs, _holes: holes, urls }
    }
}

/// Pauses or resumes each of the hundred.
async fn all(gateway: &Gateway, act: &str) {
    for n in 0..BAD {
        let answer = gateway.act(&format!("/v1/contracts/bad{n}/{act}"), &json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

/// Posts one after another to the healthy one, and says how long each took from the post to its sale, sorted.
async fn sales(gateway: &Gateway, round: &str, many: usize) -> Vec<Duration> {
    let mut took = Vec::with_capacity(many);
    for n in 0..many {
        let began = clock::instant();
        let sold = gateway.post_and_wait(&json!({"email": format!("{round}.{n}@example.com"), "name": "well"})).await;
        took.push(began.elapsed());
        assert_eq!(sold.at("/status"), "sold", "{sold:?}");
    }
    took.sort_unstable();
    took
}

fn p50(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() / 2]
}

fn p90(sorted: &[Duration]) -> Duration {
    sorted[(sorted.len() * 9).div_ceil(10) - 1]
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted[(sorted.len() * 99).div_ceil(100) - 1]
}

/// How long each of the healthy one's sales took, alone and beside the others, in rounds that take turns; and what the process
/// used at most.
struct Seen {
    alone: Vec<Vec<Duration>>,
    beside: Vec<Vec<Duration>>,
    memory: (u64, u64),
    sockets: usize,
}

async fn beside_a_hundred(rounds: usize, many: usize, settled: Duration) -> Seen {
    let well = Stub::start(Behaviour::ok(r#"{"ok": true}"#)).await;
    let bad = Bad::start().await;
    let endpoint = "timeout = \"2s\"\nconnect_timeout = \"1s\"\nconcurrency = 4";
    let picky = |id: &str, url: &str, name: &str, endpoint: &str| {
        let contract = format!("when_paused = \"hold\"\nfilters = {{ field = \"name\", equals = \"{name}\" }}");
        buyer(id, url, "", &contract, endpoint)
    };
    let mut network = picky("well", &well.url("/"), "well", "");
    for (n, url) in bad.urls.iter().enumerate() {
        network += &picky(&format!("bad{n}"), url, "bad", endpoint);
    }
    // Each lead for the bad ones goes to all of them.
    let world = World::with("distribution = \"broadcast\"\nsell_to = 0", "", &network);
    let gateway = world.start().await;
    all(&gateway, "pause").await;
    for n in 0..WAITING {
        let answer = gateway.post(&json!({"email": format!("bad{n}@example.com"), "name": "bad"})).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    // Everything is warm.
    sales(&gateway, "warm", 50).await;
    let before = memory(gateway.pid(), "VmRSS");
    let (mut seen, mut most) = (Seen { alone: vec![], beside: vec![], memory: (before, before), sockets: 0 }, before);
    for round in 0..rounds {
        seen.alone.push(sales(&gateway, &format!("alone{round}"), many).await);
        all(&gateway, "resume").await;
        tokio::time::sleep(settled).await;
        let measured = sales(&gateway, &format!("beside{round}"), many).await;
        most = most.max(memory(gateway.pid(), "VmRSS"));
        let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();
        seen.sockets = seen.sockets.max(open);
        seen.beside.push(measured);
        all(&gateway, "pause").await;
        gateway.eventually("/v1/deliveries?state=sending", |page| page["items"] == json!([])).await;
    }
    seen.memory.1 = most;
    gateway.stop().await;
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_partners_that_hang_or_fail_cost_a_healthy_one_nothing_and_little_of_the_machine() {
    let seen = beside_a_hundred(4, 40, Duration::ZERO).await;
    let high = |rounds: &[Vec<Duration>]| rounds.iter().map(|round| p90(round)).collect::<Vec<_>>();
    let (all_alone, all_beside) = (high(&seen.alone), high(&seen.beside));
    eprintln!("p90 alone {all_alone:?}, beside {all_beside:?}; {} sockets", seen.sockets);
    // Whatever else the machine does only adds to a round: the best of each says what the gateway itself does.
    let (alone, beside) = (*all_alone.iter().min().unwrap(), *all_beside.iter().min().unwrap());
    // One that waited for another's time-out would take two seconds.
    assert!(beside < alone * 3 + Duration::from_millis(250), "alone {:?}, beside {:?}", seen.alone, seen.beside);
    let (before, most) = seen.memory;
    assert!(most < before + (96 << 20), "{} MiB, then {} MiB", before >> 20, most >> 20);
    // Four at once for each, and what the process has anyway.
    assert!(seen.sockets < BAD * 4 + 200, "{} sockets", seen.sockets);
}

/// The honest figure, on a machine that does nothing else: `make measure`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, on a quiet machine and a release build: make measure"]
async fn beside_a_hundred_bad_partners_the_p99_of_a_healthy_one_is_within_a_tenth_of_its_own() {
    // They are as they are for hours: their time-outs have ended, and those that are left alone for a while are.
    let seen = beside_a_hundred(5, 1_500, Duration::from_secs(3)).await;
    // Of all the rounds together: in one of them a disk that is slow for a moment decides.
    let all = |rounds: &[Vec<Duration>]| {
        let mut all = rounds.concat();
        all.sort_unstable();
        all
    };
    let (alone, beside) = (all(&seen.alone), all(&seen.beside));
    for (share, high) in [("p50", p50 as fn(&[Duration]) -> Duration), ("p90", p90), ("p99", p99)] {
        eprintln!("{share}: alone {:?}, beside {:?}", high(&alone), high(&beside));
    }
    let ratio = p99(&beside).as_secs_f64() / p99(&alone).as_secs_f64();
    eprintln!(
        "p99 {ratio:.3} times its own; {} sockets; {} MiB, then {} MiB",
        seen.sockets,
        seen.memory.0 >> 20,
        seen.memory.1 >> 20,
    );
    assert!(ratio < 1.1, "{ratio:.3}");
}
