//! Named points of a lead's life at which a test stops the process: killed (SIGKILL), stopped (SIGSTOP), or kept
//! waiting. So a crash can be tried at every place where it could do harm, and not only where chance puts it.
//!
//! `GATEWAY_TEST_POINT=kill:attempt.committed:37` kills the process when it passes that point for the 37th time; `stop:…`
//! stops it until somebody continues it; `sleep-500:…` keeps the passing thread for 500 ms. Several are separated by commas.
//!
//! Builds for use (`--release`) contain nothing of it.

/// Every point, in the order in which a lead passes them.
pub const POINTS: [&str; 12] = [
    "accept.before",
    "writer.before_commit",
    "writer.committed",
    "accept.committed",
    "attempt.ticket",
    "attempt.committed",
    "dispatch.handed_over",
    "dispatch.replied",
    "completion.before",
    "completion.committed",
    "completion.told",
    "recovery.open_attempt",
];

/// Says that the process is at this point.
#[cfg(not(debug_assertions))]
#[inline]
pub(crate) fn pass(_point: &'static str) {}

#[cfg(debug_assertions)]
pub(crate) use armed::pass;

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    /// The environment variable.
    const VARIABLE: &str = "GATEWAY_TEST_POINT";
    /// Longer than a signal to oneself takes to stop all threads.
    const UNTIL_STOPPED: Duration = Duration::from_millis(100);

    /// One point that does something.
    struct Armed {
        point: String,
        act: Act,
        /// Passes until then, this one included.
        at: u64,
        passed: AtomicU64,
    }

    #[derive(Clone, Copy)]
    enum Act {
        Kill,
        Stop,
        Sleep(Duration),
    }

    static ARMED: LazyLock<Vec<Armed>> = LazyLock::new(|| {
        let Ok(text) = std::env::var(VARIABLE) else { return Vec::new() };
        text.split(',')
            .map(|one| {
                read(one).unwrap_or_else(|| {
                    // A test that believes it has armed something must not pass because it has not.
                    eprintln!("{VARIABLE}: `{one}` is not kill, stop or sleep-MILLISECONDS, a point, and a number");
                    std::process::exit(2)
                })
            })
            .collect()
    });

    /// Says that the process is at this point.
    #[inline]
    pub(crate) fn pass(point: &'static str) {
        debug_assert!(super::POINTS.contains(&point), "{point} is not in the list of points");
        for armed in ARMED.iter().filter(|armed| armed.point == point) {
            if armed.passed.fetch_add(1, Ordering::Relaxed) + 1 == armed.at {
                armed.act.go();
            }
        }
    }

    fn read(text: &str) -> Option<Armed> {
        let mut parts = text.split(':');
        let act = match parts.next()? {
            "kill" => Act::Kill,
            "stop" => Act::Stop,
            other => Act::Sleep(Duration::from_millis(other.strip_prefix("sleep-")?.parse().ok()?)),
        };
        let point = parts.next().filter(|point| super::POINTS.contains(point))?.to_owned();
        let at = parts.next()?.parse().ok().filter(|at| *at > 0)?;
        parts.next().is_none().then_some(Armed { point, act, at, passed: AtomicU64::new(0) })
    }

    impl Act {
        fn go(self) {
            let signal = match self {
                Self::Kill => Signal::KILL,
                Self::Stop => Signal::STOP,
                Self::Sleep(pause) => return std::thread::sleep(pause),
            };
            if let Err(error) = kill_process(getpid(), signal) {
                eprintln!("{VARIABLE}: no signal could be sent: {error}");
                std::process::exit(2);
            }
            // Another thread may be the one that takes the signal: this one must not get on meanwhile.
            std::thread::sleep(UNTIL_STOPPED);
        }
    }
}
