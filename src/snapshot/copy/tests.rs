//! Trees as lines: what the sources and layers hold, what a COPY makes of them.
//!
//! A line is `PATH [MODE] [UID:GID] [@MTIME]` and then the type: a path that ends in `/` is a directory, `= text` a file,
//! `-> target` a link, `== path` a hard link, `|` a fifo, `socket`, `gone` a whiteout, `opaque` on a directory.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::{
    super::{
        self as snapshot, TimestampPolicy,
        layered::{LayerIndex, Lower, Sketch, index_unpacked},
    },
    *,
};
use crate::sys::root::RootDir;

/// What context files get when a line says nothing.
const CONTEXT_TIME: i64 = 1_500_000_000;
/// Times before this one come from a line, later ones from the clock.
const CLOCK_TIME: i64 = 1_600_000_000;

pub(super) struct Tree(tempfile::TempDir);

impl Tree {
    pub(super) fn of(lines: &str) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        fs::set_permissions(tree.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let lines: Vec<&str> = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines.iter().for_each(|line| tree.make(line));
        // Parents were touched when their entries were made.
        lines.iter().rev().for_each(|line| tree.date(line));
        tree
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn root(&self) -> RootDir {
        RootDir::open(self.path()).unwrap()
    }

    fn make(&self, line: &str) {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        let path = self.path().join(name.trim_end_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let kind = rest.split(' ').position(|word| ["=", "->", "==", "|", "socket", "gone"].contains(&word));
        let (fields, kind) = match kind {
            Some(at) => (rest.split(' ').take(at).collect(), rest.split(' ').skip(at).collect::<Vec<_>>().join(" ")),
            None => (rest.split(' ').collect::<Vec<_>>(), String::new()),
        };
        let (kind, text) = kind.split_once(' ').unwrap_or((&kind, ""));
        let node = |kind, number| rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o644), number).unwrap();
        match kind {
            "->" => symlink(text, &path).unwrap(),
            "==" => return fs::hard_link(self.path().join(text), &path).unwrap(),
            "|" => node(FileType::Fifo, 0),
            "socket" => node(FileType::Socket, 0),
            "gone" => node(FileType::CharacterDevice, 0),
            _ if name.ends_with('/') => fs::create_dir_all(&path).unwrap(),
            _ => fs::write(&path, text).unwrap(),
        }
        for field in fields {
            if let Some((uid, gid)) = field.split_once(':') {
                std::os::unix::fs::lchown(&path, uid.parse().ok(), gid.parse().ok()).unwrap();
            } else if field == "opaque" {
                rustix::fs::setxattr(&path, "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
            } else if let Some((name, value)) = field.split_once('=') {
                rustix::fs::setxattr(&path, name, value.as_bytes(), XattrFlags::empty()).unwrap();
            }
        }
        if let Some(mode) = rest.split(' ').find_map(mode_of) {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    fn date(&self, line: &str) {
        let name = line.split(' ').next().unwrap().trim_end_matches('/');
        let time = line.split(' ').find_map(|word| word.strip_prefix('@')).map_or(CONTEXT_TIME, |time| time.parse().unwrap());
        let time = Timespec { tv_sec: time, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, self.path().join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    /// All entries as lines; hard links by their first name.
    fn lines(&self) -> String {
        let mut text = String::new();
        let mut first_names = Vec::new();
        self.list(Path::new(""), &mut text, &mut first_names);
        text
    }

    fn list(&self, below: &Path, text: &mut String, first_names: &mut Vec<(u64, PathBuf)>) {
        let mut names: Vec<_> = fs::read_dir(self.path().join(below)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            let path = below.join(name);
            let full = self.path().join(&path);
            let metadata = fs::symlink_metadata(&full).unwrap();
            let kind = metadata.file_type();
            if kind.is_file() && metadata.nlink() > 1 {
                if let Some((_, first)) = first_names.iter().find(|(inode, _)| *inode == metadata.ino()) {
                    writeln!(text, "{} == {}", path.display(), first.display()).unwrap();
                    continue;
                }
                first_names.push((metadata.ino(), path.clone()));
            }
            let slash = if kind.is_dir() { "/" } else { "" };
            write!(text, "{}{slash}", path.display()).unwrap();
            if !kind.is_symlink() {
                write!(text, " {:04o}", metadata.mode() & 0o7777).unwrap();
            }
            if (metadata.uid(), metadata.gid()) != (0, 0) {
                write!(text, " {}:{}", metadata.uid(), metadata.gid()).unwrap();
            }
            if metadata.mtime() < CLOCK_TIME && metadata.mtime() != CONTEXT_TIME {
                write!(text, " @{}", metadata.mtime()).unwrap();
            }
            if kind.is_symlink() {
                writeln!(text, " -> {}", fs::read_link(&full).unwrap().display()).unwrap();
            } else if kind.is_fifo() {
                writeln!(text, " |").unwrap();
            } else if kind.is_char_device() {
                writeln!(text, " gone").unwrap();
            } else if kind.is_file() {
                writeln!(text, " = {}", fs::read_to_string(&full).unwrap()).unwrap();
            } else {
                let opaque = rustix::fs::getxattr(&full, "user.overlay.opaque", &mut [0; 8][..]).is_ok();
                writeln!(text, "{}", if opaque { " opaque" } else { "" }).unwrap();
                self.list(&path, text, first_names);
            }
        }
    }
}

fn mode_of(word: &str) -> Option<u32> {
    let digits = word.len() == 4 && word.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    digits.then(|| u32::from_str_radix(word, 8).unwrap())
}

fn trimmed(lines: &str) -> String {
    lines.lines().map(str::trim).filter(|line| !line.is_empty()).fold(String::new(), |text, line| text + line + "\n")
}

fn matcher(patterns: &[&str]) -> Matcher {
    Matcher::new(patterns).unwrap()
}

const CONTEXT: &str = "
    a.txt = a
    b.txt = b
    d/ 0700
    d/.hidden = h
    d/e/ 0755
    d/e/z.txt = z
    d/x.txt 0640 @1400000000 = x
    ln -> a.txt
    ld -> d
    out -> ../../../../../etc/passwd
";

/// Runs `COPY sources.. destination` from a context onto layers, bottom first; what the upper layer then holds.
pub(super) struct Run<'a> {
    pub(super) context: Tree,
    layers: Vec<Tree>,
    pub(super) style: Style<'a>,
    ignore: Option<Matcher>,
    pub(super) exclude: Option<Matcher>,
    pub(super) parents: bool,
    from_stage: bool,
    pub(super) unpack: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(context: &str, layers: &[&str]) -> Self {
        let layers = layers.iter().map(|lines| Tree::of(lines)).collect();
        let context = Tree::of(context);
        Self { context, layers, style: Style::default(), ignore: None, exclude: None, parents: false, from_stage: false, unpack: false }
    }

    pub(super) fn with_request<T>(&self, sources: &[&str], destination: &str, run: impl FnOnce(&CopyRequest<'_>) -> T) -> T {
        let tree = if self.from_stage {
            LayeredRoot::read_only(vec![Lower::Directory(self.context.root())]).unwrap()
        } else {
            LayeredRoot::plain(&self.context.root()).unwrap()
        };
        let ignore = self.ignore.as_ref();
        let root = if self.from_stage { SourceRoot::Layers(&tree) } else { SourceRoot::Context { tree: &tree, ignore } };
        let sources = sources.iter().map(|path| Source { root, path, unpack: self.unpack, parents: self.parents });
        run(&CopyRequest { sources: sources.collect(), destination, style: self.style, exclude: self.exclude.as_ref() })
    }

    pub(super) fn lowers(&self) -> Vec<Lower> {
        self.layers.iter().rev().map(|tree| Lower::Directory(tree.root())).collect()
    }

    /// What is copied into a directory; a sketch must come to the same layer, or to the same error.
    pub(super) fn copy(&self, sources: &[&str], destination: &str) -> String {
        let upper = Tree::of("");
        let mut root = LayeredRoot::new(upper.root(), self.lowers()).unwrap();
        let sketch = Arc::new(Sketch::default());
        let mut sketched = LayeredRoot::sketched(&sketch, &self.lowers()).unwrap();
        let copied = self.with_request(sources, destination, |request| super::copy(request, &mut root));
        self.with_request(sources, destination, |request| match (&copied, super::copy(request, &mut sketched)) {
            (Ok(report), Ok(again)) => {
                assert_eq!((report.entries, report.bytes), (again.entries, again.bytes));
                assert_same_tar(&tar_of(&upper.root(), self.lowers()), &tar_of_sketch(&sketch, self.lowers()));
            }
            (Err(error), Err(again)) => assert_eq!(format!("{error:?}"), format!("{again:?}")),
            (_, again) => panic!("{copied:?} {again:?}"),
        });
        self.check_outlined(&copied, &upper, sources, destination);
        match copied {
            Ok(_) => upper.lines(),
            Err(error) => format!("{error}\n"),
        }
    }

    /// On outlines it comes to the same layer, or to the same error, once those that lack files have been replaced.
    fn check_outlined(&self, copied: &Result<CopyReport, CopyError>, upper: &Tree, sources: &[&str], destination: &str) {
        let mut lowers: Vec<Arc<LayerIndex>> = Vec::new();
        for tree in self.layers.iter().rev() {
            let name = crate::oci::DiffId(crate::oci::Digest::of(b""));
            let outlined = [(name, index_unpacked(&tree.root()).unwrap().unwrap().outline().unwrap())].into();
            let read = snapshot::layered::read_outlines(&snapshot::layered::write_outlines(&outlined).unwrap()).unwrap();
            lowers.push(Arc::new(read.into_values().next().unwrap()));
        }
        loop {
            let known = || -> Vec<Lower> {
                let own = lowers.iter().zip(self.lowers());
                own.map(|(outline, own)| if outline.lacks_files() { own } else { Lower::Index(outline.clone()) }).collect()
            };
            let lacking = || lowers.iter().filter(|outline| outline.lacks_files()).count();
            let before = lacking();
            let sketch = Arc::new(Sketch::default());
            let mut root = LayeredRoot::sketched(&sketch, &known()).unwrap();
            let again = self.with_request(sources, destination, |request| super::copy(request, &mut root));
            let below = LayeredRoot::read_only(known()).unwrap();
            let changes = again.as_ref().ok().map(|_| snapshot::diff_sketch(&sketch, &below));
            if lacking() > before {
                assert!(again.is_err() || changes.is_some_and(|changes| changes.is_err()), "something was lacking and nothing was said");
                continue;
            }
            match (copied, again) {
                (Ok(_), Ok(_)) => assert_same_tar(&tar_of(&upper.root(), self.lowers()), &tar_of_sketch(&sketch, known())),
                (Err(error), Err(again)) => assert_eq!(format!("{error:?}"), format!("{again:?}")),
                (_, again) => panic!("{copied:?} {again:?}"),
            }
            return;
        }
    }

    fn digest(&self, sources: &[&str]) -> String {
        let read = |_, open: &dyn Fn() -> io::Result<File>| hash_file(open()?);
        self.with_request(sources, "/", |request| super::digest(request, &read).unwrap().to_string())
    }
}

/// The layer that a directory is; what was dated by the clock has one and the same time.
pub(super) fn tar_of(upper: &RootDir, lowers: Vec<Lower>) -> Vec<u8> {
    let changes = snapshot::diff_overlay(upper, &LayeredRoot::read_only(lowers).unwrap()).unwrap();
    let mut tar = Vec::new();
    snapshot::write_layer(&changes, upper, &mut tar, TimestampPolicy::Clamp(CLOCK_TIME)).unwrap();
    tar
}

/// The layer that a sketch is.
pub(super) fn tar_of_sketch(sketch: &Arc<Sketch>, lowers: Vec<Lower>) -> Vec<u8> {
    let changes = snapshot::diff_sketch(sketch, &LayeredRoot::read_only(lowers).unwrap()).unwrap();
    let mut tar = Vec::new();
    let questions = snapshot::Questions { digest: &|_| None, is_looked_at: &|_| false };
    snapshot::write_sketch(&changes, sketch, questions, &mut tar, TimestampPolicy::Clamp(CLOCK_TIME)).unwrap();
    tar
}

#[track_caller]
pub(super) fn assert_same_tar(one: &[u8], other: &[u8]) {
    let listing = snapshot::tests::listing;
    assert_eq!(listing(one), listing(other));
    assert!(one == other, "the bytes differ:\n{}", listing(one));
}

pub(super) fn as_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: owners can only be set as root");
    }
    root
}

#[track_caller]
fn check(result: &str, expected: &str) {
    assert_eq!(trimmed(result), trimmed(expected));
}

#[test]
fn files_and_directories_go_where_the_destination_says() {
    if !as_root() {
        return;
    }
    let d = ".hidden 0644 = h\nDST/e/ 0755\nDST/e/z.txt 0644 = z\nDST/x.txt 0640 @1400000000 = x\n";
    let contents = |at: &str| format!("{at}/ 0755\n{at}/{}", d.replace("DST", at));
    let run = Run::new(CONTEXT, &["bin/\ntmp/ 1777\ntofile -> /etc/old\netc/old = old"]);
    let cases: &[(&[&str], &str, &str)] = &[
        (&["a.txt"], "/new", "new 0644 = a"),
        (&["a.txt"], "/x/y/z", "x/ 0755\nx/y/ 0755\nx/y/z 0644 = a"),
        (&["a.txt"], "/x/y/", "x/ 0755\nx/y/ 0755\nx/y/a.txt 0644 = a"),
        (&["/a.txt"], "/x/.", "x/ 0755\nx/a.txt 0644 = a"),
        (&["../../a.txt"], "/bin", "bin/ 0755\nbin/a.txt 0644 = a"),
        (&["a.txt", "b.txt"], "/one", "one 0644 = b"),
        (&["*.txt"], "/t/", "t/ 0755\nt/a.txt 0644 = a\nt/b.txt 0644 = b"),
        (&["a*"], "/one", "one 0644 = a"),
        (&["nomatch*", "a.txt"], "/n/", "n/ 0755\nn/a.txt 0644 = a"),
        (&["nomatch*"], "/n/", ""),
        (&["l[n]"], "/n/", "n/ 0755\nn/ln 0644 = a"),
        (&["ln"], "/f", "f 0644 = a"),
        (&["ld/x.txt"], "/f", "f 0640 @1400000000 = x"),
        (&["a.txt"], "/tofile", "etc/ 0755\netc/old 0644 = a"),
        (&["nope"], "/f", "\"/nope\": not found"),
        (&["out"], "/f", "\"/out\": not found"),
        (&["a.txt", "nope/*"], "/f/", "\"/nope\": not found"),
        (&["a.txt/x"], "/f", "\"/a.txt/x\": not found"),
        (&["d"], "/etc/old", "cannot copy to non-directory: /etc/old"),
        (&["a.txt"], "/etc/old/", "cannot mkdir /etc/old"),
        (&["a.txt"], "/etc/old/x", "cannot mkdir /etc/old"),
    ];
    for (sources, destination, expected) in cases {
        let result = run.copy(sources, destination);
        assert_eq!(trimmed(&result), trimmed(expected), "{sources:?} {destination}");
    }
    for source in ["d", "d/", "d/.", "./d", "ld", "d/../d"] {
        check(&run.copy(&[source], "/dst"), &contents("dst"));
    }
}

#[test]
fn what_is_there_already_is_merged_with() {
    if !as_root() {
        return;
    }
    let layer = "dst/ 0711 7:8 @1400000000\ndst/e/ 0700 @1400000000\ndst/e/keep = k\ndst/x.txt = old\nother/a.txt/";
    let run = Run::new(CONTEXT, &[layer]);
    let merged = "dst/ 0711 7:8\ndst/.hidden 0644 = h\ndst/e/ 0755\ndst/e/z.txt 0644 = z\ndst/x.txt 0640 @1400000000 = x";
    check(&run.copy(&["d"], "/dst"), merged);
    check(&run.copy(&["a.txt"], "/other"), "cannot replace to directory /other/a.txt with file");
    let run = Run::new("d/x = 1", &["dst/x/"]);
    check(&run.copy(&["d"], "/dst"), "cannot replace to directory /dst/x with file");
    let run = Run::new("d/x/y = 1", &["dst/x = f"]);
    check(&run.copy(&["d"], "/dst"), "cannot copy to non-directory: /dst/x");
}

#[test]
fn links_of_the_root_filesystem_are_followed_inside_it() {
    if !as_root() {
        return;
    }
    let links = "real/sub/\nabs -> /real\nrel -> real\nup -> ../../../real\nchain -> abs\ndangling -> /made/later\nloop -> loop\nrun/\nvar/run -> /run";
    let run = Run::new(CONTEXT, &[links]);
    let cases = [
        ("/abs/", "real/ 0755\nreal/a.txt 0644 = a"),
        ("/rel/b", "real/ 0755\nreal/b 0644 = a"),
        ("/up", "real/ 0755\nreal/a.txt 0644 = a"),
        ("/chain/sub/x", "real/ 0755\nreal/sub/ 0755\nreal/sub/x 0644 = a"),
        ("/var/run/a", "run/ 0755\nrun/a 0644 = a"),
        ("/dangling/", "made/ 0755\nmade/later/ 0755\nmade/later/a.txt 0644 = a"),
        ("/dangling", "made/ 0755\nmade/later 0644 = a"),
        ("/loop", "cannot stat /loop"),
        ("/loop/", "cannot mkdir /loop"),
        ("/abs/../../x", "x 0644 = a"),
    ];
    for (destination, expected) in cases {
        assert_eq!(trimmed(&run.copy(&["a.txt"], destination)), trimmed(expected), "{destination}");
    }
}

#[test]
fn layers_show_through_as_overlayfs_shows_them() {
    if !as_root() {
        return;
    }
    let below = "s/ 0750 1:2\ns/full/a = a\ns/gone = g\ns/h1 = l\ns/h2 == s/h1\ns/l -> full";
    let above = "s/ 0755 @1400000000\ns/gone gone\ns/full/ opaque\ns/full/d = d";
    let stack = [Tree::of(below), Tree::of(above)];
    let source = LayeredRoot::read_only(stack.iter().rev().map(|tree| Lower::Directory(tree.root())).collect()).unwrap();
    assert_eq!(source.read_dir(Path::new("/s/l/../..")).unwrap(), ["s"]);
    assert_eq!(source.read_dir(Path::new("/s/l")).unwrap(), ["d"]);
    assert_eq!(source.resolve(Path::new("/s/l/../l/d"), true).unwrap(), Path::new("/s/full/d"));
    assert_eq!(source.read_file(Path::new("s/h1"), 10).unwrap(), b"l");
    assert!(source.stat(Path::new("/s/gone"), true).unwrap().is_none());
    let upper = Tree::of("");
    let mut root = LayeredRoot::new(upper.root(), Vec::new()).unwrap();
    let source = Source { root: SourceRoot::Layers(&source), path: "/", unpack: false, parents: false };
    let request = CopyRequest { sources: vec![source], destination: "/", style: Style::default(), exclude: None };
    super::copy(&request, &mut root).unwrap();
    let merged = "s/ 0755 @1400000000\ns/full/ 0755\ns/full/d 0644 = d\ns/h1 0644 = l\ns/h2 == s/h1\ns/l -> full";
    check(&upper.lines(), merged);
}

#[test]
fn the_upper_layer_stays_in_overlay_form() {
    if !as_root() {
        return;
    }
    let below = Tree::of("d/ 0750 3:4 @1400000000\nd/x/y = y\nd/f = f\nkeep/ 0700 5:6 @1300000000\nkeep/in/ 1777 @1300000000");
    let upper = Tree::of("");
    let mut root = LayeredRoot::new(upper.root(), vec![Lower::Directory(below.root())]).unwrap();
    root.remove(Path::new("/d/f")).unwrap();
    root.remove(Path::new("/d/x")).unwrap();
    assert_eq!(root.read_dir(Path::new("/d")).unwrap(), Vec::<std::ffi::OsString>::new());
    let new = NewDirectory { mode: 0o755, owner: None, time: None };
    assert_eq!(root.ensure_directory(Path::new("/d/x/new"), new).unwrap(), [Path::new("d/x"), Path::new("d/x/new")]);
    assert_eq!(root.read_dir(Path::new("/d/x")).unwrap(), ["new"]);
    root.ensure_directory(Path::new("/keep/in/made"), NewDirectory { owner: Some((9, 9)), ..new }).unwrap();
    check(
        &upper.lines(),
        "d/ 0750 3:4\nd/f 0000 gone\nd/x/ 0755 opaque\nd/x/new/ 0755
         keep/ 0700 5:6 @1300000000\nkeep/in/ 1777\nkeep/in/made/ 0755 9:9",
    );
    root.remove(Path::new("/d")).unwrap();
    assert!(root.stat(Path::new("/d"), true).unwrap().is_none());
}

#[test]
fn metadata_is_kept_or_given() {
    if !as_root() {
        return;
    }
    let tree = "su 4755 5:6 @1400000000 = s\nst/ 1777 7:8\nst/h1 9:9 = h\nst/h2 == st/h1\np | 0622\ns socket\nlink 5:6 -> nowhere\nattr user.color=blue user.overlay.opaque=y = a";
    let mut run = Run::new(tree, &["there/"]);
    let kept = "there/ 0755\nthere/attr 0644 = a\nthere/link -> nowhere\nthere/p 0622 |\nthere/s 0644 =\nthere/st/ 1777\nthere/st/h1 0644 = h\nthere/st/h2 == there/st/h1\nthere/su 4755 @1400000000 = s";
    check(&run.copy(&["."], "/there"), kept);
    run.from_stage = true;
    check(&run.copy(&["st", "su"], "/x/"), "x/ 0755\nx/h1 0644 9:9 = h\nx/h2 == x/h1\nx/su 4755 5:6 @1400000000 = s");
    run.style = Style { owner: Some((33, 50)), mode: Some(&Chmod::Octal(0o4750)), ..Style::default() };
    check(
        &run.copy(&["st", "su"], "/x/y/"),
        "x/ 0750 33:50\nx/y/ 0750 33:50\nx/y/h1 4750 33:50 = h\nx/y/h2 == x/y/h1\nx/y/su 4750 33:50 @1400000000 = s",
    );
    let change = Chmod::parse("u=rwX,g+wx,o=").unwrap();
    run.style = Style { mode: Some(&change), ..Style::default() };
    check(&run.copy(&["st"], "/x/"), "x/ 0755\nx/h1 0670 9:9 = h\nx/h2 == x/h1");
    let upper = Tree::of("");
    let mut root = LayeredRoot::new(upper.root(), Vec::new()).unwrap();
    run.style = Style::default();
    run.with_request(&["attr"], "/", |request| super::copy(request, &mut root)).unwrap();
    let xattr = |name: &str| rustix::fs::getxattr(upper.path().join("attr"), name, &mut [0; 8][..]);
    assert_eq!((xattr("user.color"), xattr("user.overlay.opaque").is_err()), (Ok(4), true));
}

#[test]
fn a_fixed_time_reaches_everything() {
    if !as_root() {
        return;
    }
    let time = Timestamp { seconds: 1_000_000_000, nanoseconds: 0 };
    let mut run = Run::new("d/e/f = f\nd/l -> f", &[]);
    run.style = Style { time: Some(time), ..Style::default() };
    check(
        &run.copy(&["d"], "/x/y"),
        "x/ 0755 @1000000000\nx/y/ 0755 @1000000000\nx/y/e/ 0755 @1000000000\nx/y/e/f 0644 @1000000000 = f\nx/y/l @1000000000 -> f",
    );
}

#[test]
fn ignored_paths_do_not_exist() {
    if !as_root() {
        return;
    }
    let mut run = Run::new(CONTEXT, &[]);
    run.ignore = Some(matcher(&["*", "!d/e"]));
    check(&run.copy(&["."], "/c/"), "c/ 0755\nc/d/ 0700\nc/d/e/ 0755\nc/d/e/z.txt 0644 = z");
    check(&run.copy(&["*"], "/c/"), "c/ 0755\nc/e/ 0755\nc/e/z.txt 0644 = z");
    check(&run.copy(&["a.txt"], "/c/"), "\"/a.txt\": not found");
    check(&run.copy(&["ld/e"], "/c/"), "\"/ld/e\": not found");
    run.ignore = Some(matcher(&["d"]));
    check(&run.copy(&["d"], "/c/"), "\"/d\": not found");
    check(&run.copy(&["d/x.txt"], "/c/"), "\"/d/x.txt\": not found");
}

#[test]
fn excludes_are_relative_to_each_source() {
    if !as_root() {
        return;
    }
    let tree = "p/q/g.txt = g\np/q/r/f.txt = f\np/s/h.md = h\np/n.md = n\ntop.txt = t";
    let mut run = Run::new(tree, &[]);
    let mut excluding = |patterns: &[&str], source: &str| {
        run.exclude = Some(matcher(patterns));
        run.copy(&[source], "/1/")
    };
    check(&excluding(&["q"], "p"), "1/ 0755\n1/n.md 0644 = n\n1/s/ 0755\n1/s/h.md 0644 = h");
    check(&excluding(&["**/*.md", "q/r"], "p"), "1/ 0755\n1/q/ 0755\n1/q/g.txt 0644 = g\n1/s/ 0755");
    check(&excluding(&["q", "!q/r/f.txt", "*.md", "s"], "p"), "1/ 0755\n1/q/ 0755\n1/q/r/ 0755\n1/q/r/f.txt 0644 = f");
    check(&excluding(&["*"], "p"), "1/ 0755");
    check(&excluding(&["*.txt"], "top.txt"), "1/ 0755\n1/top.txt 0644 = t");
}

#[test]
fn parents_keep_the_directories_of_a_source() {
    if !as_root() {
        return;
    }
    let tree = "p/ 0711\np/q/ 0750\np/q/g.txt = g\np/q/r/f.txt = f\np/s/h.md = h\ntop.txt = t";
    let mut run = Run::new(tree, &[]);
    run.parents = true;
    check(&run.copy(&["p/q/g.txt"], "/d/"), "d/ 0755\nd/p/ 0711\nd/p/q/ 0750\nd/p/q/g.txt 0644 = g");
    check(&run.copy(&["./p/s", "top.txt"], "/d/"), "d/ 0755\nd/p/ 0711\nd/p/s/ 0755\nd/p/s/h.md 0644 = h\nd/top.txt 0644 = t");
    check(&run.copy(&["p/./q/g.txt"], "/d/"), "d/ 0755\nd/q/ 0750\nd/q/g.txt 0644 = g");
    check(&run.copy(&["p/q/./r"], "/d/"), "d/ 0755\nd/r/ 0755\nd/r/f.txt 0644 = f");
    check(&run.copy(&["p/*/*.txt"], "/d/"), "d/ 0755\nd/p/ 0711\nd/p/q/ 0750\nd/p/q/g.txt 0644 = g");
    check(&run.copy(&["nope*"], "/d/"), "d/ 0755");
    check(&run.copy(&["p/nope"], "/d/"), "\"/p/nope\": not found");
}

#[test]
fn heredocs_and_downloads_become_files() {
    if !as_root() {
        return;
    }
    let upper = Tree::of("");
    let mut root = LayeredRoot::new(upper.root(), Vec::new()).unwrap();
    let file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut &file, b"got").unwrap();
    let modified = Timestamp { seconds: 0, nanoseconds: 0 };
    let roots = [SourceRoot::Bytes { name: "one", bytes: b"1" }, SourceRoot::File { name: "two", file: &file, mode: 0o600, modified }];
    let sources = roots.map(|root| Source { root, path: "", unpack: true, parents: false });
    let request = CopyRequest { sources: sources.into(), destination: "/d/", style: Style::default(), exclude: None };
    super::copy(&request, &mut root).unwrap();
    check(&upper.lines(), "d/ 0755\nd/one 0644 = 1\nd/two 0600 @0 = got");
}

#[test]
fn digests_see_content_and_not_time() {
    if !as_root() {
        return;
    }
    let digest = |lines: &str, source: &str| Run::new(lines, &[]).digest(&[source]);
    let base = digest("d/f 0644 @1 = x\nd/e/g = y", "d");
    assert_eq!(base, digest("other = 1\nd/f 0644 5:6 @2 = x\nd/e/g @3 = y", "d"));
    for changed in [
        "d/f 0644 = z\nd/e/g = y",
        "d/f 0755 = x\nd/e/g = y",
        "d/f2 0644 = x\nd/e/g = y",
        "d/f 0644 user.a=b = x\nd/e/g = y",
        "d/f -> x\nd/e/g = y",
        "d/f = x\nd/e/ 0700\nd/e/g = y",
        "d/f = x\nd/e/g == d/f",
        "d/f = x\nd/e/g = y\nd/new/",
    ] {
        assert_ne!(base, digest(changed, "d"), "{changed}");
    }
    assert_eq!(digest("a1 = x\nb = 1", "a*"), digest("a1 = x\nb = 2", "a*"));
    assert_ne!(digest("a1 = x", "a*"), digest("a2 = x", "a*"));
    assert_eq!(digest("b = 1", "a*"), digest("c = 1", "a*"));
}

#[test]
fn users_are_looked_up_in_the_root_filesystem() {
    let tree = Tree::of("etc/passwd = root:x:0:0::/:/bin/sh\netc/group = none");
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/:/bin/sh\n\nbroken\n";
    fs::write(tree.path().join("etc/passwd"), passwd).unwrap();
    fs::write(tree.path().join("etc/group"), "root:x:0:\nstaff:x:50:app\n").unwrap();
    let root = LayeredRoot::read_only(vec![Lower::Directory(tree.root())]).unwrap();
    let cases = [
        ("5", (5, 5)),
        ("5:6", (5, 6)),
        ("app", (1000, 1001)),
        ("app:staff", (1000, 50)),
        ("app:7", (1000, 7)),
        ("8:staff", (8, 50)),
        ("root", (0, 0)),
        ("nobody-here", (0, 0)),
        ("app:nothing", (1000, 1001)),
        ("broken", (0, 0)),
    ];
    for (text, ids) in cases {
        assert_eq!(resolve_chown(text, Some(&root)).unwrap(), ids, "{text}");
    }
    assert_eq!(resolve_chown("7:8", None).unwrap(), (7, 8));
    assert_eq!(resolve_chown("app", None).unwrap_err().to_string(), "invalid user index: -1");
    fs::remove_file(tree.path().join("etc/passwd")).unwrap();
    assert_eq!(resolve_chown("app:staff", Some(&root)).unwrap(), (0, 50));
    rustix::fs::mknodat(CWD, tree.path().join("etc/passwd"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    assert!(resolve_chown("app", Some(&root)).is_err());
}

#[test]
fn a_workdir_is_made_for_its_user_and_left_alone_if_there() {
    if !as_root() {
        return;
    }
    let layer = Tree::of("w/ 0711 5:6\nrel -> w");
    let upper = Tree::of("");
    let mut root = LayeredRoot::new(upper.root(), vec![Lower::Directory(layer.root())]).unwrap();
    for path in ["/w", "/rel/sub", "/x/y", "/"] {
        make_workdir(&mut root, Path::new(path), (1000, 50), None).unwrap();
    }
    check(&upper.lines(), "w/ 0711 5:6\nw/sub/ 0755 1000:50\nx/ 0755 1000:50\nx/y/ 0755 1000:50");
}

#[test]
fn capabilities_survive_a_new_owner() {
    if !as_root() {
        return;
    }
    let mut run = Run::new("ping = p", &[]);
    // Version 2, effective, CAP_NET_RAW.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let set = rustix::fs::setxattr(run.context.path().join("ping"), "security.capability", &capability, XattrFlags::empty());
    if let Err(error) = set {
        println!("skipped: no capabilities on files here: {error}");
        return;
    }
    run.style = Style { owner: Some((5, 6)), ..Style::default() };
    let upper = Tree::of("");
    let mut root = LayeredRoot::new(upper.root(), Vec::new()).unwrap();
    run.with_request(&["ping"], "/", |request| super::copy(request, &mut root)).unwrap();
    check(&upper.lines(), "ping 0644 5:6 = p");
    let mut value = [0; 32];
    let length = rustix::fs::getxattr(upper.path().join("ping"), "security.capability", &mut value[..]).unwrap();
    assert_eq!(&value[..length], capability);
}

#[test]
fn devices_that_cannot_be_made_are_noted_on_empty_files() {
    if !as_root() {
        return;
    }
    let context = Tree::of("null gone");
    let (upper, lower) = (Tree::of(""), Tree::of("etc/"));
    let mut root = LayeredRoot::new(upper.root(), vec![Lower::Directory(lower.root())]).unwrap();
    let tree = LayeredRoot::plain(&context.root()).unwrap();
    let source = Source { root: SourceRoot::Context { tree: &tree, ignore: None }, path: "null", unpack: false, parents: false };
    let request = CopyRequest { sources: vec![source], destination: "/etc/", style: Style::default(), exclude: None };
    super::copy(&request, &mut root).unwrap();
    check(&upper.lines(), "etc/ 0755\netc/null 0644 =");
    assert!(root.stat(Path::new("/etc/null"), true).unwrap().is_some());
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(upper.path().join("etc/null"), "user.rbuild.device", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"c:0:0");
}

#[test]
fn owners_are_written_down_where_they_cannot_be_set() {
    let (context, upper) = (Tree::of("d/f = f"), Tree::of(""));
    let root = LayeredRoot::new(upper.root(), Vec::new()).unwrap();
    let mut root = root.with_ownership(super::super::Ownership::Record);
    let tree = LayeredRoot::plain(&context.root()).unwrap();
    let source = || Source { root: SourceRoot::Context { tree: &tree, ignore: None }, path: "d", unpack: false, parents: false };
    let style = Style { owner: Some((5, 6)), ..Style::default() };
    let request = CopyRequest { sources: vec![source()], destination: "/x", style, exclude: None };
    super::copy(&request, &mut root).unwrap();
    let recorded = |path: &str| super::super::disk::recorded_owner(File::open(upper.path().join(path)).unwrap()).unwrap();
    assert_eq!((recorded("x"), recorded("x/f")), (Some((5, 6)), Some((5, 6))));
    let request = CopyRequest { sources: vec![source()], destination: "/y", style: Style::default(), exclude: None };
    super::copy(&request, &mut root).unwrap();
    assert_eq!((recorded("y"), recorded("y/f")), (None, None));
}

#[test]
fn nesting_ends_in_an_error_and_not_in_a_crash() {
    let (context, upper) = (Tree::of(""), Tree::of(""));
    let mut at: std::os::fd::OwnedFd = File::open(context.path()).unwrap().into();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::RDONLY, Mode::empty()).unwrap();
    }
    let mut root = LayeredRoot::new(upper.root(), Vec::new()).unwrap();
    let tree = LayeredRoot::plain(&context.root()).unwrap();
    let source = Source { root: SourceRoot::Context { tree: &tree, ignore: None }, path: ".", unpack: false, parents: false };
    let request = CopyRequest { sources: vec![source], destination: "/x", style: Style::default(), exclude: None };
    let read = |_, open: &dyn Fn() -> io::Result<File>| hash_file(open()?);
    assert!(super::digest(&request, &read).is_err());
    assert!(super::copy(&request, &mut root).is_err());
    for tree in [context, upper] {
        crate::sys::remove::remove_tree(&tree.0.keep()).unwrap();
    }
}
