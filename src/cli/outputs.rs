//! `--output` as it is written: `type=oci,dest=FILE,...`, a directory, or `-`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    cli::{annotations::Annotation, failure::Failure},
    dockerfile::{nearest, parse_bool},
};

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// What is written.
    pub kind: OutputKind,
    /// Where to; `-` is standard output, None that or the kind's own place.
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

/// What a key's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Text,
    /// True or false.
    Flag,
}

type Key = (&'static str, Value);

/// Keys of every output that is an image.
const IMAGE_KEYS: [Key; 19] = [
    ("name", Value::Text),
    ("push", Value::Flag),
    ("push-by-digest", Value::Flag),
    ("registry.insecure", Value::Flag),
    ("unpack", Value::Flag),
    ("dangling-name-prefix", Value::Text),
    ("danging-name-empty-only", Value::Flag),
    ("name-canonical", Value::Flag),
    ("store", Value::Flag),
    ("oci-mediatypes", Value::Flag),
    ("oci-artifact", Value::Flag),
    ("attestation-inline", Value::Flag),
    ("prefer-nondist-layers", Value::Flag),
    ("source-date-epoch", Value::Text),
    ("compression", Value::Text),
    ("force-compression", Value::Flag),
    ("compression-level", Value::Text),
    ("rewrite-timestamp", Value::Flag),
    ("compatibility-version", Value::Text),
];

/// Keys of every output that is files.
const FILES_KEYS: [Key; 3] = [("platform-split", Value::Flag), ("attestation-prefix", Value::Text), ("source-date-epoch", Value::Text)];

/// The versions of BuildKit's format that there are.
const COMPATIBILITY: [&str; 3] = ["10", "20", "30"];

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
        if text.is_empty() {
            return Err(Failure::usage("--output is empty").with_hint("a directory, -, or for example type=oci,dest=image.tar"));
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
                "dest" => dest = Some(PathBuf::from(value)),
                key => drop(attributes.insert(key.to_owned(), value.to_owned())),
            }
        }
        let kind = kind
            .ok_or_else(|| Failure::usage(format!("--output {text}: type is required")).with_hint("for example type=oci,dest=image.tar"))?;
        let spec = Self { kind, dest, attributes, annotations };
        spec.check_keys(text)?;
        spec.check_values(text)?;
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

    /// Whether it is one file or stream: an archive of the image or of its files.
    fn is_archive(&self) -> bool {
        match self.kind {
            OutputKind::Tar => true,
            OutputKind::Oci | OutputKind::Docker => self.flag("tar", true).unwrap_or(true),
            _ => false,
        }
    }

    /// Whether it goes to standard output.
    pub fn is_to_stdout(&self) -> bool {
        match &self.dest {
            Some(dest) => dest == Path::new("-"),
            // An image for docker that goes nowhere is loaded.
            None => self.is_archive() && self.kind != OutputKind::Docker,
        }
    }

    fn known_keys(&self) -> Vec<Key> {
        let (all, own): (&[Key], &[Key]) = match self.kind {
            OutputKind::Local => (&FILES_KEYS, &[("mode", Value::Text)]),
            OutputKind::Tar => (&FILES_KEYS, &[]),
            OutputKind::CacheOnly => (&[], &[]),
            OutputKind::Oci => (&IMAGE_KEYS, &[("tar", Value::Flag)]),
            OutputKind::Docker => (&IMAGE_KEYS, &[("tar", Value::Flag), ("context", Value::Text)]),
            OutputKind::Image | OutputKind::Registry => (&IMAGE_KEYS, &[]),
        };
        [all, own].concat()
    }

    fn check_keys(&self, text: &str) -> Result<(), Failure> {
        let known: Vec<&str> = self.known_keys().into_iter().map(|(key, _)| key).collect();
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

    /// Values that nobody could make sense of are said before anything is built.
    fn check_values(&self, text: &str) -> Result<(), Failure> {
        let wrong = |reason: String| Err(Failure::usage(format!("--output {text}: {reason}")));
        for (key, _) in self.known_keys().into_iter().filter(|(_, value)| *value == Value::Flag) {
            self.flag(key, false)?;
        }
        let value = |key: &str| self.attributes.get(key).map(String::as_str);
        if let Some(epoch) = value("source-date-epoch").filter(|epoch| !epoch.is_empty() && epoch.parse::<i64>().is_err()) {
            return wrong(format!("invalid source-date-epoch: {epoch}"));
        }
        if let Some(mode) = value("mode").filter(|mode| !["copy", "delete"].contains(mode)) {
            return wrong(format!("mode={mode} is unknown; copy or delete"));
        }
        if let Some(version) = value("compatibility-version").filter(|version| !COMPATIBILITY.contains(version)) {
            return wrong(format!("compatibility-version={version} is unknown; {}", COMPATIBILITY.join(", ")));
        }
        if matches!(self.kind, OutputKind::Oci | OutputKind::Docker) && self.flag("push", false)? {
            let failure = Failure::usage(format!("--output {text}: only an image of type=image or registry is pushed"));
            return Err(failure.with_hint("say --output once more for each place: -o type=registry"));
        }
        Ok(())
    }

    /// So are places that can't be written to.
    pub fn check_place(&self) -> Result<(), Failure> {
        let (name, _) = KINDS.iter().find(|(_, kind)| *kind == self.kind).expect("every kind has a name");
        let wrong = |reason: String| Err(Failure::usage(format!("--output type={name}: {reason}")));
        let Some(dest) = &self.dest else {
            return match self.kind {
                OutputKind::Local => wrong("dest is required for type=local".to_owned()),
                OutputKind::Oci | OutputKind::Docker if !self.is_archive() => wrong("tar=false needs dest=DIRECTORY".to_owned()),
                _ => Ok(()),
            };
        };
        let shown = dest.display();
        match self.kind {
            OutputKind::Image | OutputKind::Registry | OutputKind::CacheOnly => {
                let failure = Failure::usage(format!("--output type={name},dest={shown}: only files have a dest"));
                return Err(failure.with_hint("type=oci,dest=FILE and type=docker,dest=FILE are files"));
            }
            _ if dest.as_os_str().is_empty() => return wrong("dest is empty".to_owned()),
            _ if self.is_to_stdout() && !self.is_archive() => return wrong("a directory is needed, not standard output".to_owned()),
            _ if self.is_to_stdout() => return Ok(()),
            _ => {}
        }
        match dest.metadata() {
            Ok(found) if found.is_dir() && self.is_archive() => wrong(format!("{shown} is a directory")),
            Ok(found) if !found.is_dir() && !self.is_archive() => wrong(format!("{shown} is no directory")),
            Err(_) if self.is_archive() && !has_parent(dest) => wrong(format!("there is no directory for {shown}")),
            _ => Ok(()),
        }
    }

    /// A boolean key; `default` when it is absent.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, Failure> {
        match self.attributes.get(key).map(String::as_str) {
            None => Ok(default),
            Some("") => Ok(true),
            Some(text) => parse_bool(text).ok_or_else(|| Failure::usage(format!("--output: {key}={text} is neither true nor false"))),
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

/// Whether there is a directory for a file to be made in.
pub fn has_parent(file: &Path) -> bool {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    parent.is_dir()
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

    fn checked(text: &str) -> Result<OutputSpec, Failure> {
        let spec = OutputSpec::parse(text)?;
        spec.check_place()?;
        Ok(spec)
    }

    #[test]
    fn forms_of_output() {
        let parse = |text: &str| checked(text).map_err(|failure| failure.message);
        assert_eq!(parse("-").unwrap(), OutputSpec::of(OutputKind::Tar));
        assert_eq!(parse("out").unwrap(), OutputSpec { dest: Some("out".into()), ..OutputSpec::of(OutputKind::Local) });
        let oci = parse("type=oci,dest=a.tar,tar=false").unwrap();
        assert_eq!((oci.kind, oci.dest.clone(), oci.flag("tar", true).unwrap()), (OutputKind::Oci, Some("a.tar".into()), false));
        assert_eq!(parse("type=docker,\"name=a,b\"").unwrap().attributes["name"], "a,b");
        assert!(parse("type=zip,dest=x").unwrap_err().contains("unknown type `zip`"));
        assert!(parse("dest=x").unwrap_err().contains("type is required"));
        assert!(parse("type=local").unwrap_err().contains("dest is required"));
        assert!(parse("type=local,dest=-").unwrap_err().contains("not standard output"));
        assert!(parse("").unwrap_err().contains("is empty"));
        let to_stdout = |text: &str| parse(text).unwrap().is_to_stdout();
        assert_eq!(["-", "type=oci", "type=docker", "type=docker,dest=-", "type=image"].map(to_stdout), [true, true, false, true, false]);
        let near = OutputSpec::parse("type=oci,dest=x,compresion=zstd").unwrap_err();
        assert!(near.message.ends_with("unknown key `compresion`"), "{near:?}");
        assert_eq!(near.hints, ["did you mean `compression`?"]);
        assert!(parse("type=tar,dest=x,compression=gzip").unwrap_err().contains("unknown key"));
        assert_eq!(OutputSpec::parse("type=image,annotation.Foo.Bar=v").unwrap().annotations[0].key, "Foo.Bar");
    }
    #[test]
    fn what_nobody_could_mean_is_said_at_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (file, directory) = (file.path().display().to_string(), file.path().parent().unwrap().display().to_string());
        for (text, reason) in [
            ("type=image,push-by-digest=maybe", "push-by-digest=maybe is neither true nor false"),
            ("type=registry,registry.insecure=maybe", "registry.insecure=maybe is neither"),
            ("type=image,unpack=maybe", "unpack=maybe is neither"),
            ("type=local,dest=x,platform-split=maybe", "platform-split=maybe is neither"),
            ("type=image,source-date-epoch=soon", "invalid source-date-epoch: soon"),
            ("type=tar,source-date-epoch=soon", "invalid source-date-epoch: soon"),
            ("type=local,dest=x,mode=zap", "mode=zap is unknown; copy or delete"),
            ("type=tar,mode=delete", "unknown key `mode`"),
            ("type=image,compatibility-version=15", "compatibility-version=15 is unknown; 10, 20, 30"),
            ("type=image,tar=false", "unknown key `tar`"),
            ("type=oci,context=x", "unknown key `context`"),
            ("type=oci,dest=x,push=true", "only an image of type=image or registry is pushed"),
            ("type=oci,tar=false", "tar=false needs dest=DIRECTORY"),
            ("type=image,dest=x", "only files have a dest"),
            ("type=cacheonly,dest=x", "only files have a dest"),
            ("type=tar,dest=", "dest is empty"),
            ("type=tar,dest=/no/such/directory/x.tar", "there is no directory for /no/such/directory/x.tar"),
            (&format!("type=oci,dest={directory}"), "is a directory"),
            (&format!("type=oci,dest={file},tar=false"), "is no directory"),
            (&format!("type=local,dest={file}"), "is no directory"),
            (&file, "is no directory"),
        ] {
            let said = checked(text).map_err(|failure| failure.message);
            assert!(said.as_ref().is_err_and(|said| said.contains(reason)), "{text}: {said:?}");
        }
        for text in ["type=image,push=True,source-date-epoch=", "type=oci,push=false,dest=/dev/null", "type=tar,dest=new.tar"] {
            assert!(checked(text).is_ok(), "{text}");
        }
    }
}
