//! Tests of ignore patterns.

use super::*;

#[test]
fn one_pattern() {
    for (pattern, path, expected) in [
        ("**", "file", true),
        ("**", "dir/file", true),
        ("**/", "file", true),
        ("**/**", "dir/file", true),
        ("dir/**", "dir/file", true),
        ("dir/**", "dir", false),
        ("dir/**", "dirx", false),
        ("**/dir", "dir/file", true),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/*", "dir/dir2/dir2/file", true),
        ("**/dir2/**", "dir/dir2/dir2/file", true),
        ("**file", "file", true),
        ("**file", "dir/file", true),
        ("**/file", "dir/file", true),
        ("**/file", "xfile", false),
        ("**/*file", "dir/file", true),
        ("**/file*.txt", "dir/dir/file1.txt", true),
        ("dir/**/file", "dir/file", true),
        ("dir/**/file", "dir/a/b/file", true),
        ("a**b", "a/x/b", true),
        ("a**b", "axb", false),
        ("a?c", "a/c", false),
        ("a[b-d]e", "ace", true),
        ("a[^b-d]e", "ace", false),
        ("a\\*b", "a*b", true),
        ("a.b", "axb", false),
        ("(x)+$", "(x)+$", true),
        ("*.x", ".x", true),
        ("*", "a/b", true),
        ("*/*", "a", false),
        ("*/*", "a/b/c", true),
        ("a/b", "a/b/c/d", true),
        ("a", "b/a", false),
        ("/a", "a", false),
        (".", "a", false),
        ("*", ".", false),
        ("*", "", false),
        ("한*", "한국어", true),
    ] {
        assert_eq!(Matcher::new([pattern]).unwrap().matches(path), expected, "{pattern} {path}");
    }
}

#[test]
fn the_last_match_wins() {
    for (patterns, path, expected) in [
        (&["*", "!x"][..], "x", false),
        (&["*", "!x"], "y", true),
        (&["docs", "!docs/README.md"], "docs/README.md", false),
        (&["docs", "!docs/README.md"], "docs/a", true),
        (&["docs/**", "!docs/README.md", "docs/README.md"], "docs/README.md", true),
        (&["!x", "*"], "x", true),
        (&["a", "!a/b", "a/b/c"], "a/b/c", true),
        (&["a", "!a/b", "a/b/c"], "a/b/d", false),
        (&["**", "!**/*.go"], "a/b.go", false),
        (&["ba*", "!bay"], "bay", false),
        (&["ba*", "!bay"], "bar", true),
    ] {
        assert_eq!(Matcher::new(patterns).unwrap().matches(path), expected, "{patterns:?} {path}");
    }
}

#[test]
fn bad_patterns_are_refused() {
    for (text, error) in [
        ("a\n!\n", "illegal exclusion pattern: \"!\""),
        ("! ", "illegal exclusion pattern: \"!\""),
        ("!/", "illegal exclusion pattern: \"!\""),
        ("[", "syntax error in pattern"),
        ("a\\", "syntax error in pattern"),
        ("[z-a]", "syntax error in pattern"),
    ] {
        assert_eq!(IgnoreFile::parse(text).unwrap_err(), error, "{text:?}");
    }
}

#[test]
fn files_are_read_line_by_line() {
    let file = IgnoreFile::parse("\u{feff}/a//b/\n# c\n\n  d  \r\n! /a/b/c\n #e\n").unwrap();
    assert_eq!(file.matcher().patterns().collect::<Vec<_>>(), ["a/b", "d", "!a/b/c", "#e"]);
    for (path, line) in [
        ("a/b", Some((1, "/a//b/"))),
        ("a/b/x", Some((1, "/a//b/"))),
        ("a/b/c/x", Some((5, "! /a/b/c"))),
        ("d", Some((4, "d"))),
        ("#e", Some((6, "#e"))),
        ("c", None),
    ] {
        assert_eq!(file.deciding_line(path), line, "{path}");
    }
}

#[test]
fn directories_without_hope_are_skipped() {
    for (patterns, directory, expected) in [
        (&["a"][..], "a", true),
        (&["a"], "b", false),
        (&["*", "!*.md"], "node_modules", true),
        (&["*", "!node_modules/x"], "node_modules", false),
        (&["*", "!node_modules/x"], "node_modules/y", true),
        (&["*", "!src"], "src", false),
        (&["*", "!src/*/x"], "src", false),
        (&["*", "!src/*/x"], "src/a", false),
        (&["*", "!src/*/x"], "src/a/b", true),
        (&["*", "!**/x"], "a/b/c", false),
        (&["*", "!a/[b]"], "a", false),
    ] {
        assert_eq!(Matcher::new(patterns).unwrap().can_skip_directory(directory), expected, "{patterns:?} {directory}");
    }
}

/// The walk with remembered parents says the same as asking about each path alone.
#[test]
fn walking_agrees_with_asking() {
    let lists: [&[&str]; 7] = [
        &["a"],
        &["*", "!a/b"],
        &["a/**", "!a/b", "a/b/a"],
        &["**/b"],
        &["!a", "a/b", "!a/b/a"],
        &["*/b", "!*/b/a", "a"],
        &["a", "!a", "a/a"],
    ];
    for patterns in lists {
        let matcher = Matcher::new(patterns).unwrap();
        for first in ["a", "b"] {
            let (ignored, below_first) = matcher.enter(first, &matcher.root());
            assert_eq!(ignored, matcher.matches(first), "{patterns:?} {first}");
            for second in ["a", "b"] {
                let second = format!("{first}/{second}");
                let (ignored, below_second) = matcher.enter(&second, &below_first);
                assert_eq!(ignored, matcher.matches(&second), "{patterns:?} {second}");
                for third in ["a", "b"] {
                    let third = format!("{second}/{third}");
                    assert_eq!(matcher.matches_below(&third, &below_second), matcher.matches(&third), "{patterns:?} {third}");
                }
            }
        }
    }
}

/// A generous bound that holds in unoptimised builds: regular expressions run only for paths of the right depth.
#[test]
fn fifty_thousand_files_are_cheap() {
    let matcher = Matcher::new(["node_modules", "**/*.log", "target/**", "*.tmp", "a/*/c?.o", "!keep"]).unwrap();
    let root = matcher.root();
    let started = std::time::Instant::now();
    let mut ignored = 0;
    for directory in 0..500 {
        let directory = format!("src{directory}");
        let (_, below) = matcher.enter(&directory, &root);
        for file in 0..100 {
            ignored += usize::from(matcher.matches_below(&format!("{directory}/f{file}.log"), &below));
        }
    }
    assert_eq!(ignored, 50_000);
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

#[test]
fn hostile_patterns_stay_linear() {
    let pattern = format!("{}b", "*a".repeat(200));
    let matcher = Matcher::new([pattern, "**/a".repeat(100)]).unwrap();
    assert!(!matcher.matches(&"a".repeat(20_000)));
}
