//! The Dockerfile language from the outside: fixture folders, tables, properties, and other people's parsers.
//!
//! A parser case is a folder `testdata/dockerfile/<case>` with a `Dockerfile` and what is `expected` of it;
//! `UPDATE=1 cargo test --test dockerfile` writes the latter anew.

use rbuild::dockerfile::tree::*;
use rbuild::dockerfile::{Diagnostic, Dockerfile, column_of, expand, ignore, line_of, parse, print, spans};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cases() -> Vec<(String, String)> {
    let folder = testdata().join("dockerfile");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut cases: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), read(&path.join("Dockerfile")))
        })
        .collect();
    cases.sort();
    cases
}

#[test]
fn every_case_reads_as_expected() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for (name, text) in cases() {
        let seen = match parse(&text) {
            Ok(file) => dump(&file, &text),
            Err(error) => dump_error(&error, &text),
        };
        let path = testdata().join("dockerfile").join(&name).join("expected");
        if update {
            std::fs::write(&path, &seen).unwrap();
        } else if read(&path) != seen {
            wrong.push(format!("--- {name}: expected\n{}--- seen\n{seen}", read(&path)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One line per instruction: its lines, its keyword, and the tree as JSON without places.
fn dump(file: &Dockerfile, text: &str) -> String {
    let mut out = String::new();
    let directives = plain(serde_json::to_value(&file.directives).unwrap());
    let _ = writeln!(out, "directives {directives}");
    if !file.empty_continuation_lines.is_empty() {
        let _ = writeln!(out, "empty continuation lines {:?}", file.empty_continuation_lines);
    }
    for instruction in &file.global_args {
        dump_instruction(instruction, text, &mut out);
    }
    for stage in &file.stages {
        let mut value = plain(serde_json::to_value(stage).unwrap());
        value.as_object_mut().unwrap().retain(|key, value| {
            !["instructions", "keyword"].contains(&key.as_str()) && !value.is_null() && value != &Value::Array(vec![])
        });
        let _ = writeln!(out, "{} {} {value}", lines(stage.span, text), stage.keyword);
        for instruction in &stage.instructions {
            dump_instruction(instruction, text, &mut out);
        }
    }
    out
}

fn dump_instruction(instruction: &Instruction, text: &str, out: &mut String) {
    let kind = plain(serde_json::to_value(&instruction.kind).unwrap());
    let arguments = kind.as_object().and_then(|kind| kind.values().next().cloned()).unwrap_or(kind);
    let _ = write!(out, "{} {} {arguments}", lines(instruction.span, text), instruction.keyword);
    let comments = if instruction.comments.is_empty() { String::new() } else { format!(" # {:?}", instruction.comments) };
    let _ = writeln!(out, "{comments}");
}

fn lines(span: Span, text: &str) -> String {
    let (first, last) = rbuild::dockerfile::position::lines_of(text, span);
    if first == last { format!("{first}") } else { format!("{first}-{last}") }
}

/// Words become their text; places, nulls, empty lists and false go.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            if let (2, Some(Value::String(text)), true) = (fields.len(), fields.get("text"), fields.contains_key("span")) {
                return Value::String(text.clone());
            }
            let noise = |key: &str, value: &Value| {
                key == "span"
                    || value.is_null()
                    || *value == Value::Bool(false)
                    || *value == Value::Array(vec![])
                    || value.as_i64() == Some(0)
            };
            Value::Object(fields.into_iter().filter(|(key, value)| !noise(key, value)).map(|(key, value)| (key, plain(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect()),
        other => other,
    }
}

fn dump_error(error: &Diagnostic, text: &str) -> String {
    let mut out = format!("error: {}\n", error.message);
    if let Some(span) = error.span {
        let place = text[span.start..span.end].escape_debug();
        let _ = writeln!(out, "at {}:{} `{place}`", line_of(text, span.start), column_of(text, span.start));
    }
    if let Some(label) = &error.label {
        let _ = writeln!(out, "label: {label}");
    }
    if let Some(hint) = &error.hint {
        let _ = writeln!(out, "hint: {hint}");
    }
    out
}

/// Rows `escape | text | result`; the head of the file says how. `UPDATE=1` writes the results anew.
#[test]
fn words_expand_as_the_table_says() {
    let path = testdata().join("expand.txt");
    let table = read(&path);
    let mut environment = BTreeMap::new();
    let (mut rows, mut seen_table, mut wrong) = (0, String::new(), Vec::new());
    for (number, line) in table.lines().enumerate() {
        if let Some((name, value)) = line.strip_prefix("set ").and_then(|line| line.split_once('=')) {
            environment.insert(name.to_owned(), value.to_owned());
        }
        let [escape, text, expected] = line.split(" | ").collect::<Vec<_>>()[..] else {
            let _ = writeln!(seen_table, "{line}");
            continue;
        };
        let seen = match expand::expand_word(text, escape.chars().next().unwrap(), &environment) {
            Ok(expanded) => format!("[{}] {:?}", expanded.text, expanded.words),
            Err(error) => format!("error: {}", error.rsplit_once("\": ").map_or(error.as_str(), |(_, reason)| reason)),
        };
        let _ = writeln!(seen_table, "{escape} | {text} | {seen}");
        if seen != expected {
            wrong.push(format!("testdata/expand.txt:{}: {text}: {seen}, not {expected}", number + 1));
        }
        rows += 1;
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, seen_table).unwrap();
    } else {
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    assert!(rows > 200, "{rows}");
}

/// Blocks of pattern lines, then `+ path` (kept out) and `- path` (let in) lines, then an empty line.
#[test]
fn paths_are_ignored_as_the_table_says() {
    let table = read(&testdata().join("ignore.txt"));
    let mut checked = 0;
    for block in table.split("\n\n") {
        let lines: Vec<&str> = block.lines().collect();
        let is_path = |line: &&&str| line.starts_with("+ ") || line.starts_with("- ");
        let patterns: Vec<&str> = lines.iter().filter(|line| !is_path(line)).copied().collect();
        let file = ignore::IgnoreFile::parse(&patterns.join("\n")).unwrap_or_else(|error| panic!("{block}: {error}"));
        for line in lines.iter().filter(is_path) {
            let (expected, path) = (line.starts_with('+'), &line[2..]);
            assert_eq!(file.matches(path), expected, "{block}\n: {path}");
            assert_eq!(walk(file.matcher(), path), expected, "walking {block}\n: {path}");
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
}

/// The answer of a walk that comes to `path` through its parents, skipping what may be skipped.
fn walk(matcher: &ignore::Matcher, path: &str) -> bool {
    let mut below = matcher.root();
    for (at, _) in path.match_indices('/') {
        let (ignored, next) = matcher.enter(&path[..at], &below);
        if ignored && !matcher.may_except_below(&path[..at]) {
            return true;
        }
        below = next;
    }
    matcher.matches_below(path, &below)
}

#[test]
fn every_case_prints_and_reads_back() {
    for (name, text) in cases() {
        if let Ok(file) = parse(&text) {
            assert_prints(file, &name);
        }
    }
}

fn assert_prints(file: Dockerfile, what: &str) {
    let file = spans::forget_layout(file);
    let printed = print(&file);
    let again = parse(&printed).unwrap_or_else(|error| panic!("{what}: {error}\n{printed}"));
    assert_eq!(spans::forget_layout(again), file, "{what}\n{printed}");
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    /// Lines and pieces that mean something, thrown together.
    fn dockerfiles() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "FROM a",
            "FROM --platform=$P a AS b",
            "RUN ",
            "RUN --mount=type=cache,target=/x ",
            "COPY ",
            "COPY --from=b --chown=\"a b\" ",
            "ADD ",
            "ENV ",
            "ARG ",
            "LABEL ",
            "CMD ",
            "ENTRYPOINT ",
            "HEALTHCHECK CMD ",
            "HEALTHCHECK --interval=1m CMD ",
            "ONBUILD ",
            "SHELL ",
            "EXPOSE ",
            "VOLUME ",
            "USER ",
            "WORKDIR ",
            "STOPSIGNAL ",
            "\n",
            "\n",
            "\n",
            " \\\n",
            "\\",
            "`",
            "# escape=`\n",
            "# check=skip=all\n",
            "# x y\n",
            "#\n",
            "<<EOF",
            "<<-'EOF'",
            "3<<\"A B\"",
            "EOF\n",
            "\tEOF\n",
            "A B\n",
            "[\"a\", \"b c\"]",
            "[",
            "]",
            "[\"a\"",
            "--link",
            "--",
            "a=b",
            "a",
            "b",
            "c d",
            "\"",
            "'",
            "$x",
            "${x:-y}",
            "${",
            "}",
            "<<",
            "\t",
            "  ",
            "é",
            "\u{a0}",
            "\r\n",
            "0",
            "80/tcp",
            "\\\\\n",
            "=",
            ",",
        ]);
        prop::collection::vec(piece, 0..60).prop_map(|pieces| format!("FROM a\n{}", pieces.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn parsing_never_panics(text in "(?s).{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_reads_prints_and_reads_back(text in dockerfiles()) {
            if let Ok(file) = parse(&text) {
                assert_prints(file, &text);
            }
        }

        #[test]
        fn places_are_within_the_text(text in dockerfiles()) {
            match parse(&text) {
                Ok(file) => for stage in &file.stages {
                    prop_assert!(text.get(stage.span.start..stage.span.end).is_some());
                    for instruction in &stage.instructions {
                        prop_assert!(text.get(instruction.span.start..instruction.span.end).is_some_and(|text| text.chars().next() == instruction.keyword.chars().next()));
                    }
                },
                Err(error) => if let Some(span) = error.span {
                    prop_assert!(text.get(span.start..span.end).is_some(), "{:?}", error);
                },
            }
        }

        #[test]
        fn expansion_never_panics(text in "[$a{}:#%/?+\\\\`'\" *<-]{0,60}", escape in prop::sample::select(vec!['\\', '`'])) {
            let environment: BTreeMap<String, String> = [("a".to_owned(), "x y/z*".to_owned())].into();
            let _ = expand::expand_word(&text, escape, &environment);
            let _ = expand::expand_heredoc(&text, &environment);
        }

        #[test]
        fn plain_words_expand_to_themselves(text in "[a-zA-Z0-9_./:=@-]{0,40}") {
            prop_assert_eq!(expand::expand_word(&text, '\\', &expand::Empty).unwrap().text, text);
        }

        #[test]
        fn walking_agrees_with_asking(patterns in prop::collection::vec("!?[ab*?/]{1,6}", 0..5), path in "[ab](/[ab]){0,3}") {
            if let Ok(matcher) = ignore::Matcher::new(&patterns) {
                prop_assert_eq!(walk(&matcher, &path), matcher.matches(&path), "{:?} {}", patterns, path);
            }
        }

        #[test]
        fn linting_never_panics(text in dockerfiles()) {
            use rbuild::dockerfile::lint;
            let _ = lint::check_text(&text, &lint::Options { all_stages: true, ..lint::Options::default() });
        }

        #[test]
        fn git_references_never_panic(text in "(https://|git@)?[a-z:/?#&=.@%-]{0,40}") {
            use rbuild::dockerfile::git_reference;
            let _ = git_reference::parse(&text);
        }
    }
}

/// Other parsers, where they read a file at all, see the same instructions, bases and copies.
mod differential {
    use super::*;

    fn summary(file: &Dockerfile) -> Vec<String> {
        let stages = file.stages.iter().flat_map(|stage| {
            let name = stage.name.as_ref().map(|name| format!(" AS {}", name.text)).unwrap_or_default();
            std::iter::once(format!("FROM {}{name}", stage.base.text)).chain(stage.instructions.iter().map(instruction))
        });
        file.global_args.iter().map(instruction).chain(stages).collect()
    }

    fn instruction(instruction: &Instruction) -> String {
        let details = match &instruction.kind {
            InstructionKind::Copy(copy) => transfer(&copy.transfer),
            InstructionKind::Add(add) => transfer(&add.transfer),
            _ => String::new(),
        };
        instruction.keyword.to_uppercase() + &details
    }

    fn transfer(transfer: &Transfer) -> String {
        let sources = transfer.sources.iter().map(|source| match source {
            Source::Path(word) => format!(" {}", word.text),
            Source::Heredoc(heredoc) => format!(" <<{:?}", heredoc.content()),
        });
        sources.collect::<String>() + " -> " + &transfer.destination.text
    }

    fn by_parse_dockerfile(file: &parse_dockerfile::Dockerfile<'_>) -> Vec<String> {
        use parse_dockerfile::{Instruction, Source};
        let sources = |sources: &[Source<'_>]| {
            let text = |source: &Source<'_>| match source {
                Source::Path(path) => format!(" {}", path.value),
                Source::HereDoc(heredoc) => format!(" <<{:?}", heredoc.value),
                _ => " ?".to_owned(),
            };
            sources.iter().map(text).collect::<String>()
        };
        let one = |instruction: &Instruction<'_>| match instruction {
            Instruction::From(from) => {
                let name = from.as_.as_ref().map(|(_, name)| format!(" AS {}", name.value)).unwrap_or_default();
                format!("FROM {}{name}", from.image.value)
            }
            Instruction::Copy(copy) => format!("COPY{} -> {}", sources(&copy.src), copy.dest.value),
            Instruction::Add(add) => format!("ADD{} -> {}", sources(&add.src), add.dest.value),
            other => format!("{other:?}").split('(').next().unwrap_or_default().to_uppercase(),
        };
        file.instructions.iter().map(one).collect()
    }

    fn by_dockerfile_parser(file: &dockerfile_parser::Dockerfile, text: &str) -> Vec<String> {
        use dockerfile_parser::Instruction;
        let one = |instruction: &Instruction| match instruction {
            Instruction::From(from) => {
                let name = from.alias.as_ref().map(|name| format!(" AS {}", name.content)).unwrap_or_default();
                format!("FROM {}{name}", from.image.content)
            }
            Instruction::Copy(copy) => {
                let sources = copy.sources.iter().map(|source| format!(" {}", source.content)).collect::<String>();
                format!("COPY{sources} -> {}", copy.destination.content)
            }
            other => {
                let span = other.span();
                text[span.start..span.end].split_whitespace().next().unwrap_or_default().to_uppercase()
            }
        };
        file.instructions.iter().map(one).collect()
    }

    /// Compares all cases that both read; `known` names those where the other differs from BuildKit.
    fn compare(known: &[&str], theirs: impl Fn(&str) -> Option<Vec<String>>) {
        let (mut compared, mut differ) = (0, Vec::new());
        for (name, text) in cases() {
            let (Ok(ours), Some(theirs)) = (parse(&text), theirs(&text)) else { continue };
            compared += 1;
            let ours = summary(&ours);
            if ours != theirs && !known.contains(&name.as_str()) {
                differ.push(format!("{name}\n  ours   {ours:?}\n  theirs {theirs:?}"));
            }
        }
        assert!(differ.is_empty(), "{}", differ.join("\n"));
        assert!(compared >= 10, "{compared}");
    }

    #[test]
    fn parse_dockerfile_sees_the_same() {
        // It takes a doubled escape for a continuation, and a JSON member for a path where BuildKit sees a heredoc.
        compare(&["continuations", "heredoc-in-json"], |text| Some(by_parse_dockerfile(&parse_dockerfile::parse(text).ok()?)));
    }

    #[test]
    fn dockerfile_parser_sees_the_same() {
        // It takes quotes from paths.
        compare(&["words"], |text| Some(by_dockerfile_parser(&dockerfile_parser::Dockerfile::parse(text).ok()?, text)));
    }
}
