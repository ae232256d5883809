//! The words of the command line before clap reads them: where the verb stands, and the one that is meant where none does.
//! Unaware of what verbs do.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

use clap::{Parser, Subcommand};

use super::args::{BuildArgs, Cli, Verb};

/// The verb that is said most often, alone.
#[derive(Debug, Subcommand)]
enum BuildVerb {
    Build(Box<BuildArgs>),
}

/// Reads the command line.
pub fn parse(words: &[OsString]) -> Result<Cli, clap::Error> {
    // To make the tables of all verbs takes a good part of a build that does nothing. They explain what one alone refuses.
    if verb(words).is_some_and(|verb| verb == "build")
        && let Ok(Cli { store, rung, emulators, verb: BuildVerb::Build(args), registries }) = Cli::try_parse_from(words)
    {
        return Ok(Cli { store, rung, emulators, verb: Verb::Build(args), registries });
    }
    Cli::try_parse_from(words)
}

/// The words of the command line with `build` put in where no verb was said: `rbuild -f Dockerfile .`.
pub fn with_default_verb(mut words: Vec<OsString>) -> Vec<OsString> {
    // A link with the name that kaniko's image gives its program stands in for it.
    if words.first().is_some_and(|program| Path::new(program).file_name().is_some_and(|name| name == "executor")) {
        words.insert(1, "kaniko".into());
        return words;
    }
    let index = verb_index(&words);
    match words.get(index).and_then(|word| word.to_str()) {
        Some("-h" | "--help" | "-V" | "--version") => {}
        Some(word) if VERBS.contains(&word) => {}
        None if words.len() <= index => words.push("build".into()),
        _ => words.insert(index, "build".into()),
    }
    words
}

/// The word that stands where a verb may stand.
pub fn verb(words: &[OsString]) -> Option<&OsStr> {
    words.get(verb_index(words)).map(OsString::as_os_str)
}

/// Options of all verbs may stand before the verb.
fn verb_index(words: &[OsString]) -> usize {
    let mut index = 1;
    while let Some(word) = words.get(index).and_then(|word| word.to_str()) {
        match word.split_once('=') {
            None if GLOBAL.contains(&word) => index += 2,
            Some((option, _)) if GLOBAL.contains(&option) => index += 1,
            _ => break,
        }
    }
    index
}

/// The options of all verbs; each takes a value.
const GLOBAL: &[&str] = &["--store", "--rung", "--emulators"];

/// All verbs and their aliases. To ask clap for them would build its tables twice, which takes as long as all the rest of
/// a build that does nothing.
pub const VERBS: &[&str] = &[
    "build",
    "plan",
    "watch",
    "run",
    "shell",
    "images",
    "tag",
    "rm",
    "save",
    "copy",
    "inspect",
    "history",
    "sbom",
    "diff",
    "verify",
    "index",
    "push",
    "lock",
    "cache",
    "du",
    "prune",
    "fsck",
    "logs",
    "report",
    "why",
    "doctor",
    "login",
    "logout",
    "help",
    "completions",
    "man",
    "kaniko",
    "parse",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        let given = text.split_whitespace().map(Into::into).collect();
        with_default_verb(given).into_iter().map(|word: OsString| word.into_string().unwrap()).collect()
    }

    #[test]
    fn build_is_the_default_verb() {
        assert_eq!(words("rbuild"), ["rbuild", "build"]);
        assert_eq!(words("rbuild -f x"), ["rbuild", "build", "-f", "x"]);
        assert_eq!(words("rbuild ."), ["rbuild", "build", "."]);
        assert_eq!(words("rbuild --store s -f x"), ["rbuild", "--store", "s", "build", "-f", "x"]);
        assert_eq!(words("rbuild --rung=copy --store s ."), ["rbuild", "--rung=copy", "--store", "s", "build", "."]);
        assert_eq!(words("rbuild run i"), ["rbuild", "run", "i"]);
        assert_eq!(words("rbuild --help"), ["rbuild", "--help"]);
        assert_eq!(words("/kaniko/executor --no-push"), ["/kaniko/executor", "kaniko", "--no-push"]);
    }

    #[test]
    fn the_command_line_is_consistent() {
        let command = <Cli>::command();
        let verbs = command.get_subcommands().flat_map(|verb| std::iter::once(verb.get_name()).chain(verb.get_all_aliases()));
        let (verbs, listed): (BTreeSet<&str>, BTreeSet<&str>) = (verbs.collect(), VERBS.iter().copied().collect());
        assert_eq!(verbs, listed);
        let global = command.get_arguments().filter(|option| option.is_global_set()).filter_map(|option| option.get_long());
        assert_eq!(global.map(|name| format!("--{name}")).collect::<Vec<_>>(), GLOBAL);
        command.debug_assert();
    }
}
