//! What a step writes reaches a terminal as text and as nothing else.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use super::Stand;
use crate::support::{binary, skip};

/// A title, a clipboard, an answer that would be typed, the screen cleared, a key rebound, and C1 controls.
const HOSTILE: [&str; 6] =
    ["\\033]0;owned\\007", "\\033]52;c;b3duZWQ=\\007", "\\033[6n", "\\033[2J", "\\033P1;1|17/owned\\033\\\\", "\\302\\2330c"];

#[test]
fn item_39_escapes_in_the_output_of_a_step() {
    if Command::new("script").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return skip("script gives rbuild a terminal");
    }
    for stand in Stand::each().into_iter().filter(|stand| stand.bed.user == crate::support::User::Caller) {
        let bed = &stand.bed;
        let lines: String =
            HOSTILE.iter().map(|escape| format!("RUN printf '{escape}before\\n'; printf 'after{escape}\\n' >&2\n")).collect();
        // In the names of steps, in a failure's text and in its command too.
        bed.dockerfile(&format!("FROM busybox\n{lines}RUN printf '\\033]0;failed\\007' >&2; : \x1b]0;named\x07; exit 3\n"));
        for progress in ["plain", "auto"] {
            let script = bed.path("out/build.sh");
            let program = binary().display();
            let text = format!("#!/bin/sh\nexec {program} --rung {} build --no-cache --progress {progress} .\n", stand.rung);
            fs::write(&script, text).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            let mut command = bed.command(&[]);
            let variables: Vec<_> =
                command.get_envs().map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_owned())).collect();
            command = Command::new("script");
            command.env_clear().envs(variables).env("TERM", "xterm-256color").current_dir(bed.path("context")).stdin(Stdio::null());
            let output = command.arg("-qec").arg(&script).arg("/dev/null").output().unwrap();
            let shown = output.stdout;
            let text = String::from_utf8_lossy(&shown);
            assert!(text.contains("before") && text.contains("exit code: 3"), "on {} {progress}: {text}", stand.rung);
            for bad in ["\x1b]", "\x1bP", "\x1b[6n", "\x1b[2J", "\x07", "\u{9b}"] {
                assert!(!text.contains(bad), "{bad:?} reaches the terminal on {} {progress}: {text:?}", stand.rung);
            }
        }
    }
}
