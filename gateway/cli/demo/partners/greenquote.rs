//! GreenQuote: an XML document by POST, answered in the manner of boberdoo: always 200, and a word that says whether the
//! lead was matched to one of its installers.

use http::{Method, StatusCode};
use quick_xml::escape::escape;

use super::book::Book;
use super::shape::{self, Part};
use super::xml;
use super::{Answer, Call, Heard, Simulated, Understood};

const TOKEN: &str = "Bearer demo-greenquote-token";

/// The elements of `lead`, in any order.
const PARTS: &[Part] = &[
    Part::required("first_name", shape::is_text, "a text"),
    Part::required("last_name", shape::is_text, "a text"),
    Part::required("email", shape::is_email, "an e-mail address"),
    Part::required("phone", shape::is_e164, "a number such as +442079460000"),
    Part::required("postcode", shape::is_postcode, "a postcode such as LS1 4AP"),
    Part::required("roof", is_roof, "PITCHED, FLAT or OTHER"),
    Part::optional("bill", shape::is_amount, "an amount such as 85.50"),
    Part::optional("comment", shape::is_text, "a text"),
];

fn is_roof(value: &str) -> bool {
    matches!(value, "PITCHED" | "FLAT" | "OTHER")
}

pub(super) struct GreenQuote {
    book: Book,
}

impl Default for GreenQuote {
    fn default() -> Self {
        Self { book: Book::new("GQ") }
    }
}

impl Simulated for GreenQuote {
    const NAME: &'static str = "greenquote";

    fn answer(&mut self, call: &Call<'_>) -> Heard {
        if let Some(misdirected) = call.misdirected(&Method::POST, "/import") {
            return misdirected;
        }
        if call.header("authorization") != Some(TOKEN) {
            return Heard::nothing(error("the token is missing or wrong"));
        }
        if !call.is_of_type(&["application/xml", "text/xml"]) {
            return Heard::nothing(error("send application/xml in UTF-8"));
        }
        match read(call.body) {
            Ok(lead) => {
                let answer = self.decide(&lead);
                Heard::lead(lead, answer)
            }
            Err(faults) => Heard::nothing(error(&faults)),
        }
    }
}

impl GreenQuote {
    fn decide(&mut self, lead: &Understood) -> Answer {
        if shape::value(lead, "roof") == "FLAT" {
            return response("<status>Unmatched</status><error>No installer takes flat roofs here</error>");
        }
        match self.book.enter(shape::value(lead, "email")) {
            Ok(reference) => {
                response(&format!("<status>Matched</status><lead_id>{reference}</lead_id><price>24.00</price>"))
            }
            Err(reference) => {
                response(&format!("<status>Error</status><lead_id>{reference}</lead_id><error>Duplicate lead</error>"))
            }
        }
    }
}

fn read(body: &[u8]) -> Result<Understood, String> {
    let root = xml::parse(body)?;
    if !root.is("", "lead") {
        return Err("the root element must be lead, without a namespace".to_owned());
    }
    if root.attribute("", "source").is_none_or(str::is_empty) {
        return Err("lead has no source".to_owned());
    }
    shape::read(PARTS, root.leaves()?.into_iter())
}

fn error(why: &str) -> Answer {
    response(&format!("<status>Error</status><error>{}</error>", escape(why)))
}

fn response(content: &str) -> Answer {
    let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<response>{content}</response>\n");
    Answer::new(StatusCode::OK, "text/xml; charset=utf-8", body)
}
