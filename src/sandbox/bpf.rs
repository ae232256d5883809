//! The few instructions of which seccomp filters are made.
//! Unaware of what is filtered.

use crate::sys::seccomp::Instruction;

// Offsets in `struct seccomp_data`, of which a filter sees nothing else; arguments are little-endian.

/// The call's number.
pub const NUMBER: u32 = 0;
/// The architecture of the caller.
pub const ARCH: u32 = 4;
/// The low half of an argument.
pub const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

fn statement(code: u32, k: u32) -> Instruction {
    Instruction { code: code as u16, jt: 0, jf: 0, k }
}

/// Takes a word of the call.
pub fn load(offset: u32) -> Instruction {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

/// Ends with an action.
pub fn answer(action: u32) -> Instruction {
    statement(libc::BPF_RET | libc::BPF_K, action)
}

/// Skips instructions.
pub fn jump(instructions: u32) -> Instruction {
    statement(libc::BPF_JMP | libc::BPF_JA, instructions)
}

fn condition(test: u32, k: u32, skip_if_true: u8, skip_if_false: u8) -> Instruction {
    Instruction { code: (libc::BPF_JMP | test | libc::BPF_K) as u16, jt: skip_if_true, jf: skip_if_false, k }
}

/// Skips by comparison of the word taken last.
pub fn if_equal(k: u32, skip_if_true: u8, skip_if_false: u8) -> Instruction {
    condition(libc::BPF_JEQ, k, skip_if_true, skip_if_false)
}

/// The same for `>=`.
pub fn if_at_least(k: u32, skip_if_true: u8, skip_if_false: u8) -> Instruction {
    condition(libc::BPF_JGE, k, skip_if_true, skip_if_false)
}

/// The same for common bits.
pub fn if_any_bit(k: u32, skip_if_true: u8, skip_if_false: u8) -> Instruction {
    condition(libc::BPF_JSET, k, skip_if_true, skip_if_false)
}
