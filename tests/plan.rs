//! What a Dockerfile is turned into before anything runs, a folder per case. Nothing is read but the folder.
//!
//! A case is `testdata/plan/NAME` with a `Dockerfile`, what is `expected` of it, and where it needs them:
//! `options`, one a line (`target NAME`, `arg NAME=VALUE`, `label NAME=VALUE`, `platform OS/ARCH`, `files NAME`, `image NAME`,
//! `scratch NAME` for named contexts, `no-cache`, `allow-host`), and `bases.json`, the configs of images by name.
//! `UPDATE=1 cargo test --test plan` writes the expectations anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rbuild::dockerfile::{Diagnostic, column_of, line_of, parse};
use rbuild::oci::{Image, ImageConfig};
use rbuild::plan::{Base, Bases, ContextKind, Options, Plan, lower, missing_bases};
use serde_json::Value;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/plan");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() > 15, "the cases have gone");
    cases
}

#[test]
fn every_case_plans_as_expected() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for case in cases() {
        let seen = seen(&case);
        let path = case.join("expected");
        if update {
            std::fs::write(&path, &seen).unwrap();
        } else if read(&path) != seen {
            wrong.push(format!("--- {}: expected\n{}--- seen\n{seen}", case.display(), read(&path)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Asked twice, a plan is the same to the byte.
#[test]
fn plans_are_a_function_of_their_inputs() {
    for case in cases() {
        assert_eq!(seen(&case), seen(&case), "{}", case.display());
    }
}

fn seen(case: &Path) -> String {
    let text = read(&case.join("Dockerfile"));
    let options = options(case);
    match plan(&text, &options, &bases_of(case)) {
        Ok(plan) => show(&plan),
        Err(error) => show_error(&error, &text),
    }
}

fn plan(text: &str, options: &Options, configs: &Value) -> Result<Plan, Diagnostic> {
    let file = parse(text)?;
    let mut bases = Bases::new();
    loop {
        let missing = missing_bases(&file, options, &bases)?;
        if missing.is_empty() {
            return lower(&file, options, &bases);
        }
        for (key, span) in missing {
            let config = configs.get(key.to_string()).ok_or_else(|| Diagnostic::at(span, format!("{key} is not in bases.json")))?;
            let config: ImageConfig = serde_json::from_value(config.clone()).unwrap();
            let image = Image { platform: key.platform.clone(), config, layers: Vec::new() };
            let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
            bases.insert(key, Base { image, digest });
        }
    }
}

fn options(case: &Path) -> Options {
    let platform: rbuild::oci::Platform = "linux/amd64".parse().unwrap();
    let mut options = Options { target_platform: platform.clone(), build_platform: platform, ..Options::default() };
    let path = case.join("options");
    for line in std::fs::read_to_string(&path).unwrap_or_default().lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let pair = || rest.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).expect("NAME=VALUE");
        let mut context = |kind| {
            options.contexts.insert(rbuild::plan::default_context(rest).expect("a context's name"), kind);
        };
        match word {
            "files" => context(ContextKind::Files),
            "image" => context(ContextKind::Image),
            "scratch" => context(ContextKind::Scratch),
            "target" => options.target = Some(rest.to_owned()),
            "arg" => drop(options.build_args.insert(pair().0, pair().1)),
            "label" => options.labels.push(pair()),
            "platform" => (options.target_platform, options.explicit_platform) = (rest.parse().unwrap(), true),
            "no-cache" if rest.is_empty() => options.no_cache = true,
            "no-cache" => options.no_cache_stages.push(rest.to_owned()),
            "allow-host" => options.allow_host_network = true,
            _ => panic!("{}: unknown option {line}", path.display()),
        }
    }
    options
}

/// What images there are: a little one, unless the case says more.
fn bases_of(case: &Path) -> Value {
    let path = case.join("bases.json");
    if path.exists() {
        return serde_json::from_str(&read(&path)).unwrap();
    }
    serde_json::json!({"docker.io/library/alpine:latest": {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]}}})
}

/// The vertices, the history, and the config.
fn show(plan: &Plan) -> String {
    let mut out = String::new();
    for (index, vertex) in plan.vertices.iter().enumerate() {
        let parent = vertex.parent.map_or(String::new(), |parent| format!(" on {}", parent.0));
        let fresh = if vertex.ignore_cache { " (not cached)" } else { "" };
        let _ = writeln!(out, "{index}{parent}: {}{fresh}", vertex.name.escape_debug());
        let op = plain(serde_json::to_value(&vertex.op).unwrap());
        let _ = writeln!(out, "    {op}");
    }
    let target = &plan.target;
    let root = target.root.map_or("nothing".to_owned(), |root| root.0.to_string());
    let _ = writeln!(out, "target {} for {} is {root}{}", target.name, target.platform, epoch(plan));
    for entry in &target.history {
        let layer = entry.layer.map_or("-".to_owned(), |layer| layer.0.to_string());
        let _ = writeln!(out, "history {layer} {}", entry.created_by.escape_debug());
    }
    let config = plain(serde_json::to_value(&target.config).unwrap());
    let _ = writeln!(out, "config {}", serde_json::to_string_pretty(&config["config"]).unwrap());
    out
}

fn epoch(plan: &Plan) -> String {
    plan.target.epoch.map_or(String::new(), |epoch| format!(" at {epoch}"))
}

/// What is absent, empty or false is left out.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(key, value)| (key, plain(value)))
                .filter(|(_, value)| !value.is_null() && *value != Value::Bool(false) && *value != Value::Array(vec![]) && *value != "")
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect()),
        other => other,
    }
}

fn show_error(error: &Diagnostic, text: &str) -> String {
    let mut out = format!("error: {}\n", error.message);
    if let Some(span) = error.span {
        let place = text[span.start..span.end].trim_end().escape_debug();
        let _ = writeln!(out, "at {}:{} `{place}`", line_of(text, span.start), column_of(text, span.start));
    }
    for (word, said) in [("label", &error.label), ("hint", &error.hint)] {
        if let Some(said) = said {
            let _ = writeln!(out, "{word}: {said}");
        }
    }
    out
}
