//! How requests travel: client certificates, a second URL, connections that rest, as many at once as the partner bears.

use std::time::Duration;

use lead_gateway::clock;
use lead_gateway::dispatch::concurrency::{Adaptive, Load, MOST, START};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;

use super::harness::{Gateway, World, all_bytes, buyer, free_port, lead, text_at};
use super::partner_stub::{Behaviour, Step, Stub, refused};

/// nginx, which lets nobody in without a certificate of its authority.
struct Nginx {
    child: std::process::Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Nginx {
    async fn start(server: (&str, &str), clients: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let port = free_port();
        for (name, text) in [("server.pem", server.0), ("server.key", server.1), ("clients.pem", clients)] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let config = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/log;
             events {{ worker_connections 64; }}
             http {{
                 access_log off;
                 client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fastcgi;
                 uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;
                 server {{
                     listen 127.0.0.1:{port} ssl;
                     ssl_certificate {path}/server.pem; ssl_certificate_key {path}/server.key;
                     ssl_client_certificate {path}/clients.pem; ssl_verify_client optional;
                     location / {{ default_type text/plain; return 200 \"$ssl_client_verify $ssl_client_s_dn\"; }}
                 }}
             }}"
        );
        std::fs::write(dir.path().join("nginx.conf"), config).unwrap();
        let program =
            ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].into_iter().find(|path| std::path::Path::new(path).exists());
        let child = std::process::Command::new(program.unwrap_or("nginx"))
            .args(["-c", &format!("{path}/nginx.conf"), "-e", &format!("{path}/log"), "-p", &path.to_string()])
            .spawn()
            .expect(
                "nginx is not installed; `make tools` as root installs it (Debian: sudo apt-get install nginx-light)",
            );
        let began = clock::instant();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", std::fs::read_to_string(dir.path().join("log")));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { child, port, _dir: dir }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An authority, and what it signs.
struct Signer(CertifiedIssuer<'static, KeyPair>);

impl Signer {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key, PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

async fn delivered(gateway: &Gateway, email: &str) -> Value {
    let answer = gateway.post_and_wait(&lead(email)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let lead = gateway.lead(&answer.at("/lead_id")).await;
    gateway.get(&format!("/v1/deliveries/{}", text_at(&lead, "/deliveries/0/id"))).await
}

#[tokio::test]
async fn a_client_certificate_and_an_authority_of_the_partners_own_are_used_for_its_endpoint_alone() {
    let (servers, clients) = (Signer::new(), Signer::new());
    let server = servers.sign("the partner");
    let nginx = Nginx::start((&server.0, &server.1), &clients.0.pem()).await;
    let (certificate, key) = clients.sign("lead gateway");
    let rules = "[contract.endpoint.response]\naccepted = { regex = \"^SUCCESS\" }\nrejected = { regex = \"^(NONE|FAILED)\" }\nreason = { regex = \"(?s).*\" }\n";
    let url = format!("https://127.0.0.1:{}/", nginx.port);
    let world = World::new("");
    for (name, text) in [("certificate.pem", &certificate), ("key.pem", &key), ("ca.pem", &servers.0.pem())] {
        world.write(name, text);
    }
    let file = |name: &str| world.path(name).display().to_string();
    let mine = format!(
        "tls = {{ certificate = \"file:{}\", key = \"file:{}\", ca = \"file:{}\" }}\n{rules}",
        file("certificate.pem"),
        file("key.pem"),
        file("ca.pem")
    );
    let anonymous = format!("tls = {{ ca = \"file:{}\" }}\n{rules}", file("ca.pem"));
    let network = |tls: &str| buyer("sunny", &url, "", "", &format!("retry = {{ max_attempts = 1 }}\n{tls}"));

    for (tls, state, reason) in [
        (&mine, "accepted", "SUCCESS CN=lead gateway"),
        (&anonymous, "rejected", "NONE"),
        // Without the partner's own authority nobody trusts it.
        (&rules.to_owned(), "failed", "certificate"),
    ] {
        let _ = std::fs::remove_dir_all(world.path("data"));
        let _ = std::fs::remove_file(world.path("token"));
        world.write("network/buyers.toml", &network(tls));
        let gateway = world.start().await;
        let shown = delivered(&gateway, "a@example.com").await;
        assert_eq!(text_at(&shown, "/state"), state, "{shown:#}");
        assert!(text_at(&shown, "/reason").contains(reason), "{shown:#}");
        gateway.finish().await;
    }
    let secret = key.lines().nth(1).unwrap();
    assert!(memchr::memmem::find(&all_bytes(&world.path("data")), secret.as_bytes()).is_none());
    assert!(!world.log().contains(secret));
}

#[test]
fn a_key_that_does_not_fit_its_certificate_is_found_when_the_network_is_loaded() {
    let signer = Signer::new();
    let ((certificate, _), (_, key)) = (signer.sign("one"), signer.sign("another"));
    let world = World::new("");
    world.write("certificate.pem", &certificate);
    world.write("key.pem", &key);
    let (certificate, key) = (world.path("certificate.pem"), world.path("key.pem"));
    let tls =
        format!("tls = {{ certificate = \"file:{}\", key = \"file:{}\" }}\n", certificate.display(), key.display());
    world.write("network/buyers.toml", &buyer("sunny", "https://127.0.0.1:9/", "", "", &tls));
    let output = world.run(&["check"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("endpoint.tls.key: it does not fit its certificate"), "{said}");
}

#[tokio::test]
async fn the_backup_url_is_used_when_nothing_could_be_handed_over_and_never_otherwise() {
    let backup = Stub::start(Behaviour::ok("yes")).await;
    let gone = format!("http://{}/first", refused().await);
    let endpoint = format!("backup_url = \"{}\"\n", backup.url("/second"));
    let world = World::new(&buyer("sunny", &gone, "", "", &endpoint));
    let gateway = world.start().await;
    let shown = delivered(&gateway, "a@example.com").await;
    assert_eq!(text_at(&shown, "/state"), "accepted");
    assert_eq!(shown["attempts"].as_array().unwrap().len(), 1, "one attempt, wherever it went");
    assert_eq!(text_at(&shown, "/attempts/0/request/url"), backup.url("/second"));
    assert_eq!(backup.requests()[0].header("idempotency-key"), Some(text_at(&shown, "/id").as_str()));
    gateway.finish().await;

    // Anything but "not sent" may have reached the partner: that is no case for the backup.
    let first = Stub::start(Behaviour::reset_after_reading()).await;
    let world = World::new(&buyer("sunny", &first.url("/first"), "", "", &endpoint));
    let gateway = world.start().await;
    let answer = gateway.post(&lead("a@example.com")).await;
    gateway.last_delivery_becomes(&answer.at("/lead_id"), "unknown").await;
    assert_eq!((first.count(), backup.count()), (1, 1));
    gateway.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_is_out_of_reach_is_not_asked_first_for_a_while() {
    let backup = Stub::start(Behaviour::ok("yes")).await;
    let full = super::partner_stub::Unconnectable::start().await;
    let endpoint = format!("backup_url = \"{}\"\nconnect_timeout = \"3s\"\n", backup.url("/second"));
    let world = World::new(&buyer("sunny", &format!("http://{}/", full.address), "", "", &endpoint));
    let gateway = world.start().await;
    let first = delivered(&gateway, "a@example.com").await;
    let began = clock::instant();
    for n in 0..5 {
        delivered(&gateway, &format!("b{n}@example.com")).await;
    }
    assert!(began.elapsed() < Duration::from_secs(10), "each waited for the first URL: {:?}", began.elapsed());
    assert_eq!(text_at(&first, "/attempts/0/request/url"), backup.url("/second"));
    gateway.finish().await;
}

#[tokio::test]
async fn a_connection_rests_as_long_as_the_endpoint_says() {
    let rest = async |keep_alive: &str| {
        let partner = Stub::start(Behaviour::ok("yes")).await;
        let world = World::new(&buyer("sunny", &partner.url("/"), "", "", keep_alive));
        let gateway = world.start().await;
        delivered(&gateway, "a@example.com").await;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        delivered(&gateway, "b@example.com").await;
        gateway.finish().await;
        partner.connections()
    };
    let (usual, long) = tokio::join!(rest(""), rest("keep_alive = \"60s\""));
    assert_eq!((usual, long), (2, 1));
}

#[test]
fn concurrency_grows_while_answers_stay_quick_and_is_used_up_and_falls_under_overload() {
    let mut now = clock::instant();
    let quick = Load::Answered(Duration::from_millis(50));
    let mut adaptive = Adaptive::default();
    assert_eq!(adaptive.limit(), START as usize);
    // Not used up: nothing is learnt.
    (0..1_000).for_each(|_| adaptive.learn(quick, 1, now));
    assert_eq!(adaptive.limit(), START as usize);
    // One more for each full round.
    for _ in 0..=START {
        adaptive.learn(quick, adaptive.limit(), now);
    }
    assert_eq!(adaptive.limit(), START as usize + 1);
    (0..20_000).for_each(|_| adaptive.learn(quick, adaptive.limit(), now));
    assert_eq!(adaptive.limit(), MOST as usize);
    // A burst of overloads counts once.
    (0..50).for_each(|_| adaptive.learn(Load::Overload, 100, now));
    assert_eq!(adaptive.limit(), MOST as usize * 2 / 3);
    for _ in 0..100 {
        now += Duration::from_secs(2);
        adaptive.learn(Load::Overload, 1, now);
    }
    assert_eq!(adaptive.limit(), 1, "never none");
    // Slow answers hold it where it is, and what says nothing changes nothing.
    (0..100).for_each(|_| adaptive.learn(Load::Answered(Duration::from_millis(101)), adaptive.limit(), now));
    (0..100).for_each(|_| adaptive.learn(Load::Unclear, adaptive.limit(), now));
    assert_eq!(adaptive.limit(), 1);
    (0..2).for_each(|_| adaptive.learn(quick, adaptive.limit(), now));
    assert!(adaptive.limit() > 1, "it recovers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adaptive_endpoint_is_given_more_at_once_while_it_bears_it() {
    let partner = Stub::start(Behaviour::ok("yes").after(Step::Pause(Duration::from_millis(50)))).await;
    let world = World::new(&buyer("sunny", &partner.url("/"), "", "", "concurrency = \"adaptive\""));
    let gateway = world.start().await;
    for n in 0..120 {
        assert_eq!(gateway.post(&lead(&format!("n{n}@example.com"))).await.status, 202);
    }
    gateway
        .eventually("/v1/deliveries?state=accepted&limit=500", |page| page["items"].as_array().unwrap().len() == 120)
        .await;
    assert!(partner.most_at_once() > START as usize, "{}", partner.most_at_once());
    gateway.finish().await;
}
