//! Whom the gateway trusts over TLS.
//!
//! The machine's own roots (or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name), so that operators manage trust in
//! one place; where a small image has none, Mozilla's list as compiled in. The operator's extra roots come on top.

use std::sync::Arc;

use rustls::client::{Resumption, WantsClientCert};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

use super::DispatchFault;
use super::stopwatch::SessionStore;

/// Servers whose TLS sessions are remembered for a quicker handshake.
const SESSIONS: usize = 256;

/// Whom every endpoint may trust.
pub(super) fn roots(extra_roots_pem: Option<&[u8]>) -> Result<RootCertStore, DispatchFault> {
    let mut roots = RootCertStore::empty();
    // Some machines carry certificates that rustls cannot use; the others still count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(pem) = extra_roots_pem {
        let extra = certificates(pem).map_err(DispatchFault::ExtraRoots)?;
        extra.into_iter().try_for_each(|one| roots.add(one)).map_err(|e| DispatchFault::ExtraRoots(e.to_string()))?;
    }
    Ok(roots)
}

/// TLS without a client certificate.
pub(super) fn config(roots: Arc<RootCertStore>) -> Result<ClientConfig, DispatchFault> {
    Ok(finished(builder(roots)?.with_no_client_auth()))
}

/// TLS with one.
pub(super) fn config_with(
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, DispatchFault> {
    builder(roots)?.with_client_auth_cert(chain, key).map(finished).map_err(DispatchFault::Tls)
}

fn builder(roots: Arc<RootCertStore>) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, DispatchFault> {
    Ok(ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(DispatchFault::Tls)?
        .with_root_certificates(roots))
}

fn finished(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::store(Arc::new(SessionStore::new(SESSIONS)));
    config
}

/// The certificates of a PEM text; at least one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("it holds no certificate".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(error.to_string()),
    }
}
