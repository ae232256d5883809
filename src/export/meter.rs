//! How far an export is, for whoever watches it from another thread. Unaware of who that is.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Bytes written, and in all where that is known beforehand. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    /// 0 while it is not known.
    total: AtomicU64,
}

impl Meter {
    /// Bytes so far, and in all.
    pub fn read(&self) -> (u64, Option<u64>) {
        let total = self.0.total.load(Ordering::Relaxed);
        (self.0.done.load(Ordering::Relaxed), (total > 0).then_some(total))
    }

    pub(super) fn add(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn expect(&self, bytes: u64) {
        self.0.total.store(bytes, Ordering::Relaxed);
    }
}
