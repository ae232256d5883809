//! Images for other processors: built by cross-compilation or by an emulator that nobody registered.

use std::path::Path;

use crate::support::Bed;

/// A static arm64 program that prints a line, by hand: nothing here compiles for arm64.
fn arm64_program() -> Vec<u8> {
    let text = b"hello from arm64\n";
    let length = text.len() as u32;
    let code: [u32; 8] = [
        0xd280_0020,                 // mov x0, #1
        0x1000_00e1,                 // adr x1, text
        0xd280_0002 | (length << 5), // mov x2, #length
        0xd280_0808,                 // mov x8, #64 (write)
        0xd400_0001,                 // svc #0
        0xd280_0000,                 // mov x0, #0
        0xd280_0ba8,                 // mov x8, #93 (exit)
        0xd400_0001,                 // svc #0
    ];
    let size = (64 + 56 + code.len() * 4 + text.len()) as u64;
    let base: u64 = 0x40_0000;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    for half in [2u16, 183] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes());
    for long in [base + 120, 64, 0] {
        elf.extend(long.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // One segment: all of the file, readable and executable.
    elf.extend(1u32.to_le_bytes());
    elf.extend(5u32.to_le_bytes());
    for long in [0, base, base, size, size, 0x1_0000] {
        elf.extend(long.to_le_bytes());
    }
    code.iter().for_each(|word| elf.extend(word.to_le_bytes()));
    elf.extend(text);
    elf
}

fn has_emulator() -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("qemu-aarch64-static").exists()));
    if !found {
        println!("skipped: qemu-aarch64-static is not installed (apt install qemu-user-static)");
    }
    found || Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists()
}

#[test]
fn an_arm64_step_runs_for_every_user() {
    if cfg!(target_arch = "aarch64") || !has_emulator() {
        return;
    }
    for bed in Bed::each_user() {
        bed.file("hello", arm64_program()).dockerfile("FROM scratch\nCOPY --chmod=755 hello /hello\nRUN [\"/hello\"]\nCMD [\"/hello\"]\n");
        bed.build(&["--platform", "linux/arm64", "-t", "app"]).succeeds().says("hello from arm64");
        bed.run(&["run", "app"]).succeeds().says("hello from arm64");
    }
}

#[test]
fn several_platforms_make_an_index() {
    let bed = Bed::caller();
    bed.file("hello-amd64", "a\n").file("hello-arm64", "b\n");
    bed.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY hello-$TARGETARCH /hello\n");
    let outcome = bed.build(&["--platform", "linux/amd64,linux/arm64", "-t", "app", "-o", "type=image", "-o", "../out/tree"]);
    outcome.succeeds().says("[linux/arm64 ");
    assert_eq!(std::fs::read_to_string(bed.path("out/tree/linux_arm64/hello")).unwrap(), "b\n");
    bed.run(&["inspect", "app"]).succeeds().says("platforms    linux/amd64 linux/arm64");
}

#[test]
fn programs_for_another_processor_are_refused() {
    if cfg!(target_arch = "aarch64") {
        return;
    }
    let bed = Bed::caller();
    bed.file("hello", arm64_program()).dockerfile("FROM scratch\nCOPY --chmod=755 hello /app/hello\nENTRYPOINT [\"/app/hello\"]\n");
    bed.build(&[]).fails().says("/app/hello is a program for arm64, the image is for linux/amd64").says("--allow-foreign");
    bed.build(&["--allow-foreign"]).succeeds();
    bed.build(&["--platform", "linux/arm64"]).succeeds();
    // Elsewhere it may be data.
    bed.dockerfile("FROM scratch\nCOPY --chmod=755 hello /data/hello\n").build(&[]).succeeds();
}
