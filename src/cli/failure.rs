//! What went wrong, for the person in front of it: message, place, hint, exit code. The only place that knows exit codes.
//! Credentials of URLs are in none of it.

use std::process::ExitCode;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::{
    build::{BuildError, chain},
    cli::progress,
    dockerfile::{
        Diagnostic,
        redact::{blot, redact_url},
    },
    export::ExportError,
};

/// Why rbuild ends with an error.
#[derive(Debug)]
pub struct Failure {
    /// One sentence, lower-case, with its causes behind colons.
    pub message: String,
    /// The file and place it points at.
    pub place: Option<Box<Place>>,
    /// What to do about it.
    pub hints: Vec<String>,
    /// What the shell sees.
    pub exit_code: u8,
}

/// A place in a file.
#[derive(Debug)]
pub struct Place {
    /// As the user named it.
    pub path: String,
    /// The whole file.
    pub text: String,
    /// First byte and one past the last.
    pub range: std::ops::Range<usize>,
    /// What stands under the caret.
    pub label: Option<String>,
}

/// The build failed.
pub const EXIT_BUILD: u8 = 1;
/// The command line is wrong.
pub const EXIT_USAGE: u8 = 2;

impl From<BuildError> for Failure {
    /// Without its place in a Dockerfile.
    fn from(error: BuildError) -> Self {
        error.hint.into_iter().fold(Self::new(error.message), Self::with_hint)
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match error {
            // Known before anything is written, and mended on the command line.
            ExportError::DockerNeedsOnePlatform => {
                Self::usage(error.to_string()).with_hint("say one --platform, or write an OCI layout, which has all of them")
            }
            ExportError::IndexAnnotations => {
                Self::usage(error.to_string()).with_hint("an image is in an index with several --platform, or with --attest-form=index")
            }
            _ => Self::new(chain(&error)),
        }
    }
}

impl Failure {
    /// A failure of the build.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: redact_url(&message.into()).into_owned(), place: None, hints: Vec::new(), exit_code: EXIT_BUILD }
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit_code: EXIT_USAGE, ..Self::new(message) }
    }

    /// The same with a hint.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(redact_url(&hint.into()).into_owned());
        self
    }

    /// A fault in a Dockerfile.
    pub fn in_dockerfile(path: &str, text: &str, fault: &Diagnostic) -> Self {
        let mut failure = match fault.span {
            Some(_) => Self::new(fault.message.clone()),
            None => Self::new(format!("{path}: {}", fault.message)),
        };
        failure.place = fault.span.map(|span| {
            Box::new(Place {
                path: path.to_owned(),
                text: blot(text).into_owned(),
                range: trimmed(text, span.start..span.end),
                label: fault.label.as_ref().map(|label| redact_url(label).into_owned()),
            })
        });
        match &fault.hint {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }

    /// The text that is shown, without colours.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut text = match &self.place {
            None => format!("error: {}", self.message),
            Some(place) => {
                let annotation = AnnotationKind::Primary.span(place.range.clone()).label(place.label.as_deref());
                let snippet = Snippet::source(&place.text).path(&place.path).fold(true).annotation(annotation);
                let report = [Level::ERROR.primary_title(&self.message).element(snippet)];
                renderer.render(&report).to_string()
            }
        };
        for hint in &self.hints {
            text.push_str(&format!("\nhint: {hint}"));
        }
        text
    }

    /// Shows it and gives the exit code.
    pub fn report(&self) -> ExitCode {
        let here = progress::Place::here();
        eprintln!("{}", self.render(here.colour()));
        if here.ci == Some(progress::Ci::GitHub)
            && let Some(annotation) = self.annotation(in_repository)
        {
            eprintln!("{annotation}");
        }
        ExitCode::from(self.exit_code)
    }

    /// The mark at the Dockerfile's line in a pull request.
    fn annotation(&self, in_repository: impl Fn(&str) -> String) -> Option<String> {
        let (path, line, column) = self.position()?;
        Some(progress::annotation("error", &in_repository(path), line, column, &self.message))
    }

    /// File, line and column that it points at.
    pub fn position(&self) -> Option<(&str, usize, usize)> {
        let place = self.place.as_ref()?;
        let before = place.text.get(..place.range.start)?;
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |begin| begin.chars().count()) + 1;
        Some((&place.path, line, column))
    }
}

/// A path as seen from the top of the checkout, which is how marks name files.
pub fn in_repository(path: &str) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let tops = ["GITHUB_WORKSPACE", "CI_PROJECT_DIR"].into_iter().filter_map(std::env::var_os).filter(|top| !top.is_empty());
    let inside = tops.filter_map(|top| absolute.strip_prefix(&top).ok().map(|path| path.display().to_string())).next();
    inside.unwrap_or_else(|| path.to_owned())
}

/// A range inside the text, without the white space at its end.
fn trimmed(text: &str, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let start = range.start.min(text.len());
    let end = range.end.clamp(start, text.len());
    let kept = text.get(start..end).map_or(end - start, |part| part.trim_end().len());
    start..start + kept.max(usize::from(end > start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::Span;

    #[test]
    fn the_line_the_caret_and_the_hint_are_shown() {
        let text = "FROM scratch\nCOPPY a b\n";
        let fault = Diagnostic::at(Span { start: 13, end: 18 }, "unknown instruction: COPPY").with_hint("did you mean COPY?");
        let shown = Failure::in_dockerfile("app/Dockerfile", text, &fault).render(false);
        assert!(shown.starts_with("error: unknown instruction: COPPY"), "{shown}");
        assert!(shown.contains("app/Dockerfile:2:1"), "{shown}");
        assert!(shown.contains("COPPY a b\n  | ^^^^^"), "{shown}");
        assert!(shown.ends_with("hint: did you mean COPY?"), "{shown}");
    }

    #[test]
    fn credentials_are_not_shown() {
        let text = "FROM scratch\nADD --chmod=x http://user:hidden@host/f \\\n  http://hidden@host/g /\n";
        let fault = Diagnostic {
            label: Some("see http://u:hidden@h".to_owned()),
            ..Diagnostic::at(Span { start: 13, end: 80 }, "no http://u:hidden@h")
        };
        let shown = Failure::in_dockerfile("Dockerfile", text, &fault.with_hint("try http://u:hidden@h")).render(false);
        assert!(!shown.contains("hidden") && shown.matches("u:xxxxx@h").count() == 3, "{shown}");
        assert!(shown.contains("ADD --chmod=x http://user:xxxxxx@host/f \\") && shown.contains("  http://xxxxxx@host/g /"), "{shown}");
    }

    #[test]
    fn a_pull_request_shows_the_error_at_its_line() {
        let fault = Diagnostic::at(Span { start: 15, end: 20 }, "unknown instruction: COPPY");
        let failure = Failure::in_dockerfile("app/Dockerfile", "FROM scratch\n  COPPY a b\n", &fault);
        let annotation = failure.annotation(str::to_owned).unwrap();
        assert_eq!(annotation, "::error file=app/Dockerfile,line=2,col=3::unknown instruction: COPPY");
    }
}
