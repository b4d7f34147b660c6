//! Sets and maps by the names of fields.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

pub(super) type NameSet<T> = HashSet<T, BuildHasherDefault<NameHasher>>;
pub(super) type NameMap<T, V> = HashMap<T, V, BuildHasherDefault<NameHasher>>;

/// FNV-1a (draft-eastlake-fnv): quick for the few letters of a name. A body has so few names that nobody gains anything by
/// choosing such as collide.
#[derive(Debug)]
pub(super) struct NameHasher(u64);

impl Default for NameHasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
