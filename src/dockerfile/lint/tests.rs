//! Tests of the lint rules.

use super::super::parse;
use super::*;

/// `Rule: message (line N)` for each warning.
fn lint(text: &str, options: &Options<'_>) -> Vec<String> {
    let file = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    check(&file, text, options).unwrap().warnings.iter().map(ToString::to_string).collect()
}

fn predefined() -> Vec<(String, String)> {
    [("TARGETPLATFORM", "linux/amd64"), ("TARGETOS", "linux"), ("TARGETARCH", "amd64"), ("BUILDPLATFORM", "linux/amd64")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

fn options() -> Options<'static> {
    Options { predefined_args: predefined(), all_stages: true, base: &|_| Some(Base::default()), ..Options::default() }
}

#[test]
fn every_rule_speaks() {
    for (text, expected) in [
        ("FROM a AS Build", &["StageNameCasing: Stage name 'Build' should be lowercase (line 1)"][..]),
        ("FROM a as b", &["FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)"]),
        ("from a AS b", &["FromAsCasing: 'AS' and 'from' keywords' casing do not match (line 1)"]),
        ("FROM a\nRUN x \\\n\n y", &["NoEmptyContinuation: Empty continuation line (line 3)"]),
        (
            "FROM a\nRUN x\nrun y\nRun z",
            &[
                "ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase) (line 3)",
                "ConsistentInstructionCasing: Command 'Run' should match the case of the command majority (uppercase) (line 4)",
            ],
        ),
        ("FROM a AS b\nFROM a AS b", &["DuplicateStageName: Duplicate stage name \"b\", stage names should be unique (line 2)"]),
        ("FROM a AS scratch", &["ReservedStageName: Stage name should not use the same name as reserved stage \"scratch\" (line 1)"]),
        (
            "FROM a\nCMD x\nENTRYPOINT y",
            &[
                "JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 2)",
                "JSONArgsRecommended: JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals (line 3)",
            ],
        ),
        ("FROM a\nSHELL [\"x\"]\nCMD x", &[]),
        ("FROM a\nMAINTAINER x", &["MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)"]),
        (
            "ARG VERSION=1\nFROM a:$VERSON",
            &[
                "InvalidDefaultArgInFrom: Default value for ARG a:$VERSON results in empty or invalid base image name (line 2)",
                "UndefinedArgInFrom: FROM argument 'VERSON' is not declared (did you mean VERSION?) (line 2)",
            ],
        ),
        (
            "FROM a\nWORKDIR x\nWORKDIR y",
            &["WorkdirRelativePath: Relative workdir \"x\" can have unexpected results if the base image changes (line 2)"],
        ),
        ("FROM a\nWORKDIR /x\nWORKDIR y", &[]),
        (
            "FROM a\nENV DIR_ASSETS=/a\nCOPY $DIR_ASSET /x",
            &["UndefinedVar: Usage of undefined variable '$DIR_ASSET' (did you mean $DIR_ASSETS?) (line 3)"],
        ),
        ("FROM a\nARG B\nLABEL a=$B\nLABEL c=$PATH", &[]),
        (
            "FROM a\nCMD [\"x\"]\nRUN y\nCMD [\"z\"]",
            &[
                "MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used (line 2)",
            ],
        ),
        ("FROM a AS b\nCMD [\"x\"]\nFROM b\nCMD [\"z\"]", &[]),
        (
            "FROM a\nENV b c",
            &["LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format (line 2)"],
        ),
        (
            "FROM --platform=${TARGETPLATFORM} a",
            &[
                "RedundantTargetPlatform: Setting platform to predefined ${TARGETPLATFORM} in FROM is redundant as this is the default behavior (line 1)",
            ],
        ),
        ("FROM --platform=$BUILDPLATFORM a AS b\nRUN x", &["RedundantTargetPlatform"; 0]),
        (
            "FROM a\nENV api_KEY=x DB_PASSWORD_FILE=y KEYS=z\nARG TOKEN",
            &[
                "SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV \"api_KEY\") (line 2)",
                "SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG \"TOKEN\") (line 3)",
            ],
        ),
        ("ARG I\nFROM $I", &["InvalidDefaultArgInFrom: Default value for ARG $I results in empty or invalid base image name (line 2)"]),
        (
            "FROM --platform=linux/arm64 a",
            &["FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/arm64\" (line 1)"],
        ),
        ("FROM --platform=linux/arm64 a AS build_arm64", &[]),
        ("FROM a\nEXPOSE 80/TcP", &["ExposeProtoCasing: Defined protocol '80/TcP' in EXPOSE instruction should be lowercase (line 2)"]),
        (
            "FROM a\nEXPOSE 5000:5000",
            &["ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '5000:5000' (line 2)"],
        ),
        (
            "# check=experimental=all\n# x y\nFROM a AS b\n# c it is\nARG c\n# no\nARG d e",
            &[
                "InvalidDefinitionDescription: Comment for FROM should follow the format: `# b <description>` (line 3)",
                "InvalidDefinitionDescription: Comment for ARG should follow the format: `# <arg_key> <description>` (line 7)",
            ],
        ),
        (
            "ARG TARGETOS=${TARGETOS:-linux}\nFROM a\nARG TARGETARCH=amd64",
            &["ShadowedPlatformArg: Default value \"amd64\" of ARG TARGETARCH hides the value that the builder sets (line 3)"],
        ),
    ] {
        assert_eq!(lint(text, &options()), expected, "{text}");
    }
}

#[test]
fn rules_can_be_silenced() {
    for (text, count) in [
        ("# check=skip=JSONArgsRecommended\nFROM a\nCMD x", 0),
        ("# check=skip=all\nFROM a as B\nCMD x", 0),
        ("FROM a\n# check=skip=JSONArgsRecommended\nCMD x", 0),
        ("FROM a\n# check=skip=UndefinedVar\nCMD x", 1),
        ("# check=error=true\nFROM a\nCMD x", 1),
    ] {
        assert_eq!(lint(text, &options()).len(), count, "{text}");
    }
    let text = "# check=skip=all\nFROM a\nCMD x";
    assert_eq!(lint(text, &Options { check: Some(""), ..options() }).len(), 1);
    let report = check(&parse(text).unwrap(), text, &Options { check: Some("error=true"), ..options() }).unwrap();
    assert_eq!(report.error().as_deref(), Some("lint violation found for rules: JSONArgsRecommended"));
    let bad = "# check=what\nFROM a";
    assert_eq!(
        check(&parse(bad).unwrap(), bad, &options()).unwrap_err().message,
        "failed to parse check options: invalid check option \"what\""
    );
}

#[test]
fn only_what_the_target_needs_is_followed() {
    let text = "FROM a AS one\nCMD x\nFROM one AS two\nFROM a AS three\nCOPY --from=Two /x /y\nFROM a AS four\nCMD y";
    let lines = |target: Option<&str>| lint(text, &Options { target, all_stages: false, ..options() }).len();
    assert_eq!((lines(None), lines(Some("THREE")), lines(Some("two"))), (1, 1, 1));
    assert!(lint(text, &Options { all_stages: false, target: Some("four"), ..options() })[0].ends_with("(line 7)"));
}

#[test]
fn an_unknown_base_may_define_anything() {
    let text = "FROM a\nENV X=$JAVA_HOME";
    assert_eq!(lint(text, &Options { base: &|_| None, ..options() }), [""; 0]);
    assert_eq!(lint(text, &options()).len(), 1);
    assert_eq!(lint("FROM scratch\nENV X=$JAVA_HOME", &Options { base: &|_| None, ..options() }).len(), 1);
    let java = Options { base: &|_| Some(Base { environment: Environment::new([("JAVA_HOME", "/j")]), ..Base::default() }), ..options() };
    assert_eq!(lint(text, &java), [""; 0]);
    assert_eq!(lint("FROM a AS b\nONBUILD ENV Y=1\nFROM b\nLABEL y=$Y", &options()), [""; 0]);
}

#[test]
fn triggers_of_a_base_are_looked_at_where_it_is_named() {
    let onbuild = ["ENV A $NONE", "WORKDIR here", "ARG S=$A", "ENTRYPOINT run http://u:p@h/", "WHAT is this", "COPY --from=first /a /"];
    let base = |name: &str| match name {
        "child" => Some(Base { triggers: onbuild.map(str::to_owned).to_vec(), ..Base::default() }),
        _ => Some(Base::default()),
    };
    let text =
        "FROM other AS first\nMAINTAINER x\nCMD x\nFROM other AS second\nCMD x\n# check=skip=all\nFROM child\nENV B=$A$S\nENTRYPOINT []";
    let options = Options { base: &base, all_stages: false, ..options() };
    let found = check(&parse(text).unwrap(), text, &options).unwrap().warnings;
    let found: Vec<String> =
        found.iter().map(|warning| format!("{} {} {}", warning.rule, warning.line, warning.label.as_deref().unwrap_or("-"))).collect();
    assert_eq!(
        found,
        [
            "MaintainerDeprecated 2 -",
            "JSONArgsRecommended 3 -",
            "UndefinedVar 7 its base says ONBUILD ENV A $NONE",
            "LegacyKeyValueFormat 7 its base says ONBUILD ENV A $NONE",
            "WorkdirRelativePath 7 its base says ONBUILD WORKDIR here",
            "JSONArgsRecommended 7 its base says ONBUILD ENTRYPOINT run http://u:xxxxx@h/",
            "MultipleInstructionsDisallowed 7 -",
        ]
    );
}

#[test]
fn triggers_of_a_stage_stand_where_it_is_named() {
    let text = "FROM scratch AS a\nONBUILD WORKDIR x\nFROM a\nFROM a AS c\nWORKDIR /";
    let message = "WorkdirRelativePath: Relative workdir \"x\" can have unexpected results if the base image changes";
    assert_eq!(lint(text, &options()), [format!("{message} (line 3)"), format!("{message} (line 4)")]);
}

#[test]
fn copies_of_ignored_files() {
    let cases: [(&[&str], &str, &[&str]); 6] = [
        (
            &["Dockerfile"],
            "COPY Dockerfile .",
            &["CopyIgnoredFile: Attempting to Copy file \"Dockerfile\" that is excluded by .dockerignore (line 2)"],
        ),
        (&["a"], "ADD ./a/b /", &["CopyIgnoredFile: Attempting to Add file \"a/b\" that is excluded by .dockerignore (line 2)"]),
        (&["a", "!a/b"], "COPY a /", &[]),
        (&["*"], "COPY . .", &["CopyIgnoredFile: Attempting to Copy file \".\" that is excluded by .dockerignore (line 2)"]),
        (&[".*"], "COPY . .", &[]),
        (&["a"], "COPY --from=x a /", &[]),
    ];
    for (patterns, copy, expected) in cases {
        let matcher = Matcher::new(patterns).unwrap();
        assert_eq!(lint(&format!("FROM a\n{copy}"), &Options { ignored: Some(&matcher), ..options() }), expected, "{copy}");
    }
}

#[test]
fn copies_of_what_is_secret() {
    let paths: Vec<String> =
        [".git", ".git/config", ".env", ".env.example", "src/id_rsa", "src/id_rsa.pub", "certs/ca.pem", "certs/key.pem"]
            .map(str::to_owned)
            .to_vec();
    let found = |copy: &str, ignored: &[&str]| {
        let matcher = Matcher::new(ignored).unwrap();
        let options = Options { context_paths: Some(&paths), ignored: Some(&matcher), ..options() };
        lint(&format!("FROM a\n{copy}"), &options).len()
    };
    for (copy, ignored, count) in [
        ("COPY . .", &[][..], 3),
        ("COPY . .", &[".git", ".env"], 1),
        ("COPY . .", &[".git", ".env", "**/id_rsa", "certs"], 0),
        ("COPY --exclude=.git --exclude=**/*.pem . .", &[".env"], 1),
        ("COPY src /", &[], 1),
        ("COPY s*c /", &[], 1),
        ("COPY certs/ca.pem /", &[], 0),
        ("COPY .env.example /.env", &[], 0),
        ("COPY --from=x . .", &[], 0),
    ] {
        assert_eq!(found(copy, ignored), count, "{copy} {ignored:?}");
    }
    let message =
        "CopySensitiveFile: COPY takes \".env\" into the image: settings that are often secret; ignore it or name what is needed (line 2)";
    assert_eq!(lint("FROM a\nCOPY ./.env /", &options()), [message]);
}

#[test]
fn warnings_before_an_error_are_told() {
    let (report, error) = check_text("FROM a as b\nMAINTAINER x\nWHAT", &options());
    assert_eq!(report.warnings.len(), 2);
    assert_eq!(error.unwrap().message, "unknown instruction: WHAT");
}

#[test]
fn platforms_that_differ() {
    let wrong = vec![(0, "a".to_owned(), "linux/arm64".to_owned(), "linux/amd64".to_owned())];
    assert_eq!(
        lint("FROM a", &Options { wrong_platforms: wrong, ..options() }),
        [
            "InvalidBaseImagePlatform: Base image a was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build (line 1)"
        ]
    );
}

#[test]
fn twenty_four_rules() {
    assert_eq!(rules::ALL.len(), 24);
    assert_eq!(rules::ALL.iter().filter(|rule| rule.experimental).count(), 1);
}
