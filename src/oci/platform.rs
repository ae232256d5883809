//! Platforms: `os[/architecture[/variant]]`, normalised as containerd does it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An operating system and a processor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `linux`, `windows`, ...
    pub os: String,
    /// Windows build.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Windows features.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// `v7` of `arm/v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// What is wrong with a platform's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse platform {text}: {reason}")]
pub struct PlatformError {
    text: String,
    reason: &'static str,
}

impl Platform {
    /// From its three parts, normalised.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let (architecture, variant) = normalize(architecture, variant.unwrap_or(""));
        Self { architecture, os, os_version: None, os_features: Vec::new(), variant }
    }

    /// What this program was compiled for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self::new("linux", architecture, None)
    }

    /// Whether an image of platform `offered` may run where `self` is asked for; lower is better, None is no.
    /// containerd's `Only`: arm64 takes arm/v8..v5, arm/vN takes lower N, amd64 takes 386.
    pub fn rank(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os {
            return None;
        }
        if let (Some(wanted), Some(found)) = (&self.os_version, &offered.os_version)
            && wanted != found
        {
            return None;
        }
        self.compatible()
            .iter()
            .position(|(architecture, variant)| {
                *architecture == offered.architecture && *variant == offered.variant.as_deref().unwrap_or(default_variant(architecture))
            })
            .map(|position| position as u32)
    }

    fn compatible(&self) -> Vec<(String, String)> {
        let own = self.variant.clone().unwrap_or_else(|| default_variant(&self.architecture).to_owned());
        let mut list = vec![(self.architecture.clone(), own.clone())];
        let level = |text: &str| text.trim_start_matches('v').parse::<u32>().unwrap_or(0);
        let arm_from = |top: u32| (5..=top).rev().map(|number| ("arm".to_owned(), format!("v{number}")));
        match self.architecture.as_str() {
            "amd64" => {
                list.extend((1..level(&own)).rev().map(|number| ("amd64".to_owned(), format!("v{number}"))));
                list.push(("386".to_owned(), String::new()));
            }
            "arm" => list.extend(arm_from(level(&own).saturating_sub(1))),
            "arm64" => {
                if own != "v8" {
                    list.push(("arm64".to_owned(), "v8".to_owned()));
                }
                list.extend(arm_from(8));
            }
            _ => {}
        }
        list
    }
}

/// The variant that a platform without one has when it is compared.
fn default_variant(architecture: &str) -> &'static str {
    match architecture {
        "arm64" => "v8",
        "arm" => "v7",
        "amd64" => "v1",
        _ => "",
    }
}

/// containerd `platforms.normalizeArch`.
fn normalize(architecture: &str, variant: &str) -> (String, Option<String>) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", String::new()),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", String::new()),
        ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other.to_owned()),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", String::new()),
        ("aarch64" | "arm64", other) => ("arm64", other.to_owned()),
        ("armhf", _) => ("arm", "v7".to_owned()),
        ("armel", _) => ("arm", "v6".to_owned()),
        ("arm", "" | "7") => ("arm", "v7".to_owned()),
        ("arm", digit @ ("5" | "6" | "8")) => ("arm", format!("v{digit}")),
        (other, variant) => (other, variant.to_owned()),
    };
    (architecture.to_owned(), Some(variant).filter(|text| !text.is_empty()))
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason| PlatformError { text: text.to_owned(), reason };
        if text.is_empty() {
            return Err(fail("it is empty"));
        }
        let parts: Vec<&str> = text.split('/').collect();
        let valid = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-()".contains(&byte));
        if !parts.iter().all(valid) {
            return Err(fail("expected os/architecture/variant of letters, digits, `_`, `-` and `.`"));
        }
        let (os, version) = match parts[0].split_once('(') {
            Some((os, rest)) => (os, rest.strip_suffix(')').map(str::to_owned)),
            None => (parts[0], None),
        };
        let mut platform = match parts.as_slice() {
            ["local"] => Self::host(),
            [_] if is_known_os(os) => Self { os_version: version, ..Self::new(os, &Self::host().architecture, None) },
            [one] if is_known_architecture(one) => Self::new("linux", one, None),
            [_] => return Err(fail("unknown operating system or architecture")),
            [_, architecture] => Self { os_version: version, ..Self::new(os, architecture, None) },
            [_, architecture, variant] => Self { os_version: version, ..Self::new(os, architecture, Some(variant)) },
            _ => return Err(fail("too many parts")),
        };
        if platform.os_version.as_deref() == Some("") {
            platform.os_version = None;
        }
        Ok(platform)
    }
}

fn is_known_os(text: &str) -> bool {
    let known = [
        "aix",
        "android",
        "darwin",
        "macos",
        "dragonfly",
        "freebsd",
        "illumos",
        "ios",
        "js",
        "linux",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "wasip1",
        "windows",
    ];
    known.contains(&text.to_ascii_lowercase().as_str())
}

fn is_known_architecture(text: &str) -> bool {
    let known = [
        "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x", "wasm",
        "i386", "x86_64", "x86-64", "aarch64", "armhf", "armel",
    ];
    known.contains(&text.to_ascii_lowercase().as_str())
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(formatter, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_normalised() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm64/v8", "linux/arm64"),
            ("arm64", "linux/arm64"),
            ("linux/armel", "linux/arm/v6"),
            ("Linux/AArch64", "linux/arm64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), expected);
        }
        for text in ["", "linux/", "a/b/c/d", "linux/am d64", "nonsense"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn nearest_variant_wins() {
        let wanted: Platform = "linux/arm/v7".parse().unwrap();
        let rank = |text: &str| wanted.rank(&text.parse().unwrap());
        assert_eq!(rank("linux/arm/v7"), Some(0));
        assert_eq!(rank("linux/arm/v6"), Some(1));
        assert_eq!(rank("linux/arm64"), None);
        assert_eq!("linux/amd64".parse::<Platform>().unwrap().rank(&"linux/arm64".parse().unwrap()), None);
    }
}
