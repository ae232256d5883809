//! Why a build failed: what, where in the Dockerfile, what to do. Cloned to every step that waited for the failed one.

use crate::{
    dockerfile::{Diagnostic, Span, trigger_label},
    plan::Vertex,
    registry,
    snapshot::layered::is_directory_needed,
    store::StoreError,
};

/// A failed build.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    /// What kind of thing failed.
    pub kind: Kind,
    /// The sentence, with its causes.
    pub message: String,
    /// Where the Dockerfile asks for it.
    pub span: Option<Span>,
    /// What stands under the caret.
    pub label: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The work may succeed on layers that are unpacked.
    pub needs_files: bool,
    /// A copy that was to go straight into a blob may succeed into a directory.
    pub needs_directory: bool,
    /// The RUN that failed, to look into.
    pub failed_run: Option<std::sync::Arc<crate::build::FailedRun>>,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The Dockerfile is wrong.
    Dockerfile,
    /// A base image can't be had.
    Base,
    /// A RUN ended with this code.
    Run(i32),
    /// A secret would have left.
    Secret,
    /// A step failed otherwise.
    Step,
    /// The store failed.
    Store,
    /// A cache elsewhere failed; without it the build goes on.
    Cache,
    /// Another step failed first.
    Cancelled,
}

impl BuildError {
    /// A failure of `kind`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            span: None,
            label: None,
            hint: None,
            needs_files: false,
            needs_directory: false,
            failed_run: None,
        }
    }

    /// A failure of the store.
    pub fn store(error: StoreError) -> Self {
        Self::new(Kind::Store, chain(&error))
    }

    /// The same, marked if `cause` is a question that only unpacked layers answer, or what only a directory can hold.
    pub fn caused_by(mut self, cause: &(dyn std::error::Error + 'static)) -> Self {
        self.needs_directory |= is_directory_needed(cause);
        let mut next = Some(cause);
        while let Some(error) = next {
            self.needs_files |= error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::Unsupported);
            next = error.source();
        }
        self
    }

    /// The same at a place of the Dockerfile, unless it has one.
    pub fn at(mut self, span: Span) -> Self {
        self.span = self.span.or(Some(span));
        self
    }

    /// The same at a vertex's instruction; what a trigger does is told with its FROM.
    pub fn in_vertex(self, vertex: &Vertex) -> Self {
        let trigger = vertex.name.split_once("] ONBUILD ").map(|(_, text)| trigger_label(text));
        let failed = self.at(vertex.span);
        match trigger {
            Some(label) if failed.span == Some(vertex.span) => Self { label: failed.label.or(Some(label)), ..failed },
            _ => failed,
        }
    }

    /// The same with a hint, unless it has one.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = self.hint.or_else(|| Some(hint.into()));
        self
    }

    /// The fault as the Dockerfile's renderer takes it.
    pub fn diagnostic(&self) -> Diagnostic {
        Diagnostic { message: self.message.clone(), span: self.span, label: self.label.clone(), hint: self.hint.clone() }
    }
}

impl From<Diagnostic> for BuildError {
    fn from(fault: Diagnostic) -> Self {
        Self { span: fault.span, label: fault.label, hint: fault.hint, ..Self::new(Kind::Dockerfile, fault.message) }
    }
}

/// What to do about a registry's answer; `not_found` if it has no such thing.
pub(super) fn registry_hint(error: &registry::Error, not_found: &str) -> Option<String> {
    use registry::Error;
    match error {
        Error::Unauthorized { host, .. } => Some(format!("log in with `rbuild login {host}`, or check the name")),
        Error::NotFound { .. } => Some(not_found.to_owned()),
        Error::Unreachable { host, .. } => Some(format!("is {host} up and reachable from here? mirrors are set in registries.conf")),
        _ => None,
    }
}

/// An error and its causes in one line; a cause that the line already says is not repeated.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
