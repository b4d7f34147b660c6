//! Sources that post all the time, many at once, and write down every yes: with and without an `Idempotency-Key`, repeating
//! what was not answered and what was, waiting or not.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lead_gateway::clock;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::dice::Dice;
use super::fleet::{Addresses, client};
use crate::harness::text_at;

/// How long a post with a key is repeated before that is a fault.
const PATIENCE: Duration = Duration::from_secs(90);
/// What one source may send in all; it tries more.
pub const CAPPED_AT: u64 = 50;

/// Who posts where.
#[derive(Debug, Clone, Copy)]
struct Source {
    campaign: &'static str,
    key: &'static str,
}

const ACME: Source = Source { campaign: "solar", key: crate::harness::KEY };
const CAPPED: Source = Source { campaign: "solar", key: "test-key-of-capped-0001" };
const GALE: Source = Source { campaign: "wind", key: "test-key-of-gale-0001" };

/// The sources and campaigns beside those of every test network.
pub fn network() -> String {
    format!(
        r#"
[[source]]
id = "capped"
campaign = "solar"
partner = "media"
key = "{}"
limits = {{ total = {CAPPED_AT} }}

[[campaign]]
id = "wind"
timezone = "America/New_York"
currency = "USD"
distribution = "broadcast"
sell_to = 2
[campaign.fields]
email = {{ type = "email", required = true }}
name = {{ type = "text" }}
bill = {{ type = "decimal", min = "0" }}

[[source]]
id = "gale"
campaign = "wind"
partner = "media"
key = "{}"
"#,
        CAPPED.key, GALE.key
    )
}

/// A lead that a gateway said yes to.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    pub lead: String,
    pub email: String,
    /// The status that was told with it.
    pub told: String,
}

#[derive(Debug, Default)]
struct Written {
    acknowledged: Mutex<Vec<Acknowledged>>,
    faults: Mutex<Vec<String>>,
    repeated: AtomicUsize,
    unanswered: AtomicUsize,
    refused: AtomicUsize,
    end: AtomicBool,
}

/// All sources together.
pub struct Sources {
    written: Arc<Written>,
    posting: JoinSet<()>,
}

/// What they came to.
#[derive(Debug)]
pub struct Account {
    pub acknowledged: Vec<Acknowledged>,
    pub faults: Vec<String>,
    /// Posts made again, answered before or not.
    pub repeated: usize,
    /// Posts that never got an answer, made without a key.
    pub unanswered: usize,
    /// Posts refused at a limit.
    pub refused: usize,
}

impl Sources {
    /// So many begin to post, each every `pace` or so.
    pub fn start(many: usize, pace: Duration, seed: u64, addresses: &Addresses) -> Self {
        let (written, mut posting) = (Arc::new(Written::default()), JoinSet::new());
        for n in 0..many {
            let poster = Poster {
                n,
                dice: Dice::new(seed, &format!("source {n}")),
                client: client(Duration::from_secs(10)),
                addresses: Arc::clone(addresses),
                written: Arc::clone(&written),
            };
            posting.spawn(poster.run(pace));
        }
        Self { written, posting }
    }

    /// Lets them end what they have begun, and says what it came to. A gateway must be up.
    pub async fn end(mut self) -> Account {
        self.written.end.store(true, Ordering::Relaxed);
        while let Some(ended) = self.posting.join_next().await {
            ended.unwrap();
        }
        let written = &self.written;
        Account {
            acknowledged: std::mem::take(&mut written.acknowledged.lock().unwrap()),
            faults: std::mem::take(&mut written.faults.lock().unwrap()),
            repeated: written.repeated.load(Ordering::Relaxed),
            unanswered: written.unanswered.load(Ordering::Relaxed),
            refused: written.refused.load(Ordering::Relaxed),
        }
    }
}

struct Poster {
    n: usize,
    dice: Dice,
    client: reqwest::Client,
    addresses: Addresses,
    written: Arc<Written>,
}

#[derive(Debug, Clone)]
struct Post {
    source: Source,
    email: String,
    body: String,
    key: Option<String>,
    wait: bool,
}

/// How a post was answered.
enum Answer {
    Yes(Acknowledged),
    /// At a limit.
    No,
    /// Nobody knows.
    None,
}

impl Poster {
    async fn run(mut self, pace: Duration) {
        // Those with a key that were answered, and with which lead.
        let mut answered: Vec<(Post, String)> = Vec::new();
        for number in 0.. {
            if self.written.end.load(Ordering::Relaxed) {
                return;
            }
            let post = self.next_post(number);
            if let Some(lead) = self.deliver(&post).await
                && post.key.is_some()
            {
                answered.push((post, lead));
            }
            if !answered.is_empty() && self.dice.percent(10) {
                let (post, lead) = answered[self.dice.index(answered.len())].clone();
                self.written.repeated.fetch_add(1, Ordering::Relaxed);
                if let Some(again) = self.deliver(&post).await
                    && again != lead
                {
                    self.fault(format!("{} is lead {lead}, and {again} when it is posted again", post.email));
                }
            }
            let micros = u64::try_from(pace.as_micros()).unwrap() * 2;
            tokio::time::sleep(Duration::from_micros(self.dice.below(micros))).await;
        }
    }

    fn next_post(&mut self, number: usize) -> Post {
        let email = format!("s{}.{number}@example.com", self.n);
        let source = match self.dice.below(10) {
            0..2 => GALE,
            2 => CAPPED,
            _ => ACME,
        };
        // What it wants: most people anything, a few what is nearly used up, a few what is closed today.
        let bill = match self.dice.below(40) {
            0 => 1,
            1 => 2,
            _ => 50,
        };
        Post {
            source,
            body: json!({"email": email, "name": "Zoë O'Neil & Sons", "bill": bill}).to_string(),
            key: self.dice.percent(50).then(|| format!("key-of-{email}")),
            wait: self.dice.percent(10),
            email,
        }
    }

    /// Posts, again and again where that is safe, and writes down the answer; its lead.
    async fn deliver(&mut self, post: &Post) -> Option<String> {
        let began = clock::instant();
        loop {
            match self.post(post).await {
                Answer::Yes(acknowledged) => {
                    let lead = acknowledged.lead.clone();
                    self.written.acknowledged.lock().unwrap().push(acknowledged);
                    return Some(lead);
                }
                Answer::No => {
                    self.written.refused.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
                Answer::None if post.key.is_none() => {
                    self.written.unanswered.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
                Answer::None if began.elapsed() > PATIENCE => {
                    self.fault(format!("{} was never answered", post.email));
                    return None;
                }
                Answer::None => {
                    self.written.repeated.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    async fn post(&mut self, post: &Post) -> Answer {
        let up: Vec<_> = self.addresses.lock().unwrap().iter().flatten().copied().collect();
        if up.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            return Answer::None;
        }
        let address = up[self.dice.index(up.len())];
        let wait = if post.wait { "?wait=2" } else { "" };
        let mut request = self
            .client
            .post(format!("http://{address}/v1/campaigns/{}/leads{wait}", post.source.campaign))
            .bearer_auth(post.source.key)
            .header("content-type", "application/json")
            .body(post.body.clone());
        if let Some(key) = &post.key {
            request = request.header("idempotency-key", key);
        }
        let Ok(answer) = request.send().await else { return Answer::None };
        let status = answer.status().as_u16();
        let Ok(text) = answer.text().await else { return Answer::None };
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        match status {
            200 | 202 => Answer::Yes(Acknowledged {
                lead: text_at(&body, "/lead_id"),
                email: post.email.clone(),
                told: text_at(&body, "/status"),
            }),
            // In progress; cannot be made durable now.
            409 | 503 => Answer::None,
            403 | 429 if text_at(&body, "/type") == "/problems/limit-reached" => Answer::No,
            _ => {
                self.fault(format!("{} was answered {status} {text}", post.email));
                Answer::No
            }
        }
    }

    fn fault(&self, fault: String) {
        self.written.faults.lock().unwrap().push(fault);
    }
}
