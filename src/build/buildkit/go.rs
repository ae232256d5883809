//! The forms that BuildKit's operations have as Go writes them in JSON: what is hashed is this text, so names, order and
//! what is left out count. Unaware of plans.

use serde::Serialize;

use crate::oci::Digest;

/// The text as Go's `encoding/json` writes it: as everybody's, but for characters that HTML minds.
pub fn to_json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("plain data has a JSON form");
    // None of them stands outside of strings in JSON.
    let escapes = [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")];
    escapes.iter().fold(text, |text, (character, escape)| if text.contains(*character) { text.replace(*character, escape) } else { text })
}

/// The digest of a value's JSON.
pub fn digest_json(value: &impl Serialize) -> Digest {
    Digest::of(to_json(value).as_bytes())
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Versions of BuildKit with keys of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// Until 0.12: a mount of all of an input has no selector, names of cache mounts count, secrets are the first input.
    Selectors,
    /// Until 0.16: the first input and the first output are written down. (0.17 has names that no other version has.)
    Zeros,
    /// Since 0.18.
    Now,
}

impl Era {
    /// The latest first.
    pub const ALL: [Self; 3] = [Self::Now, Self::Zeros, Self::Selectors];

    /// The number of an input or an output as it is written, if it is.
    pub fn number(self, number: i64) -> Option<i64> {
        (number != 0 || self != Self::Now).then_some(number)
    }
}

/// The kinds of mounts.
pub mod mount_type {
    pub const SECRET: u32 = 1;
    pub const SSH: u32 = 2;
    pub const CACHE: u32 = 3;
    pub const TMPFS: u32 = 4;
}

/// An input that is none, an output that is none.
pub const NONE: i64 = -1;

/// What the key of a RUN is made of.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExecKey {
    #[serde(rename = "Type")]
    pub kind: &'static str,
    pub exec: Exec,
    #[serde(rename = "OS")]
    pub os: String,
    pub arch: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub variant: String,
}

#[derive(Serialize)]
pub struct Exec {
    pub meta: Meta,
    #[serde(skip_serializing_if = "is_zero")]
    pub mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "is_zero")]
    pub network: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub secretenv: Vec<SecretVariable>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    pub args: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub cwd: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub user: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub hostname: String,
    pub remove_mount_stubs_recursive: bool,
}

#[derive(Serialize, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<i64>,
    pub dest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<i64>,
    #[serde(skip_serializing_if = "is_zero")]
    pub readonly: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub mount_type: u32,
    #[serde(rename = "TmpfsOpt", skip_serializing_if = "Option::is_none")]
    pub tmpfs: Option<Tmpfs>,
    #[serde(rename = "cacheOpt", skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    #[serde(rename = "secretOpt", skip_serializing_if = "Option::is_none")]
    pub secret: Option<Held>,
    #[serde(rename = "SSHOpt", skip_serializing_if = "Option::is_none")]
    pub ssh: Option<Held>,
}

#[derive(Serialize, PartialEq)]
pub struct Tmpfs {
    #[serde(skip_serializing_if = "is_zero")]
    pub size: u64,
}

#[derive(Serialize, PartialEq, Default)]
pub struct Cache {
    #[serde(rename = "ID", skip_serializing_if = "is_zero")]
    pub id: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub sharing: u32,
}

/// A secret's file or an agent's socket.
#[derive(Serialize, PartialEq)]
pub struct Held {
    #[serde(rename = "ID", skip_serializing_if = "is_zero")]
    pub id: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub uid: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub gid: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub mode: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub optional: bool,
}

#[derive(Serialize, PartialEq)]
pub struct SecretVariable {
    #[serde(rename = "ID", skip_serializing_if = "is_zero")]
    pub id: String,
    pub name: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub optional: bool,
}

/// What the key of an operation on files is made of; actions are base64 of their JSON.
#[derive(Serialize)]
pub struct FileKey {
    #[serde(rename = "Type")]
    pub kind: &'static str,
    #[serde(rename = "Actions")]
    pub actions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub indexes: Option<Vec<[i64; 3]>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MakeDirectory {
    pub path: String,
    pub mode: u32,
    pub make_parents: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    pub timestamp: i64,
}

#[derive(Serialize)]
pub struct MakeFile {
    pub path: String,
    pub mode: u32,
    /// In base64.
    #[serde(skip_serializing_if = "is_zero")]
    pub data: String,
    pub timestamp: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Copy {
    pub src: String,
    pub dest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    #[serde(skip_serializing_if = "is_zero")]
    pub mode: i32,
    #[serde(skip_serializing_if = "is_zero")]
    pub follow_symlink: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub dir_copy_contents: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub attempt_unpack_docker_compatibility: bool,
    pub create_dest_path: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub allow_wildcard: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub allow_empty_wildcard: bool,
    pub timestamp: i64,
    #[serde(rename = "include_patterns", skip_serializing_if = "is_zero")]
    pub include_patterns: Vec<String>,
    #[serde(rename = "exclude_patterns", skip_serializing_if = "is_zero")]
    pub exclude_patterns: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub mode_str: String,
    #[serde(rename = "required_paths", skip_serializing_if = "is_zero")]
    pub required_paths: Vec<String>,
}

#[derive(Serialize, Clone)]
pub struct Owner {
    pub user: OwnerId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<OwnerId>,
}

#[derive(Serialize, Clone)]
pub struct OwnerId {
    #[serde(rename = "User")]
    pub id: Id,
}

#[derive(Serialize, Clone, Default)]
#[serde(rename_all = "camelCase")]
pub struct Id {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_name: Option<ByName>,
    #[serde(skip_serializing_if = "is_zero")]
    pub by_id: u32,
    /// Its name of old.
    #[serde(rename = "byID", skip_serializing_if = "is_zero")]
    pub by_old_id: u32,
}

impl Id {
    pub fn number(id: u32, era: Era) -> Self {
        match era {
            Era::Now => Self { by_id: id, ..Self::default() },
            Era::Selectors | Era::Zeros => Self { by_old_id: id, ..Self::default() },
        }
    }

    /// Looked up in an input.
    pub fn name(name: &str, input: i64, era: Era) -> Self {
        Self { by_name: Some(ByName { name: name.to_owned(), input: era.number(input) }), ..Self::default() }
    }
}

/// A name is looked up in an input.
#[derive(Serialize, Clone)]
pub struct ByName {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<i64>,
}

/// What the key of a COPY --link on top of something is made of.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MergeKey {
    #[serde(rename = "Type")]
    pub kind: &'static str,
    pub merge: Merge,
}

#[derive(Serialize)]
pub struct Merge {
    pub inputs: [MergeInput; 2],
}

#[derive(Serialize)]
pub struct MergeInput {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<i64>,
}

/// What a base image is known by beside the chain of its layers.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageKey<'a> {
    pub digest: &'a Digest,
    #[serde(rename = "OS")]
    pub os: &'a str,
    pub arch: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub variant: &'a str,
}
