//! Counters of one source or contract, at hand where they are counted: to look one up by its name and labels costs more
//! than to count it.

use std::fmt;
use std::sync::OnceLock;

use metrics::Counter;

/// The series' name and those of its labels that are words of fixed vocabularies.
type Words = [&'static str; 3];

/// The counters of one source or contract, each looked up when it first counts. Holds as many as the words allow.
#[derive(Default)]
pub struct Counts(OnceLock<Box<Count>>);

struct Count {
    words: Words,
    counter: Counter,
    next: Counts,
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counts")
    }
}

impl Counts {
    /// Counts one; `look_up` finds the counter of these words where it was not counted before.
    pub(super) fn one(&self, words: Words, look_up: impl Fn() -> Counter) {
        let mut here = self;
        loop {
            // Where another thread has put its own, that one is looked at.
            let count = here.0.get_or_init(|| Box::new(Count { words, counter: look_up(), next: Self::default() }));
            if count.words == words {
                return count.counter.increment(1);
            }
            here = &count.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn each_counter_is_looked_up_once() {
        let (counts, looked_up) = (Counts::default(), Cell::new(0));
        for _ in 0..3 {
            for state in ["accepted", "rejected", "unknown"] {
                counts.one(["gateway_deliveries_total", state, ""], || {
                    looked_up.set(looked_up.get() + 1);
                    Counter::noop()
                });
            }
        }
        assert_eq!(looked_up.get(), 3);
    }
}
