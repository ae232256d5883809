//! Passwords of registries: kept by login, used where they belong, forgotten by logout.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::support::{Bed, Outcome, Registry};

const PASSWORD: &str = "s3cret-of-the-builder";

/// `rbuild login REGISTRY` with a password on standard input and a PATH that begins with the bed's home.
fn login(bed: &Bed, registry: &Registry, password: &str) -> Outcome {
    let mut child = with_helpers(bed, &["login", "--username", "builder", "--password-stdin", registry.address()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    Outcome::from_output("rbuild login", &child.wait_with_output().unwrap())
}

fn with_helpers(bed: &Bed, arguments: &[&str]) -> Command {
    let mut command = bed.command(arguments);
    command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bed.path("home").display()));
    command
}

#[test]
fn a_login_opens_a_private_registry_and_a_logout_closes_it() {
    for bed in Bed::each_user() {
        let registry = Registry::private();
        bed.registries(&registry.configuration());
        let app = format!("{}/app", registry.address());
        bed.file("hello", "hello\n").dockerfile("FROM scratch\nCOPY hello /\n");
        bed.build(&["-t", &app, "--push"]).fails().says(&format!("rbuild login {}", registry.address()));
        let file = bed.path("home/.docker/config.json");
        login(&bed, &registry, "wrong").fails().says("refuses the given credentials");
        assert!(!file.exists(), "a password that is refused is not kept");
        login(&bed, &registry, PASSWORD).succeeds().does_not_say(PASSWORD);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        bed.build(&["-t", &app, "--push"]).succeeds();
        // Another tool finds the login in the file, and the same image.
        let inspected = Command::new("skopeo")
            .args(["inspect", "--tls-verify=false", "--authfile"])
            .arg(&file)
            .args(["--format", "{{.Digest}}", &format!("docker://{app}")])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&inspected.stdout).trim(), bed.digest(&app), "{inspected:?}");
        // As a base of an empty store.
        let other = Bed::of(bed.user);
        other.registries(&registry.configuration()).dockerfile(&format!("FROM {app}\nCOPY Dockerfile /\n"));
        other.build(&[]).fails().says("rbuild login");
        login(&other, &registry, PASSWORD).succeeds();
        other.build(&[]).succeeds();
        bed.run(&["logout", registry.address()]).succeeds().says("logged out");
        bed.run(&["push", &app]).fails().says("rbuild login");
        assert!(!fs::read_to_string(&file).unwrap().contains(registry.address()));
    }
}

#[test]
fn a_credential_helper_keeps_the_password_and_no_file_does() {
    let bed = Bed::caller();
    let registry = Registry::private();
    bed.registries(&registry.configuration());
    let (helper, drawer) = (bed.path("home/docker-credential-drawer"), bed.path("home/drawer"));
    let script = format!(
        "#!/bin/sh\ndrawer={}\ncase $1 in\nstore) cat >$drawer ;;\nerase) rm $drawer ;;\n\
         get) cat $drawer 2>/dev/null || {{ echo credentials not found in native keychain; exit 1; }} ;;\nesac\n",
        drawer.display()
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(bed.path("home/.docker")).unwrap();
    let file = bed.path("home/.docker/config.json");
    fs::write(&file, "{\"credsStore\": \"drawer\"}").unwrap();
    let app = format!("{}/app", registry.address());
    bed.file("hello", "hello\n").dockerfile("FROM scratch\nCOPY hello /\n");
    let push = || Outcome::of(with_helpers(&bed, &["build", "--progress", "plain", "-t", &app, "--push", "."]));
    push().fails();
    login(&bed, &registry, PASSWORD).succeeds().says("docker-credential-drawer keeps the password");
    assert!(fs::read_to_string(&drawer).unwrap().contains(PASSWORD));
    assert!(!fs::read_to_string(&file).unwrap().contains("auth\""), "the password is in the file too");
    push().succeeds();
    Outcome::of(with_helpers(&bed, &["logout", registry.address()])).succeeds();
    assert!(!drawer.exists());
}
