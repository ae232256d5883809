//! A full disk: an error that says so, and a store that works again once there is room.

use std::path::Path;
use std::process::Command;

use crate::support::{Bed, noise, skip, tool};

/// A small tmpfs, unmounted at the end.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(bed: &Bed, at: &'a Path, size: &str) -> SmallDisk<'a> {
        std::fs::create_dir_all(at).unwrap();
        tool(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "tmpfs"]).arg(at));
        bed.user.own(at);
        SmallDisk(at)
    }

    fn grow(&self, size: &str) {
        tool(Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(self.0));
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

/// A disk that is full a little later each time: in the pull, the unpacking, the COPY, the RUN, the packing, the records.
#[test]
fn wherever_the_disk_is_full_the_store_works_again_with_room() {
    if !nix::unistd::Uid::effective().is_root() {
        return skip("mounting a small disk needs root");
    }
    let bed = Bed::of(*crate::support::User::all().last().unwrap());
    let place = bed.store();
    bed.dockerfile(
        "FROM alpine\nCOPY big /\nRUN cp /big /other && cat /dev/urandom | head -c 1000000 > /noise\nRUN sha256sum /big > /sum\n",
    );
    bed.file("big", (0..2_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>());
    let disk = SmallDisk::mount(&bed, &place, "300k");
    let mut failures = 0;
    for size_kib in [300, 700, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 5000, 6000, 7000, 8000, 9000, 10_000, 12_000, 14_000] {
        disk.grow(&format!("{size_kib}k"));
        let outcome = bed.build(&["-t", "app"]);
        if outcome.code != Some(0) {
            outcome.fails_with(1);
            assert!(outcome.err.contains("o space left") || outcome.err.contains("full"), "{size_kib} KiB: {outcome}");
            failures += 1;
        }
        let tmp = place.join("tmp");
        assert!(!tmp.exists() || std::fs::read_dir(tmp).unwrap().count() == 0, "{size_kib} KiB: something is left in tmp");
    }
    assert!(failures > 5, "the disk was full only {failures} times");
    disk.grow("300M");
    bed.build(&["-t", "app"]).succeeds();
    bed.run(&["fsck"]).succeeds();
    bed.run(&["run", "app", "sha256sum", "-c", "/sum"]).succeeds();
}

#[test]
fn a_full_disk_fails_the_build_and_nothing_else() {
    if !nix::unistd::Uid::effective().is_root() {
        return skip("mounting a small disk needs root");
    }
    for bed in Bed::each_user() {
        let place = bed.store();
        let disk = SmallDisk::mount(&bed, &place, "12M");
        bed.dockerfile("FROM alpine\nRUN dd if=/dev/urandom of=/big bs=1M count=30\n");
        bed.build(&["-t", "app"]).fails_with(1).says("o space left");

        bed.dockerfile("FROM alpine\nCOPY big /\n").file("big", noise(1, 30 << 20));
        bed.build(&["-t", "app"]).fails_with(1).says("o space left");

        disk.grow("300M");
        bed.build(&["-t", "app"]).succeeds();
        bed.run(&["run", "app", "stat", "-c", "%s", "/big"]).succeeds().says("31457280");
    }
}
