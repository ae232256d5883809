//! The system calls that a build step has no business with, and the filter that refuses them.
//!
//! | Refused | Because |
//! |---|---|
//! | `socket` of AF_ALG and AF_VSOCK | kernel crypto and hypervisor channels: page-cache writes, host services |
//! | bpf, perf_event_open, userfaultfd, io_uring, keyctl | wide kernel surface, not namespaced |
//! | nested user namespaces and all other new namespaces | they open what the capability set closes |
//! | mount, pivot_root, fsopen, .. | a step's tree is what rbuild made it |
//! | kexec, modules, reboot, swap, clocks, quota, syslog | the machine is not the step's |
//! | ioctl TIOCSTI and TIOCLINUX | typing into somebody's terminal |
//!
//! Everything else runs at full speed: the kernel remembers calls whose answer does not depend on arguments. Programs
//! of the 32-bit sibling architecture get the same list; other architectures and x32 get ENOSYS.
//! Unaware of how a filter is installed.

use super::bpf::{ARCH, NUMBER, answer, argument, if_any_bit, if_at_least, if_equal, jump, load};
use crate::sys::seccomp::Instruction;

const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const fn refuse_with(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}
const EPERM: u32 = refuse_with(libc::EPERM);
/// For calls whose users have another way when the kernel is too old for them.
const ENOSYS: u32 = refuse_with(libc::ENOSYS);

/// System call numbers of one architecture as the kernel reports it.
struct Architecture {
    audit: u32,
    refused: &'static [u32],
    socket: u32,
    clone: u32,
    unshare: u32,
    ioctl: u32,
    /// The old door to all socket calls, whose arguments no filter can see.
    socketcall: Option<u32>,
    /// Numbers from here on belong to another ABI (x32).
    foreign_from: Option<u32>,
}

/// io_uring, the mount API, mount_setattr, quotactl_fd, open_tree_attr: the same everywhere.
const UNIFIED_EPERM: [u32; 9] = [428, 429, 430, 431, 432, 433, 442, 443, 467];
const UNIFIED_ENOSYS: [u32; 4] = [425, 426, 427, 435];

// In each list: mount, umount, umount2, pivot_root, bpf, keyctl, add_key, request_key, userfaultfd, perf_event_open,
// kexec_load, kexec_file_load, init_module, finit_module, delete_module, create_module, reboot, swapon, swapoff, acct,
// settimeofday, stime, clock_settime, clock_settime64, iopl, ioperm, lookup_dcookie, open_by_handle_at, quotactl,
// syslog, vhangup, fanotify_init, setns, vm86, vm86old, uselib, ustat, sysfs; what the architecture lacks is left out.
const X86_64: Architecture = Architecture {
    audit: 0xc000_003e,
    refused: &[
        165, 166, 155, 321, 250, 248, 249, 323, 298, 246, 320, 175, 313, 176, 174, 169, 167, 168, 163, 164, 227, 172, 173, 212, 304, 179,
        103, 153, 300, 308, 134, 136, 139,
    ],
    socket: 41,
    clone: 56,
    unshare: 272,
    ioctl: 16,
    socketcall: None,
    foreign_from: Some(0x4000_0000),
};
const I386: Architecture = Architecture {
    audit: 0x4000_0003,
    refused: &[
        21, 22, 52, 217, 357, 288, 286, 287, 374, 336, 283, 128, 350, 129, 127, 88, 87, 115, 51, 79, 25, 264, 404, 110, 101, 253, 342, 131,
        103, 111, 338, 346, 166, 113, 86, 62, 135,
    ],
    socket: 359,
    clone: 120,
    unshare: 310,
    ioctl: 54,
    socketcall: Some(102),
    foreign_from: None,
};
const AARCH64: Architecture = Architecture {
    audit: 0xc000_00b7,
    refused: &[
        40, 39, 41, 280, 219, 217, 218, 282, 241, 104, 294, 105, 273, 106, 142, 224, 225, 89, 170, 112, 18, 265, 60, 116, 58, 262, 268,
    ],
    socket: 198,
    clone: 220,
    unshare: 97,
    ioctl: 29,
    socketcall: None,
    foreign_from: None,
};
const ARM: Architecture = Architecture {
    audit: 0x4000_0028,
    refused: &[
        21, 52, 218, 386, 311, 309, 310, 388, 364, 347, 401, 128, 379, 129, 88, 87, 115, 51, 79, 262, 404, 249, 371, 131, 103, 111, 367,
        375, 86, 62, 135,
    ],
    socket: 281,
    clone: 120,
    unshare: 337,
    ioctl: 54,
    socketcall: None,
    foreign_from: None,
};

/// The filter of a step on this machine. `old_socketcall` leaves open what a 32-bit x86 C library needs for any network.
pub fn filter(old_socketcall: bool) -> Vec<Instruction> {
    let architectures: &[Architecture] = match std::env::consts::ARCH {
        "x86_64" => &[X86_64, I386],
        "aarch64" => &[AARCH64, ARM],
        // Elsewhere the capability set and the namespaces are the walls.
        _ => return Vec::new(),
    };
    program(architectures, old_socketcall)
}

fn program(architectures: &[Architecture], old_socketcall: bool) -> Vec<Instruction> {
    let mut code = vec![load(ARCH)];
    for architecture in architectures {
        let body = body(architecture, old_socketcall);
        // Jumps of conditions reach 255 instructions, those of `jump` any number.
        code.extend([if_equal(architecture.audit, 1, 0), jump(body.len() as u32)]);
        code.extend(body);
    }
    code.push(answer(ENOSYS));
    code
}

fn body(architecture: &Architecture, old_socketcall: bool) -> Vec<Instruction> {
    let mut code = vec![load(NUMBER)];
    if let Some(first) = architecture.foreign_from {
        code.extend([if_at_least(first, 0, 1), answer(ENOSYS)]);
    }
    for number in architecture.refused.iter().chain(&UNIFIED_EPERM) {
        code.extend([if_equal(*number, 0, 1), answer(EPERM)]);
    }
    for number in UNIFIED_ENOSYS {
        code.extend([if_equal(number, 0, 1), answer(ENOSYS)]);
    }
    if let Some(number) = architecture.socketcall.filter(|_| !old_socketcall) {
        code.extend([if_equal(number, 0, 1), answer(ENOSYS)]);
    }
    for number in [architecture.clone, architecture.unshare] {
        code.extend([if_equal(number, 0, 4), load(argument(0)), if_any_bit(NEW_NAMESPACES, 0, 1), answer(EPERM), answer(ALLOW)]);
    }
    let no_family = answer(refuse_with(libc::EAFNOSUPPORT));
    code.extend([if_equal(architecture.socket, 0, 5), load(argument(0))]);
    code.extend([if_equal(libc::AF_ALG as u32, 1, 0), if_equal(libc::AF_VSOCK as u32, 0, 1), no_family, answer(ALLOW)]);
    code.extend([if_equal(architecture.ioctl, 0, 5), load(argument(1))]);
    code.extend([if_equal(libc::TIOCSTI as u32, 1, 0), if_equal(libc::TIOCLINUX as u32, 0, 1), answer(EPERM), answer(ALLOW)]);
    code.push(answer(ALLOW));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer: an interpreter of the instructions used here.
    fn decide(code: &[Instruction], arch: u32, number: u32, arguments: [u32; 2]) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let Instruction { code: operation, jt, jf, k } = code[at];
            at += 1;
            let operation = u32::from(operation);
            if operation == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                value = match k {
                    NUMBER => number,
                    ARCH => arch,
                    offset if offset == argument(0) => arguments[0],
                    offset if offset == argument(1) => arguments[1],
                    other => panic!("reads at {other}"),
                };
            } else if operation == libc::BPF_RET | libc::BPF_K {
                return k;
            } else if operation == libc::BPF_JMP | libc::BPF_JA {
                at += k as usize;
            } else {
                let holds = match operation & 0xf0 {
                    libc::BPF_JEQ => value == k,
                    libc::BPF_JGE => value >= k,
                    libc::BPF_JSET => value & k != 0,
                    other => panic!("tests {other:x}"),
                };
                at += usize::from(if holds { jt } else { jf });
            }
        }
    }

    #[test]
    fn each_architecture_refuses_its_own_numbers_and_allows_the_rest() {
        for (family, sibling) in [(&[X86_64, I386], 1), (&[AARCH64, ARM], 1)] {
            let code = program(family, false);
            for architecture in family {
                let ask = |number, arguments| decide(&code, architecture.audit, number, arguments);
                for number in architecture.refused.iter().chain(&UNIFIED_EPERM) {
                    assert_eq!(ask(*number, [0, 0]), EPERM, "{number} of {:x}", architecture.audit);
                }
                assert_eq!(ask(435, [0, 0]), ENOSYS);
                assert_eq!(ask(architecture.unshare, [libc::CLONE_NEWUSER as u32, 0]), EPERM);
                assert_eq!(ask(architecture.unshare, [libc::CLONE_FS as u32, 0]), ALLOW);
                assert_eq!(ask(architecture.clone, [libc::SIGCHLD as u32, 0]), ALLOW);
                assert_eq!(ask(architecture.socket, [libc::AF_ALG as u32, 0]), refuse_with(libc::EAFNOSUPPORT));
                assert_eq!(ask(architecture.socket, [libc::AF_VSOCK as u32, 0]), refuse_with(libc::EAFNOSUPPORT));
                assert_eq!(ask(architecture.socket, [libc::AF_INET as u32, 0]), ALLOW);
                assert_eq!(ask(architecture.ioctl, [0, libc::TIOCSTI as u32]), EPERM);
                assert_eq!(ask(architecture.ioctl, [0, libc::TIOCGWINSZ as u32]), ALLOW);
                assert_eq!(ask(1, [0, 0]), ALLOW);
            }
            assert_eq!(decide(&code, 0x1234, 1, [0, 0]), ENOSYS);
            assert_eq!(family[sibling].audit & 0x8000_0000, 0);
        }
    }

    #[test]
    fn x32_and_socketcall_are_closed() {
        let ask = |open, arch, number| decide(&program(&[X86_64, I386], open), arch, number, [1, 0]);
        assert_eq!(ask(false, X86_64.audit, 0x4000_0001), ENOSYS);
        assert_eq!(ask(false, I386.audit, 102), ENOSYS);
        assert_eq!(ask(true, I386.audit, 102), ALLOW);
    }

    #[test]
    fn the_numbers_are_those_of_the_c_library() {
        let expected =
            [libc::SYS_mount, libc::SYS_bpf, libc::SYS_keyctl, libc::SYS_setns, libc::SYS_perf_event_open, libc::SYS_userfaultfd];
        let own = if cfg!(target_arch = "x86_64") { &X86_64 } else { &AARCH64 };
        for number in expected {
            assert!(own.refused.contains(&(number as u32)), "{number}");
        }
        assert_eq!(u32::try_from(libc::SYS_socket), Ok(own.socket));
        assert_eq!(u32::try_from(libc::SYS_ioctl), Ok(own.ioctl));
    }
}
