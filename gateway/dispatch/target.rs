//! Where the gateway may reach (promise 8): every URL and every address behind it is vetted before a connection is made.
//!
//! A name is resolved here and nowhere else, and the connection is made to the very addresses that were vetted, so a
//! second answer of the name server cannot change the target in between (DNS rebinding). A URL whose host is an
//! address, in any spelling that the `url` crate reads as one, meets no resolver and is vetted as it stands.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::watch;
use url::{Host, Url};

use super::stopwatch;

/// Why a target may not be reached; names no part of a URL but its scheme and host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a URL at all.
    #[error("the URL cannot be read ({0}); write one such as https://partner.example/leads")]
    NotAUrl(url::ParseError),
    /// Neither `http` nor `https`, or no host.
    #[error("the URL must begin with http:// or https:// and name a host")]
    Scheme,
    /// A user name or a password in the URL would end up in logs and captures.
    #[error("the URL carries a user name or a password; put them into the endpoint's `auth`")]
    Credentials,
    /// An address in a range that partners do not live in.
    #[error("{host} is {address}, {range}; where that is meant, add its network to [egress] allow")]
    Address {
        /// The URL's host.
        host: String,
        /// The address it stands for.
        address: IpAddr,
        /// What the range is.
        range: &'static str,
    },
    /// The name servers gave no address.
    #[error("{host} cannot be looked up ({why})")]
    Unresolved {
        /// The URL's host.
        host: String,
        /// What the system said.
        why: String,
    },
}

/// The networks that may be reached: public ones, and those that the operator allowed.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    allowed: Vec<IpNet>,
}

impl Egress {
    /// Public networks and these (`[egress] allow`).
    #[must_use]
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self { allowed: allow }
    }

    /// Vets all of a URL that can be vetted without looking up a name.
    ///
    /// # Errors
    /// When no name server's answer could make it acceptable.
    pub fn vet_url(&self, url: &Url) -> Result<(), Refused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials);
        }
        match url.host() {
            None => Err(Refused::Scheme),
            Some(Host::Domain(_)) => Ok(()),
            Some(Host::Ipv4(address)) => self.vet_address(|| address.to_string(), address.into()),
            Some(Host::Ipv6(address)) => self.vet_address(|| address.to_string(), address.into()),
        }
    }

    /// Vets every address that a name server gave for `host`: one that is refused refuses the host.
    ///
    /// # Errors
    /// For the first address that may not be reached, or when there is none at all.
    pub fn vet_answer(&self, host: &str, addresses: &[IpAddr]) -> Result<(), Refused> {
        if addresses.is_empty() {
            return Err(Refused::Unresolved { host: host.to_owned(), why: "no address".to_owned() });
        }
        addresses.iter().try_for_each(|address| self.vet_address(|| host.to_owned(), *address))
    }

    fn vet_address(&self, host: impl Fn() -> String, address: IpAddr) -> Result<(), Refused> {
        match self.refusal(address) {
            Some(range) => Err(Refused::Address { host: host(), address, range }),
            None => Ok(()),
        }
    }

    /// What range makes this address one that may not be reached; `None` if it may.
    fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        // ::ffff:10.0.0.1 is 10.0.0.1 to the operating system, so it is to us.
        let address = address.to_canonical();
        if self.allowed.iter().any(|net| net.contains(&address)) {
            return None;
        }
        match address {
            IpAddr::V4(address) => REFUSED_V4.iter().find(|(net, _)| net.contains(&address)).map(|(_, range)| *range),
            IpAddr::V6(address) if !GLOBAL_UNICAST.contains(&address) => Some(
                REFUSED_V6
                    .iter()
                    .find(|(net, _)| net.contains(&address))
                    .map_or("not a global unicast address", |(_, range)| *range),
            ),
            IpAddr::V6(address) => REFUSED_V6.iter().find(|(net, _)| net.contains(&address)).map(|(_, range)| *range),
        }
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(a: u16, b: u16, c: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), length)
}

/// From the IANA IPv4 Special-Purpose Address Registry, and the address of one cloud's metadata that is not in it.
const REFUSED_V4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 8), "this network"),
    (v4(10, 0, 0, 0, 8), "a private network"),
    (v4(100, 64, 0, 0, 10), "a carrier's shared network (CGNAT)"),
    (v4(127, 0, 0, 0, 8), "this machine (loopback)"),
    (v4(169, 254, 169, 254, 32), "a cloud's metadata service"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(168, 63, 129, 16, 32), "a cloud's metadata service"),
    (v4(172, 16, 0, 0, 12), "a private network"),
    (v4(192, 0, 0, 0, 24), "reserved for protocols"),
    (v4(192, 0, 2, 0, 24), "reserved for documentation"),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay"),
    (v4(192, 168, 0, 0, 16), "a private network"),
    (v4(198, 18, 0, 0, 15), "reserved for benchmarks"),
    (v4(198, 51, 100, 0, 24), "reserved for documentation"),
    (v4(203, 0, 113, 0, 24), "reserved for documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(255, 255, 255, 255, 32), "broadcast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
];

/// All that is given out to the public internet (RFC 4291, section 2.4); what lies outside is refused, named or not.
const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 3);

/// From the IANA IPv6 Special-Purpose Address Registry. The translated and tunnelled ranges are refused whole: they
/// carry an IPv4 address inside that a gateway on the way would reach for us.
const REFUSED_V6: &[(Ipv6Net, &str)] = &[
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "no address"),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "this machine (loopback)"),
    (v6(0, 0, 0, 96), "an embedded IPv4 address"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96), "a translated IPv4 address"),
    (v6(0x64, 0xff9b, 0, 96), "a translated IPv4 address (NAT64)"),
    (v6(0x64, 0xff9b, 1, 48), "a translated IPv4 address (NAT64)"),
    (v6(0x100, 0, 0, 64), "discarded"),
    (v6(0x2001, 0, 0, 32), "a tunnelled IPv4 address (Teredo)"),
    (v6(0x2001, 0, 0, 23), "reserved for protocols"),
    (v6(0x2001, 0xdb8, 0, 32), "reserved for documentation"),
    (v6(0x2002, 0, 0, 16), "a tunnelled IPv4 address (6to4)"),
    (v6(0x3fff, 0, 0, 20), "reserved for documentation"),
    (v6(0xfc00, 0, 0, 7), "a private network"),
    (v6(0xfe80, 0, 0, 10), "link-local"),
    (v6(0xfec0, 0, 0, 10), "site-local"),
    (v6(0xff00, 0, 0, 8), "multicast"),
];

/// What a look-up gave: vetted addresses, or why there are none.
type Answer = Result<Arc<[SocketAddr]>, Refused>;

/// Looks names up and lets only vetted addresses through.
///
/// A system look-up holds a thread until it ends, and cannot be cancelled; so there is at most one per name at a time,
/// shared by all that wait for it. A partner whose name servers are dead holds one thread, however many leads it has.
pub(super) struct VettingResolver {
    egress: Arc<Egress>,
    under_way: Arc<Mutex<HashMap<String, watch::Receiver<Option<Answer>>>>>,
}

impl VettingResolver {
    pub(super) fn new(egress: Arc<Egress>) -> Self {
        Self { egress, under_way: Arc::default() }
    }

    /// The look-up of this name that is under way, or a new one.
    fn join(&self, host: &str) -> watch::Receiver<Option<Answer>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = under_way.get(host) {
            return answer.clone();
        }
        let (told, answer) = watch::channel(None);
        under_way.insert(host.to_owned(), answer.clone());
        let (host, egress, open) = (host.to_owned(), Arc::clone(&self.egress), Arc::clone(&self.under_way));
        tokio::spawn(async move {
            let answer = look_up(&egress, &host).await;
            // Off the list first: whoever comes from now on asks again, for an answer may change.
            open.lock().unwrap_or_else(PoisonError::into_inner).remove(&host);
            told.send_replace(Some(answer));
        });
        answer
    }
}

impl Resolve for VettingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let mut answer = self.join(name.as_str());
        Box::pin(async move {
            let _timing = stopwatch::looking_up();
            // The look-up's task always answers; it can only be gone when the runtime is shutting down.
            let answer = answer.wait_for(Option::is_some).await?.clone();
            let addresses = answer.ok_or("the look-up was abandoned")??;
            let vetted: Addrs = Box::new(Vec::from(&*addresses).into_iter());
            Ok(vetted)
        })
    }
}

async fn look_up(egress: &Egress, host: &str) -> Answer {
    // Port 0 is replaced by the URL's.
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0))
        .await
        .map_err(|error| Refused::Unresolved { host: host.to_owned(), why: error.to_string() })?
        .collect();
    let addresses: Vec<IpAddr> = found.iter().map(SocketAddr::ip).collect();
    egress.vet_answer(host, &addresses)?;
    Ok(found.into())
}
