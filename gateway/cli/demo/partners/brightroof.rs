//! BrightRoof: SOAP 1.2 with a schema that allows no element too many, none out of place, and basic authentication.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{Method, StatusCode, header};

use super::book::Book;
use super::shape::{self, Part};
use super::soap::{self, Fault, Version};
use super::{Answer, Call, Heard, Simulated, Understood};

/// Whom BrightRoof has from elsewhere: the code `DUP` at the first post.
pub const KNOWN_TO_BRIGHTROOF: &str = "priya.nair@mail.example";

/// With this address BrightRoof's own system fails: a Receiver fault.
pub const OUT_OF_ORDER_FOR: &str = "out.of.order@mail.example";

const ACTION: &str = "urn:brightroof:leads:SubmitLead";
const NAMESPACE: &str = "urn:brightroof:leads";
const CREDENTIALS: &str = "lead-gateway:demo-password";

/// The elements of `SubmitLead`, in their order.
const PARTS: &[Part] = &[
    Part::required("FirstName", shape::is_text, "a text"),
    Part::required("LastName", shape::is_text, "a text"),
    Part::required("Email", shape::is_email, "an e-mail address"),
    Part::required("Phone", shape::is_e164, "a number such as +442079460000"),
    Part::required("Postcode", shape::is_postcode, "a postcode such as SW1A 1AA"),
    Part::optional("DateOfBirth", shape::is_date, "a date such as 1974-08-30"),
    Part::optional("MonthlyBill", shape::is_amount, "an amount such as 85.50"),
    Part::optional("Notes", shape::is_text, "a text"),
];

pub(super) struct BrightRoof {
    book: Book,
}

impl Default for BrightRoof {
    fn default() -> Self {
        let mut book = Book::new("BR");
        // An empty book takes anybody.
        let _ = book.enter(KNOWN_TO_BRIGHTROOF);
        Self { book }
    }
}

impl Simulated for BrightRoof {
    const NAME: &'static str = "brightroof";

    fn answer(&mut self, call: &Call<'_>) -> Heard {
        if let Some(misdirected) = call.misdirected(&Method::POST, "/leads") {
            return misdirected;
        }
        if call.header("authorization") != Some(&format!("Basic {}", BASE64_STANDARD.encode(CREDENTIALS))) {
            let answer = Answer::new(StatusCode::UNAUTHORIZED, "text/plain", "who are you?");
            return Heard::nothing(answer.with(header::WWW_AUTHENTICATE, "Basic realm=\"leads\", charset=\"UTF-8\""));
        }
        match read(call) {
            Ok(lead) => {
                let answer = self.decide(shape::value(&lead, "Email"));
                Heard::lead(lead, answer)
            }
            Err(fault) => Heard::nothing(soap::fault(Version::V12, &fault)),
        }
    }
}

impl BrightRoof {
    fn decide(&mut self, email: &str) -> Answer {
        if email == OUT_OF_ORDER_FOR {
            return soap::fault(Version::V12, &Fault::Receiver("the back office does not answer".to_owned()));
        }
        let result = match self.book.enter(email) {
            Ok(reference) => {
                format!("<Status>OK</Status><LeadRef>{reference}</LeadRef><Price currency=\"GBP\">31.00</Price>")
            }
            Err(reference) => format!(
                "<Status>REFUSED</Status><Code>DUP</Code><LeadRef>{reference}</LeadRef>\
                 <Message>We have this person already</Message>"
            ),
        };
        soap::reply(Version::V12, &format!("<SubmitLeadResponse xmlns=\"{NAMESPACE}\">{result}</SubmitLeadResponse>"))
    }
}

fn read(call: &Call<'_>) -> Result<Understood, Fault> {
    let message = soap::read(Version::V12, ACTION, &[], call)?;
    if !message.body.is(NAMESPACE, "SubmitLead") {
        return Err(Fault::Sender(format!("the Body must hold SubmitLead of {NAMESPACE}")));
    }
    let leaves = message.body.leaves().map_err(Fault::Sender)?;
    let lead = shape::read(PARTS, leaves.iter().copied()).map_err(Fault::Sender)?;
    // A sequence in the schema: the order counts.
    let place = |name: &str| PARTS.iter().position(|part| part.is(name));
    if leaves.is_sorted_by_key(|(name, _)| place(name)) {
        Ok(lead)
    } else {
        Err(Fault::Sender("the elements of SubmitLead are not in their order".to_owned()))
    }
}
