//! Annotations as they are written: `--annotation [TYPE[PLATFORM],..:]KEY=VALUE`, and `annotation-TYPE[PLATFORM].KEY=VALUE`
//! among the keys of an output.

use crate::{cli::failure::Failure, oci::Platform};

/// What an annotation is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AnnotationKind {
    Manifest,
    ManifestDescriptor,
    Index,
    IndexDescriptor,
}

/// One annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Annotation {
    pub kind: AnnotationKind,
    /// For this platform only.
    pub platform: Option<Platform>,
    pub key: String,
    pub value: String,
}

impl Annotation {
    /// A value of `--annotation`; several types make several annotations.
    pub fn parse_flag(text: &str) -> Result<Vec<Self>, Failure> {
        let fail = |reason: &str| Failure::usage(format!("--annotation {text}: {reason}"));
        let (left, value) = text.split_once('=').ok_or_else(|| fail("expected [TYPE:]KEY=VALUE"))?;
        let (types, key) = match left.split_once(':') {
            Some((types, key)) => (types, key),
            None => ("manifest", left),
        };
        if key.is_empty() {
            return Err(fail("the key is missing"));
        }
        let one = |name: &str| {
            let (kind, platform) = kind(name).map_err(|reason| fail(&reason))?;
            Ok(Self { kind, platform, key: key.to_owned(), value: value.to_owned() })
        };
        types.split(',').map(one).collect()
    }

    /// A key of an output; None when it is no annotation's.
    pub fn parse_key(key: &str, value: &str) -> Result<Option<Self>, Failure> {
        let Some(rest) = key.strip_prefix("annotation") else { return Ok(None) };
        let end = rest.find(']').map_or(0, |end| end + 1);
        let Some(dot) = rest[end..].find('.').map(|dot| dot + end) else { return Ok(None) };
        let (name, key) = (rest[..dot].strip_prefix('-').unwrap_or(&rest[..dot]), &rest[dot + 1..]);
        let name = if name.is_empty() || name.starts_with('[') { format!("manifest{name}") } else { name.to_owned() };
        let (kind, platform) = kind(&name).map_err(|reason| Failure::usage(format!("--output: annotation{rest}: {reason}")))?;
        if key.is_empty() {
            return Err(Failure::usage(format!("--output: annotation{rest}: the key is missing")));
        }
        Ok(Some(Self { kind, platform, key: key.to_owned(), value: value.to_owned() }))
    }
}

/// `manifest[linux/amd64]`.
fn kind(text: &str) -> Result<(AnnotationKind, Option<Platform>), String> {
    let (name, platform) = match text.split_once('[') {
        Some((name, rest)) => {
            let platform = rest.strip_suffix(']').ok_or("`]` is missing")?;
            (name, Some(platform.parse().map_err(|error| format!("{error}"))?))
        }
        None => (text, None),
    };
    let kind = match name {
        "manifest" => AnnotationKind::Manifest,
        "manifest-descriptor" => AnnotationKind::ManifestDescriptor,
        "index" => AnnotationKind::Index,
        "index-descriptor" => AnnotationKind::IndexDescriptor,
        other => return Err(format!("unknown type `{other}`; manifest, manifest-descriptor, index and index-descriptor are known")),
    };
    if platform.is_some() && matches!(kind, AnnotationKind::Index | AnnotationKind::IndexDescriptor) {
        return Err("an index is of no platform".to_owned());
    }
    Ok((kind, platform))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_mean_the_same() {
        let platform = |text: &str| Some(text.parse::<Platform>().unwrap());
        for (flag, key, kind, platform) in [
            ("K.x=v", "annotation.K.x", AnnotationKind::Manifest, None),
            ("manifest[linux/arm64]:K.x=v", "annotation[linux/arm64].K.x", AnnotationKind::Manifest, platform("linux/arm64")),
            ("index:K.x=v", "annotation-index.K.x", AnnotationKind::Index, None),
            ("manifest-descriptor:K.x=v", "annotation-manifest-descriptor.K.x", AnnotationKind::ManifestDescriptor, None),
        ] {
            let expected = Annotation { kind, platform, key: "K.x".to_owned(), value: "v".to_owned() };
            assert_eq!(Annotation::parse_flag(flag).map_err(|failure| failure.message), Ok(vec![expected.clone()]));
            assert_eq!(Annotation::parse_key(key, "v").map_err(|failure| failure.message), Ok(Some(expected)));
        }
        assert_eq!(Annotation::parse_flag("manifest,index:a=b").unwrap().len(), 2);
        for wrong in ["a", "=b", "manifest:=b", "other:a=b", "index[linux/amd64]:a=b", "manifest[linux:a=b"] {
            assert!(Annotation::parse_flag(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Annotation::parse_key("compression", "gzip").unwrap(), None);
    }
}
