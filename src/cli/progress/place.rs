//! Where progress is shown: a terminal, a log, the log of a CI that folds sections and marks lines of pull requests.

use std::io::IsTerminal;

/// What the environment says of the place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Standard error is a terminal that can move its cursor.
    pub is_terminal: bool,
    /// The terminal's name says that it can't do anything.
    pub is_dumb: bool,
    /// Colours are unwanted.
    pub no_colour: bool,
    /// Whose machine this is.
    pub ci: Option<Ci>,
}

/// Continuous integration services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ci {
    /// GitHub's, Forgejo's and Gitea's runners.
    GitHub,
    /// GitLab's.
    GitLab,
    /// Another.
    Other,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Lines for a log.
    Plain,
    /// A picture on a terminal.
    Tty,
    /// Nothing but failures.
    Quiet,
    /// JSON lines.
    RawJson,
}

impl Place {
    /// Here.
    pub fn here() -> Self {
        Self::of(|name| std::env::var(name).ok(), std::io::stderr().is_terminal())
    }

    /// What a set of variables says.
    pub fn of(variable: impl Fn(&str) -> Option<String>, is_terminal: bool) -> Self {
        let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        let is_true = |name: &str| variable(name).is_some_and(|value| !["", "0", "false"].contains(&value.as_str()));
        let ci = match () {
            () if is_true("GITHUB_ACTIONS") => Some(Ci::GitHub),
            () if is_true("GITLAB_CI") => Some(Ci::GitLab),
            () if ["CI", "BUILDKITE", "TEAMCITY_VERSION", "JENKINS_URL", "TF_BUILD"].into_iter().any(is_true) => Some(Ci::Other),
            () => None,
        };
        let is_dumb = variable("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        Self { is_terminal, is_dumb, no_colour: is_set("NO_COLOR"), ci }
    }

    /// Whether colours are used.
    pub fn colour(&self) -> bool {
        self.is_terminal && !self.is_dumb && !self.no_colour
    }

    /// What `--progress` means here; None for a word that means nothing.
    pub fn mode(&self, word: &str) -> Option<Mode> {
        Some(match word {
            "auto" | "" if self.is_terminal && !self.is_dumb && self.ci.is_none() => Mode::Tty,
            "auto" | "" => Mode::Plain,
            // Cursor movements that nobody carries out make no picture.
            "tty" if self.is_terminal && !self.is_dumb => Mode::Tty,
            "tty" | "plain" => Mode::Plain,
            "quiet" | "none" => Mode::Quiet,
            "rawjson" => Mode::RawJson,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)], is_terminal: bool) -> Place {
        Place::of(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()), is_terminal)
    }

    #[test]
    fn auto_draws_on_terminals_of_people_only() {
        let xterm = ("TERM", "xterm-256color");
        assert_eq!(place(&[xterm], true).mode("auto"), Some(Mode::Tty));
        assert_eq!(place(&[xterm], false).mode("auto"), Some(Mode::Plain));
        assert_eq!(place(&[("TERM", "dumb")], true).mode("auto"), Some(Mode::Plain));
        assert_eq!(place(&[], true).mode("auto"), Some(Mode::Plain));
        assert_eq!(place(&[xterm, ("CI", "true")], true).mode("auto"), Some(Mode::Plain));
        assert_eq!(place(&[xterm, ("CI", "false")], true).mode("auto"), Some(Mode::Tty));
        assert_eq!(place(&[xterm, ("CI", "true")], true).mode("tty"), Some(Mode::Tty));
        assert_eq!(place(&[xterm], false).mode("tty"), Some(Mode::Plain));
        assert_eq!(place(&[xterm], true).mode("fancy"), None);
    }

    #[test]
    fn services_are_known_by_their_variables() {
        assert_eq!(place(&[("CI", "true"), ("GITHUB_ACTIONS", "true")], false).ci, Some(Ci::GitHub));
        assert_eq!(place(&[("CI", "true"), ("GITLAB_CI", "true")], false).ci, Some(Ci::GitLab));
        assert_eq!(place(&[("BUILDKITE", "true")], false).ci, Some(Ci::Other));
        assert_eq!(place(&[], false).ci, None);
    }

    #[test]
    fn no_color_and_pipes_have_no_colours() {
        assert!(place(&[("TERM", "xterm")], true).colour());
        assert!(!place(&[("TERM", "xterm"), ("NO_COLOR", "1")], true).colour());
        assert!(place(&[("TERM", "xterm"), ("NO_COLOR", "")], true).colour());
        assert!(!place(&[("TERM", "xterm")], false).colour());
    }
}
