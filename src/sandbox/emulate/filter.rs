//! Which calls are held for emulation: those that change or tell owners and ids, and those that create files.
//! Unaware of the answers.

use super::super::bpf::{ARCH, NUMBER, answer, argument, if_any_bit, if_equal, jump, load};
use super::Scope;
use crate::sys::seccomp::Instruction;

const HOLD: u32 = libc::SECCOMP_RET_USER_NOTIF;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

#[cfg(target_arch = "x86_64")]
const OWN_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OWN_ARCH: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OWN_ARCH: u32 = 0;

/// Calls that are held and may change something; all architectures have them.
const HELD: &[libc::c_long] = &[
    libc::SYS_fchownat,
    libc::SYS_fchown,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_mknodat,
    libc::SYS_mkdirat,
    libc::SYS_symlinkat,
    libc::SYS_chroot,
];

/// Those that make devices: number and where the mode is.
#[cfg(target_arch = "x86_64")]
const MAKE_DEVICES: &[(libc::c_long, u32)] = &[(libc::SYS_mknodat, 2), (libc::SYS_mknod, 1)];
#[cfg(not(target_arch = "x86_64"))]
const MAKE_DEVICES: &[(libc::c_long, u32)] = &[(libc::SYS_mknodat, 2)];

/// Of the types of files, character and block devices alone have this bit.
const IS_DEVICE: u32 = libc::S_IFCHR & libc::S_IFBLK;

/// Those that only old architectures have.
#[cfg(target_arch = "x86_64")]
const HELD_OLD: &[libc::c_long] =
    &[libc::SYS_chown, libc::SYS_lchown, libc::SYS_mknod, libc::SYS_mkdir, libc::SYS_symlink, libc::SYS_creat];
#[cfg(not(target_arch = "x86_64"))]
const HELD_OLD: &[libc::c_long] = &[];

/// Opens are held only when they may create: number and where the flags are.
#[cfg(target_arch = "x86_64")]
const OPENS: &[(libc::c_long, u32)] = &[(libc::SYS_openat, 2), (libc::SYS_open, 1)];
#[cfg(not(target_arch = "x86_64"))]
const OPENS: &[(libc::c_long, u32)] = &[(libc::SYS_openat, 2)];

/// O_TMPFILE without O_DIRECTORY, which it contains.
const CREATES: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;

/// Calls that are held and change nothing.
const TELL: &[libc::c_long] = &[
    libc::SYS_getuid,
    libc::SYS_getgid,
    libc::SYS_geteuid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statx,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
];

/// Whether a held call changes nothing.
pub fn only_tells(number: i64) -> bool {
    TELL.contains(&number)
}

/// The filter; programs of sibling architectures are not emulated.
pub fn filter(scope: Scope) -> Vec<Instruction> {
    let mut body = vec![load(NUMBER)];
    match scope {
        Scope::Devices => hold_if_any_bit(&mut body, MAKE_DEVICES, IS_DEVICE),
        Scope::Everything => hold_everything(&mut body),
    }
    body.push(answer(ALLOW));
    let mut code = vec![load(ARCH), if_equal(OWN_ARCH, 1, 0), jump(body.len() as u32)];
    code.extend(body);
    code.push(answer(ALLOW));
    code
}

fn hold(body: &mut Vec<Instruction>, numbers: &[libc::c_long]) {
    for number in numbers {
        body.extend([if_equal(*number as u32, 0, 1), answer(HOLD)]);
    }
}

fn hold_if_any_bit(body: &mut Vec<Instruction>, calls: &[(libc::c_long, u32)], bits: u32) {
    for (number, index) in calls {
        body.extend([if_equal(*number as u32, 0, 4), load(argument(*index)), if_any_bit(bits, 0, 1), answer(HOLD), answer(ALLOW)]);
    }
}

fn hold_everything(body: &mut Vec<Instruction>) {
    hold(body, TELL);
    hold(body, HELD);
    hold(body, HELD_OLD);
    hold_if_any_bit(body, OPENS, CREATES);
    body.extend([if_equal(libc::SYS_prctl as u32, 0, 4), load(argument(0))]);
    body.extend([if_equal(libc::PR_SET_KEEPCAPS as u32, 0, 1), answer(HOLD), answer(ALLOW)]);
}
