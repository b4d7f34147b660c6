//! What SOAP adds to an XML document: the envelope, the content type and the action of each version.

use crate::model::contract::{Charset, Method};

/// A SOAP version's fixed parts around a template's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// SOAP 1.1 (W3C note of 8 May 2000).
    V11,
    /// SOAP 1.2 (W3C recommendation, part 1 and 2).
    V12,
}

impl Version {
    pub(super) fn of(method: Method) -> Option<Self> {
        match method {
            Method::Soap11 => Some(Self::V11),
            Method::Soap12 => Some(Self::V12),
            Method::Xml | Method::Json | Method::Post | Method::Get => None,
        }
    }

    fn namespace(self) -> &'static str {
        match self {
            Self::V11 => "http://schemas.xmlsoap.org/soap/envelope/",
            Self::V12 => "http://www.w3.org/2003/05/soap-envelope",
        }
    }

    /// The whole message, and where in it the header's and the body's content begin.
    pub(super) fn envelope(
        self,
        charset: Charset,
        security: Option<&str>,
        header: Option<&str>,
        body: &str,
    ) -> Envelope {
        let header_length = security.map_or(0, str::len) + header.map_or(0, str::len);
        let mut text = String::with_capacity(body.len() + header_length + 256);
        text.extend([r#"<?xml version="1.0" encoding=""#, charset.xml_name(), r#""?>"#]);
        text.push_str("\n<soap:Envelope xmlns:soap=\"");
        text.push_str(self.namespace());
        text.push_str("\">");
        let mut header_at = text.len();
        if security.is_some() || header.is_some() {
            text.push_str("<soap:Header>");
            text.push_str(security.unwrap_or_default());
            header_at = text.len();
            text.push_str(header.unwrap_or_default());
            text.push_str("</soap:Header>");
        }
        text.push_str("<soap:Body>");
        let body_at = text.len();
        text.push_str(body);
        text.push_str("</soap:Body></soap:Envelope>");
        Envelope { text, header_at, body_at }
    }

    /// The headers that carry type and action. 1.1: the `SOAPAction` header must be there, if only empty (section
    /// 6.1.1); 1.2: the `action` parameter of the media type (RFC 3902).
    pub(super) fn headers(self, action: Option<&str>, charset: Charset) -> Vec<(&'static str, String)> {
        let charset = charset.as_str();
        match self {
            Self::V11 => vec![
                ("Content-Type", format!("text/xml; charset={charset}")),
                ("SOAPAction", format!("\"{}\"", action.unwrap_or_default())),
            ],
            Self::V12 => {
                let parameter = action.map(|action| format!("; action=\"{action}\"")).unwrap_or_default();
                vec![("Content-Type", format!("application/soap+xml; charset={charset}{parameter}"))]
            }
        }
    }
}

/// A SOAP message and where its parts begin, in bytes.
pub(super) struct Envelope {
    pub(super) text: String,
    pub(super) header_at: usize,
    pub(super) body_at: usize,
}
