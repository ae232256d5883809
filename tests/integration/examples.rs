//! The two examples of `examples/`, built and used as their readers would.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Bed, Registry, checkout, tool};

fn copy_example(bed: &Bed, name: &str) {
    tool(Command::new("cp").arg("-r").arg(checkout().join("examples").join(name).join(".")).arg(bed.path("context")));
    bed.user.own(&bed.path("context"));
}

#[test]
fn an_image_of_a_hundred_layers_without_a_shell_is_extended() {
    for bed in Bed::each_user() {
        copy_example(&bed, "extend");
        bed.image("extended", &[]);
        assert_eq!(bed.run(&["run", "extended"]).succeeds().out, "extended\n");
        bed.run(&["run", "extended", "/bin/cat", "/etc/index.html"]).succeeds().says("without a shell");
        bed.run(&["run", "extended", "/bin/sh", "-c", "true"]).fails();
        let inspected = tool(Command::new("skopeo").args(["inspect", &bed.reference("extended")]));
        let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
        assert_eq!(inspected["Layers"].as_array().unwrap().len(), 102);
        bed.build(&["-t", "extended"]).succeeds().says("CACHED");
    }
}

#[test]
fn the_sveltekit_app_answers_http() {
    if TcpStream::connect(("registry.npmjs.org", 443)).is_err() {
        // tests/run can install tools, not a network.
        return eprintln!("skipped: the npm registry is out of reach");
    }
    Registry::stand_in().add_node();
    for bed in Bed::each_user() {
        copy_example(&bed, "node-app");
        bed.run(&["-f", "app/Dockerfile", "-t", "node-app", "--progress", "plain"]).succeeds();
        let again = bed.run(&["-f", "app/Dockerfile", "-t", "node-app", "--progress", "plain"]);
        again.succeeds().does_not_say("Progress: resolved");

        let port = free_port();
        let mut app = bed.command(&["run", "-e", &format!("PORT={port}"), "node-app"]).spawn().unwrap();
        let page = fetch(port, "/", || app.try_wait().unwrap().is_none());
        let health = fetch(port, "/api/health", || app.try_wait().unwrap().is_none());
        let _ = app.kill();
        let _ = app.wait();
        assert!(page.contains("<title>Notebook</title>"), "{page}");
        assert!(health.contains("\"status\":\"ok\"") && health.contains("\"user\":1000"), "{health}");

        let listed = bed.run(&["run", "--entrypoint", "ls", "node-app", "node_modules"]);
        assert_eq!(listed.succeeds().out.trim(), "marked", "only production dependencies are left");
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// GETs a page, waiting for the server to come up as long as `alive`.
fn fetch(port: u16, path: &str, mut alive: impl FnMut() -> bool) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n");
            let mut answer = String::new();
            if stream.write_all(request.as_bytes()).is_ok() && stream.read_to_string(&mut answer).is_ok() && !answer.is_empty() {
                return answer;
            }
        }
        assert!(alive(), "the app ended before it answered");
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("nothing answers on port {port}");
}
