//! SOAP as a receiver sees it: SOAP 1.1 (W3C note of 8 May 2000) and SOAP 1.2 (W3C recommendation, parts 1 and 2; the
//! media type is RFC 3902). Checks the HTTP binding and the envelope, and writes replies and faults.

use http::StatusCode;
use quick_xml::escape::escape;

use super::xml::{self, Element};
use super::{Answer, Call};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V11,
    V12,
}

const ENVELOPE_11: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const ENVELOPE_12: &str = "http://www.w3.org/2003/05/soap-envelope";

impl Version {
    fn namespace(self) -> &'static str {
        match self {
            Self::V11 => ENVELOPE_11,
            Self::V12 => ENVELOPE_12,
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::V11 => "text/xml",
            Self::V12 => "application/soap+xml",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::V11 => "text/xml; charset=utf-8",
            Self::V12 => "application/soap+xml; charset=utf-8",
        }
    }

    /// The action that the call names, in the place where this version has it.
    fn action(self, call: &Call<'_>) -> Option<String> {
        match self {
            // Section 6.1.1: the URI stands in quotes.
            Self::V11 => {
                let quoted = call.header("soapaction")?;
                Some(quoted.strip_prefix('"')?.strip_suffix('"')?.to_owned())
            }
            Self::V12 => call.media_type()?.get_param("action").map(|action| action.as_str().to_owned()),
        }
    }
}

/// A message that was read: the blocks of its header and the one element of its body.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) header: Vec<Element>,
    pub(super) body: Element,
}

/// Why a message is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The message is wrong (`Sender`, in SOAP 1.1 `Client`).
    Sender(String),
    /// We are in trouble ourselves (`Receiver`, in SOAP 1.1 `Server`).
    Receiver(String),
    /// An envelope of another version.
    VersionMismatch,
    /// A header block that must be understood and is not.
    MustUnderstand,
    /// A media type that is not this version's (the HTTP binding answers 415).
    MediaType,
}

/// Reads a call as a message of this version with this action; `blocks` are the header blocks that we understand.
pub(super) fn read(version: Version, action: &str, blocks: &[(&str, &str)], call: &Call<'_>) -> Result<Message, Fault> {
    let sender = |why: &str| Fault::Sender(why.to_owned());
    let envelope = xml::parse(call.body).map_err(Fault::Sender)?;
    if envelope.name != "Envelope" {
        return Err(sender("the root element is not an Envelope"));
    }
    if envelope.namespace != version.namespace() {
        return Err(Fault::VersionMismatch);
    }
    if !call.is_of_type(&[version.media_type()]) {
        return Err(Fault::MediaType);
    }
    if version.action(call).as_deref() != Some(action) {
        return Err(Fault::Sender(format!("the action must be {action}")));
    }
    let mut parts = envelope.children.into_iter().peekable();
    let header = match parts.peek() {
        Some(part) if part.is(version.namespace(), "Header") => parts.next().map(|part| part.children),
        _ => None,
    }
    .unwrap_or_default();
    let foreign = |block: &&Element| !blocks.iter().any(|(namespace, name)| block.is(namespace, name));
    let must = |block: &Element| {
        matches!(block.attribute(version.namespace(), "mustUnderstand").map(str::trim), Some("1" | "true"))
    };
    if header.iter().filter(foreign).any(must) {
        return Err(Fault::MustUnderstand);
    }
    let body = parts.next().filter(|part| part.is(version.namespace(), "Body"));
    let mut content = body.ok_or_else(|| sender("the envelope has no Body"))?.children.into_iter();
    match (content.next(), content.next(), parts.next()) {
        (Some(body), None, None) => Ok(Message { header, body }),
        _ => Err(sender("the Body must hold exactly one element, and nothing may follow it")),
    }
}

/// A reply whose body is `content`, which is XML already.
pub(super) fn reply(version: Version, content: &str) -> Answer {
    envelope(version, StatusCode::OK, "", content)
}

fn envelope(version: Version, status: StatusCode, header: &str, content: &str) -> Answer {
    let namespace = version.namespace();
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
         <env:Envelope xmlns:env=\"{namespace}\">{header}<env:Body>{content}</env:Body></env:Envelope>"
    );
    Answer::new(status, version.content_type(), body)
}

/// The fault as this version writes it, with the status that its HTTP binding asks for: SOAP 1.1 always 500 (section
/// 6.2); SOAP 1.2 400 for the sender's faults, else 500 (part 2, table 20).
pub(super) fn fault(version: Version, fault: &Fault) -> Answer {
    let (code_11, code_12, reason) = match fault {
        Fault::Sender(why) => ("Client", "Sender", why.as_str()),
        Fault::Receiver(why) => ("Server", "Receiver", why.as_str()),
        Fault::VersionMismatch => {
            ("VersionMismatch", "VersionMismatch", "this endpoint speaks another version of SOAP")
        }
        Fault::MustUnderstand => ("MustUnderstand", "MustUnderstand", "a header block is not understood here"),
        Fault::MediaType => ("Client", "Sender", "the content type is not that of this version of SOAP"),
    };
    let reason = escape(reason);
    let status = match (version, fault) {
        (_, Fault::MediaType) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        (Version::V12, Fault::Sender(_)) => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    match version {
        Version::V11 => {
            let content = format!(
                "<env:Fault><faultcode>env:{code_11}</faultcode><faultstring>{reason}</faultstring></env:Fault>"
            );
            envelope(version, status, "", &content)
        }
        Version::V12 => {
            // Part 1, section 5.4.7: a version mismatch says which envelopes would do.
            let upgrade = format!(
                "<env:Header><env:Upgrade><env:SupportedEnvelope qname=\"ns1:Envelope\" xmlns:ns1=\"{ENVELOPE_12}\"/>\
                 </env:Upgrade></env:Header>"
            );
            let header = if *fault == Fault::VersionMismatch { upgrade.as_str() } else { "" };
            let content = format!(
                "<env:Fault><env:Code><env:Value>env:{code_12}</env:Value></env:Code>\
                 <env:Reason><env:Text xml:lang=\"en\">{reason}</env:Text></env:Reason></env:Fault>"
            );
            envelope(version, status, header, &content)
        }
    }
}
