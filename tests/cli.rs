//! What people read: plain progress, errors and help, compared with `testdata/cli`. `UPDATE=1 cargo test --test cli` writes
//! what there is now. Times and digests are replaced; nothing is pulled.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use regex::Regex;

fn snapshots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/cli")
}

/// Compares, or writes where asked to.
fn check(name: &str, actual: &str) {
    let path = snapshots().join(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let differing = expected.lines().zip(actual.lines()).find(|(expected, actual)| expected != actual);
    assert!(expected == actual, "{} differs (UPDATE=1 accepts), first in {differing:#?}\n--- actual\n{actual}", path.display());
}

/// Words of a command line, and variables set for it.
type Run<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);

/// A context and a store.
struct Bed(tempfile::TempDir);

impl Bed {
    fn new(files: &[(&str, &str)]) -> Self {
        let bed = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = bed.0.path().join("context").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        bed
    }

    /// A shell and what goes with it, where there is a static one here.
    fn with_shell(&self) -> Option<&Self> {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find_map(|path| fs::read(path).ok())?;
        fs::write(self.0.path().join("context/sh"), busybox).unwrap();
        Some(self)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbuild"));
        command.args(words).current_dir(self.0.path().join("context")).stdin(Stdio::null()).env_clear();
        for name in ["PATH", "HOME", "TMPDIR"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.env("RBUILD_STORE", self.0.path().join("store")).env("COLUMNS", "100");
        command
    }

    /// Exit code, standard output and standard error of several runs, without what differs from run to run.
    fn said(&self, runs: &[Run<'_>]) -> String {
        let mut text = String::new();
        for (words, variables) in runs {
            let mut command = self.command(words);
            command.envs(variables.iter().copied());
            if words.contains(&"--help") {
                // Its length decides where lines are broken.
                command.env_remove("RBUILD_STORE");
            }
            let output = command.output().unwrap();
            let set: String = variables.iter().map(|(name, value)| format!("{name}={value} ")).collect();
            text.push_str(&format!("$ {set}rbuild {}\n", words.join(" ")));
            text.push_str(&String::from_utf8_lossy(&output.stdout));
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            text.push_str(&format!("exit code {}\n\n", output.status.code().unwrap_or(-1)));
        }
        self.without_chance(&text)
    }

    fn without_chance(&self, text: &str) -> String {
        let text = text.replace(&*self.0.path().to_string_lossy(), "<bed>");
        let patterns = [
            (r"sha256:[0-9a-f]{64}", "sha256:<digest>"),
            (r"(?m)^(#\d+) \d+\.\d{3} ", "$1 <time> "),
            (r"\b\d+(\.\d+)?m?s\b", "<time>"),
            (r"\b(\d+|\d+\.\d\d[kM])B\b", "<size>"),
            (r"section_(start|end):\d+:", "section_$1:<unix>:"),
            (r#""\d{4}-\d\d-\d\dT[^"]*Z""#, r#""<time>""#),
            (r#""size_bytes":\d+"#, r#""size_bytes":<bytes>"#),
            (r"(?m)^ +<time>  \[.*\n", ""),
            (r"(?m)^(rung|network:) .*\n", ""),
        ];
        patterns.iter().fold(text, |text, (pattern, with)| Regex::new(pattern).unwrap().replace_all(&text, *with).into_owned())
    }
}

const PLAIN: &[&str] = &["build", "--progress", "plain", "-t", "app", "."];

#[test]
fn plain_progress() {
    let bed = Bed::new(&[
        ("Dockerfile", "FROM scratch AS files\nCOPY a /a\n\nFROM scratch\nCOPY --from=files /a /b\nWORKDIR /w\n"),
        ("a", "a\n"),
    ]);
    check("plain.txt", &bed.said(&[(PLAIN, &[]), (PLAIN, &[])]));
}

#[test]
fn output_of_steps_in_logs_and_in_those_of_services() {
    let bed = Bed::new(&[("Dockerfile", "FROM scratch\nCOPY --chmod=755 sh /bin/sh\nRUN echo one; echo two; echo '::error::x'\n")]);
    let Some(bed) = bed.with_shell() else { return eprintln!("skipped: no static busybox") };
    let again = &["build", "--progress", "plain", "--no-cache", "."];
    check(
        "output.txt",
        &bed.said(&[(PLAIN, &[]), (again, &[("GITHUB_ACTIONS", "true")]), (again, &[("GITLAB_CI", "true")]), (&["logs", "2"], &[])]),
    );
}

#[test]
fn rawjson_and_quiet() {
    let bed = Bed::new(&[("Dockerfile", "FROM scratch\nCOPY a /a\n"), ("a", "a\n")]);
    check("rawjson.txt", &bed.said(&[(&["build", "--progress", "rawjson", "."], &[]), (&["build", "-q", "."], &[])]));
}

#[test]
fn errors() {
    let dockerfiles = [
        ("unknown", "FROM scratch\nCOPPY a /\n"),
        ("missing", "FROM scratch\nCOPY nothing /\n"),
        ("ignored", "FROM scratch\nCOPY hidden /\n"),
        ("stage", "FROM scratch AS one\nFROM scratch\nCOPY --from=on /a /\n"),
        ("flag", "FROM scratch\nCOPY --chwon=1 a /\n"),
        ("empty", ""),
    ];
    let bed = Bed::new(&[("a", "a\n"), ("hidden", "h\n"), (".dockerignore", "hidden\n")]);
    let mut text = String::new();
    for (name, dockerfile) in dockerfiles {
        fs::write(bed.0.path().join("context").join(name), dockerfile).unwrap();
        text.push_str(&bed.said(&[(&["build", "--progress", "plain", "--offline", "-f", name, "."], &[])]));
    }
    text.push_str(&bed.said(&[
        (&["build", "no-such-directory"], &[]),
        (&["build", "--no-such-flag"], &[]),
        (&["build", "--cgroup-parent", "x", "."], &[]),
        (&["build", "--target", "x", "-f", "missing", "."], &[]),
        (&["build", "-f", "unknown", "."], &[("GITHUB_ACTIONS", "true")]),
        (&["run", "no-such-image"], &[]),
        (&["logs"], &[]),
        (&["report", "no-such-build"], &[]),
        (&["watch", "--on-error", "shell", "."], &[]),
        (&["help", "nothing"], &[]),
    ]));
    check("errors.txt", &text);
}

#[test]
fn a_failed_step_is_told_whole() {
    let bed = Bed::new(&[("Dockerfile", "FROM scratch\nCOPY --chmod=755 sh /bin/sh\nRUN echo before; exit 3\n")]);
    let Some(bed) = bed.with_shell() else { return eprintln!("skipped: no static busybox") };
    check(
        "failed-step.txt",
        &bed.said(&[(PLAIN, &[]), (&["shell", "--list"], &[]), (&["shell", "2", "/bin/sh", "-c", "echo inside"], &[])]),
    );
}

#[test]
fn help() {
    let bed = Bed::new(&[("Dockerfile", "FROM scratch\n")]);
    let whole = bed.said(&[(&["--help"], &[])]);
    check("help/rbuild.txt", &whole);
    let verbs = whole.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with("  "));
    let verbs: Vec<&str> = verbs.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(verbs.len() > 20, "{verbs:?}");
    for verb in verbs {
        check(&format!("help/{verb}.txt"), &bed.said(&[(&[verb, "--help"], &[])]));
    }
}
