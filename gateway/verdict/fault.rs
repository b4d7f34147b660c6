//! SOAP faults of both versions, found in any reply, whatever its status: 1.1 sends them with 500, 1.2 with 400 or 500,
//! and some stacks with 200.

use oxml::{Document, NodeId};

use crate::model::contract::Method;

use super::select::{Reading, UNDECLARED};

/// SOAP 1.1 and 1.2 envelopes.
const NAMESPACES: [&str; 2] = ["http://schemas.xmlsoap.org/soap/envelope/", "http://www.w3.org/2003/05/soap-envelope"];

/// A fault as its partner worded it.
pub(super) struct SoapFault {
    pub(super) blame: Blame,
    /// Where the code stands: `faultcode` (1.1) or `Code/Value` (1.2).
    pub(super) selector: &'static str,
    /// As sent, prefix and all: `soap:Client.Auth`.
    pub(super) code: String,
    /// `faultstring` (1.1) or the first `Reason/Text` (1.2).
    pub(super) reason: String,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// `Client` (1.1), `Sender` (1.2): what was sent.
    Sender,
    /// `Server` (1.1), `Receiver` (1.2): the partner's own.
    Receiver,
    /// Version mismatch, must-understand, encodings, codes of the partner's own.
    Other,
}

/// The SOAP fault in a reply. A method that expects SOAP also recognises an envelope in a namespace that no version has,
/// and a fault without its envelope.
pub(super) fn find(reading: &Reading<'_>, method: Method) -> Option<SoapFault> {
    // Spares the parse for nearly every reply: a fault cannot do without its name.
    if !reading.body().text().contains("Fault") {
        return None;
    }
    reading.body().xml()?.documents.iter().find_map(|doc| find_in(doc, method))
}

fn find_in(doc: &Document, method: Method) -> Option<SoapFault> {
    let root = doc.root_element()?;
    let name = doc.element_name(root)?;
    // A prefix without its declaration is a SOAP stack's own mistake.
    let known = name.namespace.as_deref().is_some_and(|uri| NAMESPACES.contains(&uri) || uri == UNDECLARED);
    if !known && !method.is_soap() {
        return None;
    }
    let fault = match name.local.as_str() {
        "Envelope" => child(doc, child(doc, root, "Body")?, "Fault")?,
        "Fault" if method.is_soap() => root,
        _ => return None,
    };
    Some(read(doc, fault))
}

fn read(doc: &Document, fault: NodeId) -> SoapFault {
    let text = |id: NodeId| doc.text(id).trim().to_owned();
    let (selector, code, reason) = if let Some(code) = child(doc, fault, "Code") {
        let reasons = child(doc, fault, "Reason").map(|reason| children(doc, reason, "Text")).unwrap_or_default();
        let reason = reasons.into_iter().map(text).find(|reason| !reason.is_empty());
        ("Code/Value", child(doc, code, "Value").map(text), reason)
    } else {
        ("faultcode", child(doc, fault, "faultcode").map(text), child(doc, fault, "faultstring").map(text))
    };
    let code = code.unwrap_or_default();
    SoapFault { blame: blame(&code), selector, reason: reason.unwrap_or_default(), code }
}

/// `soap:Client.Authentication` → `Client`: the prefix varies, and 1.1 makes a code finer by dots (section 4.4.1).
fn blame(code: &str) -> Blame {
    let local = code.rsplit(':').next().unwrap_or(code);
    match local.split('.').next().unwrap_or(local).to_ascii_lowercase().as_str() {
        "client" | "sender" => Blame::Sender,
        "server" | "receiver" => Blame::Receiver,
        _ => Blame::Other,
    }
}

fn child(doc: &Document, of: NodeId, local: &str) -> Option<NodeId> {
    doc.children(of).iter().copied().find(|id| is_named(doc, *id, local))
}

fn children(doc: &Document, of: NodeId, local: &str) -> Vec<NodeId> {
    doc.children(of).iter().copied().filter(|id| is_named(doc, *id, local)).collect()
}

fn is_named(doc: &Document, id: NodeId, local: &str) -> bool {
    doc.element_name(id).is_some_and(|name| name.local == local)
}
