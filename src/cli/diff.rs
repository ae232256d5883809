//! `rbuild diff`: what differs between two images, and in which layer. Exit code 1 if anything does.

use std::{fmt::Write as _, io::Write, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    build::chain,
    cli::{absent, args::Cli, failure::Failure, find, services},
    export::{self, Differences},
    oci::Image,
};

/// `rbuild diff`.
#[derive(Debug, Args, Clone)]
pub struct DiffArgs {
    /// Image of the store: a name, or a digest or its beginning
    pub first: String,
    /// The other
    pub second: String,
    /// Of indexes, the images of this platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Times don't count
    #[arg(long)]
    pub no_times: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Compares and prints.
pub fn diff(cli: &Cli, args: &DiffArgs) -> Result<ExitCode, Failure> {
    let store = services::open_store(cli)?;
    let (first_manifest, first) = find::image(&store, &args.first, args.platform.as_deref())?;
    let (second_manifest, second) = find::image(&store, &args.second, args.platform.as_deref())?;
    absent::fetch(cli, &store, &[&first_manifest, &second_manifest])?;
    let list = |image: &Image| export::list(&store, image, true).map_err(|error| Failure::new(chain(&error)));
    let (a, b) = (list(&first)?, list(&second)?);
    let differences = export::compare((&first, &a), (&second, &b), !args.no_times);
    let text = match args.json {
        true => as_json(&differences),
        false => as_text(&differences),
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    if differences.is_empty() {
        if first_manifest.digest != second_manifest.digest && !args.json {
            println!("the same files, config and history; only times, compression or annotations differ");
        }
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(1))
}

/// Lines: `+` and `-` for what only one has, `~` for what differs.
pub fn as_text(differences: &Differences) -> String {
    let mut text = String::new();
    for file in &differences.files {
        let layer = |layer: Option<usize>| layer.map_or(0, |layer| layer + 1);
        let _ = match (file.first_layer, file.second_layer) {
            (None, second) => writeln!(text, "+ /{}  (layer {})", file.path, layer(second)),
            (first, None) => writeln!(text, "- /{}  (layer {})", file.path, layer(first)),
            (first, second) if first == second => writeln!(text, "~ /{}: {}  (layer {})", file.path, file.what.join(", "), layer(first)),
            (first, second) => {
                writeln!(text, "~ /{}: {}  (layers {} and {})", file.path, file.what.join(", "), layer(first), layer(second))
            }
        };
    }
    let pairs = differences.config.iter().map(|(key, a, b)| (format!("config {}", key.trim_start_matches("config.")), a, b));
    let history = differences.history.iter().map(|(index, a, b)| (format!("history {}", index + 1), a, b));
    for (name, a, b) in pairs.chain(history) {
        let _ = match (a, b) {
            (None, Some(b)) => writeln!(text, "+ {name}: {b}"),
            (Some(a), None) => writeln!(text, "- {name}: {a}"),
            (a, b) => writeln!(text, "~ {name}: {} -> {}", a.as_deref().unwrap_or(""), b.as_deref().unwrap_or("")),
        };
    }
    text
}

fn as_json(differences: &Differences) -> String {
    format!("{}\n", serde_json::to_string_pretty(&as_value(differences)).expect("a JSON value"))
}

/// Layers and lines count from 0, as in manifest and config.
pub fn as_value(differences: &Differences) -> Value {
    let files = differences
        .files
        .iter()
        .map(|file| json!({ "path": file.path, "firstLayer": file.first_layer, "secondLayer": file.second_layer, "what": file.what }));
    let config = differences.config.iter().map(|(key, a, b)| json!({ "key": key, "first": a, "second": b }));
    let history = differences.history.iter().map(|(index, a, b)| json!({ "line": index, "first": a, "second": b }));
    json!({
        "files": files.collect::<Vec<_>>(),
        "config": config.collect::<Vec<_>>(),
        "history": history.collect::<Vec<_>>(),
    })
}
