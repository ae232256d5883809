//! `--output` as it is written: `type=oci,dest=FILE,...`, a directory, or `-`.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    cli::{annotations::Annotation, failure::Failure},
    dockerfile::nearest,
};

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// What is written.
    pub kind: OutputKind,
    /// Where to; None is standard output or the kind's own place.
    pub dest: Option<PathBuf>,
    /// All other keys, lower-case.
    pub attributes: BTreeMap<String, String>,
    /// `annotation.KEY` and its kin.
    pub annotations: Vec<Annotation>,
}

/// Kinds of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OutputKind {
    Oci,
    Docker,
    Tar,
    Local,
    Image,
    Registry,
    CacheOnly,
}

/// Keys of every output that is an image.
const IMAGE_KEYS: [&str; 21] = [
    "name",
    "push",
    "push-by-digest",
    "registry.insecure",
    "unpack",
    "dangling-name-prefix",
    "danging-name-empty-only",
    "name-canonical",
    "store",
    "oci-mediatypes",
    "oci-artifact",
    "attestation-inline",
    "prefer-nondist-layers",
    "source-date-epoch",
    "compression",
    "force-compression",
    "compression-level",
    "rewrite-timestamp",
    "compatibility-version",
    "tar",
    "context",
];

/// Keys of every output that is files.
const FILES_KEYS: [&str; 4] = ["platform-split", "mode", "attestation-prefix", "source-date-epoch"];

const KINDS: [(&str, OutputKind); 7] = [
    ("oci", OutputKind::Oci),
    ("docker", OutputKind::Docker),
    ("tar", OutputKind::Tar),
    ("local", OutputKind::Local),
    ("image", OutputKind::Image),
    ("registry", OutputKind::Registry),
    ("cacheonly", OutputKind::CacheOnly),
];

impl OutputSpec {
    /// A kind with nothing more said.
    pub fn of(kind: OutputKind) -> Self {
        Self { kind, dest: None, attributes: BTreeMap::new(), annotations: Vec::new() }
    }

    /// Reads one value of `--output`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if text == "-" {
            return Ok(Self::of(OutputKind::Tar));
        }
        if !text.contains('=') {
            let kind = KINDS.iter().find(|(name, _)| *name == text).map(|(_, kind)| *kind);
            return Ok(match kind {
                Some(kind) => Self::of(kind),
                None => Self { dest: Some(PathBuf::from(text)), ..Self::of(OutputKind::Local) },
            });
        }
        let mut kind = None;
        let mut dest = None;
        let mut attributes = BTreeMap::new();
        let mut annotations = Vec::new();
        for field in fields(text) {
            let (key, value) =
                field.split_once('=').ok_or_else(|| Failure::usage(format!("--output {text}: `{field}` must be key=value")))?;
            if let Some(annotation) = Annotation::parse_key(key, value)? {
                annotations.push(annotation);
                continue;
            }
            match key.to_ascii_lowercase().as_str() {
                "type" => kind = Some(kind_of(value, text)?),
                "dest" if value == "-" => dest = None,
                "dest" => dest = Some(PathBuf::from(value)),
                key => drop(attributes.insert(key.to_owned(), value.to_owned())),
            }
        }
        let kind = kind
            .ok_or_else(|| Failure::usage(format!("--output {text}: type is required")).with_hint("for example type=oci,dest=image.tar"))?;
        if kind == OutputKind::Local && dest.is_none() {
            return Err(Failure::usage(format!("--output {text}: dest is required for type=local")));
        }
        let spec = Self { kind, dest, attributes, annotations };
        spec.check_keys(text)?;
        Ok(spec)
    }

    /// Whether it is an image, not files.
    pub fn is_image(&self) -> bool {
        matches!(self.kind, OutputKind::Oci | OutputKind::Docker | OutputKind::Image | OutputKind::Registry)
    }

    /// Whether it goes to a registry.
    pub fn is_pushed(&self) -> Result<bool, Failure> {
        let by_default = self.kind == OutputKind::Registry;
        Ok(matches!(self.kind, OutputKind::Image | OutputKind::Registry) && self.flag("push", by_default)?)
    }

    fn check_keys(&self, text: &str) -> Result<(), Failure> {
        let known: &[&str] = match self.kind {
            OutputKind::Local | OutputKind::Tar => &FILES_KEYS,
            OutputKind::CacheOnly => &[],
            _ => &IMAGE_KEYS,
        };
        if let Some(key) = self.attributes.keys().find(|key| !known.contains(&key.as_str())) {
            let failure = Failure::usage(format!("--output {text}: unknown key `{key}`"));
            let mine = known.iter().copied().chain(["type", "dest"]);
            return Err(match nearest(key, mine) {
                Some(near) => failure.with_hint(format!("did you mean `{near}`?")),
                None => failure.with_hint(format!("known are type, dest, {}", known.join(", "))),
            });
        }
        if !self.is_image() && !self.annotations.is_empty() {
            return Err(Failure::usage(format!("--output {text}: files have no annotations")));
        }
        Ok(())
    }

    /// A boolean key; `default` when it is absent.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, Failure> {
        match self.attributes.get(key).map(String::as_str) {
            None => Ok(default),
            Some("true" | "1" | "") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(Failure::usage(format!("--output: {key}={other} is neither true nor false"))),
        }
    }
}

fn kind_of(name: &str, text: &str) -> Result<OutputKind, Failure> {
    let found = KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
    found.ok_or_else(|| {
        let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        Failure::usage(format!("--output {text}: unknown type `{name}`")).with_hint(format!("one of {}", names.join(", ")))
    })
}

/// Comma-separated fields, where a field in double quotes may hold commas.
pub fn fields(text: &str) -> Vec<String> {
    let mut list = vec![String::new()];
    let mut quoted = false;
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => list.push(String::new()),
            other => list.last_mut().expect("there is always one field").push(other),
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_output() {
        let parse = |text: &str| OutputSpec::parse(text).map_err(|failure| failure.message);
        assert_eq!(parse("-").unwrap(), OutputSpec::of(OutputKind::Tar));
        assert_eq!(parse("out").unwrap(), OutputSpec { dest: Some("out".into()), ..OutputSpec::of(OutputKind::Local) });
        let oci = parse("type=oci,dest=a.tar,tar=false").unwrap();
        assert_eq!((oci.kind, oci.dest.clone(), oci.flag("tar", true).unwrap()), (OutputKind::Oci, Some("a.tar".into()), false));
        assert_eq!(parse("type=docker,\"name=a,b\"").unwrap().attributes["name"], "a,b");
        assert!(parse("type=zip,dest=x").unwrap_err().contains("unknown type `zip`"));
        assert!(parse("dest=x").unwrap_err().contains("type is required"));
        assert!(parse("type=local").unwrap_err().contains("dest is required"));
        let near = OutputSpec::parse("type=oci,dest=x,compresion=zstd").unwrap_err();
        assert!(near.message.ends_with("unknown key `compresion`"), "{near:?}");
        assert_eq!(near.hints, ["did you mean `compression`?"]);
        assert!(parse("type=tar,dest=x,compression=gzip").unwrap_err().contains("unknown key"));
        assert_eq!(OutputSpec::parse("type=image,annotation.Foo.Bar=v").unwrap().annotations[0].key, "Foo.Bar");
    }
}
