//! The security list: hostile contexts, images, Dockerfiles, steps and registries, item by item. `items.txt` is the table of
//! what holds on which rung and of the tests that hold it. Those here are named by their number and run on every rung.

mod authorities;
mod context;
mod files;
mod layers;
mod limits;
mod parsers;
mod secrets;
mod steps;
mod store;
mod terminal;
mod urls;

use std::collections::BTreeSet;

use crate::support::{Bed, Outcome, User, checkout};

/// A bed on one rung of the privilege ladder.
pub struct Stand {
    pub bed: Bed,
    pub rung: &'static str,
}

impl Stand {
    /// Each rung that can RUN, as each user that can stand on it.
    pub fn each() -> Vec<Stand> {
        let mut stands = Vec::new();
        for user in User::all() {
            for rung in ["full", "single", "chroot"] {
                let stand = Stand { bed: Bed::of(user), rung };
                stand.bed.dockerfile("FROM busybox\nRUN true\n");
                let tried = stand.build(&[]);
                match tried.code {
                    Some(0) => stands.push(stand),
                    // A rung that is out of reach here says so before the step.
                    _ => eprintln!("not on {rung} as {user:?}: {}", tried.err.lines().find(|line| line.starts_with("error")).unwrap_or("")),
                }
            }
        }
        assert!(stands.iter().any(|stand| stand.rung == "full"), "at least this one");
        stands
    }

    pub fn build(&self, arguments: &[&str]) -> Outcome {
        self.bed.run(&[&["--rung", self.rung, "build", "--progress", "plain"], arguments, &["."]].concat())
    }

    /// Builds a Dockerfile of `FROM busybox` and these lines.
    pub fn lines(&self, lines: &str, arguments: &[&str]) -> Outcome {
        self.bed.dockerfile(&format!("FROM busybox\n{lines}\n"));
        self.build(arguments)
    }
}

/// How often a race is run; a hundred thousand times at least once for a release.
pub fn race_rounds() -> usize {
    std::env::var("RBUILD_RACE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(50)
}

#[test]
fn every_item_is_held_by_tests_that_exist() {
    let list = include_str!("items.txt");
    let mut items = BTreeSet::new();
    for line in list.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let columns: Vec<&str> = line.split(" | ").collect();
        let [number, _, full, single, chroot, tests] = columns[..] else { panic!("six columns: {line}") };
        let number: usize = number.parse().unwrap_or_else(|_| panic!("{line}"));
        let known = ["holds", "same", "n/a: ", "partly: ", "does not hold: "];
        assert!([full, single, chroot].iter().all(|rung| known.iter().any(|word| rung.starts_with(word))), "{line}");
        let tests: Vec<&str> = tests.split_whitespace().collect();
        assert!(!tests.is_empty(), "{line}");
        for test in tests {
            let (file, function) = test.split_once("::").unwrap_or_else(|| panic!("{test} in {line}"));
            let text = std::fs::read_to_string(checkout().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(text.contains(&format!("fn {function}(")), "{file} has no {function}");
        }
        items.insert(number);
    }
    assert_eq!(items, (1..=51).collect());
}
