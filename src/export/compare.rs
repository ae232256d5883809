//! Where two images differ: files, config, history. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::listing::{Listed, Listing};
use crate::oci::{Image, tar::EntryKind};

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDifference {
    /// Path without a leading slash.
    pub path: String,
    /// In the first image: the layer it is from, counted from 0.
    pub first_layer: Option<usize>,
    /// In the second.
    pub second_layer: Option<usize>,
    /// What differs, such as `mode 0644 -> 0755`; empty where only one has it.
    pub what: Vec<String>,
}

/// All differences.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Differences {
    /// Sorted by path.
    pub files: Vec<FileDifference>,
    /// Config values by their JSON path, with both values.
    pub config: Vec<(String, Option<String>, Option<String>)>,
    /// History lines that aren't equal, by position.
    pub history: Vec<(usize, Option<String>, Option<String>)>,
}

impl Differences {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.config.is_empty() && self.history.is_empty()
    }
}

/// Compares; with `times`, times of files and of the image too.
pub fn compare(first: (&Image, &Listing), second: (&Image, &Listing), times: bool) -> Differences {
    Differences {
        files: files(first.1, second.1, times),
        config: config(first.0, second.0, times),
        history: history(first.0, second.0, times),
    }
}

fn files(first: &Listing, second: &Listing, times: bool) -> Vec<FileDifference> {
    let paths: BTreeSet<&Vec<u8>> = first.files.keys().chain(second.files.keys()).collect();
    let compare = |path: &&Vec<u8>| {
        let (a, b) = (first.files.get(*path), second.files.get(*path));
        let what = match (a, b) {
            (Some(a), Some(b)) => attributes(a, b, times),
            _ => Vec::new(),
        };
        let differs = a.is_some() != b.is_some() || !what.is_empty();
        let path = String::from_utf8_lossy(path).into_owned();
        differs.then(|| FileDifference { path, first_layer: a.map(|a| a.layer), second_layer: b.map(|b| b.layer), what })
    };
    paths.iter().filter_map(compare).collect()
}

fn attributes(a: &Listed, b: &Listed, times: bool) -> Vec<String> {
    let mut list = Vec::new();
    if std::mem::discriminant(&a.kind) != std::mem::discriminant(&b.kind) {
        return vec![format!("{} -> {}", kind_name(&a.kind), kind_name(&b.kind))];
    }
    let mut differ = |name: &str, a: String, b: String| {
        if a != b {
            list.push(format!("{name} {a} -> {b}"));
        }
    };
    differ("target", target(&a.kind), target(&b.kind));
    differ("mode", format!("{:04o}", a.mode), format!("{:04o}", b.mode));
    differ("owner", format!("{}:{}", a.uid, a.gid), format!("{}:{}", b.uid, b.gid));
    differ("size", a.size.to_string(), b.size.to_string());
    if times {
        differ("time", time(a.mtime), time(b.mtime));
    }
    if a.size == b.size && a.content != b.content {
        list.push("content".to_owned());
    }
    if a.xattrs != b.xattrs {
        list.push("extended attributes".to_owned());
    }
    list
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

fn target(kind: &EntryKind) -> String {
    match kind {
        EntryKind::Symlink { target } | EntryKind::HardLink { target } => String::from_utf8_lossy(target).into_owned(),
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => format!("{major}:{minor}"),
        _ => String::new(),
    }
}

/// In words.
pub fn kind_name(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink { .. } => "symbolic link",
        EntryKind::HardLink { .. } => "hard link",
        EntryKind::Fifo => "fifo",
        EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } => "device",
    }
}

/// Everything but layers and history, which are compared for themselves.
fn config(first: &Image, second: &Image, times: bool) -> Vec<(String, Option<String>, Option<String>)> {
    let flat = |image: &Image| {
        let mut value = serde_json::to_value(&image.config).expect("a config has only string keys");
        if let Some(object) = value.as_object_mut() {
            object.retain(|key, _| !["rootfs", "history"].contains(&key.as_str()) && (times || key != "created"));
        }
        let mut map = BTreeMap::new();
        flatten("", &value, &mut map);
        map
    };
    let (a, b) = (flat(first), flat(second));
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let differing = keys.into_iter().filter(|key| a.get(*key) != b.get(*key));
    differing.map(|key| (key.clone(), a.get(key).cloned(), b.get(key).cloned())).collect()
}

fn flatten(path: &str, value: &Value, map: &mut BTreeMap<String, String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| flatten(&below(key), value, map)),
        // Variables are compared by name: one more must not make all of them differ.
        Value::Array(list) if path.ends_with(".Env") => {
            for text in list.iter().filter_map(Value::as_str) {
                let (name, value) = text.split_once('=').unwrap_or((text, ""));
                map.insert(below(name), value.to_owned());
            }
        }
        Value::String(text) => drop(map.insert(path.to_owned(), text.clone())),
        other => drop(map.insert(path.to_owned(), other.to_string())),
    }
}

fn history(first: &Image, second: &Image, times: bool) -> Vec<(usize, Option<String>, Option<String>)> {
    let line = |image: &Image, index: usize| {
        let entry = image.config.history.get(index)?;
        let created = if times { entry.created.as_deref().unwrap_or("") } else { "" };
        Some(format!("{created} {}", entry.created_by.as_deref().unwrap_or("")).trim().to_owned())
    };
    let count = first.config.history.len().max(second.config.history.len());
    let pairs = (0..count).map(|index| (index, line(first, index), line(second, index)));
    pairs.filter(|(_, a, b)| a != b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{
        listing::list,
        testing::{image, store},
    };

    #[test]
    fn files_variables_and_history_are_told_apart() {
        let (_top, store) = store();
        let first = image(&store, "linux/amd64", &["a", "b"]);
        let mut second = image(&store, "linux/amd64", &["a", "c"]);
        second.config.config.env = vec!["A=1".to_owned()];
        second.config.created = None;
        second.config.history.push(crate::oci::History { created_by: Some("RUN x".to_owned()), ..Default::default() });
        let (a, b) = (list(&store, &first, true).unwrap(), list(&store, &second, true).unwrap());
        let found = compare((&first, &a), (&second, &b), false);
        let paths: Vec<_> = found.files.iter().map(|file| (file.path.as_str(), file.first_layer, file.second_layer)).collect();
        assert_eq!(paths, [("b", Some(1), None), ("c", None, Some(1))]);
        assert_eq!(found.config, [("config.Env.A".to_owned(), None, Some("1".to_owned()))]);
        assert_eq!(found.history, [(0, None, Some("RUN x".to_owned()))]);
        assert!(compare((&first, &a), (&first, &a), true).is_empty());
        assert_eq!(compare((&first, &a), (&second, &b), true).config[1].0, "created");
    }

    #[test]
    fn attributes_say_both_values() {
        let file = |mode, size| Listed {
            kind: EntryKind::File,
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
            size,
            xattrs: Vec::new(),
            content: None,
            layer: 0,
        };
        assert_eq!(attributes(&file(0o644, 1), &file(0o755, 2), true), ["mode 0644 -> 0755", "size 1 -> 2"]);
    }
}
