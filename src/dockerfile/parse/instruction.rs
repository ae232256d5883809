//! Nodes -> typed instructions: argument counts, flags, and what each instruction refuses.
//! Unaware of lines and of stages.

use super::super::device::parse_device;
use super::super::diagnostic::Diagnostic;
use super::super::duration;
use super::super::mount::check_mount;
use super::super::quote::go_quote;
use super::super::suggest::nearest_any_case;
use super::super::tree::*;
use super::flags::{FlagKind, Flags};
use super::heredoc;
use super::node::{Arguments, Node};

/// Every instruction of the language.
pub(super) const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// What a node turned out to be.
#[derive(Debug)]
pub(super) enum Item {
    From(Stage),
    Instruction(Instruction),
}

/// Types a node.
pub(super) fn typed(node: Node) -> Result<Item, Diagnostic> {
    let reader = NodeReader { node: &node };
    let kind = match node.keyword.text.to_lowercase().as_str() {
        "add" => reader.add()?,
        "arg" => reader.arg()?,
        "cmd" => InstructionKind::Cmd(reader.command(&[])?.1),
        "copy" => reader.copy()?,
        "entrypoint" => InstructionKind::Entrypoint(reader.command(&[])?.1),
        "env" => InstructionKind::Env(reader.pairs("ENV")?),
        "expose" => reader.expose()?,
        "from" => return Ok(Item::From(reader.from()?)),
        "healthcheck" => reader.healthcheck()?,
        "label" => InstructionKind::Label(reader.pairs("LABEL")?),
        "maintainer" => InstructionKind::Maintainer(reader.one("MAINTAINER")?),
        "onbuild" => reader.onbuild()?,
        "run" => reader.run()?,
        "shell" => reader.shell()?,
        "stopsignal" => InstructionKind::Stopsignal(reader.one_without_flags("STOPSIGNAL")?),
        "user" => InstructionKind::User(reader.one("USER")?),
        "volume" => reader.volume()?,
        "workdir" => InstructionKind::Workdir(reader.one("WORKDIR")?),
        _ => return Err(unknown_instruction(&node.keyword)),
    };
    let original = node.original.trim().to_owned();
    Ok(Item::Instruction(Instruction { kind, span: node.span, keyword: node.keyword.text, original, comments: node.comments }))
}

fn unknown_instruction(keyword: &Word) -> Diagnostic {
    let error = Diagnostic::at(keyword.span, format!("unknown instruction: {}", keyword.text));
    match nearest_any_case(&keyword.text, NAMES) {
        Some(name) => error.with_hint(format!("did you mean {name}?")),
        None => error,
    }
}

struct NodeReader<'a> {
    node: &'a Node,
}

impl NodeReader<'_> {
    fn error(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::at(self.node.line_span, message)
    }

    fn at_least_one(&self, name: &str) -> Diagnostic {
        self.error(format!("{name} requires at least one argument"))
    }

    fn flags(&self, known: &[(&'static str, FlagKind)]) -> Result<Flags, Diagnostic> {
        Flags::parse(&self.node.flags, known)
    }

    /// Arguments as a list, JSON or not.
    fn list(&self) -> &[Word] {
        match &self.node.arguments {
            Arguments::Json(words) | Arguments::Words(words) => words,
            _ => &[],
        }
    }

    fn one_without_flags(&self, name: &str) -> Result<Word, Diagnostic> {
        match &self.node.arguments {
            Arguments::Text(word) => Ok(word.clone()),
            _ => Err(self.error(format!("{name} requires exactly one argument"))),
        }
    }

    fn one(&self, name: &str) -> Result<Word, Diagnostic> {
        let word = self.one_without_flags(name)?;
        self.flags(&[])?;
        Ok(word)
    }

    fn pairs(&self, name: &str) -> Result<KeyValues, Diagnostic> {
        self.flags(&[])?;
        let Arguments::Pairs { pairs, legacy } = &self.node.arguments else {
            return Err(self.at_least_one(name));
        };
        if let Some((key, value)) = pairs.iter().find(|(key, _)| key.text.is_empty()) {
            let span = Span { start: key.span.start, end: value.span.end };
            return Err(Diagnostic::at(span, format!("{name} names can not be blank")));
        }
        Ok(KeyValues { pairs: pairs.clone(), legacy: *legacy })
    }

    fn arg(&self) -> Result<InstructionKind, Diagnostic> {
        if self.list().is_empty() {
            return Err(self.at_least_one("ARG"));
        }
        let definitions = self.list().iter().map(|word| {
            let Some((name, default)) = word.text.split_once('=') else {
                return Ok(ArgDefinition { name: word.clone(), default: None });
            };
            if name.is_empty() {
                return Err(Diagnostic::at(word.span, "ARG names can not be blank"));
            }
            let split = (word.span.start + name.len()).min(word.span.end);
            let default_start = (split + 1).min(word.span.end);
            Ok(ArgDefinition {
                name: Word { text: name.to_owned(), span: Span { start: word.span.start, end: split } },
                default: Some(Word { text: default.to_owned(), span: Span { start: default_start, end: word.span.end } }),
            })
        });
        Ok(InstructionKind::Arg(definitions.collect::<Result<_, _>>()?))
    }

    /// Flags and command of RUN, CMD and ENTRYPOINT. Nothing at all is the empty shell command.
    fn command(&self, known: &[(&'static str, FlagKind)]) -> Result<(Flags, CommandLine), Diagnostic> {
        Ok((self.flags(known)?, command_line(&self.node.arguments).unwrap_or_else(|| CommandLine::Shell(String::new()))))
    }

    fn run(&self) -> Result<InstructionKind, Diagnostic> {
        use FlagKind::{List, Text};
        let (flags, command) = self.command(&[("mount", List), ("network", Text), ("security", Text), ("device", List)])?;
        let run = RunInstruction {
            command,
            heredocs: self.node.heredocs.clone(),
            mounts: flags.list("mount"),
            network: flags.given("network").cloned(),
            security: flags.given("security").cloned(),
            devices: flags.list("device"),
        };
        for device in &run.devices {
            parse_device(&device.text).map_err(|error| Diagnostic::at(device.span, error))?;
        }
        for mount in &run.mounts {
            check_mount(&mount.text).map_err(|error| Diagnostic::at(mount.span, error))?;
        }
        if let Some(network) = run.network.as_ref().filter(|word| !["default", "none", "host"].contains(&word.text.as_str())) {
            return Err(Diagnostic::at(network.span, format!("invalid network mode {}", go_quote(&network.text))));
        }
        if let Some(security) = run.security.as_ref().filter(|word| !["sandbox", "insecure"].contains(&word.text.as_str())) {
            return Err(Diagnostic::at(security.span, format!("security {} is not valid", go_quote(&security.text))));
        }
        Ok(InstructionKind::Run(run))
    }

    fn copy(&self) -> Result<InstructionKind, Diagnostic> {
        use FlagKind::{Bool, List, Text};
        self.check_destination("COPY")?;
        let flags =
            self.flags(&[("chown", Text), ("from", Text), ("chmod", Text), ("link", Bool), ("exclude", List), ("parents", Bool)])?;
        let transfer = self.transfer("COPY", &flags)?;
        Ok(InstructionKind::Copy(CopyInstruction { transfer, from: flags.text("from"), parents: flags.bool("parents").unwrap_or(false) }))
    }

    fn add(&self) -> Result<InstructionKind, Diagnostic> {
        use FlagKind::{Bool, List, Text};
        self.check_destination("ADD")?;
        let flags = self.flags(&[
            ("chown", Text),
            ("chmod", Text),
            ("link", Bool),
            ("keep-git-dir", Bool),
            ("checksum", Text),
            ("unpack", Bool),
            ("exclude", List),
        ])?;
        let transfer = self.transfer("ADD", &flags)?;
        let (keep_git_dir, unpack) = (flags.bool("keep-git-dir"), flags.bool("unpack"));
        Ok(InstructionKind::Add(AddInstruction { transfer, checksum: flags.text("checksum"), keep_git_dir, unpack }))
    }

    fn check_destination(&self, name: &str) -> Result<(), Diagnostic> {
        if self.list().len() >= 2 {
            return Ok(());
        }
        Err(self.error(format!("{name} requires at least two arguments, but only one was provided. Destination could not be determined")))
    }

    fn transfer(&self, name: &str, flags: &Flags) -> Result<Transfer, Diagnostic> {
        let Some((destination, sources)) = self.list().split_last() else {
            return Err(self.at_least_one(name));
        };
        if is_heredoc(destination) {
            return Err(Diagnostic::at(destination.span, format!("{name} cannot accept a heredoc as a destination")));
        }
        Ok(Transfer {
            sources: sources.iter().map(|word| self.source(word)).collect(),
            destination: destination.clone(),
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.bool("link").unwrap_or(false),
            excludes: flags.list("exclude"),
        })
    }

    fn source(&self, word: &Word) -> Source {
        let Ok(Some(heredoc)) = heredoc::parse_word(&word.text) else {
            return Source::Path(word.clone());
        };
        // The last body of a name counts; a heredoc that the line's quotes hide from the line reader has none.
        let body = self.node.heredocs.iter().rev().find(|body| body.name == heredoc.name);
        Source::Heredoc(Heredoc {
            name: heredoc.name,
            file_descriptor: heredoc.file_descriptor,
            body: body.map(|body| body.body.clone()).unwrap_or_default(),
            expand: heredoc.expand,
            strip_tabs: heredoc.strip_tabs,
            span: body.map_or(word.span, |body| body.span),
        })
    }

    fn expose(&self) -> Result<InstructionKind, Diagnostic> {
        if self.list().is_empty() {
            return Err(self.at_least_one("EXPOSE"));
        }
        self.flags(&[])?;
        // The words count in sorted order, also in the image's history.
        let mut words = self.list().to_vec();
        words.sort_by(|left, right| left.text.cmp(&right.text));
        Ok(InstructionKind::Expose(words))
    }

    fn volume(&self) -> Result<InstructionKind, Diagnostic> {
        if self.list().is_empty() {
            return Err(self.at_least_one("VOLUME"));
        }
        self.flags(&[])?;
        let volumes = self.list().iter().map(|word| match word.text.trim() {
            "" => Err(Diagnostic::at(word.span, "VOLUME specified can not be an empty string")),
            text => Ok(Word { text: text.to_owned(), span: word.span }),
        });
        Ok(InstructionKind::Volume(volumes.collect::<Result<_, _>>()?))
    }

    fn shell(&self) -> Result<InstructionKind, Diagnostic> {
        self.flags(&[])?;
        match &self.node.arguments {
            Arguments::Json(words) if !words.is_empty() => Ok(InstructionKind::Shell(texts(words))),
            Arguments::Text(word) => Err(Diagnostic::at(word.span, "SHELL requires the arguments to be in JSON form")
                .with_hint("write SHELL [\"executable\", \"parameter\"]")),
            _ => Err(self.at_least_one("SHELL")),
        }
    }

    fn healthcheck(&self) -> Result<InstructionKind, Diagnostic> {
        use FlagKind::Text;
        let Arguments::Health(kind, arguments) = &self.node.arguments else {
            return Err(self.at_least_one("HEALTHCHECK"));
        };
        let kind_name = kind.text.to_uppercase();
        let command = command_line(arguments).filter(|command| *command != CommandLine::Exec(Vec::new()));
        if kind_name == "NONE" {
            return match command {
                None => Ok(InstructionKind::Healthcheck(Healthcheck::None)),
                Some(_) => Err(self.error("HEALTHCHECK NONE takes no arguments")),
            };
        }
        let flags =
            self.flags(&[("interval", Text), ("timeout", Text), ("start-period", Text), ("start-interval", Text), ("retries", Text)])?;
        if kind_name != "CMD" {
            return Err(Diagnostic::at(kind.span, format!("Unknown type {} in HEALTHCHECK (try CMD)", go_quote(&kind_name))));
        }
        Ok(InstructionKind::Healthcheck(Healthcheck::Command {
            command: command.ok_or_else(|| self.error("Missing command after HEALTHCHECK CMD"))?,
            interval_ns: interval(&flags, "interval")?,
            timeout_ns: interval(&flags, "timeout")?,
            start_period_ns: interval(&flags, "start-period")?,
            start_interval_ns: interval(&flags, "start-interval")?,
            retries: retries(&flags)?,
        }))
    }

    fn from(&self) -> Result<Stage, Diagnostic> {
        let (name, as_keyword) = match self.list() {
            [_] => (None, None),
            [_, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => (Some(checked_stage_name(name)?), Some(keyword.text.clone())),
            _ => return Err(self.error("FROM requires either one or three arguments")),
        };
        let flags = self.flags(&[("platform", FlagKind::Text)])?;
        Ok(Stage {
            name,
            platform: flags.text("platform"),
            base: self.list()[0].clone(),
            instructions: Vec::new(),
            span: self.node.span,
            comments: self.node.comments.clone(),
            keyword: self.node.keyword.text.clone(),
            as_keyword,
        })
    }

    fn onbuild(&self) -> Result<InstructionKind, Diagnostic> {
        let Arguments::Instruction(inner) = &self.node.arguments else {
            return Err(self.at_least_one("ONBUILD"));
        };
        self.flags(&[])?;
        match inner.keyword.text.to_uppercase().as_str() {
            "ONBUILD" => return Err(Diagnostic::at(inner.keyword.span, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
            name @ ("MAINTAINER" | "FROM") => {
                return Err(Diagnostic::at(inner.keyword.span, format!("{name} isn't allowed as an ONBUILD trigger")));
            }
            _ => {}
        }
        let trigger = self.trigger();
        // Only the build that the trigger fires in complains about what it says.
        let instruction = super::parse_trigger(&trigger).ok().map(|mut instruction| {
            super::super::spans::place_all(&mut instruction, self.node.span);
            Box::new(instruction)
        });
        Ok(InstructionKind::Onbuild { trigger, instruction })
    }

    /// The text that goes into the image's config.
    fn trigger(&self) -> String {
        const SPACE: [char; 5] = ['\t', '\n', '\u{c}', '\r', ' '];
        let rest = &self.node.original.trim_start()[self.node.keyword.text.len()..];
        let mut trigger = rest.trim_start_matches(SPACE).to_owned();
        for heredoc in &self.node.heredocs {
            trigger.extend(["\n", &heredoc.body, &heredoc.name]);
        }
        trigger
    }
}

fn texts(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| word.text.clone()).collect()
}

fn command_line(arguments: &Arguments) -> Option<CommandLine> {
    match arguments {
        Arguments::Json(words) => Some(CommandLine::Exec(texts(words))),
        Arguments::Text(word) => Some(CommandLine::Shell(word.text.clone())),
        _ => None,
    }
}

fn is_heredoc(word: &Word) -> bool {
    matches!(heredoc::parse_word(&word.text), Ok(Some(_)))
}

fn checked_stage_name(name: &Word) -> Result<Word, Diagnostic> {
    let lower = name.text.to_lowercase();
    let valid = |ch: char| matches!(ch, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
    if lower.starts_with(|ch: char| ch.is_ascii_lowercase()) && lower.chars().all(valid) {
        return Ok(name.clone());
    }
    let quoted = go_quote(&name.text);
    Err(Diagnostic::at(name.span, format!("invalid name for build stage: {quoted}, name can't start with a number or contain symbols")))
}

fn interval(flags: &Flags, name: &str) -> Result<i64, Diagnostic> {
    let Some(word) = flags.text(name) else { return Ok(0) };
    let ns = duration::parse_go(&word.text).map_err(|error| Diagnostic::at(word.span, error))?;
    if ns != 0 && ns < 1_000_000 {
        return Err(Diagnostic::at(word.span, format!("Interval {} cannot be less than 1ms", go_quote(name))));
    }
    Ok(ns)
}

fn retries(flags: &Flags) -> Result<i64, Diagnostic> {
    let Some(word) = flags.text("retries") else { return Ok(0) };
    let reason = match word.text.parse::<i32>() {
        Ok(retries) if retries >= 0 => return Ok(i64::from(retries)),
        Ok(retries) => return Err(Diagnostic::at(word.span, format!("--retries cannot be negative ({retries})"))),
        Err(error) if matches!(error.kind(), std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow) => {
            "value out of range"
        }
        Err(_) => "invalid syntax",
    };
    Err(Diagnostic::at(word.span, format!("strconv.ParseInt: parsing {}: {reason}", go_quote(&word.text))))
}
