//! Tests of the parser.

use super::*;

fn instructions(text: &str) -> Vec<Instruction> {
    let mut file = parse(&format!("FROM base\n{text}")).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    file.stages.remove(0).instructions
}

fn only(text: &str) -> InstructionKind {
    let mut all = instructions(text);
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0).kind
}

/// Message, hint and the text under the caret.
fn error(text: &str) -> (String, Option<String>, &str) {
    let error = parse(text).expect_err(text);
    (error.message, error.hint, error.span.map_or("", |span| &text[span.start..span.end]))
}

#[test]
fn errors_stand_where_the_fault_is() {
    for (text, message, hint, place) in [
        ("", "the Dockerfile cannot be empty", None, ""),
        ("# only\n\n", "file with no instructions", None, ""),
        ("ARG a", "dockerfile contains no stages to build", None, ""),
        ("RUN x\nFROM a", "no build stage in current context", Some("only ARG may stand before the first FROM"), "RUN x"),
        ("FROM a\nCOPPY a b", "unknown instruction: COPPY", Some("did you mean COPY?"), "COPPY"),
        ("FROM a\nrum x", "unknown instruction: rum", Some("did you mean run?"), "rum"),
        ("FROM a\nXYZZY", "unknown instruction: XYZZY", None, "XYZZY"),
        ("FROM a\nRUN --mont=x y", "unknown flag: --mont", Some("did you mean mount?"), "--mont=x"),
        ("FROM a\nENV x", "ENV must have two arguments", None, "x"),
        ("FROM a\nENV a=b c", "Syntax error - can't find = in \"c\". Must be of the form: name=value", None, "c"),
        ("FROM a\nENV =b", "ENV names can not be blank", None, "=b"),
        ("FROM a\nENV", "ENV requires at least one argument", None, "ENV"),
        ("FROM a\nARG =b", "ARG names can not be blank", None, "=b"),
        (
            "FROM a\nCOPY a",
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
            None,
            "COPY a",
        ),
        ("FROM a\nCOPY a <<EOF\nEOF", "COPY cannot accept a heredoc as a destination", None, "<<EOF"),
        ("FROM a\nRUN <<EOF\nx", "unterminated heredoc", None, "RUN <<EOF"),
        ("FROM a\nRUN [\"a\", 1]", "when using JSON array syntax, arrays must be comprised of strings only", None, "[\"a\", 1]"),
        ("FROM a\nSHELL sh", "SHELL requires the arguments to be in JSON form", Some("write SHELL [\"executable\", \"parameter\"]"), "sh"),
        ("FROM a\nWORKDIR", "WORKDIR requires exactly one argument", None, "WORKDIR"),
        ("FROM a b", "FROM requires either one or three arguments", None, "FROM a b"),
        ("FROM a AS 1x", "invalid name for build stage: \"1x\", name can't start with a number or contain symbols", None, "1x"),
        ("FROM a\nRUN --network=lan x", "invalid network mode \"lan\"", None, "lan"),
        ("FROM a\nRUN --security=no x", "security \"no\" is not valid", None, "no"),
        ("FROM a\nONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger", None, "FROM"),
        ("FROM a\nONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", None, "ONBUILD"),
        ("FROM a\nVOLUME [\" \"]", "VOLUME specified can not be an empty string", None, "\" \""),
        ("FROM a\nHEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments", None, "HEALTHCHECK NONE x"),
        ("FROM a\nHEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD", None, "HEALTHCHECK CMD"),
        ("FROM a\nHEALTHCHECK WHAT x", "Unknown type \"WHAT\" in HEALTHCHECK (try CMD)", None, "WHAT"),
        ("FROM a\nHEALTHCHECK --interval=1us CMD x", "Interval \"interval\" cannot be less than 1ms", None, "1us"),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x", "--retries cannot be negative (-1)", None, "-1"),
        ("FROM a\nHEALTHCHECK --retries=x CMD x", "strconv.ParseInt: parsing \"x\": invalid syntax", None, "x"),
        ("# escape=x\nFROM a", "invalid escape token 'x' does not match ` or \\", None, "x"),
        ("# escape=`\n# escape=`\nFROM a", "only one escape parser directive can be used", None, "# escape=`"),
    ] {
        assert_eq!(error(text), (message.to_owned(), hint.map(str::to_owned), place), "{text}");
    }
}

#[test]
fn lines_that_cannot_be_split_come_first() {
    assert_eq!(error("FROM a\nCOPPY a b\nENV x").0, "ENV must have two arguments");
}

#[test]
fn too_long_a_line_is_refused() {
    let line = |length: usize| format!("FROM a\nRUN {}", "x".repeat(length - 4));
    assert!(parse(&line(65535)).is_ok());
    assert_eq!(parse(&line(65536)).unwrap_err().message, "dockerfile line greater than max allowed size of 65535");
}

#[test]
fn words_of_joined_lines_know_their_place() {
    let text = "FROM a\nCOPY a \\\n  # comment\n\n  b\\\nc /d\n";
    let file = parse(text).unwrap();
    let InstructionKind::Copy(copy) = &file.stages[0].instructions[0].kind else { panic!() };
    let places = copy.transfer.sources.iter().map(|source| match source {
        Source::Path(word) => (word.text.as_str(), &text[word.span.start..word.span.end]),
        Source::Heredoc(_) => panic!(),
    });
    assert_eq!(places.collect::<Vec<_>>(), [("a", "a"), ("bc", "b\\\nc")]);
    assert_eq!(file.stages[0].instructions[0].original, "COPY a   bc /d");
    assert_eq!(file.empty_continuation_lines, [4]);
}

#[test]
fn continuation_marks() {
    let command = |text: &str| match only(text) {
        InstructionKind::Run(RunInstruction { command: CommandLine::Shell(text), .. }) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(command("RUN a \\  \n  b"), "a   b");
    assert_eq!(command("RUN a\\\nb"), "ab");
    assert_eq!(command("RUN a \\"), "a");
    assert_eq!(command("RUN a \\\n\\\n  \\\nb"), "a   b");
    assert_eq!(command("RUN a \\\\\n"), "a \\\\");
    assert_eq!(command("RUN a \\\n # no\n#no\nb"), "a b");
    assert_eq!(parse("# escape=`\nFROM a\nRUN a `\nb\nRUN c \\\n").unwrap().stages[0].instructions.len(), 2);
}

#[test]
fn heredocs_take_their_bodies() {
    let text = "RUN <<-'A' cat 3<<B\n\tx\n\tA\n\t$y\nA\nB\nRUN z";
    let all = instructions(text);
    let InstructionKind::Run(run) = &all[0].kind else { panic!() };
    let seen: Vec<_> =
        run.heredocs.iter().map(|doc| (doc.name.as_str(), doc.content(), doc.expand, doc.strip_tabs, doc.file_descriptor)).collect();
    assert_eq!(seen, [("A", "x\n".to_owned(), false, true, None), ("B", "\t$y\nA\n".to_owned(), true, false, Some(3))]);
    assert_eq!(all.len(), 2);
}

#[test]
fn heredocs_only_where_they_may_stand() {
    assert_eq!(instructions("USER <<X").len(), 1);
    assert_eq!(instructions("RUN \"<<X\"").len(), 1);
    assert_eq!(instructions("RUN [\"<<X\"]").len(), 1);
    let InstructionKind::Copy(copy) = only("COPY a <<A <<\"B\" /d/\n1\nA\n2\nB\n") else { panic!() };
    let bodies = copy.transfer.sources.iter().map(|source| match source {
        Source::Path(word) => word.text.clone(),
        Source::Heredoc(doc) => format!("{}:{}:{}", doc.name, doc.body, doc.expand),
    });
    assert_eq!(bodies.collect::<Vec<_>>(), ["a", "A:1\n:true", "B:2\n:false"]);
}

#[test]
fn json_that_is_none_is_shell() {
    for (text, expected) in [
        ("CMD [\"a\", \"b\"]", CommandLine::Exec(vec!["a".into(), "b".into()])),
        ("CMD []", CommandLine::Exec(vec![])),
        ("CMD ['a']", CommandLine::Shell("['a']".into())),
        ("CMD []x", CommandLine::Shell("[]x".into())),
        ("CMD [\"a\"]x", CommandLine::Shell("[\"a\"]x".into())),
        ("CMD", CommandLine::Shell(String::new())),
    ] {
        assert_eq!(only(text), InstructionKind::Cmd(expected), "{text}");
    }
}

#[test]
fn triggers_are_stored_as_written() {
    for (text, expected) in [
        ("ONBUILD RUN  x ", "RUN  x "),
        ("onbuild   copy a b", "copy a b"),
        ("ONBUILD RUN <<E\n x\nE\n", "RUN <<E\n x\nE"),
        ("ONBUILD NONSENSE x", "NONSENSE x"),
    ] {
        let InstructionKind::Onbuild { trigger, instruction } = only(text) else { panic!() };
        assert_eq!(trigger, expected);
        assert_eq!(instruction.is_some(), expected != "NONSENSE x");
        assert_eq!(parse_trigger(&trigger).is_ok(), instruction.is_some());
    }
    assert_eq!(parse_trigger("RUN a\nRUN b").unwrap_err().message, "onbuild trigger should be a single expression");
    let chain = "ONBUILD ".repeat(20_000);
    assert!(parse(&format!("FROM a\nONBUILD \\\n{}", chain.replace(' ', " \\\n"))).is_err());
}

#[test]
fn comments_belong_to_what_follows() {
    let file = parse("# escape=`\n# one\n\n# two\nFROM a AS b\n# three\n#\n# four\n  # five\nRUN x\nRUN y").unwrap();
    assert_eq!(file.stages[0].comments, ["one", "two"]);
    assert_eq!(file.stages[0].instructions[0].comments, ["four", "# five"]);
    assert_eq!(file.stages[0].instructions[1].comments, [""; 0]);
}

#[test]
fn flags_of_arg_and_none_are_never_read() {
    assert!(matches!(only("ARG --what x"), InstructionKind::Arg(_)));
    assert!(matches!(only("STOPSIGNAL --what 9"), InstructionKind::Stopsignal(_)));
    assert_eq!(only("HEALTHCHECK --what NONE"), InstructionKind::Healthcheck(Healthcheck::None));
}
