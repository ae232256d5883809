//! `rbuild inspect` and `rbuild history`: what an image is, for a person or as JSON.

use std::{io::Write, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    build::{chain, short},
    cli::{absent::Absent, args::Cli, failure::Failure, find, progress::size, services},
    export::{self, LayerFacts},
    oci::{Descriptor, Image, media_type},
    store::Store,
};

/// `rbuild inspect`.
#[derive(Debug, Args, Clone)]
pub struct InspectArgs {
    /// Image of the store: a name, or a digest or its beginning
    #[arg(add = clap_complete::engine::ArgValueCandidates::new(crate::cli::complete::images))]
    pub image: String,
    /// Of an index, the image of this platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// As JSON: manifest, config, layers
    #[arg(long)]
    pub json: bool,
}

/// `rbuild history`.
#[derive(Debug, Args, Clone)]
pub struct HistoryArgs {
    /// Image of the store: a name, or a digest or its beginning
    #[arg(add = clap_complete::engine::ArgValueCandidates::new(crate::cli::complete::images))]
    pub image: String,
    /// Of an index, the image of this platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Whole instructions
    #[arg(long)]
    pub no_trunc: bool,
}

/// Shows manifest, config and layers.
pub fn inspect(cli: &Cli, args: &InspectArgs) -> Result<ExitCode, Failure> {
    let store = services::open_store(cli)?;
    let top = find::descriptor(&store, &args.image)?;
    let (manifest, image) = find::image(&store, &args.image, args.platform.as_deref())?;
    let listing = export::list(&store, &image, false).map_err(|error| Failure::new(chain(&error)))?;
    let text = match args.json {
        true => as_json(&store, &top, &manifest, &image, &listing.layers)?,
        false => as_text(&store, &top, &manifest, &image, &listing.layers)?,
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn as_json(store: &Store, top: &Descriptor, manifest: &Descriptor, image: &Image, facts: &[LayerFacts]) -> Result<String, Failure> {
    let document = |descriptor: &Descriptor| -> Result<Value, Failure> {
        let bytes = store.read_blob(&descriptor.digest, 16 << 20).map_err(|error| Failure::new(chain(&error)))?;
        serde_json::from_slice(&bytes).map_err(|error| Failure::new(format!("{}: {error}", descriptor.digest)))
    };
    let absent = Absent::of(store, manifest)?;
    let layers = image.layers.iter().zip(facts).zip(instructions(image)).map(|((layer, facts), instruction)| {
        json!({
            "digest": layer.descriptor.digest,
            "diffId": layer.diff_id,
            "mediaType": layer.descriptor.media_type,
            "size": layer.descriptor.size,
            "inStore": facts.is_here,
            "entries": facts.entries,
            "fileBytes": facts.file_bytes,
            "wastedBytes": facts.wasted_bytes,
            "whiteouts": facts.whiteouts,
            "createdBy": instruction,
        })
    });
    let mut value = json!({
        "digest": manifest.digest,
        "mediaType": manifest.media_type,
        "platform": image.platform.to_string(),
        "manifest": document(manifest)?,
        "config": serde_json::to_value(&image.config).expect("a config has only string keys"),
        "layers": layers.collect::<Vec<_>>(),
        "absent": absent.value(),
    });
    if media_type::is_index(&top.media_type) {
        value["index"] = json!({ "digest": top.digest, "content": document(top)? });
    }
    Ok(format!("{}\n", serde_json::to_string_pretty(&value).expect("a JSON value")))
}

fn as_text(store: &Store, top: &Descriptor, manifest: &Descriptor, image: &Image, facts: &[LayerFacts]) -> Result<String, Failure> {
    let config = &image.config.config;
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{name:<12} {value}"));
        }
    };
    if media_type::is_index(&top.media_type) {
        line("index", top.digest.to_string());
        let index = store.index_blob(&top.digest).map_err(|error| Failure::new(chain(&error)))?;
        let platforms = index.manifests.iter().filter_map(|entry| entry.platform.as_ref()).map(ToString::to_string);
        line("platforms", platforms.collect::<Vec<_>>().join(" "));
    }
    let written = store.manifest(&manifest.digest).map_err(|error| Failure::new(chain(&error)))?;
    line("manifest", manifest.digest.to_string());
    line("config", written.config.digest.to_string());
    line("platform", image.platform.to_string());
    line("created", image.config.created.clone().unwrap_or_default());
    let words = |words: &Option<Vec<String>>| words.as_ref().map(|words| json!(words).to_string()).unwrap_or_default();
    line("entrypoint", words(&config.entrypoint));
    line("cmd", words(&config.cmd));
    line("user", config.user.clone());
    line("workdir", config.working_dir.clone());
    line("ports", config.exposed_ports.keys().cloned().collect::<Vec<_>>().join(" "));
    line("volumes", config.volumes.keys().cloned().collect::<Vec<_>>().join(" "));
    line("stop signal", config.stop_signal.clone());
    config.env.iter().for_each(|variable| line("env", variable.clone()));
    config.labels.iter().for_each(|(key, value)| line("label", format!("{key}={value}")));
    written.annotations.iter().for_each(|(key, value)| line("annotation", format!("{key}={value}")));
    lines.push(String::new());
    lines.extend(layer_lines(image, facts));
    lines.extend(Absent::of(store, manifest)?.sentences());
    Ok(lines.join("\n") + "\n")
}

fn layer_lines(image: &Image, facts: &[LayerFacts]) -> Vec<String> {
    let mut lines =
        vec![format!("{:>3}  {:19}  {:>9}  {:>9}  {:>9}  {:>7}  CREATED BY", "", "LAYER", "SIZE", "FILES", "WASTED", "ENTRIES")];
    for (index, ((layer, facts), instruction)) in image.layers.iter().zip(facts).zip(instructions(image)).enumerate() {
        let known = |text: String| if facts.is_here { text } else { "not here".to_owned() };
        lines.push(format!(
            "{:>3}  {:19}  {:>9}  {:>9}  {:>9}  {:>7}  {}",
            index + 1,
            short(&layer.descriptor.digest),
            size(layer.descriptor.size),
            known(size(facts.file_bytes)),
            known(size(facts.wasted_bytes)),
            known(facts.entries.to_string()),
            cut(&instruction, 60)
        ));
    }
    let total = |value: fn(&LayerFacts) -> u64| facts.iter().map(value).sum::<u64>();
    let (files, wasted) = (total(|facts| facts.file_bytes), total(|facts| facts.wasted_bytes));
    let compressed = image.layers.iter().map(|layer| layer.descriptor.size).sum();
    let share = if files == 0 { 0.0 } else { 100.0 * wasted as f64 / files as f64 };
    lines.push(format!(
        "{:>3}  {:19}  {:>9}  {:>9}  {:>9}  {:>7}  {share:.1} % of the files' bytes are hidden by later layers",
        "",
        "all",
        size(compressed),
        size(files),
        size(wasted),
        total(|facts| facts.entries)
    ));
    lines
}

/// The instruction of each layer, as far as the history says.
fn instructions(image: &Image) -> Vec<String> {
    let entries = image.config.history.iter().filter(|entry| !entry.empty_layer);
    let mut list: Vec<String> = entries.map(|entry| entry.created_by.clone().unwrap_or_default()).collect();
    list.resize(image.layers.len(), String::new());
    list
}

/// In one line of at most so many characters.
pub fn cut(text: &str, characters: usize) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match one_line.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &one_line[..end]),
        None => one_line,
    }
}

/// Shows the history, the newest line first.
pub fn history(cli: &Cli, args: &HistoryArgs) -> Result<ExitCode, Failure> {
    let store = services::open_store(cli)?;
    let (manifest, image) = find::image(&store, &args.image, args.platform.as_deref())?;
    let absent = Absent::of(&store, &manifest)?;
    let mut out = std::io::stdout().lock();
    if !args.json {
        let _ = writeln!(out, "{:20}  {:>9}  CREATED BY", "CREATED", "SIZE");
    }
    for Row { created, layer, by } in rows(&image).into_iter().rev() {
        let bytes = layer.map(|layer| layer.size);
        let _ = match args.json {
            true => {
                let absent = layer.and_then(|layer| absent.value_of(&layer.digest));
                writeln!(out, "{}", json!({ "created": created, "size": bytes, "createdBy": by, "absent": absent }))
            }
            false => {
                let created = created.unwrap_or_else(|| "-".to_owned());
                let by = if args.no_trunc { by } else { cut(&by, 90) };
                writeln!(out, "{:20}  {:>9}  {by}", cut(&created, 19), size(bytes.unwrap_or(0)))
            }
        };
    }
    if !args.json {
        absent.sentences().iter().for_each(|sentence| drop(writeln!(out, "{sentence}")));
    }
    Ok(ExitCode::SUCCESS)
}

/// A line of the history.
struct Row<'a> {
    created: Option<String>,
    layer: Option<&'a Descriptor>,
    by: String,
}

/// The history, the oldest line first; layers that it does not speak of have a line too.
fn rows(image: &Image) -> Vec<Row<'_>> {
    let mut layers = image.layers.iter().map(|layer| &layer.descriptor);
    let mut rows: Vec<Row<'_>> = Vec::new();
    for entry in &image.config.history {
        let layer = if entry.empty_layer { None } else { layers.next() };
        rows.push(Row { created: entry.created.clone(), layer, by: entry.created_by.clone().unwrap_or_default() });
    }
    rows.extend(layers.map(|layer| Row { created: None, layer: Some(layer), by: String::new() }));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_instructions_are_cut_between_characters() {
        assert_eq!(cut("RUN  a \\\n b", 20), "RUN a \\ b");
        assert_eq!(cut("äöüß", 3), "äöü…");
    }
}
