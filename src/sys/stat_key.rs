//! A regular file's state as the kernel describes it, to remember its digest by.
//!
//! A digest may be taken from memory only when device, inode, size, mtime and ctime are all equal, and when the file had
//! rested before it was hashed (git's rule for its index): two writes within one tick of the clock look the same, so a
//! digest of a file touched a moment ago is never remembered. Unaware of digests and of where they are kept.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;

/// What must be equal for two looks at a file to have seen the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatKey {
    /// Device of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of content, nanoseconds since 1970; anyone can set it.
    pub mtime_ns: i64,
    /// Last change of anything, nanoseconds since 1970; only the kernel sets it.
    pub ctime_ns: i64,
}

impl StatKey {
    /// The part of a stat that names a file's state.
    pub fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            ctime_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Whether the file had been left alone for [`RACY_WINDOW_NS`] at `now_ns`, so that any later write shows in its times.
    /// A time in the future (a clock set back) never rests.
    pub fn rested_at(&self, now_ns: i64) -> bool {
        let latest = now_ns.saturating_sub(RACY_WINDOW_NS);
        self.ctime_ns < latest && self.mtime_ns < latest
    }
}

/// Two seconds: the coarsest clock among file systems that people build from (vfat).
pub const RACY_WINDOW_NS: i64 = 2_000_000_000;

/// The clock that file times are compared with.
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[allow(clippy::useless_conversion, reason = "the width of these fields differs between architectures")]
fn nanoseconds(seconds: impl Into<i64>, fraction: impl TryInto<i64>) -> i64 {
    seconds.into().saturating_mul(1_000_000_000).saturating_add(fraction.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_rests_only_when_both_times_are_old() {
        let now = 100_000_000_000;
        let old = now - RACY_WINDOW_NS - 1;
        for (mtime_ns, ctime_ns, rested) in [
            (old, old, true),
            (old, now, false),
            (now, old, false),
            (old, now + 5, false),
            (i64::MIN, old, true),
            (old, now - RACY_WINDOW_NS, false),
        ] {
            let key = StatKey { device: 1, inode: 2, size: 3, mtime_ns, ctime_ns };
            assert_eq!(key.rested_at(now), rested, "{key:?}");
        }
    }

    #[test]
    fn times_before_1970_are_told_apart() {
        assert_eq!(nanoseconds(-1i64, 999_999_999u64), -1);
        assert!(nanoseconds(i64::MIN, 0u64) < nanoseconds(0i64, 0u64));
    }
}
