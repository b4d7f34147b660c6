//! LeadHouse: an old-style form post in the manner of LeadByte's `submit.php`. Whatever happens, the answer is 200 and
//! says `text/html`; only a number in its JSON tells what was meant. The same by GET for people who want a call.

use http::{Method, StatusCode};
use serde_json::json;

use super::book::Book;
use super::shape::{self, Part};
use super::{Answer, Call, Heard, Simulated, Understood};

/// How many leads LeadHouse takes before it says that its cap is reached.
const CAP: usize = 500;

const CAMPAIGN: &str = "SOLAR-UK";
const SUPPLIER: &str = "LG-7";
const API_KEY: &str = "demo-leadhouse-key";

/// The codes of the field, as LeadByte's posting specification has them.
mod code {
    pub(super) const ACCEPTED: i32 = 1;
    pub(super) const DUPLICATE: i32 = -2;
    pub(super) const CAP: i32 = -4;
    pub(super) const VALIDATION: i32 = -5;
    pub(super) const INACTIVE: i32 = -9;
}

/// The names of both forms.
const PARTS: &[Part] = &[
    Part::required("campid", shape::is_text, "your campaign"),
    Part::required("sid", shape::is_text, "your supplier id"),
    Part::required("returnjson", |value| value == "yes", "yes"),
    Part::required("firstname", shape::is_text, "a text"),
    Part::required("lastname", shape::is_text, "a text"),
    Part::required("email", shape::is_email, "an e-mail address"),
    Part::required("phone1", shape::is_national_phone, "a number such as 020 7946 0000"),
    Part::required("postcode", shape::is_postcode, "a postcode such as CF10 1EP"),
    Part::optional("homeowner", shape::is_yes_or_no, "yes or no"),
    Part::optional("bill", shape::is_amount, "an amount such as 85.50"),
    Part::optional("c1", shape::is_text, "a text"),
    Part::optional("apikey", shape::is_text, "your key"),
];

pub(super) struct LeadHouse {
    leads: Book,
    callbacks: Book,
}

impl Default for LeadHouse {
    fn default() -> Self {
        Self { leads: Book::new("LH"), callbacks: Book::new("CB") }
    }
}

impl Simulated for LeadHouse {
    const NAME: &'static str = "leadhouse";

    fn answer(&mut self, call: &Call<'_>) -> Heard {
        if call.path == "/callback.php" {
            if let Some(misdirected) = call.misdirected(&Method::GET, "/callback.php") {
                return misdirected;
            }
            // Where the form has no key, the query needs one.
            return take(&mut self.callbacks, call.query.as_bytes(), |lead| {
                shape::value(lead, "apikey") == API_KEY && call.body.is_empty()
            });
        }
        if let Some(misdirected) = call.misdirected(&Method::POST, "/submit.php") {
            return misdirected;
        }
        if !call.is_of_type(&["application/x-www-form-urlencoded"]) {
            return Heard::nothing(answer(code::VALIDATION, "send application/x-www-form-urlencoded"));
        }
        take(&mut self.leads, call.body, |_| true)
    }
}

fn take(book: &mut Book, form: &[u8], may: impl FnOnce(&Understood) -> bool) -> Heard {
    let lead = match read(form) {
        Ok(lead) => lead,
        Err(faults) => return Heard::nothing(answer(code::VALIDATION, &faults)),
    };
    let ours = shape::value(&lead, "campid") == CAMPAIGN && shape::value(&lead, "sid") == SUPPLIER;
    let answer = if !ours || !may(&lead) {
        answer(code::INACTIVE, "no such campaign, supplier or key")
    } else if book.len() >= CAP {
        answer(code::CAP, "the cap is reached")
    } else {
        match book.enter(shape::value(&lead, "email")) {
            Ok(reference) => says(&json!({"code": code::ACCEPTED, "leadid": reference})),
            Err(_) => answer(code::DUPLICATE, "duplicate e-mail"),
        }
    };
    Heard::lead(lead, answer)
}

fn read(form: &[u8]) -> Result<Understood, String> {
    let pairs: Vec<_> = form_urlencoded::parse(form).collect();
    // What U+FFFD stands for was not UTF-8.
    if !form.is_ascii() || pairs.iter().any(|(name, value)| name.contains('\u{FFFD}') || value.contains('\u{FFFD}')) {
        return Err("the form is not percent-encoded UTF-8".to_owned());
    }
    shape::read(PARTS, pairs.iter().map(|(name, value)| (name.as_ref(), value.as_ref())))
}

fn answer(code: i32, response: &str) -> Answer {
    says(&json!({"code": code, "response": response}))
}

fn says(body: &serde_json::Value) -> Answer {
    Answer::new(StatusCode::OK, "text/html; charset=utf-8", body.to_string())
}
