//! What a Rust program was built from: `Cargo.lock`, or the list that cargo-auditable puts into the program.
//! Unaware of where they are.

use std::io::Read;

use serde::Deserialize;

use super::package::{Ecosystem, Package};

/// cargo-auditable's lists are some kilobytes.
const LIST_LIMIT_BYTES: u64 = 16 << 20;

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct List {
    packages: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    version: String,
    #[serde(default)]
    kind: String,
}

/// The packages of a `Cargo.lock`.
pub fn read_lock(text: &str) -> Result<Vec<Package>, String> {
    let lock: Lock = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let packages = lock.package.into_iter().map(|locked| {
        let is_hash = |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        Package { sha256: locked.checksum.filter(is_hash), ..Package::new(Ecosystem::Cargo, &locked.name, &locked.version) }
    });
    Ok(packages.collect())
}

/// The packages that are in a program; none if it has no list.
pub fn read_program(program: &[u8]) -> Result<Vec<Package>, String> {
    use auditable_extract::{Error, raw_auditable_data};
    let compressed = match raw_auditable_data(program) {
        Ok(compressed) => compressed,
        // Most programs are not Rust's, and what is no program at all has no list either.
        Err(Error::NoAuditData | Error::NotAnExecutable | Error::SymbolsSectionIsMissing | Error::SectionIsMissing) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error.to_string()),
    };
    let mut text = Vec::new();
    let read = flate2::read::ZlibDecoder::new(compressed).take(LIST_LIMIT_BYTES).read_to_end(&mut text);
    read.map_err(|error| error.to_string())?;
    let list: List = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    // Build dependencies ran; they are not in the program.
    let inside = list.packages.into_iter().filter(|listed| listed.kind != "build");
    Ok(inside.map(|listed| Package::new(Ecosystem::Cargo, &listed.name, &listed.version)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_read_with_their_checksums() {
        let sum = "ab".repeat(32);
        let text = format!(
            "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry+x\"\nchecksum = \"{sum}\"\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n"
        );
        let found = read_lock(&text).unwrap();
        assert_eq!((found[0].sha256.as_deref(), found[1].name.as_str()), (Some(sum.as_str()), "own"));
        assert!(read_lock("[[package]]\nname = 1").is_err());
    }

    #[test]
    fn other_programs_have_no_list() {
        assert_eq!(read_program(b"#!/bin/sh\n"), Ok(Vec::new()));
    }
}
