//! What damaged, lying and odd archives do to the reader.

use std::io::Read;

use super::*;

fn file(path: &str, content: &[u8]) -> Vec<u8> {
    let size = content.len() as u64;
    let entry = Entry {
        path: path.as_bytes().to_vec(),
        kind: EntryKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        size,
        xattrs: Vec::new(),
    };
    let mut writer = TarWriter::new(Vec::new());
    writer.append(&entry, &mut &content[..]).unwrap();
    let mut archive = writer.finish().unwrap();
    archive.truncate(archive.len() - 1024);
    archive
}

/// Puts bytes into the first header and makes its checksum right again.
fn patched(mut archive: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    archive[offset..offset + bytes.len()].copy_from_slice(bytes);
    archive[148..156].fill(b' ');
    let sum: u32 = archive[..512].iter().map(|byte| u32::from(*byte)).sum();
    archive[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    archive
}

/// A PAX header with these records before the archive.
fn with_pax(records: &[u8], archive: &[u8]) -> Vec<u8> {
    let mut header = patched(file("pax", records), 156, b"x");
    header.extend_from_slice(archive);
    header
}

/// Names and contents, or what is wrong.
fn read(archive: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut reader = TarReader::new(archive);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().map_err(|error| error.to_string())? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).map_err(|error| error.to_string())?;
        found.push((String::from_utf8_lossy(&entry.path).into_owned(), content));
    }
    Ok(found)
}

#[test]
fn an_archive_may_end_without_zero_blocks_but_not_in_an_entry() {
    let archive = [file("a", &[b'a'; 700]), file("b", b"b")].concat();
    assert_eq!(read(&archive).unwrap().len(), 2);
    assert_eq!(read(&[&archive[..], &[0; 512]].concat()).unwrap().len(), 2);
    assert_eq!(read(&[]).unwrap().len(), 0);
    // 0 and 1536 are between entries.
    for end in (1..archive.len()).filter(|end| *end != 1536) {
        assert!(read(&archive[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn zero_blocks_end_the_archive_only_in_pairs() {
    let (a, b) = (file("a", b"a"), file("b", b"b"));
    assert_eq!(read(&[&a[..], &[0; 1024], &b].concat()).unwrap().len(), 1);
    assert!(read(&[&a[..], &[0; 512], &b].concat()).unwrap_err().contains("zero block"));
}

#[test]
fn numbers_out_of_range_are_refused() {
    let base_256 = |width: usize, first: u8, last: u8| {
        let mut field = vec![first; 1];
        field.resize(width, if first == 0xff { 0xff } else { 0 });
        field[width - 1] = last;
        field
    };
    for (name, offset, width) in [("mode", 100, 8), ("uid", 108, 8), ("gid", 116, 8), ("size", 124, 12)] {
        let negative = patched(file("a", b""), offset, &base_256(width, 0xff, 0xfe));
        assert!(read(&negative).is_err(), "negative {name}");
    }
    let wrapping = patched(file("a", b"x"), 124, &base_256(12, 0x81, 1));
    assert!(read(&wrapping).unwrap_err().contains("out of range"));
    let huge_owner = patched(file("a", b""), 108, &[0x80, 0, 0, 1, 0, 0, 0, 0]);
    assert!(read(&huge_owner).unwrap_err().contains("no such owner"));
    let nobody = patched(file("a", b""), 108, &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert!(read(&nobody).unwrap_err().contains("no such owner"));
}

#[test]
fn times_before_1970_are_read_in_both_spellings() {
    let reader = |archive: &[u8]| TarReader::new(archive).next_entry().unwrap().unwrap().mtime;
    let mut field = [0xff; 12];
    field[11] = 0xfb;
    assert_eq!(reader(&patched(file("a", b""), 136, &field)), Timestamp { seconds: -5, nanoseconds: 0 });
    let pax = with_pax(b"14 mtime=-1.5\n", &file("a", b""));
    assert_eq!(reader(&pax), Timestamp { seconds: -2, nanoseconds: 500_000_000 });
}

#[test]
fn a_size_in_a_pax_record_counts_and_lies_are_found() {
    let archive = with_pax(b"9 size=3\n", &patched(file("a", b"abc"), 124, b"00000000000\0"));
    assert_eq!(read(&archive).unwrap(), [("a".to_owned(), b"abc".to_vec())]);
    for records in [&b"17 size=99999999\n"[..], b"10 size=-1\n", b"12 size=0x10\n", b"10 size=+3\n", b"99 size=3\n"] {
        assert!(read(&with_pax(records, &file("a", b"abc"))).is_err(), "{}", records.escape_ascii());
    }
}

#[test]
fn records_inside_a_value_are_no_records() {
    let mut records = Vec::new();
    pax::push_record(&mut records, b"SCHILY.xattr.user.x", b"x\n22 linkpath=/etc/evil\n");
    let link = patched(patched(file("a", b""), 156, b"2"), 157, b"harmless");
    let entry = TarReader::new(&with_pax(&records, &link)[..]).next_entry().unwrap().unwrap();
    assert_eq!(entry.kind, EntryKind::Symlink { target: b"harmless".to_vec() });
    assert_eq!(entry.xattrs[0].1, b"x\n22 linkpath=/etc/evil\n");
}

#[test]
fn only_files_have_content() {
    // A directory that claims 512 bytes: as in Go, the next block is the next header.
    let directory = patched(patched(file("d", b""), 156, b"5"), 124, b"00000001000\0");
    let names: Vec<_> = read(&[directory, file("b", b"b")].concat()).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["d", "b"]);
}

#[test]
fn names_with_nul_and_unknown_types_are_refused() {
    let mut records = Vec::new();
    pax::push_record(&mut records, b"path", b"a\0b");
    assert!(read(&with_pax(&records, &file("a", b""))).unwrap_err().contains("NUL"));
    assert!(read(&patched(file("a", b""), 156, b"V")).unwrap_err().contains("unknown type `V`"));
    assert!(read(&patched(file("a", b""), 156, b"2")).unwrap_err().contains("without a target"));
}

#[test]
fn limits_are_kept() {
    let archive = [file("a", b"1234"), file("b", b"1234")].concat();
    let run = |limits: Limits| {
        let mut reader = TarReader::with_limits(&archive[..], limits);
        std::iter::from_fn(|| reader.next_entry().transpose()).collect::<Result<Vec<_>, _>>()
    };
    assert!(run(Limits::default()).is_ok());
    assert!(run(Limits { entries: 1, ..Limits::default() }).is_err());
    assert!(run(Limits { total_size: 7, ..Limits::default() }).is_err());
    let long = file(&"n/".repeat(3000), b"");
    assert!(read(&long).unwrap_err().contains("path exceeds limit"));
    let mut records = Vec::new();
    pax::push_record(&mut records, b"comment", &vec![b'x'; 2 << 20]);
    assert!(read(&with_pax(&records, &file("a", b""))).unwrap_err().contains("metadata exceeds limit"));
    // Sparse headers that go on without saying anything.
    let mut endless = patched(patched(patched(file("s", b""), 156, b"S"), 257, b"ustar  \0"), 482, &[1]);
    let mut block = vec![0; 512];
    block[504] = 1;
    endless.extend(block.repeat(10_000));
    assert!(read(&endless).unwrap_err().contains("headers of one entry"));
}

#[test]
fn sparse_files_of_every_format_expand_and_keep_their_holes() {
    let home = tempfile::tempdir().unwrap();
    let mut content = vec![0; 3_000_000];
    for (offset, text) in [(0, "start"), (1_048_576, "middle"), (2_500_000, "late")] {
        content[offset..offset + text.len()].copy_from_slice(text.as_bytes());
    }
    let source = std::fs::File::create(home.path().join("sparse")).unwrap();
    source.set_len(content.len() as u64).unwrap();
    for (offset, text) in [(0, "start"), (1_048_576, "middle"), (2_500_000, "late")] {
        std::os::unix::fs::FileExt::write_all_at(&source, text.as_bytes(), offset).unwrap();
    }
    for format in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let mut tar = std::process::Command::new("tar");
        let output =
            tar.args(["-S", "-c", "-C"]).arg(home.path()).args(format).arg("sparse").output().expect("GNU tar is part of every Debian");
        assert!(output.status.success() && output.stdout.len() < 100_000, "{format:?}");
        assert!(read(&output.stdout).unwrap() == [("sparse".to_owned(), content.clone())], "{format:?}");
        let mut reader = TarReader::new(&output.stdout[..]);
        let entry = reader.next_entry().unwrap().unwrap();
        assert_eq!(entry.size, content.len() as u64);
        let mut target = tempfile::NamedTempFile::new_in(home.path()).unwrap();
        reader.extract_to(target.as_file()).unwrap();
        let mut back = Vec::new();
        target.read_to_end(&mut back).unwrap();
        assert!(back == content, "{format:?}");
        assert!(std::os::unix::fs::MetadataExt::blocks(&target.as_file().metadata().unwrap()) < 1000, "holes were filled, {format:?}");
    }
}

#[test]
fn long_and_foreign_names_survive() {
    let name = format!("{}/{}", "directory".repeat(20), "é".repeat(60));
    assert_eq!(read(&file(&name, b"x")).unwrap()[0].0, name);
    let exactly = "n".repeat(100);
    assert_eq!(read(&file(&exactly, b"x")).unwrap()[0].0, exactly);
}

#[test]
fn xz_is_read_in_all_its_streams() {
    // `printf 'hello ' | xz; printf world | xz`
    let hex = include_str!("../../../testdata/two_streams.xz.hex");
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
    let mut reader = decompress(&bytes[..]).unwrap();
    assert_eq!(reader.encoding, Encoding::Xz);
    assert_eq!(std::io::read_to_string(&mut reader).unwrap(), "hello world");
    assert!(std::io::read_to_string(decompress(&bytes[..bytes.len() - 3]).unwrap()).is_err());
}

#[test]
fn noise_is_refused_without_panic() {
    let mut state = 7_u32;
    let mut archive = [file("a", b"abc"), with_pax(b"9 size=3\n", &file("b", b"abc"))].concat();
    for _ in 0..2000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let index = state as usize % archive.len();
        let old = archive[index];
        archive[index] = (state >> 24) as u8;
        let header = index / 512 * 512;
        // Half of them with a checksum that is right.
        let tail = if state & 0x100 == 0 { patched(archive[header..].to_vec(), 0, &[]) } else { archive[header..].to_vec() };
        let _ = read(&[&archive[..header], &tail].concat());
        archive[index] = old;
    }
}
