//! Completions as people use them: shells on terminals, a few letters and the tab key.

use std::{fs, os::unix::fs::symlink, process::Command};

use crate::support::{Bed, Pty, binary, skip};

const SHELLS: [(&str, &[&str], &str); 3] = [
    ("bash", &["--norc", "--noprofile", "-i"], "source <(rbuild completions bash)"),
    ("zsh", &["-f", "-i"], "autoload -U compinit; compinit -D; source <(rbuild completions zsh)"),
    ("fish", &["--no-config", "-i"], "rbuild completions fish | source"),
];

#[test]
fn shells_complete_flags_values_stages_and_images() {
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch AS compile\nCOPY Dockerfile /\nFROM scratch AS final-stage\nCOPY --from=compile / /\n");
    bed.image("wonderful-app", &[]);
    fs::create_dir(bed.path("bin")).unwrap();
    symlink(binary(), bed.path("bin/rbuild")).unwrap();
    for (shell, arguments, load) in SHELLS {
        if !Command::new(shell).arg("--version").output().is_ok_and(|output| output.status.success()) {
            skip(&format!("there is no {shell}"));
            continue;
        }
        let mut command = Command::new(shell);
        command.args(arguments).current_dir(bed.path("context")).env("HOME", bed.path("home")).env("RBUILD_STORE", bed.store());
        command.env("TERM", "dumb").env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", bed.path("bin").display()));
        let mut terminal = Pty::start(&command, 40, 200);
        terminal.press_and_look(&format!("{load}; echo loa''ded\r"));
        terminal.wait_for("loaded");
        for (typed, completed) in [
            ("rbuild --targ\tcomp\t", "rbuild --target compile"),
            ("rbuild build --no-cache-fil\tfin\t", "rbuild build --no-cache-filter final-stage"),
            ("rbuild run wond\t", "rbuild run wonderful-app"),
            ("rbuild build --progress raw\t", "rbuild build --progress rawjson"),
            ("rbuild help repro\t", "rbuild help reproducibility"),
            ("rbuild inspe\twond\t", "rbuild inspect wonderful-app"),
        ] {
            typed.split_inclusive('\t').for_each(|keys| terminal.press_and_look(keys));
            // Ctrl-A: to the line's begin, so that what was completed is printed as it is.
            terminal.press_and_look("\u{1}echo +\u{5}+\r");
            let printed = [format!("\n+{completed} +\r"), format!("\n+{completed}+\r")];
            assert!(printed.iter().any(|line| terminal.seen.contains(line)), "{shell}: {completed:?} is missing: {:?}", terminal.seen);
            terminal.seen.clear();
        }
        terminal.press("exit\r");
        assert_eq!(terminal.end(), Some(0), "{shell}: {:?}", terminal.seen);
    }
}
