//! Tasks that must not end while the gateway runs, and computing that must not hold up the others.

use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

/// The pause before a task begins anew.
const BEGIN_ANEW: Duration = Duration::from_secs(1);

/// Runs a task to its end; where it breaks off, by a fault of the gateway's own, it begins anew. It ends with this future.
pub async fn for_good<F, R>(what: &'static str, begin: F)
where
    F: Fn() -> R,
    R: Future<Output = ()> + Send + 'static,
{
    while AbortOnDropHandle::new(tokio::spawn(begin())).await.is_err() {
        tracing::error!(task = what, "a task broke off, by a fault of the gateway's own; it begins anew");
        tokio::time::sleep(BEGIN_ANEW).await;
    }
}

/// What all of some futures come to, in their order.
pub async fn all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut under_way: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, output) in under_way.iter_mut().filter(|(_, output)| output.is_none()) {
            match future.as_mut().poll(context) {
                std::task::Poll::Ready(came) => *output = Some(came),
                std::task::Poll::Pending => ready = false,
            }
        }
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    under_way.into_iter().filter_map(|(_, output)| output).collect()
}

/// What a future comes to; `None`: it panicked.
pub async fn unless_it_panics<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    // It is not polled again, and what it shared with others is theirs to keep in order, as it is when a task panics.
    std::future::poll_fn(|context| {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(poll) => poll.map(Some),
            Err(_) => std::task::Poll::Ready(None),
        }
    })
    .await
}

/// Does work that computes for long beside the runtime, so that leads in flight do not wait for it. A panic in it is the
/// caller's.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down cancels it; nobody waits for an answer then.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_breaks_off_begins_anew_and_what_ends_has_ended() {
        let begun = Arc::new(AtomicUsize::new(0));
        for_good("test", || {
            let begun = Arc::clone(&begun);
            async move { assert!(begun.fetch_add(1, Ordering::Relaxed) == 1, "it breaks off once") }
        })
        .await;
        assert_eq!(begun.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn what_is_looked_after_ends_with_whoever_looks_after_it() {
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let after = tokio::spawn(for_good("test", move || {
            let held = Arc::clone(&held);
            async move {
                std::future::pending::<()>().await;
                drop(held);
            }
        }));
        tokio::task::yield_now().await;
        after.abort();
        let _ = after.await;
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
