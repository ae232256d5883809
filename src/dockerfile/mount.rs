//! The value of `RUN --mount`: `type=cache,target=/root/.cache,...`.
//! Unaware of where mounts come from and of the sandbox; variables are expanded by the caller's function.

use super::csv;
use super::number::{parse_bool, parse_ram_bytes, parse_unsigned};
use super::quote::go_quote;
use super::suggest::nearest;
use serde::Serialize;

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret, as file or environment variable.
    Secret,
    /// The socket of an ssh agent.
    Ssh,
}

impl MountKind {
    const ALL: [(&'static str, Self); 5] =
        [("bind", Self::Bind), ("cache", Self::Cache), ("tmpfs", Self::Tmpfs), ("secret", Self::Secret), ("ssh", Self::Ssh)];

    /// The word after `type=`.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// Who may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// One at a time; others get another directory.
    Private,
    /// One at a time; others wait.
    Locked,
}

impl Sharing {
    const ALL: [(&'static str, Self); 3] = [("shared", Self::Shared), ("private", Self::Private), ("locked", Self::Locked)];
}

/// One mount as written; None and empty mean "not given".
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize)]
pub struct MountOptions {
    /// `type`.
    pub kind: MountKind,
    /// Stage, named context or image.
    pub from: Option<String>,
    /// `source` or `src`.
    pub source: Option<String>,
    /// `target`, `dst` or `destination`.
    pub target: Option<String>,
    /// With the default of the type filled in: cache and tmpfs are writable.
    pub read_only: bool,
    /// Bytes of a tmpfs; None for no limit.
    pub size_bytes: Option<u64>,
    /// `id`.
    pub id: Option<String>,
    /// `sharing`.
    pub sharing: Option<Sharing>,
    /// `required`.
    pub required: bool,
    /// `env`: variable that carries a secret.
    pub env: Option<String>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

impl MountOptions {
    /// The id of a cache mount: as given, else the cleaned target.
    pub fn cache_id(&self) -> String {
        match &self.id {
            Some(id) => id.clone(),
            None => super::glob::clean(self.target.as_deref().unwrap_or_default()),
        }
    }

    /// The id of a secret: `source`, `id`, or the last element of the target.
    pub fn secret_id(&self) -> String {
        let given = self.source.as_ref().or(self.id.as_ref());
        given.cloned().unwrap_or_else(|| base_name(self.target.as_deref().unwrap_or_default()).to_owned())
    }

    /// Where a secret's file appears; None when it is only a variable.
    pub fn secret_target(&self) -> Option<String> {
        match (&self.target, &self.env) {
            (Some(target), _) => Some(target.clone()),
            (None, Some(_)) => None,
            (None, None) => Some(format!("/run/secrets/{}", base_name(&self.secret_id()))),
        }
    }

    /// The id of an ssh mount.
    pub fn ssh_id(&self) -> &str {
        self.id.as_deref().unwrap_or("default")
    }
}

/// `/a/b/` -> `b`, as Go's path.Base.
fn base_name(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let path = path.trim_end_matches('/');
    if path.is_empty() { "/" } else { path.rsplit('/').next().unwrap_or(path) }
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// What can be said of a mount before variables have values: its fields split, and `from` names no variable.
/// Gives the value of `from`.
pub fn check_mount(value: &str) -> Result<Option<String>, String> {
    let mut from = None;
    for field in split(value)? {
        let Some((key, value)) = field.split_once('=') else { continue };
        let key = key.to_lowercase();
        if key == "from" {
            if value.find('$').is_some_and(|at| at + 1 != value.len()) {
                return Err(format!("'{key}' doesn't support variable expansion, define alias stage instead"));
            }
            from = Some(value.to_owned()).filter(|from| !from.is_empty());
        }
    }
    Ok(from)
}

/// Reads a mount. `expand` gets every value (keys are never expanded; `from` was refused a variable by `check_mount`).
pub fn parse_mount(value: &str, expand: &mut dyn FnMut(&str) -> Result<String, String>) -> Result<MountOptions, String> {
    let mut reader = Reader::default();
    for field in split(value)? {
        match field.split_once('=') {
            None => reader.read_word(&field)?,
            Some((key, value)) => reader.read_pair(&key.to_lowercase(), &expand(value)?, &field)?,
        }
    }
    reader.finish()
}

fn split(value: &str) -> Result<Vec<String>, String> {
    csv::fields(value).map_err(|error| format!("failed to parse csv mounts: {error}"))
}

#[derive(Default)]
struct Reader {
    mount: MountOptions,
    read_only: Option<bool>,
}

impl Reader {
    /// A field without `=`.
    fn read_word(&mut self, field: &str) -> Result<(), String> {
        match field.to_lowercase().as_str() {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => {
                self.only_for("required", &[MountKind::Secret, MountKind::Ssh])?;
                self.mount.required = true;
            }
            _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
        }
        Ok(())
    }

    fn read_pair(&mut self, key: &str, value: &str, field: &str) -> Result<(), String> {
        let given = || Some(value.to_owned()).filter(|value| !value.is_empty());
        let boolean = || parse_bool(value).ok_or_else(|| format!("invalid value for {key}: {value}"));
        match key {
            "type" => self.mount.kind = choose(value, &MountKind::ALL, "mount type")?,
            "from" => self.mount.from = given(),
            "source" | "src" => self.mount.source = given(),
            "target" | "dst" | "destination" => self.mount.target = given(),
            "readonly" | "ro" => self.read_only = Some(boolean()?),
            "readwrite" | "rw" => self.read_only = Some(!boolean()?),
            "required" => {
                self.only_for(key, &[MountKind::Secret, MountKind::Ssh])?;
                self.mount.required = boolean()?;
            }
            "size" => {
                self.only_for(key, &[MountKind::Tmpfs])?;
                let size = parse_ram_bytes(value).ok_or_else(|| format!("invalid value for {key}: {value}"))?;
                self.mount.size_bytes = Some(size).filter(|size| *size > 0);
            }
            "id" => self.mount.id = given(),
            "sharing" => self.mount.sharing = Some(choose(value, &Sharing::ALL, "sharing value")?),
            "mode" => self.mount.mode = Some(number(key, value, 8)?),
            "uid" => self.mount.uid = Some(number(key, value, 10)?),
            "gid" => self.mount.gid = Some(number(key, value, 10)?),
            "env" => self.mount.env = Some(value.to_owned()),
            _ => return Err(did_you_mean(format!("unexpected key '{key}' in '{field}'"), nearest(key, KEYS))),
        }
        Ok(())
    }

    fn only_for(&self, key: &str, kinds: &[MountKind]) -> Result<(), String> {
        let kind = self.mount.kind;
        if kinds.contains(&kind) { Ok(()) } else { Err(format!("unexpected key '{key}' for mount type '{}'", kind.as_str())) }
    }

    /// What the fields say together.
    fn finish(self) -> Result<MountOptions, String> {
        let mut mount = self.mount;
        let kind = mount.kind;
        if matches!(kind, MountKind::Bind | MountKind::Tmpfs) {
            for (key, given) in [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)] {
                if given.is_some() {
                    return Err(format!("{key} not allowed for {} type mounts", go_quote(kind.as_str())));
                }
            }
        }
        mount.read_only = self.read_only.unwrap_or(!matches!(kind, MountKind::Cache | MountKind::Tmpfs));
        if kind == MountKind::Secret {
            check_secret(&mount)?;
        }
        if mount.sharing.is_some() && kind != MountKind::Cache {
            return Err(format!("invalid cache sharing set for {} mount", kind.as_str()));
        }
        if kind == MountKind::Ssh && mount.source.is_some() {
            return Err("ssh does not support source".to_owned());
        }
        Ok(mount)
    }
}

fn check_secret(mount: &MountOptions) -> Result<(), String> {
    let error = if mount.from.is_some() {
        "secret mount should not have a from"
    } else if mount.sharing.is_some() {
        "secret mount should not define sharing"
    } else if mount.source.is_none() && mount.target.is_none() && mount.id.is_none() {
        "invalid secret mount. one of source, target required"
    } else if mount.source.is_some() && mount.id.is_some() {
        "both source and id can't be set"
    } else {
        return Ok(());
    };
    Err(error.to_owned())
}

fn choose<T: Copy>(value: &str, all: &[(&'static str, T)], what: &str) -> Result<T, String> {
    let lower = value.to_lowercase();
    let found = all.iter().find(|(name, _)| *name == lower).map(|(_, choice)| *choice);
    found.ok_or_else(|| did_you_mean(format!("unsupported {what} {}", go_quote(value)), nearest(value, all.iter().map(|(name, _)| *name))))
}

fn number(key: &str, value: &str, radix: u32) -> Result<u32, String> {
    parse_unsigned(value, radix).ok_or_else(|| format!("invalid value {value} for {key}"))
}

pub(super) fn did_you_mean(message: String, suggestion: Option<String>) -> String {
    match suggestion {
        Some(suggestion) => format!("{message} (did you mean {suggestion}?)"),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<MountOptions, String> {
        parse_mount(value, &mut |value| Ok(value.replace("$V", "cache")))
    }

    #[test]
    fn defaults_follow_the_type() {
        let bind = parse("target=/x").unwrap();
        assert_eq!((bind.kind, bind.read_only), (MountKind::Bind, true));
        assert!(!parse("type=cache,target=/x").unwrap().read_only);
        assert!(!parse("type=tmpfs,target=/x").unwrap().read_only);
        assert!(parse("type=cache,target=/x,ro").unwrap().read_only);
        assert!(!parse("target=/x,readwrite").unwrap().read_only);
        assert!(parse("target=/x,rw=false").unwrap().read_only);
        assert_eq!(parse("type=$V,dst=/x/../y/").unwrap().cache_id(), "/y");
        assert_eq!(parse("TYPE=Cache,id=a,target=/x,sharing=LOCKED,mode=0700,uid=1,gid=2").unwrap().sharing, Some(Sharing::Locked));
        assert_eq!(parse("type=tmpfs,target=/x,size=128m").unwrap().size_bytes, Some(128 << 20));
    }

    #[test]
    fn secrets_and_ssh_find_id_and_target() {
        for (value, id, target) in [
            ("type=secret,id=a", "a", Some("/run/secrets/a")),
            ("type=secret,target=/root/.aws/credentials", "credentials", Some("/root/.aws/credentials")),
            ("type=secret,id=a,env=A", "a", None),
            ("type=secret,id=a,env=A,target=/a", "a", Some("/a")),
            ("type=secret,src=x/y", "x/y", Some("/run/secrets/y")),
        ] {
            let mount = parse(value).unwrap();
            assert_eq!((mount.secret_id().as_str(), mount.secret_target().as_deref()), (id, target), "{value}");
        }
        assert_eq!(parse("type=ssh,required").unwrap().ssh_id(), "default");
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (value, error) in [
            ("typ=tmpfs", "unexpected key 'typ' in 'typ=tmpfs' (did you mean type?)"),
            ("type=tmp", "unsupported mount type \"tmp\" (did you mean tmpfs?)"),
            ("type=nothing", "unsupported mount type \"nothing\""),
            ("foo", "invalid field 'foo' must be a key=value pair"),
            ("target=/x,required", "unexpected key 'required' for mount type 'bind'"),
            ("target=/x,size=1", "unexpected key 'size' for mount type 'bind'"),
            ("type=tmpfs,size=x", "invalid value for size: x"),
            ("ro=x", "invalid value for ro: x"),
            ("type=cache,sharing=private1", "unsupported sharing value \"private1\" (did you mean private?)"),
            ("sharing=private", "invalid cache sharing set for bind mount"),
            ("mode=0755", "mode not allowed for \"bind\" type mounts"),
            ("type=tmpfs,uid=1", "uid not allowed for \"tmpfs\" type mounts"),
            ("type=cache,mode=99x", "invalid value 99x for mode"),
            ("type=cache,uid=+1", "invalid value +1 for uid"),
            ("type=secret", "invalid secret mount. one of source, target required"),
            ("type=secret,id=a,source=b", "both source and id can't be set"),
            ("type=secret,id=a,from=b", "secret mount should not have a from"),
            ("type=secret,id=a,sharing=shared", "secret mount should not define sharing"),
            ("type=ssh,source=a", "ssh does not support source"),
            ("a\"b", "failed to parse csv mounts: parse error on line 1, column 2: bare \" in non-quoted field"),
        ] {
            assert_eq!(parse(value), Err(error.to_owned()), "{value}");
        }
    }

    #[test]
    fn from_takes_no_variable() {
        assert_eq!(check_mount("type=$X,from=base"), Ok(Some("base".to_owned())));
        assert_eq!(check_mount("from=cost$"), Ok(Some("cost$".to_owned())));
        assert_eq!(check_mount("from=$base"), Err("'from' doesn't support variable expansion, define alias stage instead".to_owned()));
    }
}
