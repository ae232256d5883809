//! Variables in force at a point of the Dockerfile, and expansion with them.
//! Unaware of which instruction asks.

use std::collections::BTreeMap;

use crate::{
    dockerfile::{Diagnostic, Dockerfile, Environment, Span, Word, expand, tree::InstructionKind},
    oci::Platform,
    plan::Options,
};

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

/// The platform arguments and ARG before the first FROM.
pub(super) fn global_args_of(dockerfile: &Dockerfile, options: &Options, escape: char) -> Result<Environment, Diagnostic> {
    let last_name = dockerfile.stages.last().and_then(|stage| stage.name.as_ref()).map(|name| name.text.to_lowercase());
    let target_name = options.target.clone().or(last_name).unwrap_or_default();
    global_args(dockerfile, options, &target_name, escape)
}

/// ARG before the first FROM, evaluated in order (BuildKit `buildMetaArgs`).
fn global_args(dockerfile: &Dockerfile, options: &Options, target: &str, escape: char) -> Result<Environment, Diagnostic> {
    let mut environment = platform_args(options, target);
    for instruction in &dockerfile.global_args {
        let InstructionKind::Arg(definitions) = &instruction.kind else { continue };
        for definition in definitions {
            let name = &definition.name.text;
            let value = match (options.build_args.get(name), &definition.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(
                    expand::expand_word(&default.text, escape, &environment)
                        .map_err(|message| Diagnostic::at(instruction.span, message))?
                        .text,
                ),
                (None, None) => None,
            };
            if let Some(value) = value {
                environment.set(name, &value);
            }
        }
    }
    Ok(environment)
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
