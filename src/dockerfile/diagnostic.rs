//! A fault found in a Dockerfile, in words a person can act on: message, place, hint.
//! Unaware of how it is shown.

use super::tree::Span;

/// An error that points at the Dockerfile. Shown by `cli` with source lines and carets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Diagnostic {
    /// Lower-case, no full stop, in BuildKit's words where it has them.
    pub message: String,
    /// Where; None for the file as a whole.
    pub span: Option<Span>,
    /// What stands under the caret, when there is more to say than the message.
    pub label: Option<String>,
    /// "did you mean COPY?"; what to do about it.
    pub hint: Option<String>,
}

/// What stands under the FROM that brings a trigger.
pub fn trigger_label(trigger: &str) -> String {
    format!("its base says ONBUILD {}", trigger.lines().next().unwrap_or_default())
}

impl Diagnostic {
    /// A fault at `span`.
    pub fn at(span: Span, message: impl Into<String>) -> Self {
        Self { message: message.into(), span: Some(span), label: None, hint: None }
    }

    /// A fault of the file as a whole.
    pub fn whole(message: impl Into<String>) -> Self {
        Self { message: message.into(), span: None, label: None, hint: None }
    }

    /// The same with a hint.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with a label under the caret.
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }
}
