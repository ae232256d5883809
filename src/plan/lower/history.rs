//! The words of an image's history, as BuildKit and Go's `fmt` write them.

use crate::{
    dockerfile::{duration, quote::go_quote, tree::Healthcheck},
    oci::HealthConfig,
};

/// `["a" "b"]`: Go's `%q` of a string slice.
pub(super) fn quoted_list(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| go_quote(word)).collect();
    format!("[{}]", quoted.join(" "))
}

/// `[a b]`: Go's `%v` of a string slice.
pub(super) fn plain_list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// `{Test:[CMD x] Interval:1s ...}`: Go's `%+v` of the struct.
pub(super) fn healthcheck(health: &HealthConfig) -> String {
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain_list(&health.test),
        duration::format_go(health.interval),
        duration::format_go(health.timeout),
        duration::format_go(health.start_period),
        duration::format_go(health.start_interval),
        health.retries
    )
}

/// What HEALTHCHECK puts into the config; `shell` is what CMD-SHELL needs no more.
pub(super) fn health_config(healthcheck: &Healthcheck) -> HealthConfig {
    use crate::dockerfile::tree::CommandLine;
    match healthcheck {
        Healthcheck::None => HealthConfig { test: vec!["NONE".to_owned()], ..HealthConfig::default() },
        Healthcheck::Command { command, interval_ns, timeout_ns, start_period_ns, start_interval_ns, retries } => HealthConfig {
            test: match command {
                CommandLine::Exec(words) => std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
                CommandLine::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
            },
            interval: *interval_ns,
            timeout: *timeout_ns,
            start_period: *start_period_ns,
            start_interval: *start_interval_ns,
            retries: *retries,
        },
    }
}

/// `|2 foo=bar x=y /bin/sh -c make`: the command line after the ARGs in force, each once, where it first stood.
pub(super) fn run_command(args: &[String], declared: &[(String, Option<String>)], value: impl Fn(&str) -> Option<String>) -> String {
    let mut named: Vec<(String, String)> = Vec::new();
    for (name, given) in declared {
        let current = value(name).or_else(|| given.clone()).unwrap_or_default();
        match named.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = current,
            None => named.push((name.clone(), current)),
        }
    }
    let mut words = Vec::new();
    if !named.is_empty() {
        words.push(format!("|{}", named.len()));
        words.extend(named.into_iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.extend(args.iter().cloned());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_gos() {
        let words = ["sh", "-c", "echo \"a\tb\" \\ ü \u{1}\u{200b}"].map(str::to_owned);
        assert_eq!(quoted_list(&words), r#"["sh" "-c" "echo \"a\tb\" \\ ü \x01\u200b"]"#);
        assert_eq!(quoted_list(&[]), "[]");
    }

    #[test]
    fn arguments_stand_once_with_their_latest_value() {
        let declared =
            [("foo", Some("1")), ("bar", None), ("foo", Some("2"))].map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        let value = |name: &str| (name == "foo").then(|| "3".to_owned());
        assert_eq!(run_command(&["ls".to_owned()], &declared, value), "|2 foo=3 bar= ls");
        assert_eq!(run_command(&["ls".to_owned()], &[], value), "ls");
    }
}
