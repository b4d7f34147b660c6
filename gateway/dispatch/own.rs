//! Clients of endpoints that cannot share everybody's: a client certificate, an authority of the partner's own, or
//! connections that rest longer than is safe in general.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{DispatchConfig, DispatchFault, SettingFault, client, tls};
use crate::model::contract::{Endpoint, Tls};
use crate::model::secret::SecretText;

/// An endpoint's own client, made when it is first used.
pub struct OwnClient {
    keep_alive: Duration,
    identity: Option<Identity>,
    authorities: Vec<CertificateDer<'static>>,
    made: OnceLock<reqwest::Client>,
}

/// Our certificate at this partner.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl fmt::Debug for OwnClient {
    // Holds a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnClient(certificate: {})", self.identity.is_some())
    }
}

impl OwnClient {
    /// The client that `endpoint` needs; `None` where the shared one will do.
    pub(super) fn of(endpoint: &Endpoint) -> Result<Option<Self>, Vec<SettingFault>> {
        let keep_alive = endpoint.keep_alive.0;
        let Some(tls) = &endpoint.tls else {
            let own = Self { keep_alive, identity: None, authorities: Vec::new(), made: OnceLock::new() };
            return Ok((keep_alive != Endpoint::KEEP_ALIVE).then_some(own));
        };
        let mut faults = Vec::new();
        let identity = identity(tls, &mut faults);
        let authorities = tls.ca.as_ref().and_then(|ca| {
            let pem = resolved("tls.ca", ca, &mut faults)?;
            let found = tls::certificates(pem.as_bytes());
            noted("tls.ca", found, &mut faults)
        });
        // An authority that cannot be used is found now and not with the first lead.
        let mut roots = RootCertStore::empty();
        for authority in authorities.iter().flatten() {
            noted("tls.ca", roots.add(authority.clone()).map_err(|error| error.to_string()), &mut faults);
        }
        for (key, url) in [("url", Some(&endpoint.url)), ("backup_url", endpoint.backup_url.as_ref())] {
            if url.is_some_and(|url| url.0.starts_with("http://")) {
                faults
                    .push(SettingFault { key, message: "is http, where `tls` means nothing: write https".to_owned() });
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let authorities = authorities.unwrap_or_default();
        Ok(Some(Self { keep_alive, identity, authorities, made: OnceLock::new() }))
    }

    /// Whether both make the same connections.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let of = |own: &Self| own.identity.as_ref().map(|identity| identity.chain.clone());
        let key = |own: &Self| own.identity.as_ref().map(|identity| identity.key.secret_der().to_vec());
        self.keep_alive == other.keep_alive
            && self.authorities == other.authorities
            && of(self) == of(other)
            && key(self) == key(other)
    }

    /// The client itself.
    pub(super) fn client(
        &self,
        config: &DispatchConfig,
        roots: &Arc<RootCertStore>,
    ) -> Result<&reqwest::Client, DispatchFault> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let mut trusted = Arc::clone(roots);
        if !self.authorities.is_empty() {
            Arc::make_mut(&mut trusted).add_parsable_certificates(self.authorities.iter().cloned());
        }
        let tls = match &self.identity {
            None => tls::config(trusted)?,
            Some(Identity { chain, key }) => tls::config_with(trusted, chain.clone(), key.clone_key())?,
        };
        let client = client::build(config, tls, self.keep_alive)?;
        // Whoever comes second uses the first one's.
        Ok(self.made.get_or_init(|| client))
    }
}

fn identity(tls: &Tls, faults: &mut Vec<SettingFault>) -> Option<Identity> {
    let (certificate, key) = match (&tls.certificate, &tls.key) {
        (None, None) => return None,
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => {
            let message = "is missing: a certificate needs its private key, as file:PATH or env:NAME".to_owned();
            faults.push(SettingFault { key: "tls.key", message });
            return None;
        }
        (None, Some(_)) => {
            let message = "is missing: a private key needs its certificate, as file:PATH or env:NAME".to_owned();
            faults.push(SettingFault { key: "tls.certificate", message });
            return None;
        }
    };
    let chain = resolved("tls.certificate", certificate, faults)
        .and_then(|pem| noted("tls.certificate", tls::certificates(pem.as_bytes()), faults));
    let key = resolved("tls.key", key, faults).and_then(|pem| {
        // What the parser says may show a part of the text.
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| "it is no private key in PEM; encrypted keys must be decrypted first".to_owned());
        noted("tls.key", key, faults)
    });
    let (chain, key) = (chain?, key?);
    let fits = tls::config_with(Arc::new(RootCertStore::empty()), chain.clone(), key.clone_key());
    let fits = fits.map_err(|error| match error {
        DispatchFault::Tls(why) => format!("it does not fit its certificate ({why})"),
        other => other.to_string(),
    });
    noted("tls.key", fits, faults)?;
    Some(Identity { chain, key })
}

fn resolved(key: &'static str, text: &SecretText, faults: &mut Vec<SettingFault>) -> Option<String> {
    noted(key, text.resolve().map_err(|fault| fault.to_string()), faults)
}

fn noted<T>(key: &'static str, found: Result<T, String>, faults: &mut Vec<SettingFault>) -> Option<T> {
    found.map_err(|message| faults.push(SettingFault { key, message })).ok()
}
