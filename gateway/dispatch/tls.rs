//! Whom the gateway trusts over TLS.
//!
//! The machine's own roots (or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name), so that operators manage trust in
//! one place; where a small image has none, Mozilla's list as compiled in. The operator's extra roots come on top.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::DispatchFault;
use super::stopwatch::SessionStore;

/// Servers whose TLS sessions are remembered for a quicker handshake.
const SESSIONS: usize = 256;

pub(super) fn config(extra_roots_pem: Option<&[u8]>) -> Result<ClientConfig, DispatchFault> {
    let mut roots = RootCertStore::empty();
    // Some machines carry certificates that rustls cannot use; the others still count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(pem) = extra_roots_pem {
        add_extra(&mut roots, pem)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(DispatchFault::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::store(Arc::new(SessionStore::new(SESSIONS)));
    Ok(config)
}

fn add_extra(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), DispatchFault> {
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| DispatchFault::ExtraRoots(error.to_string()))?;
        roots.add(certificate).map_err(|error| DispatchFault::ExtraRoots(error.to_string()))?;
    }
    if roots.len() == before {
        return Err(DispatchFault::ExtraRoots("it holds no certificate".to_owned()));
    }
    Ok(())
}
