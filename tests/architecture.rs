//! Holds the plan of the house: which room uses which, where `unsafe` and printing are, how a file opens.
//!
//! Reads `src/` as text, with comments and string literals blanked, so that it needs no compiler.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The floors of `src/lib.rs`, lowest first. A room uses only rooms on lower floors.
const FLOORS: [&[&str]; 5] = [
    &["dockerfile", "oci", "sys"],
    &["plan", "sbom"],
    &["context", "registry", "store", "snapshot", "sandbox"],
    &["build", "export"],
    &["cli"],
];

/// Words that only `cli` may say: they print, or read the environment of the process.
const CLI_ONLY: [&str; 9] = ["println!", "print!", "eprintln!", "eprint!", "dbg!", "env::var", "env::vars", "env::var_os", "env::vars_os"];

/// What stands in front of an item for tests.
const TEST_ONLY: &str = "#[cfg(test)]";

#[test]
fn a_room_uses_only_lower_floors() {
    report(sources().iter().flat_map(|source| forbidden_uses(&source.room, &source.code)));
}

#[test]
fn unsafe_is_only_in_sys() {
    report(
        sources()
            .iter()
            .filter(|source| source.room != "sys" && words(&source.code).any(|word| word == "unsafe"))
            .map(|source| format!("{} has `unsafe`; only `sys` may", source.path.display())),
    );
}

#[test]
fn every_unsafe_block_says_why_it_is_safe() {
    report(sources().iter().flat_map(|source| {
        let raw: Vec<&str> = source.text.lines().collect();
        let code = source.code.lines().enumerate().filter(|(_, line)| line.contains("unsafe {") || line.contains("unsafe impl"));
        let silent = code.filter(|(line, _)| !raw[line.saturating_sub(6)..=*line].iter().any(|text| text.contains("SAFETY:")));
        silent.map(|(line, _)| format!("{}:{} has `unsafe` without a SAFETY sentence", source.path.display(), line + 1)).collect::<Vec<_>>()
    }));
}

#[test]
fn only_cli_prints_and_reads_the_environment() {
    let sources = sources();
    let test_files: Vec<PathBuf> = sources.iter().flat_map(test_modules).collect();
    let product = sources.iter().filter(|source| !matches!(source.room.as_str(), "cli" | "main"));
    report(product.filter(|source| !test_files.iter().any(|file| source.path.ends_with(file))).flat_map(|source| {
        let code = without_tests(&source.code);
        let said = CLI_ONLY.iter().filter(|word| says(&code, word));
        said.map(|word| format!("{} has `{word}`; only `cli` may", source.path.display())).collect::<Vec<_>>()
    }));
}

#[test]
fn every_file_opens_with_what_it_does() {
    report(
        sources()
            .iter()
            .filter(|source| !source.text.starts_with("//!"))
            .map(|source| format!("{} does not open with //!", source.path.display())),
    );
}

#[test]
fn main_is_short() {
    let lines = fs::read_to_string(source_root().join("main.rs")).unwrap().lines().count();
    assert!(lines <= 40, "src/main.rs has {lines} lines; it should only call the library");
}

#[test]
fn every_room_is_on_a_floor_and_exists() {
    let known: Vec<&str> = FLOORS.concat();
    let found: Vec<String> = sources().into_iter().map(|source| source.room).collect();
    report(
        found
            .iter()
            .filter(|room| !known.contains(&room.as_str()) && !matches!(room.as_str(), "lib" | "main"))
            .map(|room| format!("`{room}` is on no floor of tests/architecture.rs and src/lib.rs")),
    );
    report(known.iter().filter(|room| !found.iter().any(|name| name == *room)).map(|room| format!("`{room}` has no file in src")));
}

#[test]
fn the_reader_sees_what_it_should() {
    let cases: [(&str, &str, &[&str]); 10] = [
        ("plan", "use crate::registry::Client;", &["`plan` uses `registry`"]),
        ("plan", "fn f() { crate::store::open() }", &["`plan` uses `store`"]),
        ("plan", "use crate::{\n    oci::Digest,\n    sandbox::{Run, Net},\n};", &["`plan` uses `sandbox`"]),
        ("plan", "use super::super::build::Image;", &["`plan` uses `build`"]),
        ("store", "use crate::snapshot::apply;", &["`store` uses `snapshot`"]),
        ("dockerfile", "use crate::oci::Digest;", &["`dockerfile` uses `oci`"]),
        ("build", "use crate::{dockerfile, plan, store};", &[]),
        ("plan", "// use crate::registry::Client;\nconst A: &str = \"crate::registry\";", &[]),
        ("plan", "use crate::plan::Vertex; use crate::oci::Digest;", &[]),
        (
            "plan",
            "/* crate::store */ const A: &str = r#\"crate::store\"#; const B: char = '\"'; use crate::store;",
            &["`plan` uses `store`"],
        ),
    ];
    for (room, text, expected) in cases {
        assert_eq!(forbidden_uses(room, &blank(text)), expected, "{text}");
    }
    let code = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { println!() } }\n#[cfg(test)]\nmod more;\nfn c() {}";
    assert_eq!(without_tests(code).split_whitespace().collect::<String>(), "fna(){}fnc(){}");
    let source = Source { path: "src/store/blob.rs".into(), room: "store".into(), text: String::new(), code: code.into() };
    assert_eq!(test_modules(&source), [Path::new("src/store/blob/more.rs")]);
    assert!(says("std::env::var(\"HOME\")", "env::var") && !says("env::var_os_like()", "env::var") && !says("my_println!()", "println!"));
}

// --- reading -----------------------------------------------------------------------

/// One file of `src/`.
struct Source {
    /// Path relative to the checkout.
    path: PathBuf,
    /// First folder or file name below `src`.
    room: String,
    text: String,
    /// The text without comments and literals, same line numbers.
    code: String,
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources() -> Vec<Source> {
    let mut found = BTreeMap::new();
    collect(&source_root(), &mut found);
    assert!(found.len() > 10, "src/ was not found");
    found.into_values().collect()
}

fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let inside = path.strip_prefix(source_root()).unwrap();
            let room = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let code = blank(&text);
            found.insert(path.clone(), Source { path: Path::new("src").join(inside), room, text, code });
        }
    }
}

/// The sentences about the rooms that `code` of `room` may not use, each once.
fn forbidden_uses(room: &str, code: &str) -> Vec<String> {
    let floor_of = |name: &str| FLOORS.iter().position(|rooms| rooms.contains(&name));
    let Some(floor) = floor_of(room) else { return Vec::new() };
    let mut sentences: Vec<String> = used_rooms(code)
        .into_iter()
        .filter(|used| used != room && floor_of(used).is_some_and(|other| other >= floor))
        .map(|used| format!("`{room}` uses `{used}`"))
        .collect();
    sentences.sort();
    sentences.dedup();
    sentences
}

/// The code without what is compiled for tests only; tests may print why they skip something.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some((before, after)) = rest.split_once(TEST_ONLY) {
        kept.push_str(before);
        rest = &after[item_length(after)..];
    }
    kept + rest
}

/// The files that hold the test modules which `source` declares.
fn test_modules(source: &Source) -> Vec<PathBuf> {
    let folder = match source.path.file_stem() {
        Some(stem) if stem != "mod" && stem != "lib" => source.path.with_extension(""),
        _ => source.path.parent().unwrap().to_owned(),
    };
    let items = source.code.split(TEST_ONLY).skip(1).map(|after| after[..item_length(after)].trim());
    let names = items.filter_map(|item| item.strip_prefix("mod ")?.strip_suffix(';'));
    names.map(|name| folder.join(format!("{name}.rs"))).collect()
}

/// Length of the item that starts here: up to its `;`, or to the brace that closes its first one.
fn item_length(code: &str) -> usize {
    let mut depth = 0;
    for (at, character) in code.char_indices() {
        match character {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// The first names after `crate::` and `super::super::`, those in braces too.
fn used_rooms(code: &str) -> Vec<String> {
    let compact: String = code.split_whitespace().collect::<Vec<_>>().join(" ").replace(" :: ", "::");
    let mut rooms = Vec::new();
    for prefix in ["crate::", "super::super::"] {
        for (start, _) in compact.match_indices(prefix) {
            let rest = &compact[start + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(group) => rooms.extend(top_names(group)),
                None => rooms.push(first_name(rest)),
            }
        }
    }
    rooms
}

/// The first name of each member of a brace group, not of groups inside it.
fn top_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut member) = (0, Vec::new(), String::new());
    for character in group.chars() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(first_name(member.drain(..).as_str().trim())),
            _ if depth == 0 => member.push(character),
            _ => {}
        }
    }
    names.push(first_name(member.trim()));
    names
}

fn first_name(path: &str) -> String {
    path.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|character: char| !character.is_alphanumeric() && character != '_')
}

/// Whether `code` has `word` with no name running into it on either side.
fn says(code: &str, word: &str) -> bool {
    let name = |character: char| character.is_alphanumeric() || character == '_';
    code.match_indices(word)
        .any(|(start, _)| !code[..start].ends_with(name) && (word.ends_with('!') || !code[start + word.len()..].starts_with(name)))
}

/// Comments, string and character literals become blanks; line ends stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let end = at + literal_length(&bytes[at..], at.checked_sub(1).map(|before| bytes[before]));
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Length of the comment or literal that starts here; 0 when none does.
fn literal_length(rest: &[u8], before: Option<u8>) -> usize {
    let find = |from: usize, needle: &[u8]| {
        let found = rest[from.min(rest.len())..].windows(needle.len()).position(|window| window == needle);
        found.map_or(rest.len(), |offset| from + offset + needle.len())
    };
    let in_name = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match rest {
        [b'/', b'/', ..] => find(2, b"\n") - 1,
        [b'/', b'*', ..] => find(2, b"*/"),
        [b'r', tail @ ..] if !in_name => {
            let hashes = tail.iter().take_while(|byte| **byte == b'#').count();
            let quoted = tail.get(hashes) == Some(&b'"');
            if quoted { find(hashes + 2, &[b"\"".as_slice(), &b"#".repeat(hashes)].concat()) } else { 0 }
        }
        [b'"', ..] => escaped_length(rest, b'"'),
        [b'\'', b'\\', ..] => escaped_length(rest, b'\''),
        [b'\'', _, b'\'', ..] => 3,
        _ => 0,
    }
}

/// Length up to the closing quote, skipping what a backslash escapes.
fn escaped_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn report(sentences: impl IntoIterator<Item = String>) {
    let sentences: Vec<String> = sentences.into_iter().collect();
    assert!(sentences.is_empty(), "{}", sentences.join("\n"));
}
