//! Lint as the binary shows it, `--call`, `parse`, and errors with their place.

use base64::Engine as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Bed, Outcome, Page, Web};

fn json(outcome: &Outcome) -> serde_json::Value {
    serde_json::from_str(&outcome.out).unwrap_or_else(|error| panic!("{error}:\n{outcome}"))
}

fn rules(outcome: &Outcome) -> Vec<String> {
    let value = json(outcome);
    let mut rules: Vec<String> =
        value["warnings"].as_array().unwrap().iter().map(|warning| warning["ruleName"].as_str().unwrap().to_owned()).collect();
    rules.sort();
    rules
}

#[test]
fn a_build_ends_with_what_lint_found_in_the_stages_it_reached() {
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch AS base\nENV A=b\nFROM scratch AS unused\nWORKDIR here\nFROM base\nENTRYPOINT run it\nLABEL a b\n");
    let built = bed.build(&[]);
    built.succeeds().says("2 warnings").says(" - JSONArgsRecommended: ").says("(line 6)").says(" - LegacyKeyValueFormat: ");
    built.does_not_say("WorkdirRelativePath");
    bed.build(&["--progress", "quiet"]).succeeds().does_not_say("JSONArgs");
    bed.build(&["-q"]).succeeds().does_not_say("JSONArgs");
    let raw = bed.run(&["build", "--progress", "rawjson", "."]);
    raw.succeeds();
    let lines: Vec<serde_json::Value> =
        raw.err.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    assert_eq!(lines.iter().filter(|line| line["warnings"].is_array()).count(), 2, "{raw}");
}

#[test]
fn check_builds_nothing_and_looks_at_all_stages() {
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch AS unused\nWORKDIR here\nFROM scratch\nRUN false\n");
    let checked = bed.run(&["build", "--check", "."]);
    checked.succeeds().says("Check complete, 1 warning has been found!").says("warning: WorkdirRelativePath").says("--> Dockerfile:2:1");
    bed.dockerfile("FROM scratch\nCOPY x /\n");
    bed.run(&["build", "--check", "."]).succeeds().says("Check complete, no warnings found.");
    assert_eq!(bed.run(&["build", "--call=check,format=json", "."]).succeeds().out.lines().next(), Some("{"));
}

#[test]
fn triggers_of_a_base_image_are_checked() {
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch\nONBUILD ARG NPM_TOKEN\nONBUILD ENTRYPOINT run it\n");
    bed.build(&["-t", "node:onbuild"]).succeeds();
    bed.dockerfile("FROM node:onbuild AS first\nFROM scratch\nFROM node:onbuild\nWORKDIR /app\n");
    let checked = bed.run(&["build", "--check", "."]);
    checked.succeeds().says("Check complete, 4 warnings have been found!").says("--> Dockerfile:1:1").says("--> Dockerfile:3:1");
    checked.says("^^^^^^^^^^^^^^^^^^^^^^^^^^ its base says ONBUILD ARG NPM_TOKEN").says("(ARG \"NPM_TOKEN\")");
    checked.says("^^^^^^^^^^^^^^^^^ its base says ONBUILD ENTRYPOINT run it").says("JSON arguments recommended for ENTRYPOINT");
    assert_eq!(rules(&bed.run(&["build", "--call=check,format=json", "."])).len(), 4);
    let built = bed.build(&["--build-arg", "NPM_TOKEN=x"]);
    built.succeeds().says("2 warnings").says("(line 3)").does_not_say("(line 1)");
}

#[test]
fn credentials_of_urls_are_shown_nowhere() {
    let bed = Bed::caller();
    let lines = "ADD http://user:hidden@127.0.0.1:1/f /\nENV A=http://user:hidden@h/ b";
    for text in [
        format!("FROM scratch\n{lines}\n"),
        "FROM scratch\nADD http://127.0.0.1:1/f \\\n  http://user:hid\\\nden@127.0.0.1:1/f /\n".to_owned(),
        format!("ARG BASE=http://user:hidden@h/\nFROM $BASE\n{lines}\n"),
        "FROM busybox\nRUN : http://user:hidden@h/ && false\n".to_owned(),
        "FROM busybox\nCOPY http://user:hidden@h/ /\n".to_owned(),
        "FROM busybox AS a\nONBUILD COPY http://user:hidden@h/ /\nFROM a\n".to_owned(),
        "FROM scratch\nLABEL http://user:hidden@h/ x\nMAINTAINER http://user:hidden@h/\n".to_owned(),
    ] {
        bed.dockerfile(&text);
        for arguments in [
            &["build", "."][..],
            &["build", "--progress", "rawjson", "."],
            &["build", "--check", "."],
            &["plan", "."],
            &["plan", "--format", "json", "."],
        ] {
            let said = bed.run(arguments);
            assert!(!format!("{said}").contains("hidden") && !format!("{said}").contains("den@"), "{arguments:?} of\n{text}\n{said}");
        }
        for call in ["check", "outline", "targets"] {
            let said = bed.run(&["build", &format!("--call={call},format=json"), "."]);
            assert!(!format!("{said}").contains("hidden"), "{call} of\n{text}\n{said}");
            if said.out.starts_with('{') {
                let sources = json(&said)["sources"][0].clone();
                let data = sources.as_str().or_else(|| sources["data"].as_str()).unwrap();
                let shown = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(data).unwrap()).unwrap();
                assert!(shown.contains("FROM ") && !shown.contains("hidden") && !shown.contains("den@"), "{call}: {shown}");
            }
        }
        for verb in [&["report", "--json"][..], &["report"], &["why"], &["logs"]] {
            let said = bed.run(verb);
            assert!(!format!("{said}").contains("hidden"), "{said}");
        }
    }
}

#[test]
fn violations_fail_a_build_that_says_so() {
    let bed = Bed::caller();
    bed.dockerfile("# check=error=true\nFROM scratch as base\nCOPY <<E /x\nE\n");
    bed.build(&[]).fails_with(1).says("lint violation found for rules: FromAsCasing").does_not_say("DONE");
    bed.run(&["build", "--check", "."]).fails_with(1).says("lint violation found for rules: FromAsCasing");
    bed.build(&["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=FromAsCasing"]).succeeds();
    bed.build(&["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all;error=true"]).succeeds();
    bed.build(&["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=what"]).fails_with(1).says("invalid check option");
}

#[test]
fn lint_knows_the_context_and_the_base() {
    let bed = Bed::caller();
    bed.file(".dockerignore", "secret\n").file("secret", "").file("a.key", "").file(".env", "").file("src/app", "");
    bed.dockerfile("FROM alpine\nCOPY secret /\nCOPY . /all/\nENV X=$PATH:$NOTHING\n");
    let checked = bed.run(&["build", "--call=check,format=json", "."]);
    assert_eq!(rules(&checked), ["CopyIgnoredFile", "CopySensitiveFile", "CopySensitiveFile", "UndefinedVar"], "{checked}");
    bed.dockerfile("FROM --platform=linux/amd64 alpine\n");
    let checked = bed.run(&["build", "--call=check,format=json", "."]);
    assert_eq!(rules(&checked), ["FromPlatformFlagConstDisallowed"], "{checked}");
}

#[test]
fn our_own_rules_never_fail_a_build() {
    let bed = Bed::caller();
    bed.file(".env", "x").dockerfile("# check=error=true\nFROM scratch\nCOPY .env /\n");
    bed.build(&[]).succeeds().says("CopySensitiveFile");
}

#[test]
fn outline_and_targets_are_told() {
    let bed = Bed::caller();
    bed.dockerfile("# builder makes it\nFROM scratch AS builder\n# VERSION to make\nARG VERSION=1\nRUN --mount=type=secret,id=token,required=true --mount=type=ssh make $VERSION\nFROM builder AS app\n");
    let told = bed.run(&["build", "--call=outline", "."]);
    told.succeeds().says("TARGET: app").says("VERSION").says("token").says("default");
    let targets = json(&bed.run(&["build", "--call=targets,format=json", "."]));
    assert_eq!(targets["targets"][0]["name"], "builder");
    assert_eq!(targets["targets"][0]["description"], "makes it");
    assert_eq!(targets["targets"][1]["default"], true);
    let outline = json(&bed.run(&["build", "--call=outline,format=json", "--build-arg", "VERSION=2", "."]));
    assert_eq!(outline["args"][0]["value"], "2");
    bed.run(&["build", "--call=outlin", "."]).fails_with(2).says("did you mean outline?");
    bed.run(&["build", "--call=outline", "--target", "ap", "."]).fails_with(1).says("did you mean app?");
}

#[test]
fn parse_prints_the_tree() {
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch AS a\nCOPY x /y\n");
    let tree = json(&bed.run(&["parse"]));
    assert_eq!(tree["stages"][0]["name"]["text"], "a");
    assert_eq!(tree["stages"][0]["instructions"][0]["span"], serde_json::json!({"start": 18, "end": 27}));
    bed.file("Bad", "FROM scratch\nCOPPY x /y\n");
    bed.run(&["parse", "Bad"]).fails_with(1).says("Bad:2:1").says("did you mean COPY?");
}

#[test]
fn unused_build_args_are_noted() {
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch\nARG VERSION\nCOPY <<E /x\nE\n");
    let built = bed.build(&["--build-arg", "VERSON=1", "--build-arg", "HTTP_PROXY=x", "--build-arg", "SOURCE_DATE_EPOCH=0"]);
    built.succeeds().says("--build-arg VERSON has no effect").says("did you mean VERSION?");
    built.does_not_say("HTTP_PROXY has no effect").does_not_say("EPOCH has no effect");
}

#[test]
fn errors_show_their_place_and_their_cause() {
    let bed = Bed::caller();
    bed.file("file", "").file(".dockerignore", "# what is not for images\nhidden/*\n").file("hidden/x", "");
    let cases: [(&str, &[&str]); 14] = [
        ("FROM scratch\nCOPY flie /\n", &["\"/flie\": not found", "Dockerfile:2:1", "did you mean file?"]),
        ("FROM scratch\nCOPY hidden/x /\n", &[".dockerignore:2 hides it", "!hidden/x"]),
        ("FROM alpine\nRUN --mount=source=hidden/x,target=/x true\n", &[".dockerignore:2 hides it", "Dockerfile:2:1"]),
        ("FROM alpine\nRUN --mount=source=flie,target=/x true\n", &["\"/flie\": not found", "did you mean file?"]),
        ("FROM scratch AS build\nFROM scratch\nCOPY --from=biuld / /\n", &["did you mean build?", "Dockerfile:3:1"]),
        ("FROM scratch AS a\nONBUILD COPY nofile /\nFROM a\n", &["Dockerfile:3:1", "ONBUILD COPY nofile /"]),
        ("FROM scratch AS a\nONBUILD COPY --form=x a /\nFROM a\n", &["Dockerfile:3:1", "its base says ONBUILD COPY --form=x a /"]),
        ("FROM scratch\nRUN --mount=type=cahe,target=/x ls\n", &["did you mean cache?", "Dockerfile:2:13"]),
        ("FROM scratch\nRUN --security=insecure ls\n", &["entitlement security.insecure is not allowed", "no privileged mode"]),
        ("FROM scratch\nRUN --network=host ls\n", &["entitlement network.host is not allowed", "--allow network.host"]),
        ("FROM scratch\nRUN echo\n", &["exit code: 127", "this root filesystem has no /bin/sh"]),
        ("FROM scratch\nENTRYPONT x\n", &["unknown instruction: ENTRYPONT", "did you mean ENTRYPOINT?"]),
        ("FROM scratch\nADD https://x.invalid/f /f\n", &["failed to fetch https://x.invalid/f", "Dockerfile:2:1"]),
        ("FROM scratch\nCOPY --from=9 / /\n", &["invalid stage index 9"]),
    ];
    for (text, words) in cases {
        bed.dockerfile(text);
        let failed = bed.build(&[]);
        failed.fails_with(1);
        for word in words {
            failed.says(word);
        }
    }
    assert!(fs::read_to_string(bed.store().join("index.json")).unwrap().contains("\"manifests\":[]"), "the store is untouched");
}

#[test]
fn secrets_come_from_files_and_from_the_environment() {
    let bed = Bed::caller();
    bed.file("token", "by-file").dockerfile("FROM alpine\nRUN --mount=type=secret,id=tok cat /run/secrets/tok; echo\n");
    let build = |secret: &str| {
        let mut command = bed.command(&["build", "--no-cache", "--progress", "plain", "--secret", secret, "."]);
        command.env("tok", "by-id").env("TOK", "by-name");
        Outcome::of(command)
    };
    build("id=tok,src=token").succeeds().says("by-file");
    build("id=tok,source=token,type=file").succeeds().says("by-file");
    build("id=tok").succeeds().says("by-id");
    build("id=tok,env=TOK").succeeds().says("by-name");
    build("type=env,id=tok,src=TOK").succeeds().says("by-name");
    build("id=tok,env=NOPE").fails_with(1).says("the variable NOPE is not set");
    build("src=token").fails_with(2).says("id is missing");
    build("id=tok,what=x").fails_with(2).says("unexpected key 'what'");
    bed.dockerfile("FROM alpine\nRUN --mount=type=secret,id=tok,env=TOKEN test \"$TOKEN\" = by-id\nRUN test -z \"$TOKEN\"\n");
    build("id=tok").succeeds();
}

#[test]
fn flags_of_run_steps_reach_them() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN cat /etc/hosts; ulimit -n; df -k /dev/shm | tail -1; ls /sys/class/net\n");
    let run = |flags: &[&str]| bed.build(&[&["--no-cache"], flags].concat());
    run(&["--add-host", "db:10.1.2.3", "--add-host", "six=[::1]"]).succeeds().says("10.1.2.3\tdb").says("::1\tsix");
    run(&["--ulimit", "nofile=1062:2000"]).succeeds().says("1062");
    run(&["--shm-size", "128m"]).succeeds().says("131072");
    run(&["--network", "none"]).succeeds().does_not_say("eth0");
    run(&["--ulimit", "nofiles=1"]).fails_with(2).says("did you mean nofile?");
    run(&["--ulimit", "nofile=3:2"]).fails_with(2).says("above the hard limit");
    run(&["--network", "nowhere"]).fails_with(2).says("default, none or host");
    run(&["--add-host", "db:nowhere"]).fails_with(2).says("is no IP address").says("host-gateway");
    fs::write(bed.path("key"), "not a key").unwrap();
    fs::set_permissions(bed.path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    run(&["--ssh", "default=../key"]).fails_with(2).says("../key: not a private key");
    run(&["--ssh", "default=../missing"]).fails_with(1).says("../missing");
}

#[test]
fn warnings_and_the_error_mark_lines_of_a_merge_request() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nMAINTAINER me\nRUN echo said; exit 3\n");
    let top = bed.path("context");
    let mut command = bed.command(&["build", "--progress", "plain", "--code-quality", "quality.json", "."]);
    command.env("GITLAB_CI", "true").env("CI_PROJECT_DIR", top.parent().unwrap());
    Outcome::of(command).fails();
    let text = std::fs::read_to_string(top.join("quality.json")).unwrap();
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    let marks: Vec<_> = found.as_array().unwrap().iter().map(|mark| (mark["severity"].as_str(), &mark["location"])).collect();
    let location = |line: usize| serde_json::json!({"path": "context/Dockerfile", "lines": {"begin": line}});
    assert_eq!(marks, [(Some("minor"), &location(2)), (Some("blocker"), &location(3))], "{text}");
    assert_eq!(found[1]["fingerprint"].as_str().map(str::len), Some(64));

    let mut command = bed.command(&["build", "."]);
    command.env("GITHUB_ACTIONS", "true").env("GITHUB_WORKSPACE", top.parent().unwrap());
    let outcome = Outcome::of(command);
    outcome.fails().says("::warning file=context/Dockerfile,line=2,col=1::MaintainerDeprecated: ");
    outcome.says("::error file=context/Dockerfile,line=3,col=1::").says("::group::#2 [2/2] RUN echo said; exit 3\n#2 ");
    // Once.
    assert_eq!(outcome.err.matches("MaintainerDeprecated").count(), 1, "{outcome}");

    bed.dockerfile("FROM scratch\nCOPPY a /\n");
    bed.build(&["--code-quality", "quality.json"]).fails();
    assert!(std::fs::read_to_string(top.join("quality.json")).unwrap().contains("unknown instruction"));
}

/// This machine is reached by a name, from the private network and where there is none.
#[test]
fn a_step_reaches_this_machine_where_that_was_asked_for() {
    for bed in Bed::each_user() {
        let web = Web::start();
        web.page("/page", Page::of("from the machine itself"));
        let url = web.url("/page").replace("127.0.0.1", "gate");
        bed.dockerfile(&format!("FROM alpine\nRUN wget -q -O - {url}\n"));
        bed.build(&["--no-cache", "--add-host", "gate:host-gateway"]).succeeds().says("from the machine itself");
        bed.build(&["--no-cache", "--add-host", "gate:host-gateway", "--network", "host", "--allow", "network.host"])
            .succeeds()
            .says("from the machine itself");
        bed.build(&["--no-cache"]).fails_with(1);
    }
}
