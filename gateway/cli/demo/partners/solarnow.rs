//! SolarNow: a JSON API of today, with typed fields, an API key, and the status codes as they are meant.

use std::collections::HashSet;

use http::{Method, StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use super::book::Book;
use super::shape::{self, Part};
use super::{Answer, Call, Heard, Simulated, Understood};

/// At the first sight of this person SolarNow is busy: 503, and "again in a second".
pub const BUSY_FIRST_FOR: &str = "tomasz.wolski@mail.example";

const API_KEY: &str = "demo-solarnow-key";

/// What the texts may hold; their types are [`Lead`]'s.
const PARTS: &[Part] = &[
    Part::required("firstName", shape::is_text, "a text"),
    Part::required("lastName", shape::is_text, "a text"),
    Part::required("email", shape::is_email, "an e-mail address"),
    Part::required("phone", shape::is_e164, "a number such as +442079460000"),
    Part::required("postcode", shape::is_postcode, "a postcode such as M1 1AE"),
    Part::required("monthlyBill", shape::is_amount, "an amount, not negative, with at most two decimals"),
    Part::required("homeowner", shape::is_text, "true or false"),
    Part::optional("roofType", shape::is_text, "a text or null"),
    Part::optional("notes", shape::is_text, "a text or null"),
    Part::required("reference", shape::is_text, "a text"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Post {
    lead: Lead,
    reference: String,
}

/// `roofType` and `notes` may be null; every other value must be there, and of its type.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Lead {
    first_name: String,
    last_name: String,
    email: String,
    phone: String,
    postcode: String,
    monthly_bill: serde_json::Number,
    homeowner: bool,
    #[serde(default)]
    roof_type: Option<String>,
    #[serde(default)]
    notes: Option<String>,
}

pub(super) struct SolarNow {
    book: Book,
    /// Who was turned away once already.
    turned_away: HashSet<&'static str>,
}

impl Default for SolarNow {
    fn default() -> Self {
        Self { book: Book::new("SN"), turned_away: HashSet::new() }
    }
}

impl Simulated for SolarNow {
    const NAME: &'static str = "solarnow";

    fn answer(&mut self, call: &Call<'_>) -> Heard {
        if let Some(misdirected) = call.misdirected(&Method::POST, "/api/v1/leads") {
            return misdirected;
        }
        if call.header("x-api-key") != Some(API_KEY) {
            return Heard::nothing(rejected(StatusCode::UNAUTHORIZED, "the API key is missing or wrong"));
        }
        if !call.is_of_type(&["application/json"]) {
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Heard::nothing(rejected(status, "send application/json"));
        }
        match read(call.body) {
            Ok(lead) => {
                let answer = self.decide(shape::value(&lead, "email"));
                Heard::lead(lead, answer)
            }
            Err(refusal) => Heard::nothing(refusal),
        }
    }
}

impl SolarNow {
    fn decide(&mut self, email: &str) -> Answer {
        if email == BUSY_FIRST_FOR && self.turned_away.insert(BUSY_FIRST_FOR) {
            let busy = answer(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "busy"}));
            return busy.with(header::RETRY_AFTER, "1");
        }
        match self.book.enter(email) {
            Ok(id) => answer(StatusCode::CREATED, &json!({"id": id, "status": "accepted", "price": 28.75})),
            Err(id) => {
                let reason = "this e-mail address is in our system already";
                answer(StatusCode::CONFLICT, &json!({"id": id, "status": "duplicate", "reason": reason}))
            }
        }
    }
}

fn read(body: &[u8]) -> Result<Understood, Answer> {
    let Post { lead, reference } = serde_json::from_slice(body).map_err(|error| {
        // Not JSON at all is 400, JSON of another shape 422. The words of a data error may quote the value.
        let (line, column) = (error.line(), error.column());
        if error.is_data() {
            let reason = format!("not a lead: see the specification about line {line} column {column}");
            rejected(StatusCode::UNPROCESSABLE_ENTITY, &reason)
        } else {
            rejected(StatusCode::BAD_REQUEST, &format!("not JSON at line {line} column {column}"))
        }
    })?;
    let (bill, homeowner) = (lead.monthly_bill.to_string(), lead.homeowner.to_string());
    let given = [
        ("firstName", Some(&lead.first_name)),
        ("lastName", Some(&lead.last_name)),
        ("email", Some(&lead.email)),
        ("phone", Some(&lead.phone)),
        ("postcode", Some(&lead.postcode)),
        ("monthlyBill", Some(&bill)),
        ("homeowner", Some(&homeowner)),
        ("roofType", lead.roof_type.as_ref()),
        ("notes", lead.notes.as_ref()),
        ("reference", Some(&reference)),
    ];
    let given = given.into_iter().filter_map(|(name, value)| Some((name, value?.as_str())));
    shape::read(PARTS, given).map_err(|faults| rejected(StatusCode::UNPROCESSABLE_ENTITY, &faults))
}

fn rejected(status: StatusCode, reason: &str) -> Answer {
    answer(status, &json!({"status": "rejected", "reason": reason}))
}

fn answer(status: StatusCode, body: &serde_json::Value) -> Answer {
    Answer::new(status, "application/json", body.to_string())
}
