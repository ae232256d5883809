//! The typed tree of a Dockerfile: what each instruction says, word for word, with where it says it.
//! Unaware of how text becomes a tree, of variables' values and of what instructions do.

use serde::Serialize;

/// A range of bytes in the Dockerfile's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// Text as written (quotes, escapes and variables untouched) and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Word {
    /// The text before expansion.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dockerfile {
    /// `# syntax=`, `# escape=` and `# check=`.
    pub directives: Directives,
    /// ARG instructions before the first FROM.
    pub global_args: Vec<Instruction>,
    /// In the order of the file; never empty.
    pub stages: Vec<Stage>,
    /// What the parser noticed and let pass: the first empty line within each continued instruction, 1-based.
    pub empty_continuation_lines: Vec<usize>,
}

/// Parser directives at the top of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Directives {
    /// Frontend reference; recognised, never fetched.
    pub syntax: Option<Word>,
    /// `\` (default) or a backtick.
    pub escape: Option<char>,
    /// The text after `check=`.
    pub check: Option<Word>,
}

/// One FROM and what follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// Name after AS as written (compare without case).
    pub name: Option<Word>,
    /// Value of --platform before expansion.
    pub platform: Option<Word>,
    /// Image or stage before expansion.
    pub base: Word,
    /// Everything after the FROM line.
    pub instructions: Vec<Instruction>,
    /// The FROM line.
    pub span: Span,
    /// Comment lines directly above, without `#`.
    pub comments: Vec<String>,
    /// The keyword FROM as written (lint of casing).
    pub keyword: String,
    /// The keyword AS as written.
    pub as_keyword: Option<String>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instruction {
    /// What it says.
    pub kind: InstructionKind,
    /// All its lines, heredoc bodies included.
    pub span: Span,
    /// The keyword as written.
    pub keyword: String,
    /// The joined logical line as written, keyword included, heredoc bodies excluded.
    pub original: String,
    /// Comment lines directly above, without `#`.
    pub comments: Vec<String>,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub enum InstructionKind {
    Add(AddInstruction),
    Arg(Vec<ArgDefinition>),
    Cmd(CommandLine),
    Copy(CopyInstruction),
    Entrypoint(CommandLine),
    Env(KeyValues),
    /// Sorted, as they count.
    Expose(Vec<Word>),
    Healthcheck(Healthcheck),
    Label(KeyValues),
    Maintainer(Word),
    /// The trigger's text as stored in the config (heredoc bodies included), and its tree.
    /// None when the text is no instruction: only the build that it fires in complains.
    Onbuild {
        trigger: String,
        instruction: Option<Box<Instruction>>,
    },
    Run(RunInstruction),
    Shell(Vec<String>),
    Stopsignal(Word),
    User(Word),
    Volume(Vec<Word>),
    Workdir(Word),
}

/// `KEY=VALUE ...` of ENV and LABEL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyValues {
    /// Keys and values before expansion.
    pub pairs: Vec<(Word, Word)>,
    /// Written as `KEY rest of line`.
    pub legacy: bool,
}

/// One name of an ARG instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArgDefinition {
    /// Never expanded.
    pub name: Word,
    /// Before expansion; None for a bare `ARG NAME`.
    pub default: Option<Word>,
}

/// Exec form or shell form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub enum CommandLine {
    /// JSON array.
    Exec(Vec<String>),
    /// Rest of the line verbatim.
    Shell(String),
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Heredoc {
    /// Delimiter without quotes; also the file name in COPY.
    pub name: String,
    /// File descriptor before `<<`; None when not given.
    pub file_descriptor: Option<u32>,
    /// As in the file: TABs not stripped, each line with its newline.
    pub body: String,
    /// False when the delimiter was quoted.
    pub expand: bool,
    /// `<<-`.
    pub strip_tabs: bool,
    /// The body's bytes in the file.
    pub span: Span,
}

impl Heredoc {
    /// The body as a reader sees it: leading TABs removed when `<<-` asks for it.
    pub fn content(&self) -> String {
        if !self.strip_tabs {
            return self.body.clone();
        }
        self.body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunInstruction {
    /// The command; in shell form the first line's text, heredoc words included.
    pub command: CommandLine,
    /// In order of appearance.
    pub heredocs: Vec<Heredoc>,
    /// `--mount` values before expansion; see `dockerfile::mount`.
    pub mounts: Vec<Word>,
    /// `--network`.
    pub network: Option<Word>,
    /// `--security`.
    pub security: Option<Word>,
    /// `--device`.
    pub devices: Vec<Word>,
}

/// A source of COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub enum Source {
    Path(Word),
    Heredoc(Heredoc),
}

/// What COPY and ADD share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// In order; at least one.
    pub sources: Vec<Source>,
    /// Before expansion.
    pub destination: Word,
    /// `--chown`.
    pub chown: Option<Word>,
    /// `--chmod`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--exclude`, repeated.
    pub excludes: Vec<Word>,
}

/// COPY.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyInstruction {
    /// Sources, destination and common flags.
    pub transfer: Transfer,
    /// `--from`: never expanded.
    pub from: Option<Word>,
    /// `--parents`.
    pub parents: bool,
}

/// ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddInstruction {
    /// Sources, destination and common flags.
    pub transfer: Transfer,
    /// `--checksum` before expansion.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`; None when not given.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`; None when not given (local archives are unpacked, URLs are not).
    pub unpack: Option<bool>,
}

/// HEALTHCHECK. Durations in nanoseconds, 0 when not given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub enum Healthcheck {
    None,
    Command { command: CommandLine, interval_ns: i64, timeout_ns: i64, start_period_ns: i64, start_interval_ns: i64, retries: i64 },
}
