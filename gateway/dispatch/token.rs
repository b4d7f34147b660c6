//! Access tokens (OAuth 2.0, RFC 6749): fetched before an attempt begins, kept until shortly before they expire, and
//! fetched anew when the partner no longer knows one.
//!
//! One fetch at a time: whoever needs a token meanwhile waits for it, and shares its failure.

use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::sync::Mutex;

use super::{Dispatcher, SettingFault, Transport};
use crate::clock;
use crate::model::contract::{ClientAuth, Grant, OAuth2};
use crate::model::exchange::{Masked, Outgoing, Reply, SendFault, SendFaultKind, Sent};
use crate::model::secret::{MASK, SecretText};

/// A token is not used in the last part of its life: clocks differ, and the attempt takes its time.
const LAST_PART: Duration = Duration::from_mins(1);
/// What an error of the token endpoint may say, in characters.
const MAX_SAID: usize = 200;

/// Where an endpoint's tokens come from.
pub struct TokenSource {
    settings: Settings,
    state: Mutex<State>,
}

/// What is sent to the token endpoint, resolved.
#[derive(PartialEq, Eq)]
struct Settings {
    url: String,
    /// The URL as it may be stored: a reference is a secret as a whole, and a query may hold one.
    shown_url: String,
    /// Each with whether it is a secret.
    form: Vec<(String, String, bool)>,
    basic: Option<String>,
    secrets: Vec<String>,
    header: String,
    scheme: String,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    fetches: u64,
    failed: Option<(Instant, SendFault)>,
}

struct Held {
    token: String,
    number: u64,
    /// `None` where the endpoint did not say.
    until: Option<Instant>,
}

/// A token, ready to be sent.
pub struct Obtained {
    /// The name of the header that carries it.
    pub header: String,
    /// Its value: scheme and token.
    pub value: String,
    /// The token alone, to be masked wherever it is echoed.
    pub token: String,
    /// Which fetch brought it, for [`TokenSource::refuse`].
    pub number: u64,
    /// The exchange with the token endpoint, where one was needed for this.
    pub exchange: Option<Box<TokenExchange>>,
}

/// Why there is no token.
#[derive(Debug)]
pub struct NoToken {
    /// In words, without secrets; `NoToken` where the token endpoint refuses us, else `NotSent`.
    pub fault: SendFault,
    /// The exchange with the token endpoint; none where another attempt's fetch failed.
    pub exchange: Option<Box<TokenExchange>>,
}

/// What was said to the token endpoint, and what it said.
#[derive(Debug)]
pub struct TokenExchange {
    /// The request, with everything that must be masked in both.
    pub outgoing: Outgoing,
    /// What came of it.
    pub sent: Sent,
}

impl fmt::Debug for TokenSource {
    // Holds secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSource")
    }
}

impl fmt::Debug for Obtained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Obtained({}, {})", self.header, self.number)
    }
}

impl TokenSource {
    /// Resolves the settings and checks that they fit the grant.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn compile(oauth2: &OAuth2) -> Result<Self, Vec<SettingFault>> {
        Settings::compile(oauth2).map(|settings| Self { settings, state: Mutex::default() })
    }

    /// What tokens are fetched with: masked wherever the token endpoint or the partner, often one system, echoes it.
    #[must_use]
    pub fn secrets(&self) -> &[String] {
        &self.settings.secrets
    }

    /// The header that carries the token.
    #[must_use]
    pub fn header(&self) -> &str {
        &self.settings.header
    }

    /// Whether both ask the same of the same, so that the tokens of one serve the other.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.settings == other.settings
    }

    /// The token for an attempt: the one that is held, or a new one.
    ///
    /// # Errors
    /// When the token endpoint cannot be reached or gives none.
    pub async fn obtain(&self, dispatcher: &Dispatcher, transport: &Transport) -> Result<Obtained, NoToken> {
        let asked = clock::instant();
        let mut state = self.state.lock().await;
        if let Some(held) = &state.held
            && held.until.is_none_or(|until| clock::instant() < until)
        {
            return Ok(self.obtained(held, None));
        }
        if let Some((at, fault)) = &state.failed
            && *at >= asked
        {
            return Err(NoToken { fault: fault.clone(), exchange: None });
        }
        state.held = None;
        let mut outgoing = self.settings.request();
        let sent = dispatcher.send(transport, &outgoing).await;
        let now = clock::instant();
        match granted(&sent, &outgoing.secrets) {
            Ok(granted) => {
                outgoing.secrets.extend(granted.secrets);
                state.fetches += 1;
                let until =
                    granted.lifetime.and_then(|life| now.checked_add(life.saturating_sub((life / 10).min(LAST_PART))));
                let held = Held { token: granted.token, number: state.fetches, until };
                state.failed = None;
                let obtained = self.obtained(&held, Some(Box::new(TokenExchange { outgoing, sent })));
                state.held = Some(held);
                Ok(obtained)
            }
            Err(fault) => {
                let sent = unreadable_masked(sent);
                state.failed = Some((now, fault.clone()));
                Err(NoToken { fault, exchange: Some(Box::new(TokenExchange { outgoing, sent })) })
            }
        }
    }

    /// The partner does not know this token (any more): the next attempt fetches another.
    pub async fn refuse(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.held.as_ref().is_some_and(|held| held.number == number) {
            state.held = None;
        }
    }

    fn obtained(&self, held: &Held, exchange: Option<Box<TokenExchange>>) -> Obtained {
        let Settings { header, scheme, .. } = &self.settings;
        let value = format!("{scheme} {}", held.token);
        Obtained {
            header: header.clone(),
            value: value.trim_start().to_owned(),
            token: held.token.clone(),
            number: held.number,
            exchange,
        }
    }
}

impl Settings {
    fn compile(oauth2: &OAuth2) -> Result<Self, Vec<SettingFault>> {
        let mut faults = Vec::new();
        let url = read("auth.oauth2.token_url", &oauth2.token_url, &mut faults).unwrap_or_default();
        match url::Url::parse(&url) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                fault(
                    &mut faults,
                    "auth.oauth2.token_url",
                    "holds a user name or a password; use client_id and client_secret",
                );
            }
            Ok(url) if matches!(url.scheme(), "http" | "https") => {}
            _ if url.is_empty() => {}
            _ => fault(&mut faults, "auth.oauth2.token_url", "not an http or https URL"),
        }
        let shown_url = match (oauth2.token_url.is_reference(), url.split_once('?')) {
            (true, _) => MASK.to_owned(),
            (false, Some((address, _))) => format!("{address}?{MASK}"),
            (false, None) => url.clone(),
        };
        let mut form = vec![("grant_type".to_owned(), oauth2.grant.as_str().to_owned(), false)];
        let own = [
            ("username", "auth.oauth2.username", &oauth2.username, Grant::Password, false),
            ("password", "auth.oauth2.password", &oauth2.password, Grant::Password, true),
            ("refresh_token", "auth.oauth2.refresh_token", &oauth2.refresh_token, Grant::RefreshToken, true),
        ];
        for (name, key, value, grant, secret) in own {
            match (value, grant == oauth2.grant) {
                (Some(value), true) => {
                    form.extend(read(key, value, &mut faults).map(|value| (name.to_owned(), value, secret)));
                }
                (None, true) => fault(&mut faults, key, format!("grant = \"{}\" needs it", grant.as_str())),
                (Some(_), false) => {
                    fault(&mut faults, key, format!("belongs to grant = \"{}\": leave it out", grant.as_str()));
                }
                (None, false) => {}
            }
        }
        let id = oauth2.client_id.as_ref().and_then(|id| read("auth.oauth2.client_id", id, &mut faults));
        let secret = oauth2.client_secret.as_ref();
        let secret = secret.and_then(|secret| read("auth.oauth2.client_secret", secret, &mut faults));
        if oauth2.grant == Grant::ClientCredentials {
            for (key, given) in [
                ("auth.oauth2.client_id", oauth2.client_id.is_some()),
                ("auth.oauth2.client_secret", oauth2.client_secret.is_some()),
            ] {
                if !given {
                    fault(&mut faults, key, "grant = \"client_credentials\" needs it");
                }
            }
        }
        let (mut basic, mut secrets) = (None, Vec::new());
        match (oauth2.client_auth, id, secret) {
            (way @ (ClientAuth::Basic | ClientAuth::BasicPlain), Some(id), Some(secret)) => {
                // RFC 6749, section 2.3.1, has both form-encoded first.
                let encode = |text: &str| match way {
                    ClientAuth::BasicPlain => text.to_owned(),
                    _ => form_urlencoded::byte_serialize(text.as_bytes()).collect(),
                };
                let both = STANDARD.encode(format!("{}:{}", encode(&id), encode(&secret)));
                secrets.extend([secret, both.clone()]);
                basic = Some(both);
            }
            (_, id, secret) => {
                form.extend(id.map(|id| ("client_id".to_owned(), id, false)));
                form.extend(secret.map(|secret| ("client_secret".to_owned(), secret, true)));
            }
        }
        form.extend(oauth2.scope.iter().map(|scope| ("scope".to_owned(), scope.clone(), false)));
        for (name, value) in &oauth2.params {
            let secret = value.is_reference();
            form.extend(read("auth.oauth2.params", value, &mut faults).map(|value| (name.clone(), value, secret)));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        secrets.extend(form.iter().filter(|one| one.2).map(|one| one.1.clone()));
        Ok(Self { url, shown_url, form, basic, secrets, header: oauth2.header.clone(), scheme: oauth2.scheme.clone() })
    }

    fn request(&self) -> Outgoing {
        let encode = |masking: bool| {
            let mut body = form_urlencoded::Serializer::new(String::new());
            for (name, value, secret) in &self.form {
                body.append_pair(name, if masking && *secret { MASK } else { value });
            }
            body.finish()
        };
        let headers = |masking: bool| {
            let mut headers = vec![
                ("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned()),
                ("Accept".to_owned(), "application/json".to_owned()),
            ];
            headers.extend(self.basic.as_ref().map(|basic| {
                ("Authorization".to_owned(), if masking { MASK.to_owned() } else { format!("Basic {basic}") })
            }));
            headers
        };
        Outgoing {
            http_method: "POST",
            url: self.url.clone(),
            headers: headers(false),
            body: encode(false).into(),
            masked: Some(Masked { url: self.shown_url.clone(), headers: headers(true), body: encode(true).into() }),
            secrets: self.secrets.clone(),
            backup: None,
            send_before: None,
        }
    }
}

fn read(key: &'static str, text: &SecretText, faults: &mut Vec<SettingFault>) -> Option<String> {
    match text.resolve() {
        Ok(text) => Some(text),
        Err(error) => {
            fault(faults, key, error.to_string());
            None
        }
    }
}

fn fault(faults: &mut Vec<SettingFault>, key: &'static str, message: impl Into<String>) {
    faults.push(SettingFault { key, message: message.into() });
}

/// What a token endpoint gave.
struct Granted {
    token: String,
    lifetime: Option<Duration>,
    secrets: Vec<String>,
}

/// Reads a token endpoint's reply (RFC 6749, sections 5.1 and 5.2).
fn granted(sent: &Sent, secrets: &[String]) -> Result<Granted, SendFault> {
    let trouble = |kind, message: String| SendFault { kind, message, partial: None };
    let reply = match &sent.result {
        Ok(reply) => reply,
        // Whatever became of it: nothing was sent to the partner.
        Err(fault) => return Err(trouble(SendFaultKind::NotSent, format!("no access token: {}", fault.message))),
    };
    let body = reply.body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&reply.body);
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    if !(200..300).contains(&reply.status) {
        let said = said(&document, secrets).map(|said| format!(": {said}")).unwrap_or_default();
        let message = format!("no access token: the token endpoint answered {}{said}", reply.status);
        let passing = matches!(reply.status, 408 | 425 | 429 | 500..);
        return Err(trouble(if passing { SendFaultKind::NotSent } else { SendFaultKind::NoToken }, message));
    }
    let text = |name: &str| document.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let usable = |token: &&str| token.bytes().all(|b| b.is_ascii_graphic());
    let Some(token) = text("access_token").filter(usable) else {
        let message = "no access token: the token endpoint's reply holds no usable `access_token`".to_owned();
        return Err(trouble(SendFaultKind::NoToken, message));
    };
    let seconds = document.get("expires_in").and_then(|life| match life {
        Value::String(text) => text.parse::<u64>().ok(),
        other => other.as_u64(),
    });
    let secrets = ["access_token", "refresh_token", "id_token"].into_iter().filter_map(text);
    Ok(Granted {
        token: token.to_owned(),
        lifetime: seconds.map(Duration::from_secs),
        secrets: secrets.map(str::to_owned).collect(),
    })
}

/// A reply that gave no token that we could read may hold one all the same: then nothing of its body may be stored.
fn unreadable_masked(mut sent: Sent) -> Sent {
    let reply = match &mut sent.result {
        Ok(reply) if (200..300).contains(&reply.status) => Some(reply),
        Ok(_) => None,
        Err(fault) => fault.partial.as_mut(),
    };
    if let Some(reply) = reply
        && !reply.body.is_empty()
    {
        reply.body = MASK.into();
    }
    sent
}

/// What the token endpoint says is wrong, on one line, without the secrets that it echoes.
fn said(document: &Value, secrets: &[String]) -> Option<String> {
    let words = ["error", "error_description"].into_iter().filter_map(|name| document.get(name)?.as_str());
    let text = words.collect::<Vec<_>>().join(", ");
    let known = secrets.iter().filter(|secret| !secret.is_empty());
    let text = known.fold(text, |text, secret| text.replace(secret.as_str(), MASK));
    let line: String = text.chars().filter(|c| !c.is_control()).take(MAX_SAID).collect();
    (!line.is_empty()).then_some(line)
}

/// Whether a partner's reply says that it does not know the token.
#[must_use]
pub fn is_refusal(reply: &Result<Reply, SendFault>) -> bool {
    matches!(reply, Ok(reply) if reply.status == 401)
}
