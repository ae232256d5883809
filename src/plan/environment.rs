//! Variables in force at a point of the Dockerfile, and expansion with them.
//! Unaware of which instruction asks.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    dockerfile::{
        Diagnostic, Span, Word,
        expand::{self, Lookup},
    },
    oci::Platform,
    plan::Options,
};

/// Variables in the order they were set last, as BuildKit's `EnvList` has them: a RUN sees them in this order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Environment {
    list: Vec<(String, String)>,
}

impl Environment {
    pub fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.list.push((name.to_owned(), value.to_owned()));
    }

    /// Sets many, in time that grows with their number.
    pub fn set_all<'a>(&mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) {
        self.list.extend(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        let mut seen = BTreeSet::new();
        self.list.reverse();
        self.list.retain(|(name, _)| seen.insert(name.clone()));
        self.list.reverse();
    }

    pub fn remove(&mut self, name: &str) {
        self.list.retain(|(key, _)| key != name);
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.list.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn to_list(&self) -> Vec<(String, String)> {
        self.list.clone()
    }
}

impl Lookup for Environment {
    fn get(&self, name: &str) -> Option<String> {
        self.value(name).map(str::to_owned)
    }

    fn names(&self) -> Vec<String> {
        self.list.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// The word's value, or the fault at its place.
pub(super) fn word(word: &Word, escape: char, environment: &Environment) -> Result<String, Diagnostic> {
    text(&word.text, word.span, escape, environment)
}

/// The same for text that has no place of its own.
pub(super) fn text(text: &str, span: Span, escape: char, environment: &Environment) -> Result<String, Diagnostic> {
    Ok(expand::expand_word(text, escape, environment).map_err(|message| Diagnostic::at(span, message))?.text)
}

/// Platform arguments and the name of the target (BuildKit `defaultArgs`).
pub(super) fn platform_args(options: &Options, target: &str) -> Environment {
    let mut environment = Environment::default();
    let mut platform_group = |prefix: &str, platform: &Platform| {
        let version = platform.os_version.clone().unwrap_or_default();
        let variant = platform.variant.clone().unwrap_or_default();
        for (suffix, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("OSVERSION", version),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", variant),
        ] {
            let name = format!("{prefix}{suffix}");
            let value = options.build_args.get(&name).cloned().unwrap_or(value);
            environment.set(&name, &value);
        }
    };
    platform_group("BUILD", &options.build_platform);
    platform_group("TARGET", &options.target_platform);
    let stage = if target.is_empty() { "default" } else { target };
    environment.set("TARGETSTAGE", options.build_args.get("TARGETSTAGE").map_or(stage, String::as_str));
    environment
}

/// Proxy variables among the build args, in both cases; the lower-case spelling wins (BuildKit `llb.ProxyEnv`).
pub(super) fn proxy_variables(build_args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut list = Vec::new();
    for name in ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"] {
        // Keys in byte order: a lower-case one comes last and wins.
        if let Some((_, value)) = build_args.iter().rfind(|(key, _)| key.eq_ignore_ascii_case(name)) {
            list.push((name.to_ascii_uppercase(), value.clone()));
            list.push((name.to_owned(), value.clone()));
        }
    }
    list
}
