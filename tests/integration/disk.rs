//! A full disk: an error that says so, and a store that works again once there is room.

use std::path::Path;
use std::process::Command;

use crate::support::{Bed, skip, tool};

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

        bed.dockerfile("FROM alpine\nCOPY big /\n").file("big", vec![7u8; 30 << 20]);
        bed.build(&["-t", "app"]).fails_with(1).says("o space left");

        disk.grow("300M");
        bed.build(&["-t", "app"]).succeeds();
        bed.run(&["run", "app", "stat", "-c", "%s", "/big"]).succeeds().says("31457280");
    }
}
