//! Limits of RUN steps, from the flags of docker. Unaware of how they are kept.

use std::time::Duration;

use crate::{
    cli::{args::LimitArgs, failure::Failure, request::size_bytes},
    dockerfile::duration,
    sandbox::{self, Limits},
};

/// Docker's: with less nothing starts.
const MIN_MEMORY_BYTES: u64 = 6 << 20;

/// `--memory`, `--cpus` and the like.
pub fn limits(args: &LimitArgs) -> Result<Limits, Failure> {
    let size = |flag: &str, text: &str| {
        size_bytes(text).ok_or_else(|| Failure::usage(format!("{flag} {text}: no size")).with_hint("such as 512m or 2g"))
    };
    let memory_bytes = args.memory.as_deref().map(|text| size("--memory", text)).transpose()?.filter(|bytes| *bytes > 0);
    if memory_bytes.is_some_and(|bytes| bytes < MIN_MEMORY_BYTES) {
        return Err(Failure::usage("--memory: the least is 6m"));
    }
    let memory_swap_bytes = match args.memory_swap.as_deref() {
        None | Some("0") => None,
        Some("-1") => Some(u64::MAX),
        Some(text) => Some(size("--memory-swap", text)?),
    };
    match (memory_bytes, memory_swap_bytes) {
        (None, Some(_)) => return Err(Failure::usage("--memory-swap needs --memory: it is the sum of both")),
        (Some(memory), Some(both)) if both < memory => {
            return Err(Failure::usage("--memory-swap is the sum of memory and swap: it is below --memory"));
        }
        _ => {}
    }
    if args.cpus.is_some() && (args.cpu_quota.is_some() || args.cpu_period.is_some()) {
        return Err(Failure::usage("--cpus and --cpu-quota or --cpu-period say the same: leave one out"));
    }
    let cpu_quota_us = match &args.cpus {
        Some(text) => {
            let cpus: f64 =
                text.parse().ok().filter(|cpus| *cpus >= 0.01).ok_or_else(|| Failure::usage(format!("--cpus {text}: such as 1.5")))?;
            Some((cpus * sandbox::cgroup::DEFAULT_PERIOD_US as f64) as u64)
        }
        None => args.cpu_quota.filter(|quota| *quota > 0).map(|quota| quota as u64),
    };
    for (flag, list) in [("--cpuset-cpus", &args.cpuset_cpus), ("--cpuset-mems", &args.cpuset_mems)] {
        if let Some(text) = list.as_deref().filter(|text| sandbox::limits::processors(text).is_none()) {
            return Err(Failure::usage(format!("{flag} {text}: such as 0-2,4")));
        }
    }
    Ok(Limits {
        memory_bytes,
        memory_swap_bytes,
        cpu_quota_us,
        cpu_period_us: args.cpu_period.filter(|period| *period > 0),
        cpu_shares: args.cpu_shares.filter(|shares| *shares > 0),
        cpuset_cpus: args.cpuset_cpus.clone(),
        cpuset_mems: args.cpuset_mems.clone(),
        pids: args.pids_limit.filter(|pids| *pids > 0).map(|pids| pids as u64),
    })
}

/// `--timeout`: `90s`, `10m`, `1h30m`, or seconds.
pub fn timeout(args: &LimitArgs) -> Result<Option<Duration>, Failure> {
    let Some(text) = &args.timeout else { return Ok(None) };
    let nanoseconds = match text.parse::<u32>() {
        Ok(seconds) => Ok(i64::from(seconds) * 1_000_000_000),
        Err(_) => duration::parse_go(text),
    };
    let nanoseconds =
        nanoseconds.map_err(|reason| Failure::usage(format!("--timeout {text}: {reason}")).with_hint("such as 90s or 10m"))?;
    match u64::try_from(nanoseconds) {
        Ok(0) | Err(_) => Err(Failure::usage(format!("--timeout {text}: it has to be above 0"))),
        Ok(nanoseconds) => Ok(Some(Duration::from_nanos(nanoseconds))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(change: impl FnOnce(&mut LimitArgs)) -> Result<Limits, String> {
        let mut args = LimitArgs::default();
        change(&mut args);
        limits(&args).map_err(|failure| failure.message)
    }

    #[test]
    fn flags_are_dockers() {
        assert_eq!(of(|_| ()), Ok(Limits::default()));
        assert_eq!(of(|args| args.memory = Some("512m".into())).unwrap().memory_bytes, Some(512 << 20));
        assert_eq!(of(|args| args.cpus = Some("1.5".into())).unwrap().cpu_quota_us, Some(150_000));
        assert_eq!(of(|args| args.pids_limit = Some(-1)).unwrap().pids, None);
        let both = of(|args| (args.memory, args.memory_swap) = (Some("1g".into()), Some("-1".into()))).unwrap();
        assert_eq!(both.memory_swap_bytes, Some(u64::MAX));
        assert!(of(|args| args.memory = Some("1m".into())).unwrap_err().contains("6m"));
        assert!(of(|args| args.memory_swap = Some("1g".into())).unwrap_err().contains("needs --memory"));
        assert!(of(|args| (args.cpus, args.cpu_quota) = (Some("1".into()), Some(1))).is_err());
        assert!(of(|args| args.cpuset_cpus = Some("x".into())).is_err());
    }

    #[test]
    fn timeouts_are_durations_or_seconds() {
        let of = |text: &str| timeout(&LimitArgs { timeout: Some(text.into()), ..LimitArgs::default() }).ok().flatten();
        assert_eq!(of("10m"), Some(Duration::from_secs(600)));
        assert_eq!(of("90"), Some(Duration::from_secs(90)));
        assert_eq!((of("0"), of("-1s"), of("x")), (None, None, None));
    }
}
