//! `rbuild parse`: the tree of a Dockerfile as JSON, each part with its span in bytes, for editors and scripts.

use std::{
    io::{Read, Write},
    process::ExitCode,
};

use crate::{
    cli::{args::ParseArgs, failure::Failure},
    dockerfile,
};

/// Larger files are no Dockerfiles.
const TEXT_LIMIT_BYTES: u64 = 16 << 20;

/// Prints the tree.
pub fn parse(args: &ParseArgs) -> Result<ExitCode, Failure> {
    let (name, text) = match args.file.as_str() {
        "-" => ("<stdin>", read(std::io::stdin().lock())),
        path => (path, std::fs::File::open(path).and_then(read)),
    };
    let text = text.map_err(|error| Failure::new(format!("cannot read {name}: {error}")))?;
    let tree = dockerfile::parse(&text).map_err(|fault| Failure::in_dockerfile(name, &text, &fault))?;
    let json = serde_json::to_string_pretty(&tree).map_err(|error| Failure::new(error.to_string()))?;
    let _ = writeln!(std::io::stdout().lock(), "{json}");
    Ok(ExitCode::SUCCESS)
}

fn read(input: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    input.take(TEXT_LIMIT_BYTES).read_to_string(&mut text)?;
    Ok(text)
}
