//! What others wrote is read in bounded time and without a panic, however wrong it is.

use std::{fs, io::Read, time::Duration};

use rbuild::{
    dockerfile::{self, glob, ignore::IgnoreFile},
    oci::{
        ImageConfig, Index, Manifest,
        tar::{TarReader, decompress},
    },
};

use crate::support::{Layer, checkout};

/// Time for 64 KB; without optimisation everything takes some ten times as long.
const LIMIT: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });
const ROUNDS: usize = 300;

/// Processor time, so that a busy machine makes no difference.
fn timed(what: &str, work: impl FnOnce()) {
    let now = || {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    };
    let started = now();
    work();
    assert!(now() - started < LIMIT, "{what}: {:?}", now() - started);
}

/// The same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    /// Some bytes changed, moved, repeated or cut off.
    fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(8) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[at] = self.below(256) as u8,
                1 => bytes.truncate(at),
                2 => bytes.splice(at..at, [b"\0\\\n${<<EOF\"'!**[".as_slice()[self.below(14)]]).for_each(drop),
                3 => {
                    let end = (at + self.below(100)).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part.repeat(1 + self.below(20)));
                }
                _ => {
                    let end = (at + self.below(50)).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
        }
        bytes.truncate(64 << 10);
        bytes
    }
}

fn fuzz(seeds: &[Vec<u8>], read: impl Fn(&[u8])) {
    let mut random = Random(0x5eed_5eed_5eed_5eed);
    for round in 0..ROUNDS {
        let seed = &seeds[round % seeds.len()];
        let bytes = random.mutate(seed);
        timed(&format!("round {round}"), || read(&bytes));
    }
}

fn read_dockerfile(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(file) = dockerfile::parse(&text) {
        // What was understood can be said again.
        let _ = dockerfile::print(&file);
    }
}

fn read_tar(bytes: &[u8]) {
    let Ok(plain) = decompress(bytes) else { return };
    let mut reader = TarReader::new(plain.take(64 << 20));
    while let Ok(Some(_)) = reader.next_entry() {}
}

#[test]
fn item_51_dockerfiles() {
    let folders = fs::read_dir(checkout().join("testdata/dockerfile")).unwrap();
    let seeds: Vec<Vec<u8>> = folders.filter_map(|entry| fs::read(entry.unwrap().path().join("Dockerfile")).ok()).collect();
    assert!(seeds.len() > 10);
    fuzz(&seeds, read_dockerfile);
    let many = |text: &str| text.repeat((64 << 10) / text.len());
    for text in [
        format!("FROM a\nRUN {}", many("\\\n")),
        format!("FROM a\nRUN {}", many("<<A ")),
        format!("FROM a\nENV {}", many("${a:-")),
        format!("FROM a\nENV x=\"{}\"", many("\\\"")),
        format!("FROM a\nCMD {}", many("[")),
        format!("FROM a\nCMD [{}", many("\"a\",")),
        format!("FROM a\nLABEL {}", many("a=b ")),
        format!("FROM a\n{}", many("ONBUILD ")),
        format!("FROM a\nRUN {}", many("--mount=type=cache,")),
        many("FROM a AS b\n"),
        many("# syntax\n"),
        many("\n"),
    ] {
        timed(&text[..text.len().min(40)], || read_dockerfile(text.as_bytes()));
    }
}

#[test]
fn item_51_patterns() {
    let path = "a/".repeat(2000) + "b";
    let many = |text: &str| text.repeat((64 << 10) / text.len());
    for pattern in ["**/", "*a", "a*", "**/a/", "[a-z]*", "?*", "!**/\n", "a/**/\n", "\\", "["] {
        let text = format!("{}x", many(pattern));
        timed(pattern, || drop(IgnoreFile::parse(&text).map(|file| file.matches(&path))));
        timed(pattern, || drop(glob::Glob::new(&text).map(|glob| glob.matches(&path))));
    }
    let seeds = [b"node_modules\n!keep\n**/*.o\n[a-z]/x\\ y\n/abs/../up\n".to_vec()];
    fuzz(&seeds, |bytes| drop(IgnoreFile::parse(&String::from_utf8_lossy(bytes)).map(|file| file.matches(&path[..200]))));
}

#[test]
fn item_51_archives_and_images() {
    let plain =
        Layer::new().file("a", "text").pax(&[("path", "long"), ("SCHILY.xattr.user.a", "b")]).file("b", "more").symlink("l", "a").bytes();
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &plain).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    fuzz(&[plain, gzip, zstd], read_tar);
    // A map of nine pieces in which no line ends.
    let sparse = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9000")];
    for text in ["9\n".to_owned(), "1".repeat(2000), format!("9\n{}", "1".repeat(70_000))] {
        timed("a sparse map", || read_tar(&Layer::new().pax(&sparse).file("s", &text).bytes()));
    }
    let config = br#"{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Cmd":["x"],"ExposedPorts":{"80/tcp":{}}},"rootfs":{"type":"layers","diff_ids":["sha256:aa"]},"history":[{"created_by":"x"}]}"#;
    let manifest = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:aa","size":1,"platform":{"os":"linux","architecture":"amd64"}}],"layers":[],"config":{}}"#;
    let deep = [b"[".repeat(64 << 10), br#"{"config":"#.repeat(6000)].to_vec();
    for seeds in [&[config.to_vec(), manifest.to_vec()][..], &deep] {
        fuzz(seeds, |bytes| {
            drop(serde_json::from_slice::<ImageConfig>(bytes));
            drop(serde_json::from_slice::<Manifest>(bytes));
            drop(serde_json::from_slice::<Index>(bytes));
        });
    }
    for bytes in deep {
        assert!(serde_json::from_slice::<ImageConfig>(&bytes).is_err());
    }
}
