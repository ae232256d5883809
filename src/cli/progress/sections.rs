//! Folded sections and marked lines of CI logs. Unaware of builds.

use std::io::Write;

use super::place::Ci;

/// Opens a section in a log that folds it under its title.
pub fn open(ci: Ci, name: &str, title: &str, unix_time: i64, out: &mut Vec<u8>) {
    let _ = match ci {
        Ci::GitHub => writeln!(out, "::group::{}", command_data(title)),
        Ci::GitLab => writeln!(out, "\u{1b}[0Ksection_start:{unix_time}:{name}[collapsed=true]\r\u{1b}[0K{title}"),
        Ci::Other => writeln!(out, "{title}"),
    };
}

/// Closes it.
pub fn close(ci: Ci, name: &str, unix_time: i64, out: &mut Vec<u8>) {
    let _ = match ci {
        Ci::GitHub => writeln!(out, "::endgroup::"),
        Ci::GitLab => writeln!(out, "\u{1b}[0Ksection_end:{unix_time}:{name}\r\u{1b}[0K"),
        Ci::Other => Ok(()),
    };
}

/// A line of a step's output that can't be taken for a command to the runner: its prefix keeps `::` off the line's
/// begin; GitHub's older form counts anywhere, GitLab's where its name stands.
pub fn defuse(ci: Ci, line: Vec<u8>) -> Vec<u8> {
    match ci {
        Ci::GitHub => replace(line, b"##[", b"## ["),
        Ci::GitLab => replace(line, b"section_", b"section-"),
        Ci::Other => line,
    }
}

/// `::error file=F,line=L,col=C::message`; the line of a pull request shows it.
pub fn annotation(level: &str, file: &str, line: usize, column: usize, message: &str) -> String {
    format!("::{level} file={},line={line},col={column}::{}", command_property(file), command_data(message))
}

fn command_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn command_property(text: &str) -> String {
    command_data(text).replace(':', "%3A").replace(',', "%2C")
}

fn replace(text: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_slice();
    while let Some(at) = rest.windows(from.len()).position(|part| part == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    if out.is_empty() && rest.len() == text.len() {
        return text;
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_escaped_as_the_runner_reads_them() {
        assert_eq!(
            annotation("error", "a,b:c/Dockerfile", 3, 1, "50% of\ntwo lines"),
            "::error file=a%2Cb%3Ac/Dockerfile,line=3,col=1::50%25 of%0Atwo lines"
        );
    }

    #[test]
    fn sections_open_and_close_in_each_services_words() {
        let mut out = Vec::new();
        open(Ci::GitHub, "step_1", "[1/2] RUN a", 7, &mut out);
        close(Ci::GitHub, "step_1", 8, &mut out);
        open(Ci::GitLab, "step_1", "[1/2] RUN a", 7, &mut out);
        close(Ci::GitLab, "step_1", 8, &mut out);
        let expected = "::group::[1/2] RUN a\n::endgroup::\n\
            \u{1b}[0Ksection_start:7:step_1[collapsed=true]\r\u{1b}[0K[1/2] RUN a\n\u{1b}[0Ksection_end:8:step_1\r\u{1b}[0K\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn output_is_no_command() {
        assert_eq!(defuse(Ci::GitHub, b"x ##[add-mask]y".to_vec()), b"x ## [add-mask]y");
        assert_eq!(defuse(Ci::GitLab, b"section_end:1:a".to_vec()), b"section-end:1:a");
        assert_eq!(defuse(Ci::Other, b"##[".to_vec()), b"##[");
    }
}
