//! Lint: what in a Dockerfile is allowed but unwise. BuildKit's rules and messages, and two of our own.
//! Unaware of images and contexts: what a rule must know of them is asked of the caller.

pub mod rules;
mod sensitive;
mod settings;
mod stages;
mod structure;

pub use rules::Rule;
pub use settings::Settings;

use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::ignore::Matcher;
use super::position::LineIndex;
use super::redact::redact_url;
use super::tree::*;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};

/// What a base image brings into a stage.
#[derive(Debug, Clone, Default)]
pub struct Base {
    /// Its ENV.
    pub environment: Environment,
    /// It sets a SHELL.
    pub has_shell: bool,
    /// Its ONBUILD.
    pub triggers: Vec<String>,
}

/// What lint is told by whoever knows images, platforms and the context. `Options::default()` knows nothing, and lint
/// then says only what is certain.
pub struct Options<'a> {
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// Predefined global args: `TARGETPLATFORM` and its like.
    pub predefined_args: Vec<(String, String)>,
    /// `--target`.
    pub target: Option<&'a str>,
    /// Look at all stages, not only at those the target needs.
    pub all_stages: bool,
    /// The base image of a stage, by its name after expansion; None when nothing is known of it (then variables that
    /// nobody defined aren't reported in that stage: the image may define them).
    pub base: &'a dyn Fn(&str) -> Option<Base>,
    /// Whether a text is a valid image reference.
    pub is_reference: &'a dyn Fn(&str) -> bool,
    /// Operating system and architecture that a platform's text names.
    pub platform: &'a dyn Fn(&str) -> Option<(String, String)>,
    /// The context's ignore patterns.
    pub ignored: Option<&'a Matcher>,
    /// Paths of the context (files and directories, relative, ignored ones left out); None when the context wasn't read.
    pub context_paths: Option<&'a [String]>,
    /// Bases that came with another platform than asked for: stage, image, pulled platform, expected platform.
    pub wrong_platforms: Vec<(usize, String, String, String)>,
    /// `BUILDKIT_DOCKERFILE_CHECK`: replaces the file's `# check=`.
    pub check: Option<&'a str>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            build_args: BTreeMap::new(),
            predefined_args: Vec::new(),
            target: None,
            all_stages: false,
            base: &|_| None,
            is_reference: &|name| !name.is_empty() && !name.ends_with([':', '/', '@']) && !name.contains(char::is_whitespace),
            platform: &|text| text.split_once('/').map(|(os, arch)| (os.to_owned(), arch.split('/').next().unwrap_or_default().to_owned())),
            ignored: None,
            context_paths: None,
            wrong_platforms: Vec::new(),
            check: None,
        }
    }
}

/// One violation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Name of the rule.
    pub rule: &'static str,
    /// What is wrong here.
    pub message: String,
    /// What the rule wants.
    pub description: &'static str,
    /// A page about the rule.
    pub url: Option<&'static str>,
    /// Where.
    pub span: Span,
    /// First line, 1-based.
    pub line: usize,
    /// Last line.
    pub end_line: usize,
    /// What stands under the place: the ONBUILD of the base that this is about.
    pub label: Option<String>,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} (line {})", self.rule, self.message, self.line)
    }
}

/// All violations, by line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Each once.
    pub warnings: Vec<Warning>,
    /// Violations fail the build.
    pub fails: bool,
}

impl Report {
    /// Why the build must fail, if it must. Our own rules only advise: what BuildKit builds is built here.
    pub fn error(&self) -> Option<String> {
        let failing = self.warnings.iter().filter(|warning| warning.url.is_some());
        let mut rules: Vec<&str> = failing.map(|warning| warning.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        (self.fails && !rules.is_empty()).then(|| format!("lint violation found for rules: {}", rules.join(", ")))
    }
}

/// Checks a file. Err when the check options can't be read.
pub fn check(file: &Dockerfile, text: &str, options: &Options<'_>) -> Result<Report, Diagnostic> {
    let settings = settings_of(file, options)?;
    let mut linter = Linter::new(text, &settings);
    structure::check(file, &mut linter);
    stages::check(file, options, &mut linter);
    Ok(linter.report())
}

/// Checks a text, also one that is in error: then the warnings of what stands before it.
pub fn check_text(text: &str, options: &Options<'_>) -> (Report, Option<Diagnostic>) {
    let (file, error) = match super::parse::parse_partly(text) {
        Ok((file, None)) => {
            return check(&file, text, options).map_or_else(|error| (Report::default(), Some(error)), |report| (report, None));
        }
        Ok((file, Some(error))) => (file, error),
        Err(error) => return (Report::default(), Some(error)),
    };
    let Ok(settings) = settings_of(&file, options) else { return (Report::default(), Some(error)) };
    let mut linter = Linter::new(text, &settings);
    structure::check_lines(&file, &mut linter);
    (linter.report(), Some(error))
}

fn settings_of(file: &Dockerfile, options: &Options<'_>) -> Result<Settings, Diagnostic> {
    match (options.check, &file.directives.check) {
        (Some(text), _) => Settings::parse(text)
            .map_err(|error| Diagnostic::whole(format!("failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: {error}"))),
        (None, Some(word)) => Settings::parse(settings::up_to_blank(&word.text))
            .map_err(|error| Diagnostic::at(word.span, format!("failed to parse check options: {error}"))),
        (None, None) => Ok(Settings::default()),
    }
}

/// Collects what rules find, as far as the settings let them.
struct Linter<'a> {
    lines: LineIndex,
    settings: &'a Settings,
    found: Vec<Warning>,
    /// Rule, place and message of what was found.
    seen: HashSet<(&'static str, Span, String)>,
}

impl<'a> Linter<'a> {
    fn new(text: &str, settings: &'a Settings) -> Self {
        Self { lines: LineIndex::new(text), settings, found: Vec::new(), seen: HashSet::new() }
    }

    /// A violation of a rule that only the file's settings can silence.
    fn warn(&mut self, rule: &'static Rule, span: Span, message: String) {
        self.warn_at(&[], rule, span, message);
    }

    /// A violation in an instruction or stage whose comments may silence the rule.
    fn warn_at(&mut self, comments: &[String], rule: &'static Rule, span: Span, message: String) {
        let runs = if comments.is_empty() { self.settings.runs(rule) } else { self.settings.with_comments(comments).runs(rule) };
        if !runs || !self.seen.insert((rule.name, span, message.clone())) {
            return;
        }
        let (line, end_line) = self.lines.lines_of(span);
        let message = redact_url(&message).into_owned();
        let Rule { name, description, url, .. } = rule;
        self.found.push(Warning { rule: name, message, description, url: *url, span, line, end_line, label: None });
    }

    /// The same with a label for what `check` finds.
    fn labelled(&mut self, label: Option<String>, check: impl FnOnce(&mut Self)) {
        let before = self.found.len();
        check(self);
        self.found[before..].iter_mut().for_each(|warning| warning.label.clone_from(&label));
    }

    fn report(mut self) -> Report {
        self.found.sort_by_key(|warning| warning.line);
        Report { warnings: self.found, fails: self.settings.error }
    }
}

#[cfg(test)]
mod tests;
