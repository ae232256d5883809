//! `--provenance`, `--sbom` and `--attest`: which statements are made about a result, and making them.

use std::{env, sync::Arc};

use serde_json::{Value, json};

use crate::{
    build::{Outcome, Request, Secrets, Services},
    cli::{
        args::BuildArgs,
        failure::Failure,
        outputs::{OutputKind, OutputSpec, fields},
        provenance::{self, Source},
        sbom,
    },
    oci::{Descriptor, Image, Reference},
    sbom::SPDX_PREDICATE_TYPE,
};

/// What is to be stated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attestations {
    /// How the image was made.
    pub provenance: Option<provenance::Options>,
    /// What is in it.
    pub sbom: bool,
    /// Nobody asked: provenance of what is pushed, as buildx has it.
    pub is_default: bool,
    /// As entries of an index.
    pub in_index: bool,
}

impl Attestations {
    /// Reads the flags; a later one of the same type replaces an earlier one.
    pub fn of(args: &BuildArgs) -> Result<Self, Failure> {
        let in_index = match args.attest_form.as_str() {
            "referrer" => false,
            "index" => true,
            other => return Err(Failure::usage(format!("--attest-form {other} is unknown")).with_hint("referrer or index")),
        };
        let mut flags: Vec<(String, String)> = Vec::new();
        for text in &args.attest {
            let rest: Vec<String> = fields(text);
            let kind = rest.iter().find_map(|field| field.strip_prefix("type=")).map(str::to_owned);
            let kind =
                kind.ok_or_else(|| Failure::usage(format!("--attest {text}: type is required")).with_hint("type=provenance or type=sbom"))?;
            let rest: Vec<String> = rest.into_iter().filter(|field| !field.starts_with("type=")).collect();
            flags.push((kind, rest.join(",")));
        }
        flags.extend(args.provenance.iter().map(|text| ("provenance".to_owned(), text.clone())));
        flags.extend(args.sbom.iter().map(|text| ("sbom".to_owned(), text.clone())));
        let mut wanted = Self { in_index, ..Self::default() };
        let mut is_said = false;
        for (kind, text) in &flags {
            match kind.as_str() {
                "provenance" => {
                    wanted.provenance = provenance::Options::parse(text)?;
                    is_said = true;
                }
                "sbom" => wanted.sbom = wants_sbom(text)?,
                other => {
                    return Err(Failure::usage(format!("--attest: type={other} is unknown")).with_hint("type=provenance or type=sbom"));
                }
            }
        }
        let no_default = env::var("BUILDX_NO_DEFAULT_ATTESTATIONS").is_ok_and(|value| matches!(value.as_str(), "1" | "true"));
        if !is_said && !wanted.sbom && !no_default {
            (wanted.provenance, wanted.is_default) = (Some(provenance::Options::default()), true);
        } else if !is_said && !no_default {
            // Whoever wants to know what is in it gets to know how it was made too, as with buildx.
            wanted.provenance = Some(provenance::Options::default());
        }
        Ok(wanted)
    }

    /// Whether somebody asked for something.
    pub fn are_asked_for(&self) -> bool {
        !self.is_default && (self.sbom || self.provenance.is_some())
    }

    /// Where the context is from, as far as somebody will be told.
    pub fn source(&self, args: &BuildArgs, is_pushed: bool) -> Source {
        if self.are_asked_for() || is_pushed { Source::of_local(args) } else { Source::default() }
    }

    fn is_nothing(&self) -> bool {
        !self.sbom && self.provenance.is_none()
    }
}

fn wants_sbom(text: &str) -> Result<bool, Failure> {
    let mut wanted = true;
    for field in fields(text) {
        match field.split_once('=').unwrap_or((field.as_str(), "")) {
            ("" | "true" | "1", "") => {}
            ("false" | "0", "") | ("disabled", "true" | "1") => wanted = false,
            ("disabled", "false" | "0") => {}
            ("generator", _) => {
                return Err(Failure::usage("--sbom: generator images are not run")
                    .with_hint("rbuild reads package databases itself: leave generator out"));
            }
            _ => return Err(Failure::usage(format!("--sbom: invalid `{field}`")).with_hint("true or false")),
        }
    }
    Ok(wanted)
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What its predicate is.
    pub predicate_type: &'static str,
    /// What it is called as a file.
    pub file_name: &'static str,
    /// in-toto's JSON.
    pub bytes: Vec<u8>,
}

/// What a statement speaks of: names and digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects(pub Vec<(String, String)>);

impl Subjects {
    /// An image by all its names.
    pub fn image(names: &[Reference], digests: &[&Descriptor]) -> Self {
        let of = |descriptor: &Descriptor| -> Vec<(String, String)> {
            let digest = descriptor.digest.hex().to_owned();
            match names {
                [] => vec![("image".to_owned(), digest)],
                names => names.iter().map(|name| (provenance::image_uri(name, descriptor.platform.as_ref()), digest.clone())).collect(),
            }
        };
        Self(digests.iter().flat_map(|descriptor| of(descriptor)).collect())
    }

    /// As in-toto has them.
    pub fn json(&self) -> Value {
        let one = |(name, digest): &(String, String)| json!({ "name": name, "digest": { "sha256": digest } });
        Value::Array(self.0.iter().map(one).collect())
    }
}

/// Makes the statements of one build.
pub struct Attester<'a> {
    /// Which.
    pub wanted: Attestations,
    /// The command line.
    pub args: &'a BuildArgs,
    /// The build.
    pub request: &'a Request,
    /// Its result.
    pub outcome: &'a Outcome,
    /// Where the context is from.
    pub source: &'a Source,
    /// What must be in no statement.
    pub secrets: &'a Secrets,
    /// When it began.
    pub started: jiff::Timestamp,
}

impl Attester<'_> {
    /// Whether the statements about this output go into an index above the image.
    pub fn is_in_index(&self, output: &OutputSpec) -> Result<bool, Failure> {
        let by_default = match output.kind {
            // A layout has no other place that tools look into.
            OutputKind::Oci => self.wanted.are_asked_for(),
            OutputKind::Image | OutputKind::Registry => self.wanted.in_index && (self.wanted.are_asked_for() || output.is_pushed()?),
            _ => false,
        };
        Ok(!self.wanted.is_nothing() && output.kind != OutputKind::Docker && output.flag("attestation-inline", by_default)?)
    }

    /// How the image was made; None if that is not wanted.
    pub fn provenance(&self, subjects: &Subjects) -> Option<Statement> {
        let options = self.wanted.provenance.as_ref()?;
        let bytes = provenance::statement(options, self, subjects);
        Some(Statement { predicate_type: options.predicate_type(), file_name: "provenance.json", bytes })
    }

    /// How the image was made, for those who asked for metadata; buildx's variable says how much.
    pub fn metadata(&self) -> Option<Value> {
        self.args.metadata_file.as_ref()?;
        let mode = match env::var("BUILDX_METADATA_PROVENANCE").as_deref() {
            Ok("disabled" | "false" | "0") => return None,
            Ok("max") => provenance::Mode::Max,
            _ => provenance::Mode::Min,
        };
        let options = provenance::Options { mode, ..self.wanted.provenance.clone().unwrap_or_default() };
        let statement = provenance::statement(&options, self, &Subjects(Vec::new()));
        let mut statement: Value = serde_json::from_slice(&statement).expect("it was just written");
        Some(statement["predicate"].take())
    }

    /// What is in the image, whose layers must be in the store; None if that is not wanted.
    pub async fn sbom(
        &self,
        image: &Image,
        manifest: Option<&Descriptor>,
        subjects: &Subjects,
        services: &Services,
    ) -> Result<Option<Statement>, Failure> {
        if !self.wanted.sbom {
            return Ok(None);
        }
        let name = subjects.0.first().map_or("image", |(name, _)| name.as_str()).to_owned();
        let (store, image, manifest) = (services.store.clone(), image.clone(), manifest.cloned());
        let work = tokio::task::spawn_blocking(move || sbom::of_image(&store, &image, manifest.as_ref(), &name));
        let document = work.await.map_err(|error| Failure::new(format!("cannot read packages: {error}")))??;
        let predicate: Value = serde_json::from_slice(&document).expect("it was just written");
        let value = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": subjects.json(),
            "predicateType": SPDX_PREDICATE_TYPE,
            "predicate": predicate,
        });
        let bytes = serde_json::to_vec_pretty(&value).expect("a JSON value");
        Ok(Some(Statement { predicate_type: SPDX_PREDICATE_TYPE, file_name: "sbom.spdx.json", bytes }))
    }

    /// Says something that is no failure.
    pub fn note(&self, steps: &Arc<super::write::Steps>, text: &str) {
        crate::build::Progress::event(&**steps, crate::build::Event::Note { step: None, text });
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{
        args::{Cli, Verb},
        provenance::{Mode, Version},
    };

    fn of(words: &[&str]) -> Result<Attestations, String> {
        let cli = Cli::try_parse_from([&["rbuild", "build"], words].concat()).unwrap();
        let Verb::Build(args) = cli.verb else { panic!("not a build") };
        Attestations::of(&args).map_err(|failure| failure.message)
    }

    #[test]
    fn flags_say_what_is_stated() {
        let nothing_said = of(&[]).unwrap();
        assert!(nothing_said.is_default && nothing_said.provenance.is_some() && !nothing_said.sbom);
        let none = of(&["--provenance=false"]).unwrap();
        assert!(none.is_nothing() && !none.are_asked_for());
        let all = of(&["--sbom", "--provenance=mode=max,version=v0.2,builder-id=https://b.example", "--attest-form", "index"]).unwrap();
        let provenance = all.provenance.clone().unwrap();
        assert_eq!((provenance.mode, provenance.version), (Mode::Max, Version::V02));
        assert_eq!(provenance.builder_id.as_deref(), Some("https://b.example"));
        assert!(all.sbom && all.in_index && all.are_asked_for());
        let by_type = of(&["--attest", "type=sbom", "--attest", "type=provenance,mode=max"]).unwrap();
        assert!(by_type.sbom && by_type.provenance.unwrap().mode == Mode::Max);
        for (words, reason) in [
            (&["--attest", "mode=max"][..], "type is required"),
            (&["--attest", "type=other"], "type=other is unknown"),
            (&["--provenance=mode=x"], "invalid mode \"x\""),
            (&["--attest", "type=sbom,generator=x"], "generator images are not run"),
            (&["--attest-form", "x"], "--attest-form x is unknown"),
        ] {
            assert!(of(words).unwrap_err().contains(reason), "{words:?}");
        }
    }
}
