//! A disk that is full, and one that refuses writes.

use std::process::{Child, Command, Stdio};

use super::{
    AT_ONCE, BTreeSet, all_are_sold_once, becomes, is_unavailable, nothing, post, post_again, post_until_refused,
    timed, world,
};
use crate::harness::{Gateway, World};
use crate::partner_stub::Stub;
use crate::servers::disk::{SmallDisk, can};

/// The store's files, made immutable: whoever writes to them is refused by the file system, by an open file, too.
struct ReadOnly(Vec<String>);

impl ReadOnly {
    fn make(world: &World) -> Option<Self> {
        let files = ["gateway.db", "gateway.db-wal"].map(|name| world.path("data").join(name).display().to_string());
        let files = files.to_vec();
        let mut arguments = vec!["+i"];
        arguments.extend(files.iter().map(String::as_str));
        let made = can("chattr", &arguments);
        let guard = Self(files);
        // Some file systems take the attribute and do not mind it.
        let refuses = made && std::fs::File::options().write(true).open(&guard.0[0]).is_err();
        refuses.then_some(guard)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let mut arguments = vec!["-i"];
        arguments.extend(self.0.iter().map(String::as_str));
        can("chattr", &arguments);
    }
}

/// What must hold while the disk takes no writes, for leads that are posted meanwhile.
async fn is_out_of_order(gateway: &Gateway, stub: &Stub, posted: &mut BTreeSet<String>, why: &[&str]) {
    let (stored, refused) = post_until_refused(gateway, "failing").await;
    posted.extend(stored);
    posted.insert(refused);
    let said = becomes(gateway, 503).await;
    let store = said["store"].as_str().unwrap();
    assert!(store.starts_with("commits fail: ") && why.iter().any(|why| store.contains(why)), "{said}");
    for n in 0..10 {
        let email = format!("refused{n}@example.com");
        let (answer, took) = timed(post(gateway, &email)).await;
        if answer.status == 202 {
            // A disk that is nearly full takes one now and then.
            posted.insert(email);
            continue;
        }
        is_unavailable(&answer);
        assert!(took < AT_ONCE, "{took:?}");
        posted.insert(email);
    }
    // It lives, and what can be read is read.
    assert_eq!(gateway.send(gateway.client.get(gateway.url("/healthz"))).await.status, 200);
    gateway.get("/v1/leads").await;
    let metrics = gateway.send(gateway.client.get(gateway.url("/metrics"))).await.text;
    assert!(metrics.contains("gateway_store_trouble"), "{metrics}");
    assert!(stub.count() <= posted.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_pauses_deliveries_and_says_so_and_free_space_lets_all_go_on() {
    let (stub, world) = world().await;
    let Some(mut disk) = SmallDisk::mount(&world.path("data"), 8) else { return };
    let gateway = world.start().await;
    assert_eq!(post(&gateway, "before@example.com").await.status, 202);
    stub.wait_for_requests(1).await;
    let mut posted = BTreeSet::from(["before@example.com".to_owned()]);
    disk.fill();
    is_out_of_order(&gateway, &stub, &mut posted, &["full", "I/O"]).await;
    disk.free();
    becomes(&gateway, 200).await;
    post_again(&gateway, posted.iter().cloned()).await;
    all_are_sold_once(&gateway, &stub, &posted).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_writes_pauses_deliveries_and_says_so_and_its_end_lets_all_go_on() {
    let (stub, world) = world().await;
    let gateway = world.start().await;
    assert_eq!(post(&gateway, "before@example.com").await.status, 202);
    stub.wait_for_requests(1).await;
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == nothing()).await;
    let mut posted = BTreeSet::from(["before@example.com".to_owned()]);
    let Some(read_only) = ReadOnly::make(&world) else {
        eprintln!("skipped: files cannot be made immutable here (needs root and ext4, xfs or btrfs)");
        return;
    };
    // Nobody has to post for it to be found out.
    becomes(&gateway, 503).await;
    is_out_of_order(&gateway, &stub, &mut posted, &["I/O", "readonly", "read-only"]).await;
    assert_eq!(stub.count(), 1, "sent without a commit");
    drop(read_only);
    becomes(&gateway, 200).await;
    post_again(&gateway, posted.iter().cloned()).await;
    all_are_sold_once(&gateway, &stub, &posted).await;
    gateway.finish().await;
}

/// A file system on a loop device, which can be frozen: writes to it hang until it is thawed.
struct Freezer {
    at: String,
    /// Thaws it as soon as this test is gone, however it ends: nothing could end a process that hangs in a write.
    watchdog: Option<Child>,
}

impl Freezer {
    fn mount(world: &World) -> Option<Self> {
        let (image, at) = (world.path("image").display().to_string(), world.path("data").display().to_string());
        std::fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        std::fs::create_dir_all(&at).unwrap();
        let mounted = can("mkfs.ext4", &["-q", &image]) && can("mount", &["-o", "loop", &image, &at]);
        // Whether it may be frozen here, too.
        let frozen = mounted && can("fsfreeze", &["-f", &at]) && can("fsfreeze", &["-u", &at]);
        let freezer = mounted.then_some(Self { at, watchdog: None });
        freezer.filter(|_| frozen)
    }

    fn freeze(&mut self) {
        let thaw = format!("read end; fsfreeze -u '{}' 2>/dev/null", self.at);
        self.watchdog = Some(Command::new("sh").args(["-c", &thaw]).stdin(Stdio::piped()).spawn().unwrap());
        assert!(can("fsfreeze", &["-f", &self.at]));
    }

    fn thaw(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.stdin.take());
            let _ = watchdog.wait();
        }
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.thaw();
        can("umount", &["-l", &self.at]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_disk_stores_after_its_source_was_told_to_come_back_is_delivered_all_the_same() {
    let (stub, world) = world().await;
    let Some(mut disk) = Freezer::mount(&world) else {
        eprintln!("skipped: no file system may be mounted and frozen here (needs root, a loop device and e2fsprogs)");
        return;
    };
    let gateway = world.start().await;
    assert_eq!(post(&gateway, "before@example.com").await.status, 202);
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == nothing()).await;
    let mut posted = BTreeSet::from(["before@example.com".to_owned()]);
    // Until it is its commit that hangs, and not one of the gateway's own.
    for n in 0.. {
        disk.freeze();
        let late = format!("late{n}@example.com");
        let (answer, took) = timed(post(&gateway, &late)).await;
        is_unavailable(&answer);
        assert!(took < AT_ONCE, "{took:?}");
        let again = post(&gateway, &late).await;
        let said = becomes(&gateway, 503).await;
        disk.thaw();
        assert_eq!(said["store"], "a commit hangs");
        becomes(&gateway, 200).await;
        if again.status == 409 {
            // Its key was in progress, for its commit was.
            assert_eq!(again.at("/type"), "/problems/idempotency-in-progress");
            posted.insert(late.clone());
            // Nobody posts it again, and it is delivered.
            all_are_sold_once(&gateway, &stub, &posted).await;
            let replay = post(&gateway, &late).await;
            assert_eq!((replay.status, replay.at("/status").as_str()), (200, "sold"), "{replay:?}");
            break;
        }
        is_unavailable(&again);
        assert!(n < 9, "its commit never hung: {again:?}");
    }
    all_are_sold_once(&gateway, &stub, &posted).await;
    gateway.finish().await;
}
