//! Archives made here, unpacked, and the tree they leave.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use super::*;
use crate::{snapshot::layered::Lower, sys::root::RootDir};

/// `(path, type, mode, owner, text)`; the type is one of tar's letters, the text content or link target.
type Item<'a> = (&'a str, u8, u32, (u64, u64), &'a str);

fn tar_of(items: &[Item<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, mode, (uid, gid), text) in items {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(tar::EntryType::new(*kind));
        header.set_mode(*mode);
        header.set_uid(*uid);
        header.set_gid(*gid);
        header.set_mtime(1_300_000_000);
        let content = if *kind == b'0' { text.as_bytes() } else { b"" };
        if matches!(kind, b'1' | b'2') {
            header.as_gnu_mut().unwrap().linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn as_file(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut &file, bytes).unwrap();
    file
}

const SAMPLE: &[Item<'_>] = &[
    ("top/", b'5', 0o1750, (3, 4), ""),
    ("top/f", b'0', 0o640, (5, 6), "f"),
    ("top/l", b'2', 0o777, (7, 7), "/etc/passwd"),
    ("top/h", b'1', 0o644, (0, 0), "top/f"),
    ("top/p", b'6', 0o622, (0, 0), ""),
    ("implied/x/run", b'0', 0o4755, (100_000, 2_000_000), "r"),
];

/// Unpacks onto one lower layer and gives `path mode uid:gid mtime` of the paths asked for.
fn unpacked(items: &[Item<'_>], prepare: impl Fn(&Path), destination: &str, owner: Option<(u32, u32)>, paths: &[&str]) -> Vec<String> {
    let (lower, upper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    prepare(lower.path());
    let lowers = vec![Lower::Directory(RootDir::open(lower.path()).unwrap())];
    let mut root = LayeredRoot::new(RootDir::open(upper.path()).unwrap(), lowers).unwrap();
    let options = ArchiveOptions { owner, made_time: None };
    if let Err(error) = add_archive(&*tar_of(items), &mut root, Path::new(destination), options) {
        return vec![error.to_string()];
    }
    let line = |path: &&str| match fs::symlink_metadata(upper.path().join(path)) {
        Err(_) => format!("{path} missing"),
        Ok(found) => {
            let time = if found.mtime() == 1_300_000_000 { " dated" } else { "" };
            format!("{path} {:06o} {}:{}{time}", found.mode(), found.uid(), found.gid())
        }
    };
    paths.iter().map(line).collect()
}

fn as_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: owners can only be set as root");
    }
    root
}

#[test]
fn entries_keep_what_the_archive_says() {
    if !as_root() {
        return;
    }
    let paths = ["dst", "dst/top", "dst/top/f", "dst/top/h", "dst/top/l", "dst/top/p", "dst/implied", "dst/implied/x/run"];
    let lines = unpacked(SAMPLE, |_| {}, "/dst", None, &paths);
    let expected = [
        "dst 040755 0:0",
        "dst/top 041750 3:4 dated",
        "dst/top/f 100644 0:0 dated",
        "dst/top/h 100644 0:0 dated",
        "dst/top/l 120777 7:7 dated",
        "dst/top/p 010622 0:0 dated",
        "dst/implied 040755 0:0",
        "dst/implied/x/run 104755 100000:2000000 dated",
    ];
    assert_eq!(lines, expected);
    let owned = unpacked(SAMPLE, |_| {}, "/dst/", Some((33, 50)), &["dst", "dst/top", "dst/top/l", "dst/implied"]);
    assert_eq!(owned, ["dst 040755 33:50", "dst/top 041750 33:50 dated", "dst/top/l 120777 33:50 dated", "dst/implied 040755 0:0"]);
}

#[test]
fn nothing_leads_out_of_the_destination() {
    if !as_root() {
        return;
    }
    let links = |lower: &Path| {
        fs::create_dir_all(lower.join("real/deep")).unwrap();
        fs::create_dir(lower.join("var")).unwrap();
        symlink("/real", lower.join("abs")).unwrap();
        symlink("../../../../real", lower.join("var/up")).unwrap();
        symlink("/", lower.join("real/deep/top")).unwrap();
    };
    let file = |path: &'static str| [(path, b'0', 0o644, (0, 0), "x")];
    let cases = [
        ("../../H", "/", "H"),
        ("/H", "/", "H"),
        ("a/../../H", "/", "H"),
        ("abs/g", "/", "real/g"),
        ("var/up/g", "/", "real/g"),
        ("deep/top/g", "/real", "real/g"),
        ("../g", "/real", "real/g"),
    ];
    for (path, destination, lands) in cases {
        let lines = unpacked(&file(path), links, destination, None, &[lands]);
        assert_eq!(lines, [format!("{lands} 100644 0:0 dated")], "{path}");
    }
    let planted = [("d", b'2', 0o777, (0, 0), "../../../.."), ("d/H", b'0', 0o644, (0, 0), "x")];
    assert_eq!(unpacked(&planted, |_| {}, "/in", None, &["in/H"]), ["in/H 100644 0:0 dated"]);
    let stolen = [("h", b'1', 0o644, (0, 0), "/etc/passwd")];
    assert_eq!(unpacked(&stolen, |_| {}, "/", None, &[]), ["cannot unpack /h"]);
}

#[test]
fn what_is_in_the_way_is_replaced() {
    if !as_root() {
        return;
    }
    let below = |lower: &Path| {
        fs::create_dir_all(lower.join("dir/sub")).unwrap();
        fs::set_permissions(lower.join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(lower.join("file"), "old").unwrap();
        symlink("dir", lower.join("link")).unwrap();
    };
    let items = [
        ("dir", b'0', 0o644, (0, 0), "now a file"),
        ("file/", b'5', 0o711, (1, 1), ""),
        ("link/", b'5', 0o755, (0, 0), ""),
        ("hard", b'1', 0o600, (2, 2), "dir"),
    ];
    let lines = unpacked(&items, below, "/", None, &["dir", "file", "link", "hard"]);
    let expected = ["dir 100600 2:2 dated", "file 040711 1:1 dated", "link 040755 0:0 dated", "hard 100600 2:2 dated"];
    assert_eq!(lines, expected);
    let merged = [("dir/", b'5', 0o750, (1, 1), ""), ("hard", b'1', 0o600, (2, 2), "file")];
    let lines = unpacked(&merged, below, "/", None, &["dir", "dir/sub", "file", "hard"]);
    assert_eq!(lines, ["dir 040750 1:1 dated", "dir/sub missing", "file 100600 2:2 dated", "hard 100600 2:2 dated"]);
    assert_eq!(unpacked(&merged, below, "/file", None, &[]), ["cannot mkdir /file"]);
}

#[test]
fn archives_are_told_by_their_content() {
    let plain = tar_of(SAMPLE);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut gzip, &plain).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&*plain, 1).unwrap();
    for bytes in [&plain, &gzip, &zstd] {
        assert!(is_archive(&as_file(bytes)));
    }
    let zipped_text = zstd::encode_all(&b"text"[..], 1).unwrap();
    for bytes in [b"".as_slice(), b"not an archive\n", &[0; 10240], &gzip[..5], &[7; 2048], &zipped_text] {
        assert!(!is_archive(&as_file(bytes)), "{:?}", &bytes[..bytes.len().min(20)]);
    }
}
