//! Trees and layers as text lines: the cases are in `testdata/layers`, `UPDATE=1` accepts what comes out.
//!
//! A line is `PATH TYPE MODE UID:GID @MTIME ..`; what follows depends on the type: `"content"`, `-> target`, `major:minor`, and
//! `name="value"` for attributes. Sections: `layer` (a tar, bottom first, the last one is the draft), `changes`,
//! `written` (the draft's layer), `merged` (all together).

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::mount::MountAttrFlags;

use super::{
    layered::{Kind, LayerIndex, LayeredRoot, Lower, index_layer, index_unpacked},
    *,
};
use crate::sys::{mountns, root::RootDir};

#[test]
fn layers_are_applied_compared_and_written_as_their_text_says() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: owners can only be set as root");
        return;
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/layers");
    let mut cases: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() > 5);
    for case in cases {
        let text = fs::read_to_string(&case).unwrap();
        let result = run_case(&text);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&case, result).unwrap();
        } else {
            assert_eq!(result, text, "{} (UPDATE=1 accepts)", case.display());
        }
    }
}

/// The case's text with its results as they are.
fn run_case(text: &str) -> String {
    let stack = Stack::new();
    let mut result = String::new();
    for section in text.split_inclusive('\n').collect::<Vec<_>>().chunk_by(|_, line| !line.starts_with("== ")) {
        match section[0].trim() {
            "== layer" => {
                section.iter().for_each(|line| result += line);
                stack.apply(&tar(&section[1..]));
            }
            "== error" | "== changes" | "== written" | "== merged" => {}
            _ => section.iter().for_each(|line| result += line),
        }
    }
    let error = stack.error.borrow().clone();
    if let Some(error) = error {
        return format!("{result}== error\n{error}\n");
    }
    let (upper, lowers) = (stack.upper(), stack.lowers());
    let changes = diff_overlay(&upper, &merged(lowers)).unwrap();
    let written = write(&changes, &upper);
    result += "== changes\n";
    changes.iter().for_each(|change| writeln!(result, "{:?} {}", change.kind, change.path.display()).unwrap());
    write!(result, "== written\n{}", listing(&written)).unwrap();
    let mut merged = Vec::new();
    write_merged(&stack.roots(), &mut merged, TimestampPolicy::Keep).unwrap();
    write!(result, "== merged\n{}", listing(&merged)).unwrap();
    stack.check_indexed(&changes);
    stack.check_native(&changes, &written);
    stack.check_kernel(&merged);
    stack.check_again(&written, &merged);
    result
}

/// Layers in directories of their own; the last one applied is the draft.
struct Stack {
    home: tempfile::TempDir,
    /// Bottom first.
    tars: std::cell::RefCell<Vec<Vec<u8>>>,
    count: std::cell::Cell<usize>,
    error: std::cell::RefCell<Option<String>>,
}

impl Stack {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), tars: Vec::new().into(), count: 0.into(), error: None.into() }
    }

    fn apply(&self, tar: &[u8]) {
        let below = self.paths();
        self.tars.borrow_mut().push(tar.to_vec());
        self.count.set(self.count.get() + 1);
        fs::create_dir_all(self.paths()[0].as_path()).unwrap();
        if let Err(error) =
            apply_layer(tar, &self.upper(), &|| below.iter().map(|path| RootDir::open(path)).collect(), &ApplyOptions::default())
        {
            *self.error.borrow_mut() = Some(error.to_string());
        }
        assert_eq!(fs::read_dir(self.home.path()).unwrap().count(), self.count.get(), "something was made outside");
    }

    /// Top first.
    fn paths(&self) -> Vec<PathBuf> {
        (0..self.count.get()).rev().map(|index| self.home.path().join(format!("{index}/fs"))).collect()
    }

    fn roots(&self) -> Vec<RootDir> {
        self.paths().iter().map(|path| RootDir::open(path).unwrap()).collect()
    }

    fn upper(&self) -> RootDir {
        self.roots().remove(0)
    }

    fn lowers(&self) -> Vec<RootDir> {
        self.roots().split_off(1)
    }

    /// Layers known by their tars show the same tree, and the same changes on them.
    fn check_indexed(&self, changes: &[Change]) {
        let tars = self.tars.borrow();
        let indexes: Option<Vec<LayerIndex>> = tars.iter().rev().map(|tar| index_layer(&tar[..], Limits::default()).unwrap()).collect();
        // Some can't be: they link to files of other layers.
        let Some(indexes) = indexes else { return };
        let indexes: Vec<Lower> = indexes
            .into_iter()
            .map(|index| {
                let again = LayerIndex::from_bytes(&index.to_bytes().unwrap()).unwrap();
                assert_eq!(again, index, "an index does not read back");
                Lower::Index(Arc::new(again))
            })
            .collect();
        let (mut top, lowers) = (indexes, self.lowers());
        let below = top.split_off(1);
        assert_eq!(diff_overlay(&self.upper(), &LayeredRoot::read_only(below).unwrap()).unwrap(), changes, "an index finds other changes");
        let of_tars = tars.iter().map(|tar| index_layer(&tar[..], Limits::default()).unwrap().unwrap().outline().unwrap());
        self.check_outlined(of_tars.rev().skip(1).collect(), changes);
        let of_directories = self.lowers().into_iter().map(|root| index_unpacked(&root).unwrap().unwrap().outline().unwrap());
        self.check_outlined(of_directories.collect(), changes);
        let below = LayeredRoot::read_only(self.tars_as_lowers()).unwrap();
        compare_trees(&below, &merged(self.roots()), Path::new("/"));
        // Half and half: a layer that is unpacked on one that is not, and the other way round.
        if lowers.len() == 1 {
            let mixed = vec![Lower::Directory(self.upper()), self.tars_as_lowers().remove(1)];
            compare_trees(&LayeredRoot::read_only(mixed).unwrap(), &merged(self.roots()), Path::new("/"));
            let mixed = vec![self.tars_as_lowers().remove(0), Lower::Directory(self.lowers().remove(0))];
            compare_trees(&LayeredRoot::read_only(mixed).unwrap(), &merged(self.roots()), Path::new("/"));
        }
    }

    /// The same changes on outlines, top first, once those that lack files have been replaced; whether what is changed was
    /// there is not always known.
    fn check_outlined(&self, outlines: Vec<LayerIndex>, changes: &[Change]) {
        let outlines: Vec<Arc<LayerIndex>> = outlines.into_iter().map(Arc::new).collect();
        loop {
            let known = outlines.iter().zip(self.lowers()).map(|(outline, own)| match outline.lacks_files() {
                true => Lower::Directory(own),
                false => Lower::Index(outline.clone()),
            });
            let below = LayeredRoot::read_only(known.collect()).unwrap();
            let lacking = || outlines.iter().filter(|outline| outline.lacks_files()).count();
            let before = lacking();
            match diff_overlay(&self.upper(), &below) {
                Ok(found) => {
                    assert_eq!(lacking(), before, "something was lacking and nothing was said");
                    let what = |changes: &[Change]| -> Vec<(PathBuf, bool)> {
                        changes.iter().map(|change| (change.path.clone(), change.kind == ChangeKind::Deleted)).collect()
                    };
                    return assert_eq!(what(&found), what(changes), "an outline finds other changes");
                }
                Err(error) => assert!(lacking() > before, "{error}"),
            }
        }
    }

    fn tars_as_lowers(&self) -> Vec<Lower> {
        let index = |tar: &Vec<u8>| Lower::Index(Arc::new(index_layer(&tar[..], Limits::default()).unwrap().unwrap()));
        self.tars.borrow().iter().rev().map(index).collect()
    }

    /// The native way gives the same changes, and the same layer.
    fn check_native(&self, changes: &[Change], written: &[u8]) {
        let draft = tempfile::tempdir().unwrap();
        fs::create_dir(draft.path().join("fs")).unwrap();
        Native.prepare(draft.path(), &self.paths()).unwrap();
        assert_eq!(listing(&all_of(&draft.path().join("fs"))), listing(&all_of_stack(&self.roots())), "a full copy differs");
        Native.finish(draft.path(), &self.paths()[1..]).unwrap();
        let upper = RootDir::open(&draft.path().join("fs")).unwrap();
        let found = diff_overlay(&upper, &merged(self.lowers())).unwrap();
        assert_eq!(found, changes, "native finds other changes");
        assert_eq!(listing(&write(&found, &upper)), listing(written), "native writes another layer");
    }

    /// overlayfs shows the same tree, where it works.
    fn check_kernel(&self, merged: &[u8]) {
        if let Err(reason) = overlay_works(self.home.path()) {
            println!("not compared with overlayfs: {reason}");
            return;
        }
        let (upper, work) = (self.home.path().join("empty"), self.home.path().join("work"));
        let roots = self.roots();
        let lowers: Vec<_> = roots.iter().map(AsFd::as_fd).collect();
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        inherit_root(&upper, &self.paths()).unwrap();
        let upper = mountns::Upper { upper: &upper, work: &work, volatile: false };
        let mounted = mountns::overlay(&lowers, Some(upper), MountAttrFlags::empty()).unwrap();
        let shown = all_of_stack(&[RootDir::from_fd(mounted)]);
        assert_eq!(listing(&shown), listing(merged), "overlayfs shows another tree");
    }

    /// What was written makes the same tree when it is applied again.
    fn check_again(&self, written: &[u8], merged: &[u8]) {
        let again = tempfile::tempdir().unwrap();
        let root = RootDir::open(again.path()).unwrap();
        apply_layer(written, &root, &|| Ok(self.lowers()), &ApplyOptions::default()).unwrap();
        let mut roots = self.lowers();
        roots.insert(0, root);
        // A name that came up only because another link to it was made is no change: BuildKit, too, parts them then.
        assert_eq!(without_links(&listing(&all_of_stack(&roots))), without_links(&listing(merged)), "the written layer makes another tree");
    }
}

fn compare_trees(one: &LayeredRoot, other: &LayeredRoot, path: &Path) {
    let look = |root: &LayeredRoot| {
        let found = root.stat(path, false).unwrap().unwrap_or_else(|| panic!("{} is missing", path.display()));
        let size = if found.is_directory() { 0 } else { found.size };
        (found.kind, found.mode, found.uid, found.gid, size, found.modified)
    };
    assert_eq!(look(one), look(other), "{}", path.display());
    match look(one).0 {
        Kind::Symlink => assert_eq!(one.read_link(path).unwrap(), other.read_link(path).unwrap()),
        Kind::Directory => {
            let names = one.read_dir(path).unwrap();
            assert_eq!(names, other.read_dir(path).unwrap(), "{}", path.display());
            names.iter().for_each(|name| compare_trees(one, other, &path.join(name)));
        }
        _ => {}
    }
}

/// The tree that layers show, top first.
fn merged(layers: Vec<RootDir>) -> LayeredRoot {
    LayeredRoot::read_only(layers.into_iter().map(Lower::Directory).collect()).unwrap()
}

fn write(changes: &[Change], root: &RootDir) -> Vec<u8> {
    let mut out = Vec::new();
    write_layer(changes, root, &mut out, TimestampPolicy::Keep).unwrap();
    out
}

fn all_of(path: &Path) -> Vec<u8> {
    all_of_stack(&[RootDir::open(path).unwrap()])
}

fn all_of_stack(roots: &[RootDir]) -> Vec<u8> {
    let mut out = Vec::new();
    write_merged(roots, &mut out, TimestampPolicy::Keep).unwrap();
    out
}

/// A tar's entries as lines.
pub(super) fn listing(tar: &[u8]) -> String {
    let mut reader = TarReader::new(tar);
    let mut text = String::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let path = String::from_utf8_lossy(&entry.path);
        let show = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let (kind, detail) = match &entry.kind {
            EntryKind::File => {
                let mut content = Vec::new();
                reader.read_to_end(&mut content).unwrap();
                ("file", format!(" \"{}\"", show(&content)))
            }
            EntryKind::Directory => ("dir", String::new()),
            EntryKind::Symlink { target } => ("link", format!(" -> {}", show(target))),
            EntryKind::HardLink { target } => ("hard", format!(" -> {}", show(target))),
            EntryKind::Fifo => ("fifo", String::new()),
            EntryKind::CharDevice { major, minor } => ("char", format!(" {major}:{minor}")),
            EntryKind::BlockDevice { major, minor } => ("block", format!(" {major}:{minor}")),
        };
        write!(text, "{path} {kind} {:o} {}:{} @{}{detail}", entry.mode, entry.uid, entry.gid, entry.mtime.seconds).unwrap();
        for (name, value) in &entry.xattrs {
            write!(text, " {}=\"{}\"", show(name), show(value)).unwrap();
        }
        text.push('\n');
    }
    text
}

/// Hard links shown as the files that they are.
fn without_links(listing: &str) -> String {
    let detail = |path: &str| {
        let line = listing.lines().find(|line| line.strip_prefix(path).is_some_and(|rest| rest.starts_with(' '))).unwrap();
        line.split_once(' ').unwrap().1.to_owned()
    };
    let expand = |line: &str| match line.split_once(" hard ") {
        Some((path, rest)) => format!("{path} {}\n", detail(rest.rsplit_once("-> ").unwrap().1)),
        None => format!("{line}\n"),
    };
    listing.lines().map(expand).collect()
}

/// Lines as a tar.
pub(super) fn tar(lines: &[&str]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for line in lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (entry, content) = parse(line);
        writer.append(&entry, &mut &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn parse(line: &str) -> (Entry, Vec<u8>) {
    let words: Vec<&str> = line.split(' ').collect();
    let (uid, gid) = words[3].split_once(':').unwrap();
    let mtime = Timestamp { seconds: words[4].strip_prefix('@').unwrap().parse().unwrap(), nanoseconds: 0 };
    let mut content = Vec::new();
    let mut xattrs = Vec::new();
    let mut rest = &words[5..];
    let mut pair = |separator: char| {
        let pair = rest[0].split_once(separator).map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()));
        rest = &rest[1..];
        pair.unwrap()
    };
    let kind = match words[1] {
        "dir" => EntryKind::Directory,
        "file" => {
            content = unquoted(rest[0]);
            rest = &rest[1..];
            EntryKind::File
        }
        "fifo" => EntryKind::Fifo,
        "char" | "block" => {
            let (major, minor) = pair(':');
            if words[1] == "char" { EntryKind::CharDevice { major, minor } } else { EntryKind::BlockDevice { major, minor } }
        }
        "link" | "hard" => {
            let target = rest[1].as_bytes().to_vec();
            rest = &rest[2..];
            if words[1] == "link" { EntryKind::Symlink { target } } else { EntryKind::HardLink { target } }
        }
        other => panic!("{other} in {line}"),
    };
    for word in rest {
        let (name, value) = word.split_once('=').unwrap();
        xattrs.push((name.as_bytes().to_vec(), unquoted(value)));
    }
    let mode = u32::from_str_radix(words[2], 8).unwrap();
    let size = content.len() as u64;
    let path = words[0].as_bytes().to_vec();
    (Entry { path, kind, mode, uid: uid.parse().unwrap(), gid: gid.parse().unwrap(), mtime, size, xattrs }, content)
}

/// `"a\x00\n"` as bytes.
fn unquoted(text: &str) -> Vec<u8> {
    let inner = text.strip_prefix('"').unwrap().strip_suffix('"').unwrap().as_bytes();
    let mut bytes = Vec::new();
    let mut index = 0;
    while index < inner.len() {
        let (byte, width) = match &inner[index..] {
            [b'\\', b'x', ..] => (u8::from_str_radix(std::str::from_utf8(&inner[index + 2..index + 4]).unwrap(), 16).unwrap(), 4),
            [b'\\', b'n', ..] => (b'\n', 2),
            [b'\\', other, ..] => (*other, 2),
            [byte, ..] => (*byte, 1),
            [] => unreachable!(),
        };
        bytes.push(byte);
        index += width;
    }
    bytes
}

#[test]
fn owners_that_cannot_be_set_are_written_down_and_read_back() {
    let lines = ["d/ dir 750 10:20 @1", "d/f file 4755 1000:0 @1 \"x\"", "d/null char 666 0:5 @1 1:3", "d/link link 777 7:7 @1 -> f"];
    let home = tempfile::tempdir().unwrap();
    let root = RootDir::open(home.path()).unwrap();
    let options = ApplyOptions { ownership: Ownership::Record, ..ApplyOptions::default() };
    let report = apply_layer(&tar(&lines)[..], &root, &|| Ok(Vec::new()), &options).unwrap();
    let owner = rustix::process::geteuid().as_raw();
    let kept = format!("d/link link 777 {owner}:{} @1 -> f", rustix::process::getegid().as_raw());
    // A link's owner is written down where we may set capabilities.
    let link = if report.lost_owners == 0 { lines[3] } else { &kept };
    assert_eq!((report.devices, report.lost_owners), (1, u64::from(owner != 0)));
    let expected = [lines[0], lines[1], link, lines[2]].map(|line| format!("{line}\n")).concat();
    assert_eq!(listing(&all_of(home.path())), expected);
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(home.path().join("d/f")).unwrap()), owner);
}

#[test]
fn all_compressions_are_told_by_their_first_bytes() {
    let plain = tar(&["a file 644 0:0 @0 \"hello\""]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain[..700]).unwrap();
    let mut two_members = gzip.finish().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain[700..]).unwrap();
    two_members.extend(gzip.finish().unwrap());
    let zstd = zstd::bulk::compress(&plain, 1).unwrap();
    let bzip2 = |data: &[u8]| {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    let two_streams = [bzip2(&plain[..512]), bzip2(&plain[512..])].concat();
    let cases = [(Encoding::Plain, plain.clone()), (Encoding::Gzip, two_members), (Encoding::Zstd, zstd), (Encoding::Bzip2, two_streams)];
    for (encoding, bytes) in cases {
        let mut reader = decompress(&bytes[..]).unwrap();
        assert_eq!(reader.encoding, encoding);
        let mut back = Vec::new();
        reader.read_to_end(&mut back).unwrap();
        assert!(back == plain, "{encoding:?}");
        // A stream that breaks off is an error, never a shorter archive.
        if encoding != Encoding::Plain {
            let cut = &bytes[..bytes.len() - 5];
            assert!(decompress(cut).and_then(|mut reader| reader.read_to_end(&mut Vec::new())).is_err(), "{encoding:?}");
        }
    }
}
