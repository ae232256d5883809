//! `--cache-from` and `--cache-to` as they are written. Unaware of what is in a cache.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{s3::Bucket, shown};
use crate::{
    build::CacheMode,
    cli::{failure::Failure, outputs::fields},
    dockerfile::{duration::parse_go, nearest, parse_bool},
    oci::{Digest, Reference},
};

/// Keys that say how BuildKit writes its own caches: ours are written in one way, with the layers as the build has them.
const WITHOUT_MEANING: [&str; 11] = [
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "image-manifest",
    "image-resolve-mode",
    "touch_refresh",
    "upload_parallelism",
    "retry_mode",
    "retry_max_attempts",
    "disable_accept_encoding",
];

/// A cache that is silent for this long is not there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a registry: a cache's own image, or an image with a cache in its config.
    Registry {
        /// Its name there.
        name: Reference,
        /// Plain http will do.
        insecure: bool,
    },
    /// In an OCI layout on disk.
    Local {
        /// The layout.
        path: PathBuf,
        /// Its name in it.
        tag: String,
        /// Which one exactly, to read.
        digest: Option<Digest>,
        /// What was in the layout before goes, to write.
        reset: bool,
    },
    /// In a bucket.
    S3(Bucket),
    /// In the config of the image itself; only to write.
    Inline,
}

/// One `--cache-from` or `--cache-to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Where.
    pub place: Place,
    /// Which steps' layers.
    pub mode: CacheMode,
    /// A cache that can't be written is a warning.
    pub ignore_error: bool,
    /// How long it may be silent when it is read.
    pub patience: Duration,
}

impl Spec {
    /// Reads one value of `--cache-from` or `--cache-to`.
    pub fn parse(flag: &str, text: &str) -> Result<Self, Failure> {
        let wrong = |reason: String| Failure::usage(format!("{flag} {}: {reason}", shown(text)));
        let mut keys: BTreeMap<String, String> = BTreeMap::new();
        if !text.contains('=') {
            keys.insert("type".to_owned(), "registry".to_owned());
            keys.insert("ref".to_owned(), text.to_owned());
        }
        for field in fields(text).iter().filter(|_| text.contains('=')) {
            let (key, value) = field.split_once('=').ok_or_else(|| wrong(format!("`{field}` must be key=value")))?;
            keys.insert(key.to_ascii_lowercase(), value.to_owned());
        }
        let mut take = |key: &str| keys.remove(key).filter(|value| !value.is_empty());
        let said_mode = take("mode");
        let mode = match said_mode.as_deref() {
            None | Some("min") => CacheMode::Min,
            Some("max") => CacheMode::Max,
            Some(other) => return Err(wrong(format!("mode={other} is unknown; min or max"))),
        };
        let patience = match take("timeout").map(|text| (parse_go(&text), text)) {
            None => PATIENCE,
            Some((Ok(nanoseconds @ 1..), _)) => Duration::from_nanos(nanoseconds.unsigned_abs()),
            Some((_, text)) => return Err(wrong(format!("timeout={text} is no time; for example 10s"))),
        };
        let mut switches = BTreeMap::new();
        for key in ["registry.insecure", "ignore-error", "reset", "use_path_style"] {
            let text = take(key).unwrap_or_else(|| "false".to_owned());
            let is_true = parse_bool(&text).ok_or_else(|| wrong(format!("{key}={text} is neither true nor false")))?;
            switches.insert(key, is_true);
        }
        let (insecure, ignore_error) = (switches["registry.insecure"], switches["ignore-error"]);
        let place = match take("type").as_deref() {
            Some("registry") => {
                let name = take("ref").ok_or_else(|| wrong("ref is missing".to_owned()))?;
                Place::Registry { name: name.parse().map_err(|error| wrong(format!("{error}")))?, insecure }
            }
            Some("local") => {
                let path = take("src").or_else(|| take("dest")).ok_or_else(|| wrong("a directory is missing".to_owned()))?;
                let digest = take("digest").map(|digest| digest.parse()).transpose().map_err(|error| wrong(format!("digest: {error}")))?;
                let tag = take("tag").unwrap_or_else(|| "latest".to_owned());
                Place::Local { path: path.into(), tag, digest, reset: switches["reset"] }
            }
            Some("s3") => Place::S3(Bucket::take(&mut take, switches["use_path_style"]).map_err(wrong)?),
            Some("inline") if flag == "--cache-from" => {
                return Err(wrong("an inline cache is in an image".to_owned()).with_hint("type=registry,ref=IMAGE reads it"));
            }
            Some("inline") if mode == CacheMode::Max => {
                return Err(wrong("mode=max is not possible: an image has the layers of its own steps only".to_owned())
                    .with_hint("type=registry,ref=..,mode=max"));
            }
            Some("inline") => Place::Inline,
            Some(other @ ("gha" | "azblob")) => {
                let whose = if other == "gha" { "GitHub's cache service" } else { "Azure's blob storage" };
                return Err(wrong(format!("type={other} is not possible: rbuild does not speak to {whose}"))
                    .with_hint("type=registry,ref=.., type=s3,bucket=.. or type=local,dest=.."));
            }
            Some(other) => return Err(wrong(format!("unknown type `{other}`; registry, local, s3 or inline"))),
            None => return Err(wrong("type is missing".to_owned())),
        };
        if let Some(unknown) = keys.keys().find(|key| !WITHOUT_MEANING.contains(&key.as_str())) {
            let failure = wrong(format!("unknown key `{unknown}`"));
            let known = [
                "type",
                "ref",
                "mode",
                "src",
                "dest",
                "tag",
                "digest",
                "bucket",
                "region",
                "name",
                "prefix",
                "endpoint_url",
                "ignore-error",
                "timeout",
            ];
            return Err(match nearest(unknown, known) {
                Some(near) => failure.with_hint(format!("did you mean `{near}`?")),
                None => failure,
            });
        }
        Ok(Self { place, mode, ignore_error, patience })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_caches() {
        let parse = |text: &str| Spec::parse("--cache-to", text).map_err(|failure| failure.message);
        let registry = |text: &str, insecure| Place::Registry { name: text.parse().unwrap(), insecure };
        assert_eq!(
            parse("h.example/c").unwrap(),
            Spec { place: registry("h.example/c", false), mode: CacheMode::Min, ignore_error: false, patience: PATIENCE }
        );
        let spec =
            parse("type=registry,ref=h.example/c:1,mode=max,registry.insecure=true,ignore-error=true,compression=zstd,timeout=1m").unwrap();
        let patience = Duration::from_secs(60);
        assert_eq!(spec, Spec { place: registry("h.example/c:1", true), mode: CacheMode::Max, ignore_error: true, patience });
        let local = |tag: &str| Place::Local { path: "d".into(), tag: tag.to_owned(), digest: None, reset: false };
        assert_eq!(parse("type=local,dest=d").unwrap().place, local("latest"));
        assert_eq!(parse("type=local,src=d,tag=x").unwrap().place, local("x"));
        assert_eq!(parse("type=inline").unwrap().place, Place::Inline);
        let Place::S3(bucket) = parse("type=s3,bucket=b,region=r,prefix=p/,endpoint_url=http://h:1,use_path_style=true").unwrap().place
        else {
            panic!("not s3")
        };
        assert_eq!((bucket.bucket.as_str(), bucket.prefix.as_str(), bucket.is_path_style), ("b", "p/", true));
        for (text, reason) in [
            ("type=registry", "ref is missing"),
            ("type=x,ref=y", "unknown type"),
            ("type=local", "a directory is missing"),
            ("type=registry,ref=x,mode=y", "mode=y is unknown"),
            ("type=registry,ref=x,modee=max", "unknown key `modee`"),
            ("type=s3,region=r", "bucket is missing"),
            ("type=local,dest=d,timeout=soon", "timeout=soon is no time"),
            ("type=inline,mode=max", "mode=max is not possible"),
            ("type=gha", "type=gha is not possible: rbuild does not speak to GitHub's cache service"),
            ("type=registry,ref=x,ignore-error=maybe", "ignore-error=maybe is neither true nor false"),
            ("type=s3,secret_access_key=planted", "type=s3,secret_access_key=xxxxx: bucket is missing"),
        ] {
            assert!(parse(text).unwrap_err().contains(reason), "{text}");
        }
        assert!(Spec::parse("--cache-from", "type=inline").unwrap_err().message.contains("is in an image"));
    }
}
