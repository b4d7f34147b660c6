//! Where the database is, and how far the way there is trusted.
//!
//! The URL is PostgreSQL's own (`postgres://user:password@host:5432/database?sslmode=require`, several hosts with commas).
//! TLS is always verified, by the machine's roots or those in the file of `sslrootcert`; and unless the server is on this
//! machine, the URL must say whether there is to be TLS: leads are personal data, and a default that silently falls back
//! to plain text would send them over the network.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::store::StoreError;

/// How long a connection may take to be made.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long what was sent may stay unacknowledged before the connection counts as broken.
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);
/// Silence after which the other side is asked whether it is still there, and how often.
const ASK_AFTER: Duration = Duration::from_secs(5);

/// A database that can be connected to. Holds its password; shows it nowhere.
#[derive(Clone)]
pub(super) struct Address {
    shown: String,
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
}

impl Address {
    /// Reads a URL; `name` is what the server shows of this gateway among its sessions.
    pub(super) fn parse(url: &str, name: &str) -> Result<Self, StoreError> {
        // Until it is read, nothing of it can be shown: the password could be anywhere.
        let unread = |why: String| StoreError::Open { directory: "PostgreSQL".to_owned(), why };
        let (url, ours) = split(url);
        // The driver's message may quote what it could not read.
        let mut config: Config = url.parse().map_err(|_| {
            unread(
                "its URL cannot be read; write it as `postgres://user:password@host:5432/database?sslmode=require`"
                    .to_owned(),
            )
        })?;
        let shown = shown(&config);
        let refused = |why: String| StoreError::Open { directory: shown.clone(), why };
        if config.get_hosts().is_empty() {
            return Err(refused(
                "its URL names no host; write `postgres://user:password@host:5432/database`".to_owned(),
            ));
        }
        let encrypted = match ours.sslmode.as_deref() {
            Some("disable") => false,
            Some("require" | "verify-ca" | "verify-full") => true,
            None if config.get_hosts().iter().all(is_here) => false,
            None => {
                return Err(refused(
                    "its URL must say whether the way there is encrypted: add `sslmode=require` (TLS, the server's \
                     certificate is verified), or `sslmode=disable` where the network is your own"
                        .to_owned(),
                ));
            }
            Some(_) => {
                return Err(refused(
                    "`sslmode` must be `require` or `verify-full` (TLS, the server's certificate is verified), or `disable`"
                        .to_owned(),
                ));
            }
        };
        let roots =
            if encrypted { roots(ours.sslrootcert.as_deref()).map_err(&refused)? } else { RootCertStore::empty() };
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config
            .ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable })
            .application_name(format!("lead-gateway {name}"))
            // A standby that took over is found by naming both hosts; one that only reads is passed over.
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(CONNECT_WITHIN)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .keepalives(true)
            .keepalives_idle(ASK_AFTER)
            .keepalives_interval(ASK_AFTER)
            .keepalives_retries(2);
        Ok(Self { shown, config, tls: MakeRustlsConnect::new(tls) })
    }

    /// A new connection, with no settings made yet.
    pub(super) async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(store.error = super::describe(&error), "a connection to the database ended");
            }
        });
        Ok(client)
    }

    /// Without the password.
    pub(super) fn as_str(&self) -> &str {
        &self.shown
    }

    /// Why it cannot be used.
    pub(super) fn refused(&self, why: String) -> StoreError {
        StoreError::Open { directory: self.shown.clone(), why }
    }
}

/// The parts of the URL that are not the driver's.
#[derive(Default)]
struct Ours {
    sslmode: Option<String>,
    sslrootcert: Option<String>,
}

/// Takes out what the driver does not know, or means differently.
fn split(url: &str) -> (String, Ours) {
    let mut ours = Ours::default();
    let Some((base, query)) = url.split_once('?') else { return (url.to_owned(), ours) };
    let decoded = |value: &str| percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned();
    let mut kept = Vec::new();
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("sslmode", value)) => ours.sslmode = Some(decoded(value)),
            Some(("sslrootcert", value)) => ours.sslrootcert = Some(decoded(value)),
            _ => kept.push(pair),
        }
    }
    let query = kept.join("&");
    (if query.is_empty() { base.to_owned() } else { format!("{base}?{query}") }, ours)
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

fn shown(config: &Config) -> String {
    let ports = config.get_ports();
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(n, host)| {
            let port = ports.get(n).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => path.display().to_string(),
            }
        })
        .collect();
    let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
    format!("postgres://{user}{}/{}", hosts.join(","), config.get_dbname().unwrap_or_default())
}

fn roots(file: Option<&str>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = file {
        let read = |why: String| format!("the certificates in `sslrootcert={file}` cannot be used: {why}");
        let found = CertificateDer::pem_file_iter(Path::new(file)).map_err(|error| read(error.to_string()))?;
        for one in found {
            roots.add(one.map_err(|error| read(error.to_string()))?).map_err(|error| read(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(read("there are none".to_owned()));
        }
        return Ok(roots);
    }
    // Some machines carry certificates that rustls cannot use; the others still count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::Address;

    fn refusal(url: &str) -> String {
        Address::parse(url, "a").err().expect("it is refused").to_string()
    }

    #[test]
    fn a_password_is_never_shown() {
        let address = Address::parse("postgres://gate:hunter2@localhost:5433/leads", "a").unwrap();
        assert_eq!(address.as_str(), "postgres://gate@localhost:5433/leads");
        for url in ["postgres://gate:hunter2@db.example/leads", "postgres://gate:hunter2@db:port/leads"] {
            assert!(!refusal(url).contains("hunter2"));
        }
    }

    #[test]
    fn the_way_to_another_machine_must_say_whether_it_is_encrypted() {
        assert!(refusal("postgres://gate@db.example/leads").contains("sslmode=require"));
        assert!(refusal("postgres://gate@db.example/leads?sslmode=prefer").contains("`sslmode` must be"));
        for mode in ["require", "verify-full", "disable"] {
            Address::parse(&format!("postgres://gate@one.example,two.example/leads?sslmode={mode}"), "a").unwrap();
        }
        for here in ["127.0.0.1:5433", "localhost", "%2Frun%2Fpostgresql"] {
            Address::parse(&format!("postgres://gate@{here}/leads"), "a").unwrap();
        }
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let missing = refusal("postgres://gate@db.example/leads?sslmode=require&sslrootcert=%2Fnowhere%2Fca.pem");
        assert!(missing.contains("sslrootcert=/nowhere/ca.pem"), "{missing}");
    }
}
