//! The crash campaign: gateways are killed at named points and at random under load, and started again; then the books
//! must agree with what the sources were told and what the partners saw.
//!
//! - `crash/sources.rs` posts all the time and writes down every yes
//! - `crash/partners.rs` takes, refuses, hangs and cuts, and remembers everything
//! - `crash/fleet.rs` starts and kills gateways
//! - `crash/books.rs` says what is wrong in the end
//! - `crash/dice.rs`: all chance follows from a seed, which is printed; `CRASH_SEED=…` repeats the schedule, and
//!   `CRASH_KILLS=1000` (`make soak`) goes on for so many kills

mod books;
mod dice;
mod fleet;
mod partners;
mod sources;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};
use lead_gateway::clock::{self, Clock};
use lead_gateway::failpoint::POINTS;
use lead_gateway::store::{ConnectOptions, Store};

use crate::harness::World;
use crate::servers::postgres::Postgres;
use crate::servers::redis::Redis;
use books::{Books, Buyer, Contract, Findings, Reader};
use dice::Dice;
use fleet::{Fleet, Starter};
use partners::Partner;
use sources::Sources;

/// Kills in one round: two at every named point, and as many again by time and by what arrives as make this.
const KILLS: usize = 32;
/// The schedule of `make test`, which is always the same.
const SEED: u64 = 4;
/// Sources that post at the same time.
const SOURCES: usize = 10;
/// Each of them posts about so often; to several gateways, whose deaths take longer, more seldom, so that what waits in the
/// end is not more than partners take in a minute.
const PACE: Duration = Duration::from_millis(70);
const PACE_ON_POSTGRES: Duration = Duration::from_millis(300);
/// Longest wait for an armed point to be passed; whoever has not passed it by then is killed where it is.
const ARMED_FOR: Duration = Duration::from_secs(6);

/// How long one of two deaths lingers at its point, milliseconds.
const LINGER: u64 = 60;

/// Where whoever says yes too early is caught: more often, for not every commit has a lead in it.
const EARLIEST_YES: [&str; 2] = ["writer.before_commit"; 2];

/// The first three are asked for most, and fill up on the way; `scarce` is soon full and holds, `shut` is closed and holds,
/// `omega` takes the rest. In `gust` a partner buys twice; what `breeze` cannot tell goes to somebody else.
const CONTRACTS: [Contract; 8] = [
    Contract { id: "alpha", partner: "alpha", on_unknown: "review", concurrency: 8, limits: [130, 0, 0] },
    Contract { id: "beta", partner: "beta", on_unknown: "retry", concurrency: 8, limits: [0, 0, 0] },
    Contract { id: "gamma", partner: "gamma", on_unknown: "next", concurrency: 8, limits: [0, 0, 110] },
    Contract { id: "scarce", partner: "delta", on_unknown: "review", concurrency: 4, limits: [6, 0, 0] },
    Contract { id: "shut", partner: "epsilon", on_unknown: "review", concurrency: 4, limits: [0, 0, 0] },
    Contract { id: "omega", partner: "omega", on_unknown: "review", concurrency: 12, limits: [0, 0, 0] },
    Contract { id: "gust", partner: "beta", on_unknown: "review", concurrency: 4, limits: [90, 0, 0] },
    Contract { id: "breeze", partner: "omega", on_unknown: "next", concurrency: 4, limits: [0, 0, 0] },
];

const BUYERS: [Buyer; 6] = [
    Buyer { id: "alpha", timezone: "Europe/London", limits: [0, 120, 0] },
    Buyer { id: "beta", timezone: "America/New_York", limits: [0, 260, 0] },
    Buyer { id: "gamma", timezone: "Asia/Kolkata", limits: [140, 0, 0] },
    Buyer { id: "delta", timezone: "Europe/London", limits: [0, 0, 0] },
    Buyer { id: "epsilon", timezone: "Europe/London", limits: [0, 0, 0] },
    Buyer { id: "omega", timezone: "Pacific/Auckland", limits: [0, 0, 0] },
];

/// How a gateway dies.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// At the n-th passing of a named point: at once, or after lingering there, for what others do meanwhile that they
    /// may not.
    At(&'static str, u64, bool),
    /// So long after it was ready.
    After(Duration),
    /// When so many more requests have reached the partners.
    Requests(usize),
}

impl Death {
    fn name(self) -> &'static str {
        match self {
            Self::At(point, ..) => point,
            Self::After(_) => "at random",
            Self::Requests(_) => "with requests at partners",
        }
    }
}

/// The deaths of one round, in another order for each seed. Of several gateways each passes a point the less often.
fn schedule(seed: u64, kills: usize, gateways: usize) -> Vec<Death> {
    let passes = 100 / u64::try_from(2 * gateways - 1).unwrap();
    let mut dice = Dice::new(seed, "schedule");
    let mut deaths = Vec::new();
    for n in 0..kills {
        let of_round = n % KILLS / 2;
        let named = POINTS.get(of_round).or(EARLIEST_YES.get(of_round.wrapping_sub(POINTS.len()))).map(|point| {
            let most = if point.starts_with("recovery") { 3 } else { passes };
            Death::At(point, 1 + dice.below(most), n % 2 == 1 || of_round >= POINTS.len())
        });
        deaths.push(match (named, n % 2) {
            (Some(named), _) => named,
            (None, 0) => Death::After(Duration::from_millis(dice.below(1_500))),
            (None, _) => Death::Requests(1 + dice.index(100)),
        });
    }
    dice.shuffle(&mut deaths);
    deaths
}

/// The fleet under fire, and how its books are opened.
struct Front {
    fleet: Fleet,
    /// How often each source posts.
    pace: Duration,
    /// A staff token, made once a gateway is up.
    token: Box<dyn Fn() -> String>,
    /// Open attempts of gateways that have died, by their process; asked right after the death of the one given.
    open: Box<dyn Fn(u32) -> HashMap<u32, usize>>,
    /// The counts of places, and what they are when they are counted again; with all gateways stopped.
    recount: Box<dyn Fn() -> Pin<Box<dyn Future<Output = Recount>>>>,
}

/// Counts of places by key, as kept and as counted again.
type Recount = (BTreeMap<String, u64>, BTreeMap<String, u64>);

/// What one round came to.
#[derive(Debug)]
struct Round {
    findings: Findings,
    acknowledged: usize,
    repeated: usize,
    refused: usize,
    unanswered: usize,
    kills: BTreeMap<&'static str, usize>,
}

/// The network under fire.
fn network(partners: &[Partner]) -> String {
    let mut text = sources::network();
    let limits = |[daily, monthly, total]: [usize; 3]| {
        format!("limits = {{ daily = {daily}, monthly = {monthly}, total = {total} }}")
    };
    for buyer in &BUYERS {
        let (id, timezone, limits) = (buyer.id, buyer.timezone, limits(buyer.limits));
        writeln!(text, "[[partner]]\nid = \"{id}\"\nkind = \"buyer\"\ntimezone = \"{timezone}\"\n{limits}").unwrap();
    }
    // Three days from now, whatever day that is: closed for the whole of the test.
    let day = Clock::system().now().to_zoned(jiff::tz::TimeZone::UTC).checked_add(3.days()).unwrap();
    let day = day.strftime("%a").to_string().to_lowercase();
    for contract in &CONTRACTS {
        let Contract { id, partner, on_unknown, concurrency, .. } = contract;
        let address = partners.iter().find(|one| one.id == *partner).unwrap().address;
        let campaign = if ["gust", "breeze"].contains(id) { "wind" } else { "solar" };
        let bill = |n: u8| format!("{{ field = \"bill\", equals = \"{n}\" }}");
        let more = match *id {
            "scarce" => format!("when_full = \"hold\"\nfilters = {}\npriority = 1", bill(1)),
            "shut" => format!(
                "when_closed = \"hold\"\nhold_for = \"10d\"\nschedule = {{ {day} = \"03:00-03:01\" }}\nfilters = {}\npriority = 1",
                bill(2)
            ),
            "omega" => format!("priority = 3\nfilters = {{ not = {{ any = [{}, {}] }} }}", bill(1), bill(2)),
            _ if campaign == "wind" => String::new(),
            _ => format!("priority = 2\nfilters = {{ not = {{ any = [{}, {}] }} }}", bill(1), bill(2)),
        };
        writeln!(
            text,
            r#"
[[contract]]
id = "{id}"
partner = "{partner}"
campaign = "{campaign}"
price = "31.00"
on_unknown = "{on_unknown}"
{more}
{}

[contract.endpoint]
method = "json"
url = "http://{address}/{id}"
template = "lead.json.hbs"
concurrency = {concurrency}
timeout = "12s"
retry = {{ max_attempts = 4, first = "100ms", max = "400ms" }}
[contract.endpoint.response]
duplicate = {{ json = "$.answer", equals = "had" }}
accepted = {{ json = "$.answer", equals = "took" }}
rejected = {{ json = "$.answer", equals = "refused" }}
"#,
            limits(contract.limits)
        )
        .unwrap();
    }
    text
}

/// One gateway on an embedded store, which counts in its own memory.
fn on_sqlite(world: &Arc<World>) -> Front {
    let [starting, telling, opening, counting] = std::array::from_fn(|_| Arc::clone(world));
    let starter: Starter = Box::new(move |_| starting.command(&["serve"]));
    Front {
        fleet: Fleet::new(1, world.path("log"), starter),
        pace: PACE,
        token: Box::new(move || telling.new_token("tester", "admin")),
        open: Box::new(move |dead| {
            let database = rusqlite::Connection::open(opening.path("data/gateway.db")).unwrap();
            let open = "SELECT count(*) FROM attempt WHERE ended_at IS NULL";
            let open: u32 = database.query_row(open, [], |row| row.get(0)).unwrap();
            HashMap::from([(dead, open as usize)])
        }),
        recount: Box::new(move || {
            let data = counting.path("data");
            Box::pin(async move { recounted(&Store::open(&data).unwrap()).await })
        }),
    }
}

/// Gateways on one PostgreSQL and one Redis.
const ON_POSTGRES: usize = 3;

/// Several gateways on one database, which count in one Redis. A database of its own for each round.
fn on_postgres(network: &str, servers: &Arc<(Postgres, Redis)>) -> Front {
    let url = servers.0.database();
    // What another round had there is nothing to this one.
    let gate = format!("url = \"{}\"\nprefix = \"{}\"", servers.1.url(), url.rsplit('/').next().unwrap_or_default());
    let world = Arc::new(World::shared(network, &url, &gate));
    let (starting, telling) = (Arc::clone(&world), Arc::clone(&world));
    let (asked, database) = (Arc::clone(servers), url.clone());
    Front {
        fleet: Fleet::new(ON_POSTGRES, world.path("log"), Box::new(move |_| starting.command(&["serve"]))),
        pace: PACE_ON_POSTGRES,
        token: Box::new(move || telling.new_token("tester", "admin")),
        open: Box::new(move |_| {
            // Of all the dead: a commit that was on its way when its sender died may come later.
            let open = "SELECT substring(name from '[0-9]+$'), count(*) FROM attempt JOIN gateway ON token = gateway
                        WHERE ended_at IS NULL GROUP BY 1";
            let rows = asked.0.psql(&database, open);
            let row = |line: &str| line.split_once('|').map(|(pid, n)| (pid.parse().unwrap(), n.parse().unwrap()));
            rows.lines().filter_map(row).collect()
        }),
        recount: Box::new(move || {
            let url = url.clone();
            Box::pin(async move { recounted(&Store::connect(&url, &ConnectOptions::default()).await.unwrap()).await })
        }),
    }
}

async fn recounted(store: &Store) -> Recount {
    let text = |(key, used): (lead_gateway::model::limit::PlaceKey, u64)| (key.to_string(), used);
    let kept = store.all_places().await.unwrap().into_iter().map(text).collect();
    let counted = store.recount_places().await.unwrap().into_iter().map(text).collect();
    (kept, counted)
}

/// One round: a store, its gateways, load, deaths, and the books.
async fn round<F>(seed: u64, kills: usize, open: F) -> Round
where
    F: FnOnce(&str) -> Front,
{
    let mut partners = Vec::new();
    for buyer in &BUYERS {
        partners.push(Partner::start(buyer.id, seed).await);
    }
    let mut front = open(&network(&partners));
    let fleet = &mut front.fleet;
    fleet.start_all().await;
    let token = (front.token)();
    let sources = Sources::start(SOURCES, front.pace, seed, &fleet.addresses);
    let mut dice = Dice::new(seed, "victims");
    let (mut died, mut by_name): (Vec<Timestamp>, BTreeMap<_, usize>) = (Vec::new(), BTreeMap::new());
    let mut lost = Lost::default();
    for death in schedule(seed, kills, fleet.size()) {
        let victim = dice.index(fleet.size());
        // The one before it, who is down, is back while this one dies.
        for n in (0..fleet.size()).filter(|n| *n != victim) {
            if !fleet.is_up(n) {
                fleet.start(n, None).await;
            }
        }
        if let Some(pid) = fleet.kill(victim) {
            died.push(Clock::system().now());
            lost.note(pid, &(front.open)(pid));
        }
        let armed = match death {
            Death::At(point, n, false) => Some(format!("kill:{point}:{n}")),
            Death::At(point, n, true) => Some(format!("sleep-{LINGER}:{point}:{n},kill:{point}:{n}")),
            _ => None,
        };
        let mut name = death.name();
        if fleet.start(victim, armed.as_deref()).await {
            match death {
                Death::At(point, ..) => {
                    // A start that found too few open attempts will find no more.
                    let patience = if point.starts_with("recovery") { Duration::from_millis(300) } else { ARMED_FOR };
                    if !fleet.ends(victim, patience).await {
                        name = "too late for its point";
                    }
                }
                Death::After(pause) => tokio::time::sleep(pause).await,
                Death::Requests(more) => {
                    let count = || partners.iter().map(Partner::count).sum::<usize>();
                    let (wanted, began) = (count() + more, clock::instant());
                    while count() < wanted && began.elapsed() < ARMED_FOR {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
        }
        if let Some(pid) = fleet.kill(victim) {
            lost.note(pid, &(front.open)(pid));
        }
        died.push(Clock::system().now());
        *by_name.entry(name).or_default() += 1;
    }

    // A last look, at those who died last.
    lost.note_all(&(front.open)(0));
    fleet.start_all().await;
    let account = sources.end().await;
    let address = fleet.addresses.lock().unwrap()[0].unwrap();
    let client = fleet::client(Duration::from_mins(1));
    let reader = Reader { address, token, client };
    let moving = reader.quiet(|| partners.iter().map(Partner::count).sum()).await.err();
    let books = Books {
        contracts: &CONTRACTS,
        buyers: &BUYERS,
        partners: &partners,
        account: &account,
        kills: &died,
        open: lost.sum(),
    };
    let mut findings = books.check(&reader).await;
    findings.violations.extend(moving.map(|page| format!("never quiet: {page}")));
    front.fleet.stop().await;
    let (kept, counted) = (front.recount)().await;
    let capped = kept.get("source/capped/t").copied().unwrap_or(0);
    if capped != findings.capped as u64 {
        findings.violations.push(format!("{capped} places of a source that has sent {}", findings.capped));
    }
    let of_deliveries = |key: &str| key.starts_with("partner/") || key.starts_with("contract/");
    let kept: BTreeMap<_, _> = kept.into_iter().filter(|(key, _)| of_deliveries(key)).collect();
    if kept != counted {
        findings.violations.push(format!("places are kept as {kept:#?}, and counted again {counted:#?}"));
    }
    Round {
        findings,
        acknowledged: account.acknowledged.len(),
        repeated: account.repeated,
        refused: account.refused,
        unanswered: account.unanswered,
        kills: by_name,
    }
}

/// The attempts that were open when their gateways died, by process.
#[derive(Default)]
struct Lost(HashMap<u32, usize>);

impl Lost {
    fn note(&mut self, dead: u32, open: &HashMap<u32, usize>) {
        self.0.entry(dead).or_default();
        self.note_all(open);
    }

    /// Of a process that lives yet nothing is said.
    fn note_all(&mut self, open: &HashMap<u32, usize>) {
        for (pid, most) in &mut self.0 {
            *most = open.get(pid).copied().unwrap_or(0).max(*most);
        }
    }

    fn sum(&self) -> usize {
        self.0.values().sum()
    }
}

/// Rounds until there were so many kills; each on a store of its own, so that what is wrong is seen soon.
async fn campaign<F>(open: F)
where
    F: Fn(&str) -> Front,
{
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let wanted = number("CRASH_KILLS").map_or(KILLS, |kills| usize::try_from(kills).unwrap());
    let first = number("CRASH_SEED").unwrap_or(SEED);
    let (mut total, mut seed) = (Total::default(), first);
    while total.kills < wanted {
        eprintln!("crash campaign: CRASH_SEED={seed}");
        let began = clock::instant();
        let round = round(seed, KILLS.min(wanted - total.kills), &open).await;
        total.add(&round);
        eprintln!("  {} s, {:?}\n  so far: {total}", began.elapsed().as_secs(), round.kills);
        let violations = round.findings.violations;
        let first: Vec<_> = violations.iter().take(20).map(String::as_str).collect();
        assert!(first.is_empty(), "CRASH_SEED={seed}: {} violations, such as\n{}", violations.len(), first.join("\n"));
        // Without load nothing is shown.
        let load = round.acknowledged.min(round.findings.requests).min(2 * round.findings.sold);
        assert!(load > 300 * round.kills.values().sum::<usize>() / KILLS, "CRASH_SEED={seed}: there was no load");
        seed += 1;
    }
}

/// What a campaign came to.
#[derive(Default)]
struct Total {
    kills: usize,
    acknowledged: usize,
    repeated: usize,
    refused: usize,
    unanswered: usize,
    findings: Findings,
}

impl Total {
    fn add(&mut self, round: &Round) {
        self.kills += round.kills.values().sum::<usize>();
        self.acknowledged += round.acknowledged;
        self.repeated += round.repeated;
        self.refused += round.refused;
        self.unanswered += round.unanswered;
        self.findings.add(&round.findings);
    }
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Findings { leads, sold, deliveries, held, attempts, requests, crashed, unclear, injected, .. } =
            self.findings;
        write!(
            f,
            "{} kills; {} leads acknowledged ({} posts repeated, {} refused at a limit, {} never answered), {leads} stored, \
             {sold} sold; {deliveries} deliveries, {held} held; {attempts} attempts, {requests} requests seen by partners; \
             unknown: {crashed} by kills, {unclear} by {injected} injected faults; {} violations",
            self.kills,
            self.acknowledged,
            self.repeated,
            self.refused,
            self.unanswered,
            self.findings.violations.len(),
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whenever_a_gateway_on_sqlite_dies_nothing_is_lost_sent_twice_or_beyond_a_limit() {
    campaign(|network| on_sqlite(&Arc::new(World::new(network)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whenever_gateways_on_postgresql_die_nothing_is_lost_sent_twice_or_beyond_a_limit() {
    let servers = Arc::new((Postgres::start(), Redis::start()));
    campaign(|network| on_postgres(network, &servers)).await;
}
