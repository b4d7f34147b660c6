//! Somebody else has the database's write lock: a commit hangs, and after ten seconds fails.

use super::{
    AT_ONCE, BTreeSet, Duration, all_are_sold_once, becomes, clock, is_unavailable, nothing, post, post_again, timed,
    world,
};
use crate::harness::{World, buyer, lead};
use crate::partner_stub::{Behaviour, Stub};

/// The write lock of a world's store, held from outside of the gateway. Dropping it lets go.
struct Lock(rusqlite::Connection);

impl Lock {
    fn take(world: &World) -> Self {
        let conn = rusqlite::Connection::open(world.path("data/gateway.db")).unwrap();
        conn.busy_timeout(Duration::from_secs(30)).unwrap();
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        Self(conn)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_commit_hangs_posts_are_answered_503_nothing_is_sent_and_then_all_goes_on() {
    let (stub, world) = world().await;
    let gateway = world.start().await;
    assert_eq!(post(&gateway, "before@example.com").await.status, 202);
    stub.wait_for_requests(1).await;
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == nothing()).await;
    let mut posted = BTreeSet::from(["before@example.com".to_owned()]);

    let lock = Lock::take(&world);
    // Nobody knows yet: those that come now wait as long as any may, and are told to come back.
    let first: Vec<_> = (0..20).map(|n| format!("first{n}@example.com")).collect();
    let answers = futures(first.iter().map(|email| timed(post(&gateway, email)))).await;
    for (answer, took) in &answers {
        is_unavailable(answer);
        assert!(*took < AT_ONCE, "{took:?}");
    }
    posted.extend(first.iter().cloned());
    // Now it is known: not ready, and those that come are told at once.
    let said = becomes(&gateway, 503).await;
    assert_eq!((said["status"].as_str(), said["store"].as_str()), (Some("unavailable"), Some("a commit hangs")));
    let (answer, took) = timed(post(&gateway, "second@example.com")).await;
    is_unavailable(&answer);
    assert!(took < Duration::from_secs(2), "{took:?}");
    posted.insert("second@example.com".to_owned());
    assert_eq!(stub.count(), 1, "sent without a commit");
    // What can be read is read meanwhile.
    assert_eq!(gateway.get("/v1/leads").await["items"].as_array().unwrap().len(), 1);

    drop(lock);
    becomes(&gateway, 200).await;
    // What was stored after all is the same lead when it is posted again; and is delivered where it is not.
    post_again(&gateway, posted.iter().cloned()).await;
    all_are_sold_once(&gateway, &stub, &posted).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_in_vain_for_its_commit_to_begin_is_not_stored_later() {
    let (stub, world) = world().await;
    let gateway = world.start().await;
    let lock = Lock::take(&world);
    let refused: Vec<_> = (0..5).map(|n| format!("refused{n}@example.com")).collect();
    for answer in futures(refused.iter().map(|email| post(&gateway, email))).await {
        is_unavailable(&answer);
    }
    // Longer than any of them may wait, so that all are withdrawn.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(lock);
    becomes(&gateway, 200).await;
    // Whoever comes after them in the writer's queue knows that they are not stored.
    let posted = BTreeSet::from(["after@example.com".to_owned()]);
    assert_eq!(post(&gateway, "after@example.com").await.status, 202);
    all_are_sold_once(&gateway, &stub, &posted).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_comes_while_a_commit_hangs_is_recorded_when_it_can_be() {
    let (told, until) = tokio::sync::watch::channel(false);
    let slow = Behaviour::ok(r#"{"ok": true}"#).after(crate::partner_stub::Step::Until(until));
    let stub = Stub::start(slow).await;
    let world = World::new(&buyer("bright", &stub.url("/"), "", "", ""));
    let gateway = world.start().await;
    let id = gateway.post(&lead("a@example.com")).await.at("/lead_id");
    stub.wait_for_requests(1).await;
    let lock = Lock::take(&world);
    told.send(true).unwrap();
    becomes(&gateway, 503).await;
    // Long enough for its commit to have failed.
    let began = clock::instant();
    while !becomes(&gateway, 503).await["store"].as_str().unwrap().contains("locked") {
        assert!(began.elapsed() < super::PATIENCE, "the commit never failed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(lock);
    gateway.lead_becomes(&id, "sold").await;
    gateway.finish().await;
    assert_eq!(stub.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_meets_a_store_without_commits_waits_for_it_and_then_recovers() {
    let stub = Stub::start(Behaviour::hang_after_reading()).await;
    let world = World::new(&buyer("bright", &stub.url("/"), "", "", ""));
    let gateway = world.start().await;
    let id = gateway.post(&lead("a@example.com")).await.at("/lead_id");
    stub.wait_for_requests(1).await;
    gateway.kill();

    let lock = Lock::take(&world);
    let starting = tokio::spawn(async move { (world.start().await, world) });
    // Longer than a commit waits for the lock.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(!starting.is_finished(), "ready before the open attempt was recorded");
    drop(lock);
    let (gateway, _world) = starting.await.unwrap();
    let delivery = gateway.last_delivery_becomes(&id, "unknown").await;
    assert_eq!(crate::harness::text_at(&delivery, "/attempts/0/class"), "crash");
    gateway.stop().await;
}

async fn futures<T: Send + 'static>(many: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    // All at the same time, in this task.
    let mut waiting: Vec<_> = many.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        let mut all = true;
        for (future, done) in waiting.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            match future.as_mut().poll(context) {
                std::task::Poll::Ready(value) => *done = Some(value),
                std::task::Poll::Pending => all = false,
            }
        }
        if all {
            std::task::Poll::Ready(done.iter_mut().map(|done| done.take().unwrap()).collect())
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}
