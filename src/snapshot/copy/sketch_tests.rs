//! Copies into a sketch: the layer is the one that a directory gives, also on top of layers that were sketched. All tests
//! of `tests` compare the two as well.

use std::{fs, path::Path, sync::Arc};

use rustix::fs::XattrFlags;

use super::{
    super::layered::{LayerIndex, LayeredRoot, Lower, Sketch, index_unpacked, is_directory_needed},
    tests::{Run, Tree, as_root, assert_same_tar, tar_of, tar_of_sketch},
    *,
};

/// Every sort of entry that a context may have.
const EVERYTHING: &str = "
    a.txt 0600 5:6 = a
    bin/ 2755
    bin/su 4755 @1400000000 = s
    bin/one = hard
    bin/two == bin/one
    bin/third == bin/one
    data/empty/
    data/deep/er/f user.color=blue = f
    data/long-name-long-name-long-name-long-name-long-name-long-name-long-name-long-name-long-name-long-name-long-name = n
    data/fifo | 0622
    data/sock socket
    ln -> a.txt
    out -> /etc/passwd
";

/// What of it meets something.
const BASE: &str = "
    etc/passwd = root:x:0:0::/:/bin/sh
    app/ 0711 7:8 @1300000000
    app/a.txt = older
    app/bin = a file where a directory comes
    app/data/ 0700 @1300000000
    app/data/deep -> /elsewhere
    app/data/kept = k
    elsewhere/
    group/ 2775 0:50
    to -> /app/data
";

#[test]
fn every_sort_of_entry_comes_to_the_same_layer_both_ways() {
    if !as_root() {
        return;
    }
    let upper_layer = "app/data/ opaque\napp/data/new = n\nelsewhere gone\napp/a.txt = newer";
    let chmod = crate::dockerfile::chmod::Chmod::parse("u=rwX,go=").unwrap();
    for layers in [&[][..], &[BASE], &[BASE, upper_layer]] {
        let mut run = Run::new(EVERYTHING, layers);
        for (sources, destination) in [
            (&["."][..], "/fresh/"),
            (&["data", "a.txt"], "/app/data/"),
            (&["data/deep", "bin"], "/to/"),
            (&["."], "/app"),
            (&["bin/*", "a.txt"], "/group/made/"),
            (&["a.txt", "ln"], "/one"),
            (&["bin", "data", "bin"], "/"),
        ] {
            run.style = Style::default();
            run.copy(sources, destination);
            run.style = Style { owner: Some((33, 50)), mode: Some(&chmod), ..Style::default() };
            run.copy(sources, destination);
            run.parents = true;
            run.exclude = Some(crate::dockerfile::ignore::Matcher::new(["**/two", "data/empty"]).unwrap());
            run.copy(sources, destination);
            (run.parents, run.exclude) = (false, None);
        }
    }
}

#[test]
fn capabilities_go_into_the_layer_and_other_attributes_do_not() {
    if !as_root() {
        return;
    }
    let run = Run::new("ping user.color=blue = p", &[]);
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    if rustix::fs::setxattr(run.context.path().join("ping"), "security.capability", &capability, XattrFlags::empty()).is_err() {
        println!("skipped: no capabilities on files here");
        return;
    }
    run.copy(&["ping"], "/");
    let (_, tar) = sketched(&run, Vec::new, &["ping"], "/");
    assert!(tar.windows(capability.len()).any(|window| window == capability));
    assert!(!tar.windows(10).any(|window| window == b"user.color"));
}

/// Copies into a sketch on layers, top first; its index and tar.
fn sketched(run: &Run<'_>, lowers: impl Fn() -> Vec<Lower>, sources: &[&str], destination: &str) -> (Arc<LayerIndex>, Vec<u8>) {
    let sketch = Arc::new(Sketch::default());
    let mut root = LayeredRoot::sketched(&sketch, &lowers()).unwrap();
    root.inherit_root().unwrap();
    run.with_request(sources, destination, |request| super::copy(request, &mut root)).unwrap();
    let tar = tar_of_sketch(&sketch, lowers());
    (Arc::new(sketch.take_index()), tar)
}

#[test]
fn what_was_sketched_is_known_to_the_next_copy() {
    if !as_root() {
        return;
    }
    let run = Run::new(EVERYTHING, &[BASE]);
    let change = Run::new(&EVERYTHING.replace("= a\n", "= b\n"), &[]);
    let second: [(&Run<'_>, &[&str], &str); 4] =
        [(&run, &["."], "/app/"), (&change, &["."], "/app/"), (&run, &["bin/one"], "/app/x"), (&run, &["a.txt"], "/app/bin/one/y")];
    let first = |root: &mut LayeredRoot| run.with_request(&["."], "/app/", |request| super::copy(request, root)).map(drop);
    let directory = Tree::of("");
    let meets = |line: &&str| !line.contains("app/bin =") && !line.contains("app/data/deep ->");
    let base = Run::new("", &[BASE.lines().filter(meets).collect::<Vec<_>>().join("\n").as_str()]);
    first(&mut LayeredRoot::new(directory.root(), base.lowers()).unwrap()).unwrap();
    let (index, _) = sketched(&run, || base.lowers(), &["."], "/app/");
    let on_directory = || std::iter::once(Lower::Directory(directory.root())).chain(base.lowers()).collect::<Vec<_>>();
    let on_index = || std::iter::once(Lower::Index(index.clone())).chain(base.lowers()).collect::<Vec<_>>();
    for (run, sources, destination) in second {
        let upper = Tree::of("");
        let mut root = LayeredRoot::new(upper.root(), on_directory()).unwrap();
        let copied = run.with_request(sources, destination, |request| super::copy(request, &mut root));
        if copied.is_err() {
            let mut root = LayeredRoot::sketched(&Arc::new(Sketch::default()), &on_index()).unwrap();
            assert!(run.with_request(sources, destination, |request| super::copy(request, &mut root)).is_err(), "{destination}");
            continue;
        }
        let (_, tar) = sketched(run, on_index, sources, destination);
        assert_same_tar(&tar_of(&upper.root(), on_directory()), &tar);
    }
    // The very same again is in no layer.
    let (_, again) = sketched(&run, on_index, &["data/deep"], "/app/data/deep");
    assert!(again.iter().all(|byte| *byte == 0), "{}", snapshot_listing(&again));
}

fn snapshot_listing(tar: &[u8]) -> String {
    super::super::tests::listing(tar)
}

/// What an outline of `layer` lacks once `sources` were copied onto it; the layer is compared by [`Run::copy`].
fn lacks(run: &Run<'_>, sources: &[&str], destination: &str) -> bool {
    let outline = |lower| match lower {
        Lower::Directory(root) => Arc::new(index_unpacked(&root).unwrap().unwrap().outline().unwrap()),
        Lower::Index(index) => index,
    };
    let outlines: Vec<_> = run.lowers().into_iter().map(outline).collect();
    let lowers = || outlines.iter().cloned().map(Lower::Index).collect::<Vec<_>>();
    let sketch = Arc::new(Sketch::default());
    let mut root = LayeredRoot::sketched(&sketch, &lowers()).unwrap();
    assert_eq!(resolve_chown("app:app", Some(&root)).unwrap(), (7, 8), "users are known without files");
    let copied = run.with_request(sources, destination, |request| super::copy(request, &mut root));
    if copied.is_ok() {
        let _ = super::super::diff_sketch(&sketch, &LayeredRoot::read_only(lowers()).unwrap());
    }
    outlines.iter().any(|outline| outline.lacks_files())
}

#[test]
fn an_outline_answers_nearly_all_that_copies_ask() {
    if !as_root() {
        return;
    }
    let layer = "etc/passwd = app:x:7:8::/:/bin/sh\netc/group = app:x:8:\napp/ 0711 7:8 @1300000000\napp/old @1300000000 = text\n\
                 app/same = text\napp/sub/inner = i\nlink -> /app";
    let run =
        Run::new("f @1400000001 = f\nold @1400000001 = text\nsame = text\ndir/sub/inner @1400000001 = other\nold-dir/old/x = x", &[layer]);
    for (sources, destination) in [
        (&["f"][..], "/new"),
        (&["f"], "/app/new"),
        (&["f"], "/link/deep/er/"),
        (&["old", "f"], "/app/"),
        (&["f"], "/link/old"),
        (&["dir"], "/app"),
        (&["dir"], "/link/new/dir/"),
    ] {
        assert!(!lacks(&run, sources, destination), "{sources:?} {destination}");
        run.copy(sources, destination);
    }
    // The same time, perhaps the same file; a directory where a file is; an entry below one.
    for (sources, destination) in [(&["same"][..], "/app/"), (&["same"], "/app/old"), (&["old-dir"], "/app/"), (&["f"], "/app/old/x")] {
        assert!(lacks(&run, sources, destination), "{sources:?} {destination}");
        run.copy(sources, destination);
    }
}

#[test]
fn a_digest_that_is_known_is_taken_and_a_file_that_changed_is_read() {
    let run = Run::new("f = one\ng = two", &[]);
    let sketch = Arc::new(Sketch::default());
    let mut root = LayeredRoot::sketched(&sketch, &[]).unwrap();
    run.with_request(&["."], "/", |request| super::copy(request, &mut root)).unwrap();
    // Shorter than it was, as long as it was: what is there is what is packed.
    fs::write(run.context.path().join("f"), "1").unwrap();
    fs::write(run.context.path().join("g"), "TWO").unwrap();
    let mut tar = Vec::new();
    let changes = super::super::diff_sketch(&sketch, &LayeredRoot::read_only(Vec::new()).unwrap()).unwrap();
    let known = |_| Some([7; 32]);
    let questions = super::super::Questions { digest: &known, is_looked_at: &|_| false };
    super::super::write_sketch(&changes, &sketch, questions, &mut tar, super::super::TimestampPolicy::Keep).unwrap();
    let index = Arc::new(sketch.take_index());
    let root = LayeredRoot::read_only(vec![Lower::Index(index)]).unwrap();
    let digest = |name: &str| match root
        .walk(Path::new(name), false)
        .unwrap()
        .directory
        .find(OsStr::new(name))
        .unwrap()
        .unwrap()
        .0
        .content(OsStr::new(name))
    {
        Ok(super::super::layered::Content::Digest(digest)) => digest,
        _ => panic!("{name} has no digest"),
    };
    assert_eq!(digest("f"), *blake3::hash(b"1").as_bytes());
    assert_eq!(digest("g"), [7; 32]);
    assert_eq!(root.stat(Path::new("f"), false).unwrap().unwrap().size, 1);
}

#[test]
fn what_a_sketch_cannot_hold_asks_for_a_directory() {
    let mut run = Run::new("d/f = f", &[]);
    run.unpack = true;
    let archive = run.context.path().join("a.tar");
    fs::write(&archive, super::super::tests::tar(&["x file 0644 0:0 @0 \"x\""])).unwrap();
    let mut root = LayeredRoot::sketched(&Arc::new(Sketch::default()), &[]).unwrap();
    let error = run.with_request(&["a.tar"], "/", |request| super::copy(request, &mut root)).unwrap_err();
    assert!(is_directory_needed(&error), "{error:?}");
    let error = run.with_request(&["nope"], "/", |request| super::copy(request, &mut root)).unwrap_err();
    assert!(!is_directory_needed(&error));
}
