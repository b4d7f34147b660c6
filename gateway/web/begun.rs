//! What has begun ends: work whose waiter may go away. A client that hangs up, or a time that is over, must not cut off what
//! a request has begun: a lead that is durable has to reach its queue.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// Work that is done where it is waited for, which costs no task; dropped half-way it goes on in a task of its own.
pub struct Begun<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

/// The work panicked, by a fault of the gateway's own.
#[derive(Debug, thiserror::Error)]
#[error("it broke off, by a fault of the gateway's own")]
pub struct BrokeOff;

impl<T: Send + 'static> Begun<T> {
    /// Work that begins when it is first waited for.
    pub fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(work)))
    }
}

impl<T: Send + 'static> std::fmt::Debug for Begun<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Begun")
    }
}

impl<T: Send + 'static> Future for Begun<T> {
    type Output = Result<T, BrokeOff>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(work) = &mut self.0 else { return Poll::Ready(Err(BrokeOff)) };
        // As a task would: whoever waits goes on. Nothing of the work is used after a panic.
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        let ended = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(done)) => Ok(done),
            Err(_) => Err(BrokeOff),
        };
        self.0 = None;
        Poll::Ready(ended)
    }
}

impl<T: Send + 'static> Drop for Begun<T> {
    fn drop(&mut self) {
        // Without a runtime the process ends, and what is durable is found at the next start.
        if let (Some(rest), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_any_longer_goes_on() {
        let (go, wait) = oneshot::channel::<()>();
        let (done, told) = oneshot::channel();
        let work = Begun::new(async move {
            wait.await.unwrap();
            done.send("done").unwrap();
        });
        assert!(tokio::time::timeout(Duration::from_millis(1), work).await.is_err());
        go.send(()).unwrap();
        assert_eq!(told.await, Ok("done"));
    }

    #[tokio::test]
    async fn what_nobody_ever_waited_for_is_done_too() {
        let (done, told) = oneshot::channel();
        drop(Begun::new(async move { done.send("done").unwrap() }));
        assert_eq!(told.await, Ok("done"));
    }

    #[tokio::test]
    async fn a_panic_reaches_whoever_waits_as_an_error() {
        let broke_off = Begun::new(async { assert_eq!(1, 2, "a fault") }).await;
        assert!(broke_off.is_err());
        assert_eq!(Begun::new(async { 7 }).await.unwrap(), 7);
    }
}
