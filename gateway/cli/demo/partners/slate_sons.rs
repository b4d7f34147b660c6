//! Slate & Sons: SOAP 1.1 from an older day. A header block names the account, the result is an XML document inside a
//! string, and for one person the line just goes quiet.

use http::Method;
use quick_xml::escape::escape;

use super::book::Book;
use super::shape::{self, Part};
use super::soap::{self, Fault, Version};
use super::{Call, Heard, Simulated, Understood};

/// With this address the request is read and never answered.
pub const SILENT_FOR: &str = "ewan.mackay@mail.example";

const ACTION: &str = "http://slate-sons.example/enquiries/AddEnquiry";
const NAMESPACE: &str = "http://slate-sons.example/enquiries";
const ACCOUNT: &str = "LG-0042";

const PARTS: &[Part] = &[
    Part::required("Forename", shape::is_text, "a text"),
    Part::required("Surname", shape::is_text, "a text"),
    Part::required("EmailAddress", shape::is_email, "an e-mail address"),
    Part::required("Telephone", shape::is_national_phone, "a number such as 0131 496 0000"),
    Part::required("PostCode", shape::is_postcode, "a postcode such as EH1 1YZ"),
    Part::required("RoofCovering", shape::is_text, "a text"),
    Part::required("ReceivedOn", shape::is_date, "a date such as 2026-11-21"),
];

pub(super) struct SlateSons {
    book: Book,
}

impl Default for SlateSons {
    fn default() -> Self {
        Self { book: Book::new("SS") }
    }
}

impl Simulated for SlateSons {
    const NAME: &'static str = "slate-sons";

    fn answer(&mut self, call: &Call<'_>) -> Heard {
        if let Some(misdirected) = call.misdirected(&Method::POST, "/enquiries.asmx") {
            return misdirected;
        }
        let lead = match read(call) {
            Ok(lead) => lead,
            Err(fault) => return Heard::nothing(soap::fault(Version::V11, &fault)),
        };
        if shape::value(&lead, "EmailAddress") == SILENT_FOR {
            return Heard { lead: Some(lead), answer: None };
        }
        let result = match self.book.enter(shape::value(&lead, "EmailAddress")) {
            Ok(reference) => format!("<Result><Status>Accepted</Status><Enquiry>{reference}</Enquiry></Result>"),
            Err(reference) => format!("<Result><Status>Known</Status><Enquiry>{reference}</Enquiry></Result>"),
        };
        let reply = format!(
            "<AddEnquiryResponse xmlns=\"{NAMESPACE}\"><AddEnquiryResult>{}</AddEnquiryResult></AddEnquiryResponse>",
            escape(&result)
        );
        Heard::lead(lead, soap::reply(Version::V11, &reply))
    }
}

fn read(call: &Call<'_>) -> Result<Understood, Fault> {
    let message = soap::read(Version::V11, ACTION, &[(NAMESPACE, "Account")], call)?;
    let account = message.header.iter().find(|block| block.is(NAMESPACE, "Account"));
    if account.and_then(|account| account.child(NAMESPACE, "Number")).is_none_or(|number| number.text != ACCOUNT) {
        return Err(Fault::Sender("the header has no Account with a Number that we know".to_owned()));
    }
    if !message.body.is(NAMESPACE, "AddEnquiry") {
        return Err(Fault::Sender(format!("the Body must hold AddEnquiry of {NAMESPACE}")));
    }
    let leaves = message.body.leaves().map_err(Fault::Sender)?;
    shape::read(PARTS, leaves.into_iter()).map_err(Fault::Sender)
}
