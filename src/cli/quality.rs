//! `--code-quality FILE`: warnings and the error as GitLab's code quality report, which marks the lines of a merge request.
//! Unaware of how they were found.

use std::path::Path;

use serde::Serialize;

use crate::{
    cli::failure::{Failure, in_repository},
    dockerfile::lint::Warning,
};

/// One finding, in the fields that GitLab reads.
#[derive(Debug, Serialize)]
struct Finding {
    description: String,
    check_name: String,
    /// The same for the same finding of another commit: GitLab shows what is new.
    fingerprint: String,
    severity: &'static str,
    location: Location,
}

#[derive(Debug, Serialize)]
struct Location {
    path: String,
    lines: Lines,
}

#[derive(Debug, Serialize)]
struct Lines {
    begin: usize,
}

/// Writes the report: of a build without findings an empty list.
pub fn write(path: &Path, dockerfile: &str, warnings: &[Warning], failure: Option<&Failure>) -> Result<(), Failure> {
    let warned = warnings.iter().map(|warning| finding(&in_repository(dockerfile), warning.line, warning.rule, &warning.message, "minor"));
    let failed = failure.and_then(|failure| {
        let (path, line, _) = failure.position()?;
        Some(finding(&in_repository(path), line, "build", &failure.message, "blocker"))
    });
    let findings: Vec<Finding> = warned.chain(failed).collect();
    let text = serde_json::to_string_pretty(&findings).expect("plain data has a JSON form") + "\n";
    std::fs::write(path, text).map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}

fn finding(path: &str, line: usize, check_name: &str, description: &str, severity: &'static str) -> Finding {
    let fingerprint = blake3::hash(format!("{path}\0{check_name}\0{description}").as_bytes()).to_hex().to_string();
    let location = Location { path: path.to_owned(), lines: Lines { begin: line } };
    Finding { description: description.to_owned(), check_name: check_name.to_owned(), fingerprint, severity, location }
}
