//! URLs, read once where they are the same for every lead.

use std::fmt;

use url::Url;

use crate::model::contract::Endpoint;

/// The URLs of an endpoint that no template changes. Each request has its own text: where it is one of these, it need not be
/// read again.
#[derive(Clone, Default)]
pub(super) struct FixedUrls(Vec<(String, Url)>);

impl fmt::Debug for FixedUrls {
    // A URL may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FixedUrls({})", self.0.len())
    }
}

impl FixedUrls {
    /// Those of an endpoint. What cannot be read, as a template may not, is left to the request that is sent.
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        let texts = [Some(&endpoint.url), endpoint.backup_url.as_ref()].into_iter().flatten();
        let mut fixed: Vec<_> = texts.filter_map(|text| Some((text.0.clone(), Url::parse(&text.0).ok()?))).collect();
        fixed.shrink_to_fit();
        Self(fixed)
    }

    /// A request's URL.
    pub(super) fn read(&self, text: &str) -> Result<Url, url::ParseError> {
        match self.0.iter().find(|(fixed, _)| fixed == text) {
            Some((_, url)) => Ok(url.clone()),
            None => Url::parse(text),
        }
    }
}

/// The `Host` header of a request to `url`.
pub(super) fn host_header(url: &str) -> Option<String> {
    if let Some(plain) = plain_authority(url) {
        return Some(plain.to_owned());
    }
    let url = Url::parse(url).ok()?;
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// Host and port where they are written as the header has them: in lower case, nothing encoded, and no port that goes without
/// saying.
fn plain_authority(url: &str) -> Option<&str> {
    let (rest, usual) = match url.strip_prefix("https://") {
        Some(rest) => (rest, "443"),
        None => (url.strip_prefix("http://")?, "80"),
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    let plain = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.len() < 64 && label.bytes().all(fits) && !label.contains("--")
    };
    let name = host.len() < 254
        && host.split('.').all(plain)
        // What ends in a number is an address, which has many spellings.
        && host.rsplit('.').next().is_some_and(|last| last.starts_with(|first: char| first.is_ascii_lowercase()));
    let octet = |text: &str| text.parse::<u8>().is_ok_and(|octet| octet.to_string() == text);
    let address = || host.split('.').count() == 4 && host.split('.').all(octet);
    let said = |port: &str| port != usual && port.parse::<u16>().is_ok_and(|number| number.to_string() == port);
    ((name || address()) && port.is_none_or(said)).then_some(authority)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the header is by the whole rules for URLs.
    fn by_the_rules(url: &str) -> Option<String> {
        let url = Url::parse(url).ok()?;
        let host = url.host_str()?;
        Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
    }

    #[test]
    fn the_usual_spellings_are_plain() {
        for (url, plain) in [
            ("https://api.partner.example/leads", Some("api.partner.example")),
            ("http://127.0.0.1:8080/leads?a=1", Some("127.0.0.1:8080")),
            ("https://partner.example:8443", Some("partner.example:8443")),
            ("https://partner.example:443/", None),
            ("https://user@partner.example/", None),
            ("https://Partner.example/", None),
            ("http://[::1]:8080/", None),
            ("http://127.1/", None),
            ("http://0x7f.0.0.1/", None),
        ] {
            assert_eq!(plain_authority(url), plain, "{url}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn a_plain_authority_is_what_the_rules_make_of_it(
            scheme in "https?", host in "[a-zA-Z0-9.x-]{0,12}|([0-9]{1,3}\\.){3}[0-9]{1,3}|xn--[a-z0-9]{1,8}\\.com",
            port in "|:|:[0-9]{1,6}|:443|:80", rest in "|/|/leads|\\?a=1|#b|\\\\x|@x",
        ) {
            let url = format!("{scheme}://{host}{port}{rest}");
            if let Some(plain) = plain_authority(&url) {
                prop_assert_eq!(Some(plain.to_owned()), by_the_rules(&url), "{}", url);
            }
        }
    }
}
