//! Limits of this process. Unaware of who needs many descriptors.

use rustix::process::{Resource, Rlimit};

/// Allows as many open files as the system lets us have; gives what was allowed before, for the processes we start.
pub fn raise_open_files() -> (u64, u64) {
    let before = rustix::process::getrlimit(Resource::Nofile);
    // Refused is no failure: then there is what there was.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    (before.current.unwrap_or(u64::MAX), before.maximum.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let (_, hard) = raise_open_files();
        let now = rustix::process::getrlimit(Resource::Nofile);
        assert_eq!(now.current.unwrap_or(u64::MAX), hard);
        assert_eq!(raise_open_files(), (hard, hard));
    }
}
