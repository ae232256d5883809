//! The keys of COPY, ADD and WORKDIR: operations on files. Pure.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    dockerfile::glob::{clean, has_wildcard},
    oci::Digest,
    plan::{CopyOp, SourceFrom, VertexId},
};

use super::{
    go::{self, Era, NONE},
    keys::{Dep, From, Inputs, Key, Selector, of_input},
};

/// The digest of actions and what they work on: input, second input, output.
pub fn digest_actions(actions: &[String], indexes: Vec<[i64; 3]>) -> Digest {
    let indexes = (!is_default(&indexes)).then_some(indexes);
    let actions = actions.iter().map(|action| STANDARD.encode(action)).collect();
    go::digest_json(&go::FileKey { kind: "buildkit.file.v0", actions, indexes })
}

/// The usual ones are left out: so it was before they were in the key.
fn is_default(indexes: &[[i64; 3]]) -> bool {
    let count = indexes.len();
    indexes.iter().enumerate().all(|(index, [input, second, output])| {
        let expected = if index == 0 { 0 } else { (count + index - 1) as i64 };
        let is_last = index + 1 == count;
        *input == expected && [NONE, 1].contains(second) && *output == if is_last { 0 } else { NONE }
    })
}

/// A file that stands in the Dockerfile, alone in a root of its own.
pub fn made_file(name: &str, mode: u32, content: &str) -> Key {
    let path = clean(&format!("/{name}"));
    let action = go::to_json(&go::MakeFile { path, mode, data: STANDARD.encode(content), timestamp: NONE });
    Key::new(&digest_actions(&[action], vec![[NONE, NONE, 0]]), Vec::new())
}

/// `--chown`, whose names are looked up in an input.
pub fn owner(text: &str, input: i64, era: Era) -> Option<go::Owner> {
    let id = |name: &str| {
        let by_id = match name {
            "root" => Some(0),
            name => name.parse::<i32>().ok().map(|id| id as u32),
        };
        match by_id {
            Some(number) => Some(go::OwnerId { id: go::Id::number(number, era) }),
            // BuildKit has nowhere to look it up.
            None if input == NONE => None,
            None => Some(go::OwnerId { id: go::Id::name(name, input, era) }),
        }
    };
    match text.split_once(':') {
        Some((user, group)) => Some(go::Owner { user: id(user)?, group: Some(id(group)?) }),
        None => Some(go::Owner { user: id(text)?, group: None }),
    }
}

/// The key of a COPY or ADD.
pub fn copy_key(parent: Option<VertexId>, copy: &CopyOp, era: Era) -> Option<Key> {
    if !copy.link {
        return actions_key(parent, copy, era);
    }
    let made = actions_key(None, copy, era)?;
    let Some(parent) = parent else { return Some(made) };
    let inputs = [go::MergeInput { input: era.number(0) }, go::MergeInput { input: era.number(1) }];
    let text = go::to_json(&go::MergeKey { kind: "buildkit.merge.v0", merge: go::Merge { inputs } });
    // Once the text itself went for its digest.
    let digest = if era == Era::Selectors { text } else { Digest::of(text.as_bytes()).to_string() };
    let deps = [From::Vertex(parent), From::Key(Box::new(made))];
    Some(Key::new(&digest, deps.map(|from| Dep { from, selector: String::new(), content: Vec::new() }).into()))
}

/// One action per source, each on what the one before it made.
fn actions_key(parent: Option<VertexId>, copy: &CopyOp, era: Era) -> Option<Key> {
    let mut inputs = Inputs::default();
    let base = inputs.add_index(parent.map(From::Vertex));
    let style = style(copy, base, era)?;
    let (mut actions, mut seconds, mut used) = (Vec::new(), Vec::new(), Vec::new());
    for source in &copy.sources {
        let (from, action, selector) = match &source.from {
            SourceFrom::Input(input) => {
                let (action, selector) = of_paths(copy, &source.path, source.unpack, &style);
                (of_input(input), action, selector)
            }
            SourceFrom::Inline { name, content } => {
                let file = made_file(name, 0o644, content);
                let path = clean(&format!("/{name}"));
                let action = go::Copy { src: base_name(&path), ..style.action() };
                (Some(From::Key(Box::new(file))), action, Selector { path, exclude: copy.excludes.clone(), ..Selector::default() })
            }
            // Known by what servers say of them.
            SourceFrom::Url { .. } | SourceFrom::Git { .. } => return None,
        };
        let second = inputs.add_index(from);
        actions.push(go::to_json(&action));
        seconds.push(second);
        used.push((second, selector));
    }
    let (count, sources) = (inputs.0.len(), actions.len());
    let indexes = seconds.iter().enumerate().map(|(index, second)| {
        let input = if index == 0 { base } else { (count + index - 1) as i64 };
        [input, *second, if index + 1 == sources { 0 } else { NONE }]
    });
    let digest = digest_actions(&actions, indexes.collect());
    let deps = inputs.0.into_iter().enumerate().map(|(index, from)| {
        let index = index as i64;
        // What is also copied into counts as a whole.
        let is_whole = index == base;
        let selectors: Vec<Selector> =
            used.iter().filter(|(second, _)| *second == index && !is_whole).map(|(_, used)| used.clone()).collect();
        let (selector, content) =
            if selectors.is_empty() { (String::new(), Vec::new()) } else { (selector_digest(&selectors), distinct(selectors)) };
        Dep { from, selector, content }
    });
    Some(Key::new(&digest, deps.collect()))
}

/// What all actions of a COPY have in common.
struct Style {
    dest: String,
    owner: Option<go::Owner>,
    mode: i32,
    mode_str: String,
    exclude_patterns: Vec<String>,
}

impl Style {
    fn action(&self) -> go::Copy {
        go::Copy {
            src: String::new(),
            dest: self.dest.clone(),
            owner: self.owner.clone(),
            mode: self.mode,
            follow_symlink: false,
            dir_copy_contents: false,
            attempt_unpack_docker_compatibility: false,
            create_dest_path: true,
            allow_wildcard: false,
            allow_empty_wildcard: false,
            timestamp: NONE,
            include_patterns: Vec::new(),
            exclude_patterns: self.exclude_patterns.clone(),
            mode_str: self.mode_str.clone(),
            required_paths: Vec::new(),
        }
    }
}

fn style(copy: &CopyOp, base: i64, era: Era) -> Option<Style> {
    let owner = match copy.chown.as_deref() {
        None | Some("") => None,
        Some(text) => Some(owner(text, base, era)?),
    };
    let (mode, mode_str) = match copy.chmod.as_deref() {
        None | Some("") => (-1, String::new()),
        Some(text) => match i32::from_str_radix(text, 8) {
            Ok(mode) => (mode, String::new()),
            Err(_) => (0, text.to_owned()),
        },
    };
    Some(Style { dest: copy.destination.clone(), owner, mode, mode_str, exclude_patterns: copy.excludes.clone() })
}

fn of_paths(copy: &CopyOp, path: &str, unpack: bool, style: &Style) -> (go::Copy, Selector) {
    let (mut path, mut include_patterns, mut required_paths) = (path.to_owned(), Vec::new(), Vec::new());
    if copy.parents {
        let (pivot, pattern) = match path.split_once("/./") {
            Some((pivot, pattern)) => (pivot.to_owned(), pattern.to_owned()),
            None => ("/".to_owned(), path.clone()),
        };
        let pattern = clean(&format!("/{pattern}"));
        if !has_wildcard(&pivot) && !has_wildcard(&pattern) {
            required_paths.push(clean(&format!("/{pivot}{pattern}")));
        }
        include_patterns.push(pattern.trim_start_matches('/').to_owned());
        path = pivot;
    }
    let path = clean(&format!("/{path}"));
    let (include, exclude) = (include_patterns.clone(), style.exclude_patterns.clone());
    let selector = Selector { wildcard: has_wildcard(&path), follow: true, include, exclude, path: path.clone() };
    let action = go::Copy {
        src: base_name(&path),
        follow_symlink: true,
        dir_copy_contents: true,
        attempt_unpack_docker_compatibility: unpack,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        include_patterns,
        required_paths,
        ..style.action()
    };
    (action, selector)
}

fn base_name(path: &str) -> String {
    match path.rsplit('/').next() {
        Some("") | None => "/".to_owned(),
        Some(name) => name.to_owned(),
    }
}

fn selector_digest(selectors: &[Selector]) -> String {
    let mut paths: Vec<&str> = selectors.iter().map(|selector| selector.path.as_str()).collect();
    paths.sort_unstable();
    paths.reverse();
    Digest::of(paths.join("\0").as_bytes()).to_string()
}

/// Each path once, and none below another.
fn distinct(selectors: Vec<Selector>) -> Vec<Selector> {
    let is_plain = |selector: &Selector| !selector.wildcard && selector.include.is_empty() && selector.exclude.is_empty();
    let mut list = Vec::new();
    for follow in [false, true] {
        let plain = selectors.iter().filter(|selector| is_plain(selector) && selector.follow == follow);
        let paths = outermost(plain.map(|selector| selector.path.clone()).collect());
        list.extend(paths.into_iter().map(|path| Selector { path, follow, ..Selector::default() }));
    }
    list.extend(selectors.into_iter().filter(|selector| !is_plain(selector)));
    list.sort_by(|one, other| one.path.cmp(&other.path));
    list
}

/// Paths that are not below another one of them, sorted; a single one as it is.
pub fn outermost(mut paths: Vec<String>) -> Vec<String> {
    paths.sort();
    paths.dedup();
    let is_below = |path: &String, other: &String| {
        path != other && path.strip_prefix(other.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
    };
    let all = paths.clone();
    paths.retain(|path| !all.iter().any(|other| is_below(path, other)));
    paths
}
