//! `--provenance`: how an image was made, as an in-toto statement with SLSA's predicate. Mode `min` has neither values of
//! build arguments nor the Dockerfile; no mode has a secret.

use serde_json::{Value, json};

use crate::{
    build::{Outcome, Request},
    cli::{args::BuildArgs, failure::Failure, outputs::fields},
    oci::{Descriptor, Reference},
};

/// What the statement's predicate is.
pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Mode {
    Min,
    Max,
}

/// `--provenance`: None when nothing is to be said.
pub fn mode(args: &BuildArgs) -> Result<Option<Mode>, Failure> {
    let Some(text) = &args.provenance else { return Ok(None) };
    let mut mode = Some(Mode::Min);
    for field in fields(text) {
        mode = match field.as_str() {
            "" | "true" | "1" | "mode=min" => Some(Mode::Min),
            "mode=max" | "mode=full" => Some(Mode::Max),
            "false" | "0" | "disabled=true" => None,
            "version=v1" => mode,
            other => return Err(Failure::usage(format!("--provenance: invalid `{other}`")).with_hint("mode=min, mode=max, true or false")),
        };
    }
    Ok(mode)
}

/// The statement.
pub fn statement(
    mode: Mode,
    args: &BuildArgs,
    request: &Request,
    outcome: &Outcome,
    subject: &Descriptor,
    names: &[Reference],
    started: jiff::Timestamp,
) -> String {
    let subject_digest = json!({ "sha256": subject.digest.hex() });
    let names: Vec<String> = if names.is_empty() { vec!["image".to_owned()] } else { names.iter().map(ToString::to_string).collect() };
    let subjects: Vec<Value> = names.iter().map(|name| json!({ "name": name, "digest": subject_digest })).collect();
    let mut materials: Vec<Value> = Vec::new();
    for (name, digest) in outcome.platforms.iter().filter_map(|platform| platform.base.as_ref()) {
        let material = json!({ "uri": format!("pkg:docker/{}", uri_name(name)), "digest": { "sha256": digest.hex() } });
        if !materials.contains(&material) {
            materials.push(material);
        }
    }
    let mut external = json!({
        "configSource": { "path": args.file.clone().unwrap_or_else(|| "Dockerfile".to_owned()) },
        "request": {
            "target": args.target,
            "platforms": outcome.platforms.iter().map(|platform| platform.platform.to_string()).collect::<Vec<_>>(),
            "secrets": request.secrets.keys().collect::<Vec<_>>(),
            "ssh": request.ssh.keys().collect::<Vec<_>>(),
        },
    });
    let mut internal = json!({});
    if mode == Mode::Max {
        let build_args = request.plans.first().map(|plan| plan.build_args.clone()).unwrap_or_default();
        external["request"]["args"] = json!(build_args);
        external["request"]["labels"] = json!(args.labels);
        internal["dockerfile"] = json!(request.dockerfile);
        let layers = outcome.platforms.iter().flat_map(|platform| &platform.image.layers);
        internal["layers"] = json!(layers.map(|layer| layer.descriptor.digest.to_string()).collect::<Vec<_>>());
    }
    let value = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
                "externalParameters": external,
                "internalParameters": internal,
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": { "id": "", "version": { "rbuild": env!("CARGO_PKG_VERSION") } },
                "metadata": { "startedOn": started.to_string(), "finishedOn": jiff::Timestamp::now().to_string() },
            },
        },
    });
    serde_json::to_string_pretty(&value).expect("a JSON value")
}

/// A package URL's name and version: the tag follows `@`.
fn uri_name(text: &str) -> String {
    let name = text.split_whitespace().next().unwrap_or(text);
    match name.parse::<Reference>() {
        Ok(reference) => format!("{}/{}@{}", reference.registry(), reference.repository(), reference.tag().unwrap_or("latest")),
        Err(_) => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_package_urls() {
        assert_eq!(uri_name("docker.io/library/alpine:3.20 linux/amd64"), "docker.io/library/alpine@3.20");
    }
}
