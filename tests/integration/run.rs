//! `rbuild run`: exit codes, streams, signals, ports, and a terminal.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::{Bed, Pty};

/// A bed with an image `app` that serves /www on port 8080.
fn with_app(bed: &Bed) {
    bed.dockerfile("FROM alpine\nRUN mkdir /www && echo hello > /www/index.html\nCMD [\"busybox\", \"httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/www\"]\n");
    bed.image("app", &[]);
}

fn kill(child: &Child, signal: &str) {
    Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
}

/// What a web server answers, once it does.
fn fetch(port: u16) -> String {
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
            let mut text = String::new();
            if stream.read_to_string(&mut text).is_ok() && !text.is_empty() {
                return text;
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("nobody answers on port {port}");
}

#[test]
fn exit_codes_are_dockers() {
    let bed = Bed::caller();
    with_app(&bed);
    let cases: &[(&[&str], i32)] = &[
        (&["app", "sh", "-c", "exit 7"], 7),
        (&["app", "sh", "-c", "kill -9 $$"], 137),
        (&["app", "no-such-program"], 127),
        (&["app", "/www"], 126),
        (&["no-such-image"], 125),
        (&["--no-such-flag", "app"], 125),
        (&["-d", "app"], 125),
        (&["-v", "no-such-directory:/x", "app", "true"], 125),
        (&["-it", "app", "true"], 125),
    ];
    for (arguments, code) in cases {
        bed.run(&[&["run"], *arguments].concat()).fails_with(*code);
    }
}

#[test]
fn what_is_given_replaces_what_the_image_says() {
    for bed in Bed::each_user() {
        with_app(&bed);
        bed.file("env", "# a comment\nFROM_FILE=1\n").file("shared/file", "shared\n");
        let shared = bed.path("context/shared").display().to_string();
        let outcome = bed.run(&[
            "run",
            "--rm",
            "-e",
            "A=2",
            "--env-file",
            "env",
            "-w",
            "/tmp",
            "-u",
            "1000:1000",
            "-v",
            &format!("{shared}:/s:ro"),
            "--hostname",
            "h",
            "app",
            "sh",
            "-c",
            "echo $FROM_FILE$A $(pwd) $(id -u) $(cat /s/file) $(hostname); touch /s/new || exit 3",
        ]);
        outcome.fails_with(3).says("12 /tmp 1000 shared h");
        bed.run(&["run", "--entrypoint", "echo", "app", "only this"]).succeeds().says("only this");
    }
}

#[test]
fn a_published_port_leads_to_the_container() {
    let bed = Bed::caller();
    with_app(&bed);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut child = bed.command(&["run", "-p", &format!("{port}:8080"), "app"]).stderr(Stdio::null()).spawn().unwrap();
    assert!(fetch(port).ends_with("hello\n"));
    kill(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn signals_reach_the_program_once() {
    let bed = Bed::caller();
    with_app(&bed);
    let script = "n=0; trap 'n=$((n+1)); echo got $n' INT; trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = bed.command(&["run", "app", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut read = || {
        let mut line = Vec::new();
        let mut byte = [0];
        while out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    };
    assert_eq!(read(), "ready");
    kill(&child, "-INT");
    assert_eq!(read(), "got 1");
    kill(&child, "-INT");
    assert_eq!(read(), "got 2");
    kill(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn a_terminal_is_the_containers_own_with_its_size_keys_and_signals() {
    for bed in Bed::each_user() {
        with_app(&bed);
        let mut command = bed.command(&["run", "-it", "-e", "PS1=ready> ", "app", "sh"]);
        command.env("TERM", "vt100");
        let mut terminal = Pty::start_as(bed.user, &command, 33, 77);
        terminal.wait_for("ready> ");
        terminal.press("stty size; tty; echo $TERM\r");
        terminal.wait_for("33 77\r\n/dev/pts/0\r\nvt100\r\n");
        // The window becomes larger while something runs that wants to know.
        terminal.press("sh -c 'trap \"stty size\" WINCH; echo wa\"\"iting; while :; do sleep 0.05; done'\r");
        terminal.wait_for("waiting");
        terminal.resize(40, 100);
        terminal.wait_for("40 100");
        // Ctrl-C is the container's: the loop ends, the shell stays.
        terminal.press("\u{3}");
        terminal.wait_for("ready> ");
        terminal.press("sh -c 'echo be\"\"gun; exec sleep 1000'\r");
        terminal.wait_for("begun");
        terminal.press("\u{3}");
        terminal.wait_for("ready> ");
        // Lines go to who reads them, and Ctrl-D ends them.
        terminal.press("sh -c 'echo li\"\"stening; cat; echo at the e\"\"nd'\r");
        terminal.wait_for("listening\r\n");
        terminal.press("word\r");
        terminal.wait_for("word\r\nword\r\n");
        terminal.press("\u{4}");
        terminal.wait_for("at the end");
        terminal.press("exit 42\r");
        assert_eq!(terminal.end(), Some(42), "{:?}", terminal.seen);
    }
}

#[test]
fn a_build_can_end_in_a_shell_where_it_failed() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nWORKDIR /src\nENV MODE=test\nRUN echo left > behind; echo said; exit 3\n");
    let mut command = bed.command(&["build", "--on-error=shell", "."]);
    command.env("TERM", "xterm");
    let mut terminal = Pty::start(&command, 30, 100);
    terminal.wait_for("the command that failed: /bin/sh -c 'echo left > behind; echo said; exit 3'");
    terminal.press("echo $MODE $(pwd) $(cat behind)\r");
    terminal.wait_for("test /src left\r\n");
    terminal.press("exit 5\r");
    // The build has failed, whatever the shell says.
    assert_eq!(terminal.end(), Some(1), "{:?}", terminal.seen);
    bed.run(&["shell", "3", "cat", "behind"]).succeeds().says("left");
}

#[test]
fn files_of_a_failed_step_are_brought_out_and_nothing_of_it_is_cached() {
    for bed in Bed::each_user() {
        bed.dockerfile("FROM alpine\nWORKDIR /src\nRUN mkdir reports; echo junit > reports/a.xml; seq 1 30; exit 7\n");
        let out = bed.path("out/reports").display().to_string();
        let arguments = ["--on-error-copy", &format!("reports:{out}"), "--on-error-copy", "/nothing:/nowhere"];
        let outcome = bed.build(&arguments);
        outcome.fails_with(1).says("exit code: 7").says("the last 20 of 30 lines of").says("\n11\n").says("cannot copy /nothing");
        assert_eq!(std::fs::read_to_string(bed.path("out/reports/a.xml")).unwrap(), "junit\n");
        let copied = bed.path("out/again.xml").display().to_string();
        bed.run(&["shell", "--copy", &format!("reports/a.xml:{copied}")]).succeeds();
        bed.run(&["logs", "3"]).succeeds().says("1\n2\n3\n");
        // It runs again, from what stood before it.
        bed.build(&[]).fails_with(1).says("exit code: 7").does_not_say("File exists");
    }
}

#[test]
fn a_failed_step_without_a_shell_is_entered_with_a_lent_one() {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find_map(|path| std::fs::read(path).ok());
    let Some(busybox) = busybox else { return eprintln!("skipped: no busybox to lend") };
    let bed = Bed::caller();
    bed.file("busybox", busybox)
        .dockerfile("FROM scratch\nCOPY --chmod=755 busybox /only\nWORKDIR /src\nENV MODE=test\nRUN [\"/only\", \"false\"]\n");
    bed.build(&[]).fails().says("rbuild shell 3");
    let mut child = bed.command(&["shell"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"echo $MODE $(pwd) $(ls /)\nexit 4\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("test /src") && out.contains("only"), "{out}");
}
