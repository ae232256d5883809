//! COPY, ADD and WORKDIR.

use crate::{
    dockerfile::{
        Diagnostic, Environment, Span, Word,
        chmod::Chmod,
        expand, git_reference,
        redact::redact_url,
        tree::{AddInstruction, CopyInstruction, Source, Transfer},
    },
    plan::{
        CopyOp, CopySource, Input, Op, SourceFrom, WorkdirOp, environment,
        stages::{Command, Node, NodeId},
    },
};

use super::{
    Lowerer,
    state::{StageState, clean_path, join_path, normalize_workdir},
};

/// Sources, destination and flags after expansion.
struct Expanded {
    paths: Vec<String>,
    inline: Vec<(String, String)>,
    destination: String,
    chown: String,
    chmod: String,
}

impl Lowerer<'_> {
    pub(super) fn lower_copy(
        &mut self,
        id: NodeId,
        node: &Node,
        state: &mut StageState,
        command: &Command,
        copy: &CopyInstruction,
    ) -> Result<(), Diagnostic> {
        let span = command.instruction.span;
        let escape = self.stages.escape;
        let expanded = expand_transfer(&copy.transfer, escape, &state.environment)?;
        check_chmod(&expanded.chmod, flag_span(&copy.transfer.chmod, span))?;
        let input = match (&copy.from, command.sources.first().copied().flatten()) {
            // What a stage brings may take from the stage that it is brought into, as far as that has come.
            (Some(_), Some(source)) if source == id && command.is_trigger => Input::Vertex(state.root),
            (Some(from), Some(source)) => self.copy_input(id, node, source, from)?,
            _ => Input::Context(String::new()),
        };
        for path in &expanded.paths {
            match remote_kind(path) {
                Remote::Git => {
                    return Err(Diagnostic::at(span, "source can't be a git ref for COPY").with_hint("ADD takes git repositories"));
                }
                Remote::Http => return Err(Diagnostic::at(span, "source can't be a URL for COPY").with_hint("ADD takes URLs")),
                Remote::No => {}
            }
        }
        let inline = inline_sources(&expanded).map_err(|message| Diagnostic::at(span, message))?;
        let paths =
            expanded.paths.iter().map(|path| CopySource { from: SourceFrom::Input(input.clone()), path: path.clone(), unpack: false });
        let sources = paths.chain(inline).collect();
        let op = self.copy_op(state, &expanded, &copy.transfer, sources, false, copy.parents);
        let text = history_text("COPY", copy.parents, &expanded);
        let vertex = self.step(node, state, command, op);
        state.add_history(text, Some(vertex));
        Ok(())
    }

    fn copy_input(&self, id: NodeId, node: &Node, source: NodeId, from: &Word) -> Result<Input, Diagnostic> {
        let ready = if source == id { None } else { self.input_of(source) };
        ready.ok_or_else(|| {
            Diagnostic::at(
                from.span,
                format!("cannot copy from stage \"{}\", it needs to be defined before current stage \"{}\"", from.text, node.stage_name),
            )
        })
    }

    pub(super) fn lower_add(
        &mut self,
        node: &Node,
        state: &mut StageState,
        command: &Command,
        add: &AddInstruction,
    ) -> Result<(), Diagnostic> {
        let span = command.instruction.span;
        let escape = self.stages.escape;
        let expanded = expand_transfer(&add.transfer, escape, &state.environment)?;
        check_chmod(&expanded.chmod, flag_span(&add.transfer.chmod, span))?;
        let checksum = optional(&add.checksum, escape, &state.environment)?;
        if !checksum.is_empty() {
            check_checksum_use(&expanded.paths).map_err(|message| Diagnostic::at(flag_span(&add.checksum, span), message))?;
        }
        let mut sources = Vec::new();
        for path in &expanded.paths {
            sources.push(add_source(path, &checksum, add).map_err(|message| Diagnostic::at(span, message))?);
        }
        sources.extend(inline_sources(&expanded).map_err(|message| Diagnostic::at(span, message))?);
        let op = self.copy_op(state, &expanded, &add.transfer, sources, true, false);
        let text = history_text("ADD", false, &expanded);
        let vertex = self.step(node, state, command, op);
        state.add_history(text, Some(vertex));
        Ok(())
    }

    fn copy_op(
        &self,
        state: &StageState,
        expanded: &Expanded,
        transfer: &Transfer,
        sources: Vec<CopySource>,
        is_add: bool,
        parents: bool,
    ) -> Op {
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Op::Copy(Box::new(CopyOp {
            is_add,
            sources,
            destination: destination(state.cwd(), &expanded.destination),
            chown: some(&expanded.chown),
            chmod: some(&expanded.chmod),
            // BuildKit falls back to an ordinary copy when a mode is asked for.
            link: transfer.link && expanded.chmod.is_empty(),
            parents,
            excludes: transfer.excludes.iter().map(|word| word.text.clone()).collect(),
        }))
    }

    pub(super) fn lower_workdir(&mut self, node: &Node, state: &mut StageState, command: &Command, path: &Word) -> Result<(), Diagnostic> {
        let text = environment::word(path, self.stages.escape, &state.environment)?;
        let path = normalize_workdir(state.cwd(), &text);
        state.config.config.working_dir.clone_from(&path);
        let text = format!("WORKDIR {path}");
        if path == "/" {
            state.add_history(text, None);
            return Ok(());
        }
        let user = state.config.config.user.clone();
        let vertex = self.step(node, state, command, Op::Workdir(WorkdirOp { path, user }));
        state.add_history(text, Some(vertex));
        Ok(())
    }
}

fn expand_transfer(transfer: &Transfer, escape: char, environment: &Environment) -> Result<Expanded, Diagnostic> {
    let mut paths = Vec::new();
    let mut inline = Vec::new();
    for source in &transfer.sources {
        match source {
            Source::Path(word) => paths.push(environment::word(word, escape, environment)?),
            Source::Heredoc(heredoc) => {
                let content = heredoc.content();
                let content = match heredoc.expand {
                    true => expand::expand_heredoc(&content, environment).map_err(|message| Diagnostic::at(heredoc.span, message))?.text,
                    false => content,
                };
                inline.push((heredoc.name.clone(), content));
            }
        }
    }
    Ok(Expanded {
        paths,
        inline,
        destination: environment::word(&transfer.destination, escape, environment)?,
        chown: optional(&transfer.chown, escape, environment)?,
        chmod: optional(&transfer.chmod, escape, environment)?,
    })
}

fn optional(word: &Option<Word>, escape: char, environment: &Environment) -> Result<String, Diagnostic> {
    word.as_ref().map_or(Ok(String::new()), |word| environment::word(word, escape, environment))
}

fn flag_span(word: &Option<Word>, otherwise: Span) -> Span {
    word.as_ref().map_or(otherwise, |word| word.span)
}

fn check_chmod(text: &str, span: Span) -> Result<(), Diagnostic> {
    if text.is_empty() {
        return Ok(());
    }
    Chmod::parse(text).map(|_| ()).map_err(|message| Diagnostic::at(span, message))
}

fn check_checksum_use(paths: &[String]) -> Result<(), &'static str> {
    match paths {
        [path] if matches!(remote_kind(path), Remote::No) => Err("checksum requires HTTP(S) or Git sources"),
        [_] => Ok(()),
        _ => Err("checksum can't be specified for multiple sources"),
    }
}

/// A heredoc's name is a path in an empty root: it may climb to that root and no further, and there are no directories in it.
fn inline_sources(expanded: &Expanded) -> Result<Vec<CopySource>, String> {
    let source = |(name, content): &(String, String)| {
        let path = clean_path(&format!("/{name}"));
        let file = path.trim_start_matches('/').to_owned();
        if file.is_empty() || file.contains('/') {
            return Err(format!("open {path}: no such file or directory: the name of a heredoc is a file name"));
        }
        Ok(CopySource { from: SourceFrom::Inline { name: file.clone(), content: content.clone() }, path: file, unpack: false })
    };
    expanded.inline.iter().map(source).collect()
}

enum Remote {
    No,
    Http,
    Git,
}

fn remote_kind(path: &str) -> Remote {
    let is_git = match git_reference::parse(path) {
        Ok(found) => found.is_some_and(|reference| !reference.looks_local),
        Err(_) => true,
    };
    if is_git {
        Remote::Git
    } else if path.starts_with("http://") || path.starts_with("https://") {
        Remote::Http
    } else {
        Remote::No
    }
}

fn add_source(path: &str, checksum: &str, add: &AddInstruction) -> Result<CopySource, String> {
    let given = Some(checksum.to_owned()).filter(|text| !text.is_empty());
    Ok(match remote_kind(path) {
        Remote::Git => {
            git_reference::parse(path)?;
            let from = SourceFrom::Git { reference: path.to_owned(), keep_git_dir: add.keep_git_dir, checksum: given };
            CopySource { from, path: "/".to_owned(), unpack: false }
        }
        Remote::Http => {
            let from = SourceFrom::Url { url: path.to_owned(), file_name: url_file_name(path), checksum: given };
            CopySource { from, path: path.to_owned(), unpack: add.unpack.unwrap_or(false) }
        }
        Remote::No => {
            CopySource { from: SourceFrom::Input(Input::Context(String::new())), path: path.to_owned(), unpack: add.unpack.unwrap_or(true) }
        }
    })
}

/// The last component of the URL's path; `__unnamed__` when there is none.
fn url_file_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find('/').map_or("", |slash| &rest[slash..]);
    let path = path.split(['?', '#']).next().unwrap_or("");
    match clean_path(path).rsplit('/').next() {
        Some(name) if !name.is_empty() => percent_decoded(name),
        _ => "__unnamed__".to_owned(),
    }
}

/// Go's `url.Parse` gives the path decoded.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let code = bytes
            .get(index + 1..index + 3)
            .and_then(|pair| std::str::from_utf8(pair).ok())
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (bytes[index], code) {
            (b'%', Some(byte)) if byte != b'/' && byte != 0 => {
                out.push(byte);
                index += 3;
            }
            (byte, _) => {
                out.push(byte);
                index += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// Absolute and clean; a trailing `/` or `/.` says "directory" and is kept (BuildKit `NormalizePath` with `keepSlash`).
fn destination(cwd: &str, text: &str) -> String {
    let text = if text.is_empty() || text == "." { "./" } else { text };
    let path = join_path(cwd, text);
    let suffix = match text {
        _ if path == "/" => "",
        text if text.ends_with('/') => "/",
        text if text.ends_with("/.") => "/.",
        _ => "",
    };
    format!("{path}{suffix}")
}

fn history_text(keyword: &str, parents: bool, expanded: &Expanded) -> String {
    let mut text = keyword.to_owned();
    if parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", &expanded.chown), ("chmod", &expanded.chmod)] {
        if !value.is_empty() {
            text.push_str(&format!(" --{flag}={value}"));
        }
    }
    for path in &expanded.paths {
        text.push_str(&format!(" {}", redact_url(path)));
    }
    for (name, _) in &expanded.inline {
        text.push_str(&format!(" <<{name}"));
    }
    format!("{text} {} # buildkit", expanded.destination)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_keep_what_says_directory() {
        for (cwd, text, expected) in [
            ("/", "", "/"),
            ("/w", "", "/w/"),
            ("/w", ".", "/w/"),
            ("/w", "a", "/w/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", "a/.", "/w/a/."),
            ("/w", "..", "/"),
            ("/w", "../x/", "/x/"),
            ("/w", "/", "/"),
            ("/w", "/b/../c", "/c"),
        ] {
            assert_eq!(destination(cwd, text), expected, "{cwd} {text}");
        }
    }

    #[test]
    fn urls_name_their_file() {
        for (url, expected) in [
            ("http://h/a/b.txt?x=/c", "b.txt"),
            ("http://h/", "__unnamed__"),
            ("http://h", "__unnamed__"),
            ("https://h/a%20b", "a b"),
            ("https://h/a/../..", "__unnamed__"),
        ] {
            assert_eq!(url_file_name(url), expected, "{url}");
        }
    }
}
