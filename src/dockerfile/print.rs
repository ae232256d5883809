//! Tree -> Dockerfile text that reads as the same tree: [`super::parse`] of it differs only in places and in `original`.
//! Unaware of the text that the tree came from: continuations and indentation are not kept.

use super::duration::format_go;
use super::parse::{heredocs_of_line, split_continuation};
use super::scope::escape_of;
use super::tree::*;
use std::fmt::Write;

/// Physical lines end before the reader's limit of 65535 bytes.
const MAX_LINE: usize = 60_000;

/// Writes a whole file.
pub fn print(file: &Dockerfile) -> String {
    let mut printer = Printer { escape: escape_of(file), out: String::new() };
    printer.directives(&file.directives);
    // An empty line, so that no comment is taken for a directive.
    printer.out.push('\n');
    for instruction in &file.global_args {
        printer.instruction(instruction);
    }
    for stage in &file.stages {
        printer.stage(stage);
        for instruction in &stage.instructions {
            printer.instruction(instruction);
        }
    }
    printer.out
}

struct Printer {
    escape: char,
    out: String,
}

/// How flag values are quoted. What heredocs a line has can depend on it, oddly: `${` outside of quotes hides them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quoting {
    WhereNeeded,
    Always,
}

impl Printer {
    fn directives(&mut self, directives: &Directives) {
        let escape = directives.escape.map(String::from);
        let text = |word: &Option<Word>| word.as_ref().map(|word| word.text.clone());
        for (key, value) in [("syntax", text(&directives.syntax)), ("escape", escape), ("check", text(&directives.check))] {
            if let Some(value) = value {
                let _ = writeln!(self.out, "# {key}={value}");
            }
        }
    }

    fn comments(&mut self, comments: &[String]) {
        for comment in comments {
            let _ = writeln!(self.out, "# {comment}");
        }
    }

    fn stage(&mut self, stage: &Stage) {
        self.comments(&stage.comments);
        let mut arguments = stage.base.text.clone();
        if let Some(name) = &stage.name {
            let _ = write!(arguments, " {} {}", stage.as_keyword.as_deref().unwrap_or("AS"), name.text);
        }
        let flags = [flag("platform", stage.platform.as_ref())];
        self.line(&self.join(&stage.keyword, &flags.concat(), &arguments, Quoting::WhereNeeded));
    }

    fn instruction(&mut self, instruction: &Instruction) {
        self.comments(&instruction.comments);
        if let InstructionKind::Onbuild { trigger, .. } = &instruction.kind {
            let text = format!("{} {trigger}", instruction.keyword);
            // A trigger with heredocs brings their bodies along.
            return if trigger.contains('\n') { self.out.push_str(&(text + "\n")) } else { self.line(&text) };
        }
        let (flags, arguments) = parts(&instruction.kind);
        let bodies = bodies(&instruction.kind);
        let json = arguments.starts_with('[') && bodies.is_empty();
        let styles = [Quoting::WhereNeeded, Quoting::Always].map(|quoting| self.join(&instruction.keyword, &flags, &arguments, quoting));
        let wanted: Vec<&str> = bodies.iter().map(|heredoc| heredoc.name.as_str()).collect();
        let line = styles.iter().find(|line| names(line) == wanted).unwrap_or(&styles[0]);
        self.line(line);
        let takes_heredocs = matches!(instruction.kind, InstructionKind::Run(_) | InstructionKind::Copy(_) | InstructionKind::Add(_));
        if takes_heredocs && !json {
            self.bodies(line, &bodies);
        }
    }

    /// A body for every heredoc that a reader will see in `line`; those that no source uses are empty.
    fn bodies(&mut self, line: &str, bodies: &[&Heredoc]) {
        for (index, name) in names(line).into_iter().enumerate() {
            let in_place = bodies.get(index).filter(|heredoc| heredoc.name == name);
            let body = in_place.or_else(|| bodies.iter().rev().find(|heredoc| heredoc.name == name));
            self.out.push_str(body.map_or("", |heredoc| &heredoc.body));
            let _ = writeln!(self.out, "{name}");
        }
    }

    fn join(&self, keyword: &str, flags: &[(&'static str, String)], arguments: &str, quoting: Quoting) -> String {
        let mut line = keyword.to_owned();
        for (name, value) in flags {
            let _ = write!(line, " --{name}={}", self.quote(value, quoting));
        }
        if arguments.starts_with("--") {
            line.push_str(" --");
        }
        if !arguments.is_empty() {
            let _ = write!(line, " {arguments}");
        }
        line
    }

    fn quote(&self, value: &str, quoting: Quoting) -> String {
        let special = |ch: char| ch.is_whitespace() || ch == '\'' || ch == '"' || ch == self.escape;
        if quoting == Quoting::WhereNeeded && !value.contains(special) {
            return value.to_owned();
        }
        let mut out = String::from("'");
        for ch in value.chars() {
            match ch {
                '\'' => out.push_str("'\"'\"'"),
                _ if ch == self.escape => out.extend([ch, ch]),
                _ => out.push(ch),
            }
        }
        out + "'"
    }

    /// Writes a line, in pieces when it is too long to be read back.
    fn line(&mut self, line: &str) {
        let mut rest = line;
        while let Some(at) = self.break_point(rest) {
            self.out.push_str(&rest[..at]);
            self.out.extend([self.escape, '\n']);
            rest = &rest[at..];
        }
        self.out.push_str(rest);
        // A lone escape at the end can only have come from the last line of a file, where a continuation follows it.
        if split_continuation(line, self.escape).1 {
            self.out.push_str(if line.ends_with([' ', '\t']) { "" } else { " " });
            self.out.push(self.escape);
        }
        self.out.push('\n');
    }

    /// Where to break: not behind an escape, and so that the rest is neither blank nor a comment.
    fn break_point(&self, line: &str) -> Option<usize> {
        if line.len() <= MAX_LINE {
            return None;
        }
        (1..MAX_LINE).rev().find(|at| {
            line.is_char_boundary(*at) && !line[..*at].ends_with(self.escape) && {
                let rest = line[*at..].trim_start();
                !rest.is_empty() && !rest.starts_with('#')
            }
        })
    }
}

fn names(line: &str) -> Vec<String> {
    heredocs_of_line(line).unwrap_or_default().into_iter().map(|heredoc| heredoc.name).collect()
}

fn flag(name: &'static str, value: Option<&Word>) -> Vec<(&'static str, String)> {
    value.map(|word| (name, word.text.clone())).into_iter().collect()
}

fn flag_list(name: &'static str, values: &[Word]) -> Vec<(&'static str, String)> {
    values.iter().map(|word| (name, word.text.clone())).collect()
}

fn flag_bool(name: &'static str, value: Option<bool>) -> Vec<(&'static str, String)> {
    value.map(|value| (name, value.to_string())).into_iter().collect()
}

/// The heredocs whose bodies follow the line.
fn bodies(kind: &InstructionKind) -> Vec<&Heredoc> {
    let sources = match kind {
        InstructionKind::Run(run) => return run.heredocs.iter().collect(),
        InstructionKind::Copy(copy) => &copy.transfer.sources,
        InstructionKind::Add(add) => &add.transfer.sources,
        _ => return Vec::new(),
    };
    let heredocs = sources.iter().filter_map(|source| if let Source::Heredoc(heredoc) = source { Some(heredoc) } else { None });
    let heredocs: Vec<&Heredoc> = heredocs.collect();
    if heredocs.iter().all(|heredoc| heredoc.body.is_empty()) && must_be_json(&transfer_texts(kind)) { Vec::new() } else { heredocs }
}

fn transfer_texts(kind: &InstructionKind) -> Vec<String> {
    let transfer = match kind {
        InstructionKind::Copy(copy) => &copy.transfer,
        InstructionKind::Add(add) => &add.transfer,
        _ => return Vec::new(),
    };
    let sources = transfer.sources.iter().map(|source| match source {
        Source::Path(word) => word.text.clone(),
        Source::Heredoc(heredoc) => heredoc_word(heredoc),
    });
    sources.chain([transfer.destination.text.clone()]).collect()
}

/// Flags and arguments of an instruction.
fn parts(kind: &InstructionKind) -> (Vec<(&'static str, String)>, String) {
    let mut flags = Vec::new();
    let arguments = match kind {
        InstructionKind::Add(add) => {
            flags.extend(transfer_flags(&add.transfer));
            flags.extend(flag("checksum", add.checksum.as_ref()));
            flags.extend(flag_bool("keep-git-dir", add.keep_git_dir));
            flags.extend(flag_bool("unpack", add.unpack));
            transfer_arguments(kind)
        }
        InstructionKind::Copy(copy) => {
            flags.extend(flag("from", copy.from.as_ref()));
            flags.extend(transfer_flags(&copy.transfer));
            flags.extend(flag_bool("parents", copy.parents.then_some(true)));
            transfer_arguments(kind)
        }
        InstructionKind::Arg(definitions) => {
            let word = |definition: &ArgDefinition| match &definition.default {
                Some(default) => format!("{}={}", definition.name.text, default.text),
                None => definition.name.text.clone(),
            };
            definitions.iter().map(word).collect::<Vec<_>>().join(" ")
        }
        InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => command_text(command),
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => pairs_text(pairs),
        InstructionKind::Expose(words) => ports(words),
        InstructionKind::Healthcheck(healthcheck) => healthcheck_parts(healthcheck, &mut flags),
        InstructionKind::Maintainer(word)
        | InstructionKind::Stopsignal(word)
        | InstructionKind::User(word)
        | InstructionKind::Workdir(word) => word.text.clone(),
        InstructionKind::Onbuild { trigger, .. } => trigger.clone(),
        InstructionKind::Run(run) => {
            flags.extend(flag_list("mount", &run.mounts));
            flags.extend(flag("network", run.network.as_ref()));
            flags.extend(flag("security", run.security.as_ref()));
            flags.extend(flag_list("device", &run.devices));
            command_text(&run.command)
        }
        InstructionKind::Shell(words) => json(words),
        InstructionKind::Volume(words) => list(words.iter().map(|word| word.text.clone()).collect()),
    };
    (flags, arguments)
}

fn transfer_flags(transfer: &Transfer) -> Vec<(&'static str, String)> {
    let mut flags = flag("chown", transfer.chown.as_ref());
    flags.extend(flag("chmod", transfer.chmod.as_ref()));
    flags.extend(flag_bool("link", transfer.link.then_some(true)));
    flags.extend(flag_list("exclude", &transfer.excludes));
    flags
}

fn transfer_arguments(kind: &InstructionKind) -> String {
    let texts = transfer_texts(kind);
    if bodies(kind).iter().any(|heredoc| !heredoc.body.is_empty()) { texts.join(" ") } else { list(texts) }
}

fn healthcheck_parts(healthcheck: &Healthcheck, flags: &mut Vec<(&'static str, String)>) -> String {
    let Healthcheck::Command { command, interval_ns, timeout_ns, start_period_ns, start_interval_ns, retries } = healthcheck else {
        return "NONE".to_owned();
    };
    let durations =
        [("interval", interval_ns), ("timeout", timeout_ns), ("start-period", start_period_ns), ("start-interval", start_interval_ns)];
    flags.extend(durations.into_iter().filter(|(_, ns)| **ns != 0).map(|(name, ns)| (name, format_go(*ns))));
    flags.extend((*retries != 0).then(|| ("retries", retries.to_string())));
    format!("CMD {}", command_text(command))
}

fn pairs_text(pairs: &KeyValues) -> String {
    let text = |(key, value): &(Word, Word)| {
        // A blank that the key's last character escapes does not end the key's word: a second one does.
        let separator = match (pairs.legacy, key.text.ends_with(['\\', '`'])) {
            (false, _) => "=",
            (true, false) => " ",
            (true, true) => "  ",
        };
        format!("{}{separator}{}", key.text, value.text)
    };
    pairs.pairs.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// In an order whose ends survive trimming: blanks of other scripts do not part words, but go from the ends of a line.
/// Which order it is does not matter, since ports are sorted when read.
fn ports(words: &[Word]) -> String {
    let mut texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    if let Some(first) = texts.iter().position(|text| !text.starts_with(char::is_whitespace)) {
        texts.swap(0, first);
    }
    let Some(end) = texts.len().checked_sub(1) else { return String::new() };
    if let Some(last) = texts.iter().skip(1).position(|text| !text.ends_with(char::is_whitespace)) {
        texts.swap(end, last + 1);
    }
    texts.join(" ")
}

fn command_text(command: &CommandLine) -> String {
    match command {
        CommandLine::Exec(words) => json(words),
        CommandLine::Shell(text) => text.clone(),
    }
}

fn json(words: &[String]) -> String {
    serde_json::Value::from(words).to_string()
}

/// Words between blanks, or JSON where that would read otherwise.
fn list(words: Vec<String>) -> String {
    if must_be_json(&words) { json(&words) } else { words.join(" ") }
}

fn must_be_json(words: &[String]) -> bool {
    let unsafe_word =
        |word: &String| word.is_empty() || word.contains(|ch: char| ch.is_whitespace() || matches!(ch, '\'' | '"' | '\\' | '`' | '$'));
    words.iter().any(unsafe_word) || words.first().is_some_and(|word| word.starts_with(['[', '-']))
}

/// `3<<-'NAME'`.
fn heredoc_word(heredoc: &Heredoc) -> String {
    let descriptor = heredoc.file_descriptor.map(|number| number.to_string()).unwrap_or_default();
    let dash = if heredoc.strip_tabs { "-" } else { "" };
    let plain = |ch: char| ch.is_alphanumeric() || matches!(ch, '_' | '-' | '.' | '/' | ':' | '+' | '=' | ',' | '@' | '%');
    let mut name = String::new();
    for ch in heredoc.name.chars() {
        match ch {
            _ if plain(ch) => name.push(ch),
            _ if heredoc.expand => name.extend(['\\', ch]),
            '\'' => name.push_str("\"'\""),
            _ => name.extend(['\'', ch, '\'']),
        }
    }
    let quotes = if !heredoc.expand && !name.contains(['\'', '"']) { format!("'{name}'") } else { name };
    format!("{descriptor}<<{dash}{quotes}")
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::super::spans::forget_layout;

    #[test]
    fn reads_back_as_the_same_tree() {
        for text in [
            "# syntax=x\n# escape=`\n\n# escape=no\nfrom a As B\nrun x `\n y",
            "#!/bin/x\n# check=skip=all\nFROM --platform=\"a b\" x",
            "ARG a b=\"c d\" e=\nFROM a\nENV a b  c\nENV a=b\\ c d='e f'\nLABEL \"a b\"=c",
            "FROM a\nCOPY [\"a b\", \"c\"]\nCOPY a b\nCOPY --from=x --chown=1:2 --exclude='a b' --exclude=\"it's\" --parents --link a <<E <<-'F' /d/\n\tx\nE\n\ty\n\tF\n",
            "FROM a\nCOPY <<'one two' /x\nbody\none two\nCOPY [\"<<E\", \"/x\"]\nCOPY <<eo\\'f /x\neo'f\n",
            "FROM a\nRUN --mount=type=cache,target=/x --network=none <<A cat <<\"B\"\n1\nA\n2\nB\nRUN -- --x\nRUN [\"a\"]\nRUN\nCMD []\nENTRYPOINT [x",
            "FROM a\nHEALTHCHECK --interval=1m30s --retries=3 CMD [\"a\"]\nHEALTHCHECK NONE\nHEALTHCHECK --timeout=100ms CMD a b",
            "FROM a\nONBUILD RUN <<E\nx\nE\nONBUILD -- RUN x\nONBUILD NONSENSE\nONBUILD COPY a b",
            "FROM a\nEXPOSE 80 443/udp\nVOLUME /a /b\nVOLUME [\"/a b\"]\nSHELL [\"a\", \"-c\"]\nSTOPSIGNAL 9\nUSER a\nWORKDIR /a b\nMAINTAINER m e",
            "FROM a\nADD --checksum=x --keep-git-dir=false --unpack https://a.git /b\nRUN x \\\\\nRUN y\\ \\",
            "FROM a\n# one\n\n  # two\nRUN x\nRUN --mount=target='${' cat <<E\nE\nRUN --mount=target=${ cat <<E\n",
        ] {
            let tree = forget_layout(parse(text).unwrap_or_else(|error| panic!("{text}: {error}")));
            let printed = super::print(&tree);
            let again = parse(&printed).unwrap_or_else(|error| panic!("{printed}: {error}"));
            assert_eq!(forget_layout(again), tree, "{printed}");
        }
    }

    #[test]
    fn long_lines_are_continued() {
        let long = format!("FROM a\nRUN {}\n", "# x \\\n".to_owned() + &"echo \\\n  # not a comment\n abc#d \\\n".repeat(9000) + "end");
        let tree = forget_layout(parse(&long).unwrap());
        assert_eq!(forget_layout(parse(&super::print(&tree)).unwrap()), tree);
    }
}
