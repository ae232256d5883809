//! The short run of the fuzz targets: what each does with its corpus and with some thousands of mutations of it. The
//! mutations come from a seed, `RBUILD_FUZZ_SEED`, which is 1 unless given and which a failure names; `RBUILD_FUZZ_RUNS` is how many.

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::panic::{AssertUnwindSafe, catch_unwind};

use rbuild::{
    oci::{DiffId, Digest},
    snapshot::{
        Limits,
        layered::{LayerIndex, index_layer, write_outlines},
    },
};

/// Inputs that reach deep, per target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let texts: &[&str] = match target {
        "parse" => {
            let mut list: Vec<Vec<u8>> = Vec::new();
            for entry in std::fs::read_dir("testdata/dockerfile").unwrap() {
                list.extend(std::fs::read(entry.unwrap().path().join("Dockerfile")));
            }
            assert!(list.len() > 40);
            return list;
        }
        "expand" => {
            &["0x\0${a:-${b:+c}}", "1x\0`$a ${a#*.} ${a%%?}", "0a.b.c\0${a//./-}${a/[a-z]/\\/} 'q $a' \"d $a\\\"\"", "0\0${a:?m} $1 $@ ${"]
        }
        "ignore" => &["a/b/c\0*\n!a\n!a/**/c\n# x\n", "d/e\0**/e\n/d\n[a-z]?\n\\!x\n", "x/y/z\0x/*/z\n!x/y\n!**\n../q\n"],
        "git_reference" => &[
            "https://host/r.git#ref:dir",
            "git@host:r.git?branch=a&subdir=b",
            "ssh://u@host:22/r.git?checksum=0123456789abcdef0123456789abcdef01234567&keep-git-dir=1",
            "git://host/r?tag=v1&submodules=0#x",
            "github.com/a/b.git#:sub",
        ],
        "outlines" => return outlines(),
        _ => return archives(),
    };
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Outlines of those archives that make sense, not compressed.
fn outlines() -> Vec<Vec<u8>> {
    let outline = |archive: &Vec<u8>| index_layer(&bodies::with_checksums(archive)[..], Limits::default()).ok()??.outline();
    let directory = [entry("d/e/", b'5', "", b""), entry("d/e/f", b'0', "", b"text"), entry("d/l", b'2', "e", b""), vec![0; 1024]].concat();
    let all: Vec<LayerIndex> = archives().iter().chain([&directory]).filter_map(outline).collect();
    assert!(!all.is_empty());
    let named = all.into_iter().enumerate().map(|(at, outline)| (DiffId(Digest::of(&[at as u8])), outline)).collect();
    let bytes = write_outlines(&named).unwrap();
    let compressed = &bytes[b"rbuild layer outlines 1\n1234".len()..];
    vec![zstd::bulk::decompress(compressed, 1 << 20).unwrap()]
}

/// Archives with the names and links that hurt.
fn archives() -> Vec<Vec<u8>> {
    let names = [
        "d/",
        "d/f",
        "./a",
        "../up",
        "/rbuild-fuzz-escape",
        "root/rbuild-fuzz-escape",
        "up/x",
        "d/.wh.f",
        ".wh.d",
        "d/.wh..wh..opq",
        "l",
        "l/x",
        "d",
    ];
    let kinds = [b'5', b'0', b'0', b'0', b'0', b'0', b'0', b'0', b'0', b'0', b'2', b'0', b'2'];
    let mut list = Vec::new();
    for (rotation, target) in ["/", "..", "d", "l", "../../..", "d/f"].iter().enumerate() {
        let mut archive = Vec::new();
        for at in 0..names.len() {
            let at = (at * (rotation + 1) + rotation) % names.len();
            archive.extend(entry(names[at], kinds[at], target, if kinds[at] == b'0' { b"text" } else { b"" }));
            if at % 4 == rotation % 4 {
                archive.extend(entry(
                    "pax",
                    b'x',
                    "",
                    &[record("path", "d/er\nx"), record("mtime", "1700000000.123456789"), record("SCHILY.xattr.user.a", "b")].concat(),
                ));
                archive.extend(entry("h", b'1', target, b""));
                archive.extend(entry("dev", b'3', "", b""));
                archive.extend(entry("fifo", b'6', "", b""));
            }
        }
        archive.extend([0; 1024]);
        list.push(archive);
    }
    list
}

/// A PAX record, which says its own length.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..=4).map(|digits| rest + digits).find(|length| length.to_string().len() + rest == *length).unwrap();
    format!("{length} {key}={value}\n").into_bytes()
}

fn entry(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000755\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    block[136..148].copy_from_slice(b"14000000000\0");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    block.extend(content);
    block.resize(block.len().div_ceil(512) * 512, 0);
    block
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// A few changes of an input: bytes, words that mean something, pieces of other inputs, whole tar blocks.
fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const WORDS: [&[u8]; 22] = [
        b"${",
        b"}",
        b"<<EOF\n",
        b"EOF\n",
        b"\\\n",
        b"\"",
        b"'",
        b"FROM ",
        b"ONBUILD ",
        b"--mount=",
        b"[\"a\"]",
        b"# escape=`\n",
        b"**",
        b"!",
        b"..",
        b"/",
        b"\0",
        b":-",
        b"//",
        b"\xff\xff\xff\xff",
        b"77777777777\0",
        b".wh.",
    ];
    let mut data = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(data.len() + 1);
        match random.below(7) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 if at < data.len() => data[at] = random.next() as u8,
            2 => data.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied()).for_each(drop),
            3 => data.truncate(at.max(1)),
            4 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                let to = (from + random.below(600)).min(other.len());
                data.splice(at..at, other[from..to].iter().copied()).for_each(drop);
            }
            5 => {
                let end = (at + random.below(40)).min(data.len());
                data.drain(at..end);
            }
            _ if data.len() >= 1024 => {
                let blocks = data.len() / 512;
                let (from, to) = (random.below(blocks) * 512, random.below(blocks) * 512);
                let block = data[from..from + 512].to_vec();
                data.splice(to..to, block).for_each(drop);
            }
            _ => {}
        }
    }
    data
}

#[test]
fn targets_hold_for_their_corpus_and_for_mutations_of_it() {
    let number = |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |text| text.parse().expect(name));
    let seed = number("RBUILD_FUZZ_SEED", 1);
    for (name, body) in bodies::TARGETS {
        let corpus = corpus(name);
        let slow = matches!(name, "layer" | "context_archive");
        let runs = number("RBUILD_FUZZ_RUNS", if slow { 800 } else { 4000 });
        let mut random = Random(seed);
        for run in 0..runs + corpus.len() as u64 {
            let data = corpus.get(run as usize).cloned().unwrap_or_else(|| mutated(&corpus, &mut random));
            if let Err(cause) = catch_unwind(AssertUnwindSafe(|| body(&data))) {
                let text = cause.downcast_ref::<String>().map(String::as_str).or(cause.downcast_ref::<&str>().copied());
                panic!(
                    "{name} fails in run {run} of RBUILD_FUZZ_SEED={seed}: {}\n{:?}",
                    text.unwrap_or_default(),
                    String::from_utf8_lossy(&data)
                );
            }
        }
    }
}

/// What a target takes for 64 KB that were written to be slow: a second, and for a debug build ten.
const PATIENCE_SECONDS: i64 = if cfg!(debug_assertions) { 10 } else { 1 };

/// Inputs of 64 KB, per target.
fn hostile(target: &str) -> Vec<Vec<u8>> {
    const SIZE: usize = 64 << 10;
    let filled = |start: &str, line: &dyn Fn(usize) -> String| {
        let mut text = start.to_owned();
        for number in 0.. {
            let line = line(number);
            if text.len() + line.len() > SIZE {
                break;
            }
            text += &line;
        }
        text.into_bytes()
    };
    let repeated = |start: &str, piece: &str| filled(start, &|_| piece.to_owned());
    match target {
        "parse" => vec![
            filled("FROM scratch AS s0\n", &|at| format!("FROM s{at} AS s{}\nENV E{at}=$E\n", at + 1)),
            filled("FROM scratch AS s0\n", &|at| format!("FROM s{at} AS s{}\nARG E{at}\nLABEL l=$F{at}\n", at + 1)),
            filled("FROM scratch AS s0\nONBUILD ENV A=b\n", &|at| format!("FROM s0 AS s{}\n", at + 1)),
            filled("FROM scratch AS s0\n", &|at| format!("FROM scratch AS s{}\nCOPY --from=s{at} / /\n", at + 1)),
            filled("", &|at| format!("ARG A{at}=$A{}\n", at.wrapping_sub(1))),
            filled("FROM scratch\nENV", &|at| format!(" E{at}=${{E{at}:-x}}")),
            repeated("FROM a\n", "ONBUILD "),
            repeated("FROM a\nRUN ", "<<A "),
            repeated("FROM a\n", "COPY <<A /\nA\n"),
            repeated("FROM a\nRUN ", "\\\n"),
            repeated("FROM a\nRUN ", "--mount=type=cache,target=/x "),
            repeated("FROM a\nCMD ", "["),
            repeated("FROM a\nLABEL a=", "\""),
            repeated("FROM a\nLABEL ", "a=\\ "),
            repeated("", "#\n"),
        ],
        "expand" => {
            let long = "a".repeat(SIZE / 2);
            vec![
                repeated("0v\0", "${a:-"),
                repeated("0v\0", "$a"),
                repeated("0v\0", "\\"),
                repeated("0v\0${a#", "*"),
                format!("0{long}\0${{a//a*a*a*a*b/x}}").into_bytes(),
                format!("0{long}\0${{a##*a*a*a*a*b}}").into_bytes(),
                format!("0{long}\0${{a%%b*a*a*a*a*}}").into_bytes(),
                repeated(&format!("0{}\0", &long[..1000]), "${a//a/b}"),
            ]
        }
        "ignore" => vec![
            repeated(&format!("{}\0", "a/".repeat(30)), "**/a/**/b\n"),
            repeated(&format!("{}b\0", "a".repeat(4000)), "*a"),
            repeated(&format!("{}\0", "a/".repeat(30)), "!**/a*a*a*b\n"),
            repeated("a\0", "[a-"),
        ],
        "git_reference" => vec![
            repeated("https://h/r.git?", "subdir=a&"),
            repeated("https://h/r.git#", "../"),
            repeated("git@h:", "a@b:"),
            repeated("", "https://"),
        ],
        _ => Vec::new(),
    }
}

#[test]
fn sixty_four_kilobytes_take_no_more_than_a_second() {
    use nix::sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike,
    };
    let own_time = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
        (usage.user_time() + usage.system_time()).num_milliseconds()
    };
    let mut slow = Vec::new();
    for (name, body) in bodies::TARGETS {
        for (number, data) in hostile(name).iter().enumerate() {
            let before = own_time();
            body(data);
            let took = own_time() - before;
            if took > PATIENCE_SECONDS * 1000 {
                slow.push(format!("{name} {number}: {took} ms for {}..", String::from_utf8_lossy(&data[..60])));
            }
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
}
