//! The ways to a Redis: TLS, passwords, Sentinel, Cluster; and those that lead nowhere.

use super::*;
use crate::servers::redis::Cluster;
use lead_gateway::gate::OpenFault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn fault(settings: Settings) -> OpenFault {
    match RedisGate::open(settings, Arc::new(Books::default()), Clock::manual(noon())).await {
        Ok(_) => panic!("it was opened"),
        Err(fault) => fault,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_in_mid_load_costs_no_place() {
    let cluster = Cluster::start();
    let nodes = cluster.nodes.iter().map(Redis::url).collect();
    let settings =
        Settings { call_timeout: Duration::from_millis(500), ..settings(Servers::Cluster(nodes), "t", CALM) };
    let gates = harmed(settings, async |nth| {
        if nth < 3 {
            cluster.move_slot_of("{brightroof}");
        }
    })
    .await;
    eventually("every gate is shut", async || {
        let mut shut = true;
        for gate in &gates {
            shut &= attempt(gate).await == Err(Some(ShutReason::Full));
        }
        shut
    })
    .await;
    eventually("the cluster is well, and believed to be", async || gates.iter().all(|gate| gate.is_up())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_loses_writes_costs_no_place() {
    let mut master = Redis::start();
    let master_port = master.port.to_string();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &master_port]);
    let sentinels: Vec<Redis> = (0..3).map(|_| Redis::sentinel(master.port)).collect();
    eventually("the sentinels know each other and the replica", async || {
        sentinels.iter().all(|sentinel| {
            let master = sentinel.command(&["SENTINEL", "MASTER", "leads"]);
            let has = |name: &str, n: &str| {
                let mut lines = master.lines().skip_while(|line| *line != name);
                lines.nth(1) == Some(n)
            };
            has("num-slaves", "1") && has("num-other-sentinels", "2")
        }) && replica.command(&["INFO", "replication"]).contains("master_link_status:up")
    })
    .await;
    let servers = Servers::Sentinel {
        service: "leads".to_owned(),
        nodes: sentinels.iter().map(Redis::url).collect(),
        login: (None, None),
    };
    let settings = Settings { call_timeout: Duration::from_millis(250), ..settings(servers, "t", CALM) };
    let mut failed_over = false;
    let gates = harmed(settings, async |_| {
        if !failed_over {
            // From here on the replica hears nothing any more, and then it is the master.
            replica.command(&["REPLICAOF", "127.0.0.1", "1"]);
            tokio::time::sleep(Duration::from_millis(150)).await;
            master.kill();
            failed_over = true;
        }
    })
    .await;
    eventually("the replica is the master", async || {
        // A sentinel cuts the connections of a server whose role it changes.
        let info = replica.try_command(&["INFO", "replication"]);
        info.is_some_and(|info| info.contains("role:master")) && gates.iter().all(|gate| gate.is_up())
    })
    .await;
    agree(&gates, &replica).await;
    for gate in &gates {
        eventually("it is full", async || attempt(gate).await == Err(Some(ShutReason::Full))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_with_an_authority_of_ones_own_and_not_without() {
    let dir = tempfile::tempdir().unwrap();
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let (certificate_file, key_file) = (dir.path().join("redis.pem"), dir.path().join("redis-key.pem"));
    std::fs::write(&certificate_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let redis = Redis::with_tls(&certificate_file, &key_file);

    let url = format!("rediss://localhost:{}", redis.port);
    let untrusting = settings(Servers::One(url), "t", CALM);
    let trusting = Settings { ca_pem: Some(authority_certificate.pem().into_bytes()), ..untrusting.clone() };
    let books = Arc::default();
    let gate = open(trusting, &books, limited(1)).await;
    assert!(gate.is_up());
    attempt(&gate).await.unwrap();
    assert_eq!(attempt(&gate).await.unwrap_err(), Some(ShutReason::Full));
    assert!(!open(untrusting.clone(), &books, limited(1)).await.is_up(), "it trusts anybody");
    let nonsense = Settings { ca_pem: Some(b"no certificate".to_vec()), ..untrusting };
    assert!(matches!(fault(nonsense).await, OpenFault::Settings(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_at_the_start_and_never_shown() {
    let redis = Redis::with(&["--requirepass", "the-right-one"]);
    let with = |password: &str| Settings {
        password: Some(password.to_owned().into()),
        ..settings(Servers::One(redis.url()), "t", CALM)
    };
    assert!(open(with("the-right-one"), &Arc::default(), limited(1)).await.is_up());
    let told = fault(with("the-wrong-one")).await;
    assert!(matches!(told, OpenFault::Refused(_)), "{told}");
    assert!(!format!("{told} {told:?} {:?}", with("the-wrong-one")).contains("the-wrong-one"));
    // What docs/operations.md says a user must be allowed is enough.
    let rights = ["~t:*", "+@read", "+@write", "+eval", "+evalsha", "+info"];
    let user = [&["ACL", "SETUSER", "gateway", "on", ">its-own"][..], &rights].concat();
    redis.command_as("the-right-one", &user);
    let named = Settings { username: Some("gateway".to_owned()), ..with("its-own") };
    let gate = open(named, &Arc::default(), limited(1)).await;
    let ticket = attempt(&gate).await.unwrap();
    gate.books.give_back(&ticket.places);
    gate.settle(&ticket.places, true);
    gate.flush().await;
    gate.set_paused(Paused::Contract(c()), true).await;
    assert_eq!(attempt(&gate).await.unwrap_err(), Some(ShutReason::Paused));
    confirm(&gate).await;
    assert!(gate.is_up());
    let nobody = settings(Servers::One(redis.url()), "t", CALM);
    assert!(matches!(fault(nobody).await, OpenFault::Refused(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_old_is_refused_by_its_version() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(many @ 1..) = stream.read(&mut buffer).await {
                    let text = String::from_utf8_lossy(&buffer[..many]).into_owned();
                    for command in text.split('*').skip(1) {
                        let info = "# Server\r\nredis_version:6.0.16\r\n";
                        let reply = if command.contains("INFO\r\n") && !command.contains("SETINFO") {
                            format!("${}\r\n{info}\r\n", info.len())
                        } else {
                            "+OK\r\n".to_owned()
                        };
                        stream.write_all(reply.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    let told = fault(settings(Servers::One(url), "t", CALM)).await;
    assert!(matches!(&told, OpenFault::TooOld(version) if version == "6.0.16"), "{told}");
}
