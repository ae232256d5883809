//! What every fuzz target does with its bytes. Shared by the targets, which run for as long as you like, and by
//! `tests/fuzz.rs`, which runs a few thousand seeded mutations on every change.
//! A body panics when a promise is broken; what is refused is fine.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rbuild::{
    context,
    dockerfile::{
        expand::{Options, expand, expand_heredoc},
        git_reference, glob,
        ignore::IgnoreFile,
        lint, parse_trigger, print,
        spans::forget_layout,
    },
    snapshot::{
        ApplyOptions, Limits, Ownership, apply_layer,
        layered::{LayeredRoot, Lower, read_outlines},
    },
    sys::root::RootDir,
};

/// A name and what to do with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
#[allow(dead_code)]
pub const TARGETS: [Target; 7] = [
    ("parse", parse),
    ("expand", expansion),
    ("ignore", ignore),
    ("git_reference", git),
    ("layer", layer),
    ("context_archive", context_archive),
    ("outlines", outlines),
];

/// Any text parses or is refused; what parses prints and reads back as the same tree; lint survives it.
pub fn parse(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = parse_trigger(text);
    let Ok(file) = rbuild::dockerfile::parse(text) else { return };
    let _ = lint::check(&file, text, &lint::Options { all_stages: true, ..lint::Options::default() });
    let file = forget_layout(file);
    let printed = print(&file);
    let again = rbuild::dockerfile::parse(&printed).unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!(forget_layout(again), file, "{printed}");
}

/// Any word expands or is refused. The first byte chooses the escape, the text up to a NUL is a variable's value.
pub fn expansion(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let Ok(rest) = std::str::from_utf8(rest) else { return };
    let (value, text) = rest.split_once('\0').unwrap_or(("value", rest));
    let environment: BTreeMap<String, String> = [("a".to_owned(), value.to_owned()), ("b".to_owned(), String::new())].into();
    let escape = if first % 2 == 0 { '\\' } else { '`' };
    for options in [Options::default(), Options { raw_quotes: true, skip_unset: true, ..Options::default() }] {
        let _ = expand(text, escape, options, &environment);
    }
    let _ = expand_heredoc(text, &environment);
}

/// Any ignore file compiles or is refused, and a walk agrees with asking. A path, a NUL, the file.
pub fn ignore(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some((path, patterns)) = text.split_once('\0') else { return };
    let Ok(file) = IgnoreFile::parse(patterns) else { return };
    let path = glob::clean(path);
    if path.starts_with(['/', '.']) {
        return;
    }
    let matcher = file.matcher();
    let mut below = matcher.root();
    for (at, _) in path.match_indices('/') {
        let (ignored, next) = matcher.enter(&path[..at], &below);
        if ignored && matcher.can_skip_directory(&path[..at]) {
            assert!(file.matches(&path));
            return;
        }
        below = next;
    }
    assert_eq!(matcher.matches_below(&path, &below), file.matches(&path));
}

/// Any text is a git reference, none, or refused; what is taken holds nothing that git would take for an option.
pub fn git(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(Some(git)) = git_reference::parse(text) else { return };
    assert!(!git.remote.starts_with('-') && !git.remote.contains(char::is_control));
    assert!(git.reference.is_none_or(|reference| git_reference::is_valid_ref(&reference)));
    assert!(git.subdirectory.is_none_or(|path| !path.starts_with('/') && !path.split('/').any(|part| part == "..")));
}

/// Small bounds, so that a broken one shows.
fn limits() -> Limits {
    Limits { metadata_size: 64 << 10, path_length: 4096, entries: 2000, total_size: 4 << 20 }
}

/// Any archive is a layer or is refused; nothing is written beside the layer's directory.
pub fn layer(data: &[u8]) {
    let data = with_checksums(data);
    beside_nothing(|inside| {
        let lower = inside.join("lower");
        let dest = inside.join("dest");
        fs::create_dir_all(lower.join("d/e")).unwrap();
        fs::write(lower.join("d/f"), "below").unwrap();
        std::os::unix::fs::symlink("/", lower.join("root")).unwrap();
        std::os::unix::fs::symlink("../../..", lower.join("up")).unwrap();
        fs::create_dir(&dest).unwrap();
        let before = seen(&lower);
        let ownership = Ownership::Record;
        let options = ApplyOptions { ownership, limits: limits() };
        let lowers = || RootDir::open(&lower).map(|root| vec![root]);
        let _ = apply_layer(&data[..], &RootDir::open(&dest).unwrap(), &lowers, &options);
        assert_eq!(seen(&lower), before, "a layer below was changed");
        assert_eq!(fs::read(lower.join("d/f")).unwrap(), b"below", "a layer below was changed");
    });
}

/// Any stream is a context or is refused; nothing is written beside the context's directory.
pub fn context_archive(data: &[u8]) {
    let data = with_checksums(data);
    beside_nothing(|inside| {
        let _ = context::read_stream(&data[..], "fuzz", inside, limits());
    });
}

/// Any bytes are outlines of layers or are refused, as they are and as what was compressed; what is read is trees that end.
pub fn outlines(data: &[u8]) {
    assert!(read_outlines(data).is_none() || data.starts_with(b"rbuild layer outlines 1\n"));
    let Some(size) = u32::try_from(data.len()).ok().filter(|size| *size < 1 << 17) else { return };
    // A frame of zstd that says its size and has one block, the last, of bytes as they are.
    let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &size.to_le_bytes(), &(size << 3 | 1).to_le_bytes()[..3], data].concat();
    let bytes = [b"rbuild layer outlines 1\n", &size.to_le_bytes()[..], &frame].concat();
    for (_, outline) in read_outlines(&bytes).unwrap_or_default() {
        let tree = LayeredRoot::read_only(vec![Lower::Index(outline.into())]).unwrap();
        let mut left = vec![PathBuf::from("/")];
        let mut seen = 0;
        while let Some(path) = left.pop() {
            seen += 1;
            assert!(seen <= data.len(), "more entries than bytes");
            let is_directory = tree.stat(&path, false).is_ok_and(|found| found.is_some_and(|found| found.is_directory()));
            if is_directory && path.as_os_str().len() < 200 {
                left.extend(tree.read_dir(&path).unwrap_or_default().into_iter().map(|name| path.join(name)));
            }
        }
    }
}

/// Mutations break the headers' checksums; with right ones the bytes behind them matter.
pub fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    for block in data.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            let sum: u32 = block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    data
}

/// Runs `body` in a directory far below another, and looks whether anything but the inner one changed: the directories
/// that a link with some `..` reaches, a file beside it, and the names in `/`.
fn beside_nothing(body: impl FnOnce(&Path)) {
    let outside = tempfile::tempdir().unwrap();
    let beside = outside.path().join("a/b/c");
    let inside = beside.join("inside");
    fs::create_dir_all(&inside).unwrap();
    fs::write(beside.join("canary"), "untouched").unwrap();
    let before = (seen(outside.path()), names(Path::new("/")));
    body(&inside);
    assert_eq!((seen(outside.path()), names(Path::new("/"))), before, "something was written outside");
    assert_eq!(fs::read(beside.join("canary")).unwrap(), b"untouched");
    let _ = rbuild::sys::remove::remove_tree(&inside);
}

/// What is below a directory and when it was changed in any way, but for what is in `inside`; no link is followed.
fn seen(top: &Path) -> Vec<(PathBuf, u32, u64, i64, i64)> {
    let mut found = Vec::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        if path.ends_with("inside") {
            continue;
        }
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            left.extend(names(&path).into_iter().map(|name| path.join(name)));
        }
        found.push((path, metadata.mode(), metadata.nlink(), metadata.ctime(), metadata.ctime_nsec()));
    }
    found
}

fn names(directory: &Path) -> BTreeSet<OsString> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}
