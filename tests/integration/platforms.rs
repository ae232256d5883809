//! Images for other processors: built by cross-compilation or by an emulator that nobody registered.

use std::path::{Path, PathBuf};

use crate::support::{Bed, Outcome, Registry};

/// A static arm64 program that prints a line, by hand: nothing here compiles for arm64.
fn arm64_program() -> Vec<u8> {
    let text = "hello from arm64\n";
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
    program(183, &code.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>(), text)
}

/// The same for amd64.
fn amd64_program() -> Vec<u8> {
    let text = "hello from amd64\n";
    let mut code = b"\xb8\x01\0\0\0\xbf\x01\0\0\0".to_vec(); // mov eax, 1 (write); mov edi, 1
    code.extend(b"\x48\x8d\x35\x10\0\0\0\xba"); // lea rsi, [rip + 16]; mov edx, length
    code.extend((text.len() as u32).to_le_bytes());
    code.extend(b"\x0f\x05\xb8\x3c\0\0\0\x31\xff\x0f\x05"); // syscall; mov eax, 60 (exit); xor edi, edi; syscall
    program(62, &code, text)
}

/// An ELF file of one segment.
fn program(machine: u16, code: &[u8], text: &str) -> Vec<u8> {
    let size = (64 + 56 + code.len() + text.len()) as u64;
    let base: u64 = 0x40_0000;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    for half in [2u16, machine] {
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
    elf.extend(code);
    elf.extend(text.as_bytes());
    elf
}

fn emulator() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("qemu-aarch64-static")).find(|file| file.exists())
}

fn has_emulator() -> bool {
    let found = emulator().is_some();
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

/// Nothing is registered on the host for this, and one of the users is nobody in particular.
#[test]
fn steps_of_two_processors_in_one_build_make_an_index_for_every_user() {
    if !cfg!(target_arch = "x86_64") || !has_emulator() {
        return;
    }
    for bed in Bed::each_user() {
        bed.file("hello-amd64", amd64_program()).file("hello-arm64", arm64_program());
        bed.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY --chmod=755 hello-$TARGETARCH /hello\nRUN [\"/hello\"]\nCMD [\"/hello\"]\n");
        let outcome = bed.build(&["--platform", "linux/amd64,linux/arm64", "-t", "app"]);
        outcome.succeeds().says("hello from amd64").says("hello from arm64");
        bed.run(&["run", "app"]).succeeds().says("hello from amd64");
        bed.run(&["run", "--platform", "linux/arm64", "app"]).succeeds().says("hello from arm64");
        bed.run(&["run", "--platform", "linux/s390x", "app"]).fails().says("linux/s390x");
    }
}

#[test]
fn a_missing_emulator_is_named() {
    if !cfg!(target_arch = "x86_64") || Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists() {
        return;
    }
    let bed = Bed::caller();
    bed.file("hello", arm64_program()).dockerfile("FROM scratch\nCOPY --chmod=755 hello /hello\nRUN [\"/hello\"]\n");
    let mut command = bed.command(&["build", "--progress", "plain", "--platform", "linux/arm64", "."]);
    command.env("PATH", bed.path("home"));
    let outcome = Outcome::of(command);
    outcome.fails().says("cannot run programs of linux/arm64 on this linux/amd64: no static qemu-aarch64 in PATH").says("qemu-user-static");
}

/// Nothing is in PATH and nothing is registered: what runs the step is in the image that is named.
#[test]
fn an_emulator_comes_out_of_an_image_that_is_pinned() {
    let Some(emulator) = emulator().filter(|_| cfg!(target_arch = "x86_64")) else { return };
    let maker = Bed::caller();
    let unique = maker.path("").file_name().unwrap().to_string_lossy().to_lowercase();
    let name = format!("{}/emulators-{unique}", Registry::stand_in().address());
    maker.file("qemu-aarch64-static", std::fs::read(emulator).unwrap());
    maker.dockerfile("FROM scratch\nCOPY --chmod=755 qemu-aarch64-static /usr/bin/\n").build(&["-t", &name, "--push"]).succeeds();
    let pinned = format!("{name}@{}", maker.digest(&name));
    for bed in Bed::each_user() {
        bed.file("hello", arm64_program()).dockerfile("FROM scratch\nCOPY --chmod=755 hello /hello\nRUN [\"/hello\"]\nCMD [\"/hello\"]\n");
        let without_path = |image: &str, arguments: &[&str]| {
            let mut command = bed.command(arguments);
            command.env("PATH", bed.path("home")).env("RBUILD_EMULATORS", image);
            Outcome::of(command)
        };
        let build = ["build", "--progress", "plain", "--platform", "linux/arm64", "-t", "app"];
        without_path(&pinned, &[&build[..], &["."]].concat()).succeeds().says("pull sha256:").says("hello from arm64");
        without_path(&pinned, &[&build[..], &["--offline", "--no-cache", "."]].concat()).succeeds().says("hello from arm64");
        without_path(&pinned, &["run", "app"]).succeeds().says("hello from arm64");
        let other = ["build", "--progress", "plain", "--platform", "linux/s390x", "."];
        without_path(&pinned, &other).fails().says(&format!("{pinned} has no static qemu-s390x-static or qemu-s390x"));
        without_path(&name, &other).fails().says("has no digest").says("NAME@sha256:");
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
    // The base's own is one too, whatever platform somebody asks for.
    bed.dockerfile("FROM --platform=linux/amd64 alpine\nCOPY hello /data/hello\nENTRYPOINT [\"/bin/sh\"]\n");
    bed.build(&["--platform", "linux/arm64"]).fails().says("/bin/sh is a program for amd64, the image is for linux/arm64");
    bed.dockerfile("FROM --platform=linux/amd64 alpine\nCOPY hello /data/hello\nCMD [\"sh\"]\n");
    bed.build(&["--platform", "linux/arm64"]).fails().says("/sh is a program for amd64, the image is for linux/arm64");
    bed.build(&["--platform", "linux/arm64", "--allow-foreign"]).succeeds();
    // Elsewhere it may be data.
    bed.dockerfile("FROM scratch\nCOPY --chmod=755 hello /data/hello\n").build(&[]).succeeds();
}
