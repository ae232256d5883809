//! Exports to a directory and imports from it, with trees that are made here.

use std::{os::unix::fs::symlink, path::PathBuf, time::SystemTime};

use super::*;

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// A cache of many small files and a large one.
fn cache(top: &Path) -> PathBuf {
    let directory = top.join("cache");
    for number in 0..2000 {
        let path = directory.join(format!("{:02}/{number}", number % 50));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(number, 3000)).unwrap();
    }
    fs::write(directory.join("large"), noise(77, 5 << 20)).unwrap();
    directory
}

fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}

fn export(depot: &Path, id: &str, cache: &Path) -> Moved {
    run(async { export_cache_mount(&Depot::new_directory(depot).await.unwrap(), id, cache).await.unwrap() })
}

fn import(depot: &Path, id: &str, to: &Path) -> Result<Moved> {
    fs::create_dir(to).unwrap();
    run(async {
        let depot = Depot::directory(depot).await?;
        let entries = exported(&depot).await?;
        let (_, entry) = entries.iter().find(|(known, _)| known == id).expect("it was exported");
        import_cache_mount(&depot, entry, to, Ownership::Set).await
    })
}

fn blobs(depot: &Path) -> usize {
    fs::read_dir(depot.join("blobs/sha256")).unwrap().count()
}

#[test]
fn one_changed_file_is_one_or_two_chunks() {
    let top = tempfile::tempdir().unwrap();
    let (cache, depot) = (cache(top.path()), top.path().join("depot"));
    let first = export(&depot, "/c", &cache);
    assert!(first.moved_chunks == first.chunks && first.chunks > 10, "{first:?}");
    assert_eq!(export(&depot, "/c", &cache).moved_chunks, 0);
    let before = blobs(&depot);
    fs::write(cache.join("07/1007"), "changed").unwrap();
    let second = export(&depot, "/c", &cache);
    // The file's own chunk, and the one with its directory's time.
    assert!((1..=4).contains(&second.moved_chunks) && second.moved_bytes < first.moved_bytes / 3, "{second:?}");
    assert!(blobs(&depot) <= before + 1, "what is no longer needed stays");
    let moved = import(&depot, "/c", &top.path().join("back")).unwrap();
    assert_eq!(moved.bytes, second.bytes);
    assert_eq!(fs::read_to_string(top.path().join("back/07/1007")).unwrap(), "changed");
    assert_eq!(fs::read(top.path().join("back/large")).unwrap(), noise(77, 5 << 20));
}

#[test]
fn all_that_a_tree_has_comes_back() {
    let top = tempfile::tempdir().unwrap();
    let (cache, depot, back) = (top.path().join("cache"), top.path().join("depot"), top.path().join("back"));
    fs::create_dir_all(cache.join("d/.wh.not-a-whiteout")).unwrap();
    fs::write(cache.join("d/file"), "x").unwrap();
    fs::write(cache.join(".wh.file"), "").unwrap();
    fs::hard_link(cache.join("d/file"), cache.join("d/link")).unwrap();
    symlink("/nowhere", cache.join("d/symlink")).unwrap();
    let time = SystemTime::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 123_456_789);
    let file = fs::File::options().write(true).open(cache.join("d/file")).unwrap();
    file.set_modified(time).unwrap();
    fs::set_permissions(cache.join("d/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::File::open(cache.join("d")).unwrap().set_modified(time).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o1777)).unwrap();
    export(&depot, "/c", &cache);
    import(&depot, "/c", &back).unwrap();
    let found = fs::metadata(back.join("d/file")).unwrap();
    assert_eq!((found.mode() & 0o7777, found.nlink(), found.modified().unwrap()), (0o4751, 2, time));
    assert_eq!(fs::metadata(back.join("d")).unwrap().modified().unwrap(), time);
    assert_eq!(fs::metadata(&back).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::read_link(back.join("d/symlink")).unwrap(), Path::new("/nowhere"));
    assert!(back.join("d/.wh.not-a-whiteout").is_dir() && back.join(".wh.file").is_file());
    // Equal trees are equal exports.
    assert_eq!(export(&depot, "/c", &back).moved_chunks, 0);
}

#[test]
fn what_was_exported_before_stays_usable_and_damage_is_seen() {
    let top = tempfile::tempdir().unwrap();
    let (cache, depot) = (cache(top.path()), top.path().join("depot"));
    export(&depot, "/c", &cache);
    fs::create_dir(top.path().join("other")).unwrap();
    fs::write(top.path().join("other/file"), "other").unwrap();
    export(&depot, "/other", &top.path().join("other"));
    // An export that was broken off: some blobs are there, and half of one.
    fs::write(depot.join("blobs/sha256/.unfinished-0"), "half").unwrap();
    import(&depot, "/other", &top.path().join("back-other")).unwrap();
    import(&depot, "/c", &top.path().join("back")).unwrap();
    export(&depot, "/c", &cache);
    assert!(!depot.join("blobs/sha256/.unfinished-0").exists());
    let largest = fs::read_dir(depot.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    let largest = largest.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    bytes[1000] ^= 1;
    fs::write(&largest, bytes).unwrap();
    assert!(matches!(import(&depot, "/c", &top.path().join("damaged")), Err(ExportError::Damaged { .. })));
    // Of another size it is written again.
    fs::write(&largest, "short").unwrap();
    assert_eq!(export(&depot, "/c", &cache).moved_chunks, 1);
    import(&depot, "/c", &top.path().join("mended")).unwrap();
}
