//! Whole builds, a folder per case, as root and as an unprivileged user: `testdata/build/NAME` is the context, with its
//! `Dockerfile`, what is `expected`, and where it needs them `arguments` for `rbuild build`, one a line.
//!
//! Bases are `alpine` (also called `busybox`) and `my-upstream-image` of the stand-in registry. Expected is the image as text:
//! config, history and what each new layer holds; or the error as a person sees it.
//! `UPDATE=1 cargo test --test integration cases::` writes the expectations anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Bed, Outcome, checkout};

/// Files longer than this are shown by their size only.
const SHOWN_BYTES: u64 = 400;

fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = fs::read_dir(checkout().join("testdata/build")).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() > 30, "the cases have gone");
    cases
}

#[test]
fn every_case_builds_as_expected() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for bed in Bed::each_user() {
        for case in cases() {
            let seen = seen(&bed, &case);
            let path = case.join("expected");
            let expected = fs::read_to_string(&path).unwrap_or_default();
            if update && expected != seen {
                fs::write(&path, &seen).unwrap();
            } else if expected != seen {
                let (name, user) = (case.file_name().unwrap().to_string_lossy().into_owned(), bed.user);
                wrong.push(format!("--- {name} as {user:?}: expected\n{expected}--- seen\n{seen}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn seen(bed: &Bed, case: &Path) -> String {
    let context = bed.path("context");
    fs::remove_dir_all(&context).unwrap();
    copy_tree(case, &context);
    for of_the_case in ["expected", "arguments"] {
        let _ = fs::remove_file(context.join(of_the_case));
    }
    bed.user.own(&context);
    let image = bed.path("out/image");
    let _ = fs::remove_dir_all(&image);
    let arguments = fs::read_to_string(case.join("arguments")).unwrap_or_default();
    let mut all = vec!["build", "--progress", "plain", "-o", "type=oci,tar=false,dest=../out/image"];
    all.extend(arguments.lines());
    // A case may name its own context.
    if !arguments.lines().any(|line| line == "-") {
        all.push(".");
    }
    let built = bed.run(&all);
    match built.code {
        Some(0) => show(&image),
        _ => show_error(built.fails()),
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy_tree(&source, &target),
            kind if kind.is_symlink() => std::os::unix::fs::symlink(fs::read_link(&source).unwrap(), &target).unwrap(),
            _ => drop(fs::copy(&source, &target).unwrap()),
        }
    }
}

/// From the error on: what went by before is progress.
fn show_error(built: &Outcome) -> String {
    let error = built.err.find("\nerror: ").map_or(0, |at| at + 1);
    built.err[error..].lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn show(layout: &Path) -> String {
    let blob = |digest: &Value| layout.join("blobs/sha256").join(digest.as_str().unwrap().trim_start_matches("sha256:"));
    let json = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = json(layout.join("index.json"));
    let manifest = json(blob(&index["manifests"][0]["digest"]));
    let config = json(blob(&manifest["config"]["digest"]));
    let history = config["history"].as_array().unwrap();
    let is_new = |entry: &&Value| entry["comment"].as_str().is_some_and(|comment| comment.starts_with("buildkit."));
    let mut out = format!("config {}\n", serde_json::to_string_pretty(&config["config"]).unwrap());
    for entry in history.iter().filter(is_new) {
        let empty = if entry["empty_layer"] == true { " (no layer)" } else { "" };
        let _ = writeln!(out, "history{empty} {}", entry["created_by"].as_str().unwrap_or_default().escape_debug());
    }
    let layers = manifest["layers"].as_array().unwrap();
    let new = history.iter().filter(is_new).filter(|entry| entry["empty_layer"] != true).count();
    for (number, layer) in layers[layers.len() - new..].iter().enumerate() {
        let _ = writeln!(out, "layer {}", number + 1);
        list(&blob(&layer["digest"]), &mut out);
    }
    out
}

/// One line per entry: kind and mode, owner, name, and what a small file says.
fn list(layer: &Path, out: &mut String) {
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(fs::File::open(layer).unwrap()));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        let kind = BTreeMap::from([(b'0', '-'), (b'1', 'h'), (b'2', 'l'), (b'3', 'c'), (b'4', 'b'), (b'5', 'd'), (b'6', 'p')]);
        let kind = kind[&header.entry_type().as_byte()];
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let _ = write!(out, "  {kind}{:04o} {}:{} {name}", header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap());
        if let Some(target) = entry.link_name_bytes() {
            let _ = write!(out, " -> {}", String::from_utf8_lossy(&target));
        }
        if kind == '-' {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let _ = match std::str::from_utf8(&content).ok().filter(|_| content.len() as u64 <= SHOWN_BYTES) {
                Some(text) => write!(out, " {text:?}"),
                None => write!(out, " of {} bytes", content.len()),
            };
        }
        out.push('\n');
    }
}
