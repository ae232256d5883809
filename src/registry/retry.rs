//! What is tried again, and when. Unaware of what is tried.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use super::Error;

/// How stubborn the client is.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Failures in a row without progress before giving up.
    pub attempts: u32,
    /// Failures in a row to connect at all before giving up: a host that is down stays down.
    pub connect_attempts: u32,
    /// The first pause; it doubles.
    pub base_delay: Duration,
    /// The longest pause that is our own choice.
    pub max_delay: Duration,
    /// The longest `Retry-After` that is obeyed; a longer one fails at once.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 8,
            connect_attempts: 3,
            base_delay: Duration::from_millis(300),
            max_delay: Duration::from_secs(15),
            max_retry_after: Duration::from_secs(120),
        }
    }
}

impl RetryPolicy {
    /// For a mirror: there is someone else to ask.
    pub(super) fn impatient(&self) -> Self {
        Self { attempts: self.attempts.min(2), connect_attempts: 1, max_retry_after: Duration::ZERO, ..self.clone() }
    }
}

/// The failures of one piece of work.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    policy: &'a RetryPolicy,
    failures: u32,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(policy: &'a RetryPolicy) -> Self {
        Self { policy, failures: 0 }
    }

    /// There was progress: whatever failed before no longer counts.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// How long to pause before the next attempt; gives `error` back when there is to be none.
    pub(super) fn next_delay(&mut self, error: Error) -> Result<(Duration, Error), Error> {
        self.failures += 1;
        let limit = match error {
            Error::Unreachable { .. } => self.policy.connect_attempts.min(self.policy.attempts),
            _ => self.policy.attempts,
        };
        if !error.is_transient() || self.failures >= limit {
            return Err(error);
        }
        match error.retry_after() {
            Some(asked) if asked > self.policy.max_retry_after => Err(error),
            Some(asked) => Ok((asked.max(jittered(self.policy.base_delay)), error)),
            None if matches!(error, Error::TooManyRequests { .. }) && self.policy.max_retry_after.is_zero() => Err(error),
            None => {
                let doubled = self.policy.base_delay.saturating_mul(1 << (self.failures - 1).min(16));
                Ok((jittered(doubled.min(self.policy.max_delay)), error))
            }
        }
    }
}

/// Between half and the whole of `delay`, so that parallel requests don't come back together.
fn jittered(delay: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8) as u32;
    delay / 2 + (delay / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// `Retry-After`: seconds, or a date relative to the server's own `Date`.
pub(super) fn retry_after(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let value = text("retry-after")?;
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let parse = |text: &str| jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp().as_second());
    let seconds = parse(value)? - parse(text("date")?)?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(retry_after: Option<u64>) -> Error {
        Error::TooManyRequests { host: "h".to_owned(), message: String::new(), retry_after: retry_after.map(Duration::from_secs) }
    }

    fn policy() -> RetryPolicy {
        RetryPolicy { attempts: 4, base_delay: Duration::from_secs(1), max_delay: Duration::from_secs(3), ..RetryPolicy::default() }
    }

    #[test]
    fn pauses_double_up_to_the_limit_and_end() {
        let policy = policy();
        let mut attempts = Attempts::new(&policy);
        for (low, high) in [(500, 1000), (1000, 2000), (1500, 3000)] {
            let (delay, _) = attempts.next_delay(busy(None)).unwrap();
            assert!((low..=high).contains(&delay.as_millis()), "{delay:?}");
        }
        assert!(attempts.next_delay(busy(None)).is_err());
        attempts.progressed();
        assert!(attempts.next_delay(busy(None)).is_ok());
    }

    #[test]
    fn the_servers_wish_is_obeyed_within_reason() {
        let policy = policy();
        assert_eq!(Attempts::new(&policy).next_delay(busy(Some(9))).unwrap().0, Duration::from_secs(9));
        assert!(Attempts::new(&policy).next_delay(busy(Some(3600))).is_err());
        assert!(Attempts::new(&policy.impatient()).next_delay(busy(None)).is_err());
        let missing = Error::NotFound { reference: String::new(), host: String::new(), message: String::new() };
        assert!(Attempts::new(&policy).next_delay(missing).is_err());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let mut headers = reqwest::header::HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        headers.insert("retry-after", "7".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(7)));
        headers.insert("date", "Wed, 21 Oct 2015 07:28:00 GMT".parse().unwrap());
        headers.insert("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(30)));
    }
}
