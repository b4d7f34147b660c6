//! The leads that are posted: about 1 KB of JSON with some twenty fields, each with its own e-mail address, telephone
//! number and external id, and with the moment at which it was posted, which the partner's template sends on.
//!
//! A post is written once; of each lead only digits differ, and are written over those of the one before.

use std::time::Duration;

use serde_json::json;

/// What stands before the nanoseconds at which a lead was posted, in the lead and in what the partner receives.
pub const POSTED: &[u8] = b"@@";
/// How many digits they have.
pub const POSTED_DIGITS: usize = 19;

/// A path to post to, and the source's key.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Target {
    pub path: String,
    pub key: String,
}

/// The region of a lead, `r000` and so on, by which contracts choose: so many of them from `first` on, in turn.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct Regions {
    pub first: u64,
    pub count: u64,
}

/// The posts of one load: to each target in turn.
pub struct Posts {
    heads: Vec<Vec<u8>>,
    body: Vec<u8>,
    regions: Regions,
    places: Places,
}

/// Where the digits stand in the body.
struct Places {
    email: usize,
    phone: usize,
    external_id: usize,
    click_id: usize,
    posted: usize,
    region: usize,
}

impl Posts {
    /// `run` tells the leads of one load from those of every other.
    pub fn new(targets: &[Target], regions: Regions, run: u64) -> Self {
        let body = body(run);
        let find = |text: &str| {
            memchr::memmem::find(body.as_bytes(), text.as_bytes()).map(|at| at + text.len()).unwrap_or_default()
        };
        let places = Places {
            email: find(&format!("lead.{run:06}.")),
            phone: find("\"07400 "),
            external_id: find(&format!("X-{run:06}-")),
            click_id: find("EAIaIQobChMI"),
            posted: find("\"@@"),
            region: find("\"region\":\"r"),
        };
        let heads = targets.iter().map(|Target { path, key }| head(path, key, body.len())).collect();
        Self { heads, body: body.into_bytes(), regions, places }
    }

    /// The `n`th post, posted at `nanos`, in place of what `out` holds.
    pub fn write(&self, n: u64, nanos: u64, out: &mut Vec<u8>) {
        let head = &self.heads[(n % self.heads.len() as u64) as usize];
        out.clear();
        out.extend_from_slice(head);
        out.extend_from_slice(&self.body);
        let body = &mut out[head.len()..];
        let Places { email, phone, external_id, click_id, posted, region } = self.places;
        digits(&mut body[email..email + 10], n);
        // All over the numbers, as people's are, and not in order.
        digits(&mut body[phone..phone + 6], n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20);
        digits(&mut body[external_id..external_id + 10], n);
        digits(&mut body[click_id..click_id + 10], n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16);
        digits(&mut body[posted..posted + POSTED_DIGITS], nanos);
        let turn = n / self.heads.len() as u64;
        digits(&mut body[region..region + 3], self.regions.first + turn % self.regions.count.max(1));
    }
}

/// A lead's body, for those who repeat one.
pub fn body(run: u64) -> String {
    json!({
        "first_name": "Zoë",
        "last_name": "O'Neil & Sons",
        "email": format!("lead.{run:06}.0000000000@example.com"),
        "phone": "07400 000000",
        "postcode": "SW1A 1AA",
        "address_1": "Flat 4, 221b Baker Street",
        "city": "London",
        "county": "Greater London",
        "birth_date": "1979-04-12",
        "homeowner": true,
        "property_type": "semi_detached",
        "bedrooms": 3,
        "roof": "pitched",
        "monthly_bill": "85.50",
        "battery_wanted": false,
        "best_time": "weekday evenings",
        "comments": "South-facing roof, no shade; would like a quote for ten panels and a battery, and to hear about payment in instalments.",
        "consent": "I agree to be contacted by telephone and e-mail by up to three installers about my request.",
        "consent_at": "2026-11-21T09:29:58Z",
        "landing_page": "https://quotes.example.com/solar/london?utm_source=search&utm_campaign=winter",
        "region": "r000",
        "posted": format!("@@{:0POSTED_DIGITS$}", 0),
        "external_id": format!("X-{run:06}-0000000000"),
        "click_id": "EAIaIQobChMI0000000000",
        "sub1": "google-brand-exact",
    })
    .to_string()
}

fn head(path: &str, key: &str, length: usize) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: gateway\r\nUser-Agent: bench\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes()
}

/// The last digits of a number, with zeros before them.
fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// How long ago what a partner received was posted, by the number that the lead carried.
pub fn since_posted(received: &[u8], now: u64) -> Option<Duration> {
    let at = memchr::memmem::find(received, POSTED)? + POSTED.len();
    let digits = received.get(at..at + POSTED_DIGITS)?;
    let posted = digits.iter().try_fold(0_u64, |number, digit| {
        digit.is_ascii_digit().then(|| number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
    })?;
    Some(Duration::from_nanos(now.saturating_sub(posted)))
}
