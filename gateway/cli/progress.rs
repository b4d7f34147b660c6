//! How long commands show how far they are, and how they are ended early.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::clock;

/// Where nobody looks at a bar, a line says how far it is this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// A bar where standard error is a terminal; a line now and then otherwise.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: u64,
    done: u64,
    said: Instant,
}

impl Progress {
    /// Of `total` of `what`.
    pub(super) fn new(what: &'static str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {prefix}  {msg}  {eta} left") {
                bar.set_style(style);
            }
            bar.set_prefix(what);
            bar
        });
        Self { bar, what, total, done: 0, said: clock::instant() }
    }

    /// So many are done, and how that went.
    pub(super) fn at(&mut self, done: u64, how: &str) {
        self.done = done;
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(how.to_owned());
            }
            None if self.said.elapsed() >= LINE_EVERY => {
                self.said = clock::instant();
                self.note(&format!("{done} of {} {}: {how}", self.total, self.what));
            }
            None => {}
        }
    }

    /// Prints a line of the command's output, the bar staying below it.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| super::say(format_args!("{line}"))),
            None => super::say(format_args!("{line}")),
        }
    }

    /// Says something that is no output.
    pub(super) fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(line)),
            None => note(line),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A line on standard error; whether anybody reads it is their business.
pub(super) fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Whether somebody wants the command to end (Ctrl-C, SIGTERM). It then finishes the step under way and says what was done.
pub(super) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// From now on.
    ///
    /// # Errors
    /// When signals cannot be heard.
    pub(super) fn listen() -> std::io::Result<Self> {
        let (send, receive) = watch::channel(false);
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            send.send_replace(true);
            // The second one ends it at once.
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            std::process::exit(1);
        });
        Ok(Self(receive))
    }

    /// Whether it came.
    pub(super) fn came(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits so long, or until it comes; whether it came.
    pub(super) async fn within(&mut self, pause: Duration) -> bool {
        let _ = tokio::time::timeout(pause, self.0.wait_for(|came| *came)).await;
        self.came()
    }
}

/// `3 accepted, 1 refused`: what there is of each.
pub(super) fn counted<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> String {
    let counts: Vec<String> =
        counts.into_iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")).collect();
    if counts.is_empty() { "none yet".to_owned() } else { counts.join(", ") }
}
