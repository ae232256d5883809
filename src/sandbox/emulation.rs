//! Programs of other processors: which emulator runs them, registered with the kernel for this build only.
//!
//! Since Linux 6.7 a user namespace may have a binfmt_misc of its own. Ours is mounted when the first foreign platform
//! is asked for and is gone with rbuild; the emulator is opened when it is registered (flag F), so that a step's root
//! need not have it. Where the kernel is older, what the host has registered is used. Unaware of steps.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock},
};

use rustix::{
    fs::{Mode, OFlags},
    mount::MountAttrFlags,
};

use super::probe;
use crate::{oci::Platform, sys::mountns};

/// How programs of a platform are run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Emulation {
    /// The processor does it.
    Native,
    /// By an emulator that is registered for this build.
    Own,
    /// By an emulator that the host has registered.
    Host,
}

/// Why programs of a platform cannot be run here.
#[derive(Debug, thiserror::Error)]
#[error("cannot run programs of {platform} on this {host}: {reason}")]
pub struct EmulationError {
    platform: String,
    host: String,
    reason: String,
    /// What would help, to copy and paste.
    pub fix: Option<String>,
    /// The host's registrations can't be seen from here: it may have one after all.
    pub is_uncertain: bool,
}

/// A kind of ELF file.
#[derive(Debug, Clone, Copy)]
struct Machine {
    /// As in `qemu-NAME-static`.
    qemu: &'static str,
    /// `e_machine`.
    number: u16,
    wide: bool,
    big_endian: bool,
}

/// Kept open for ever: the registrations live as long as the mount.
static OWN: OnceLock<Result<OwnedFd, String>> = OnceLock::new();
static REGISTERED: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// The names of the emulator that programs of `platform` need and that is not on this machine; None if none is needed.
pub fn lacks(platform: &Platform, search_path: &[PathBuf]) -> Option<Vec<String>> {
    let machine = machine(&platform.architecture).filter(|_| !runs_natively(&Platform::host().architecture, &platform.architecture))?;
    find_emulator(machine, search_path).is_none().then(|| machine.emulators().to_vec())
}

/// Makes sure that programs of `platform` can be executed by steps of this build: by an emulator of the machine, else by
/// the one that was brought along.
pub fn prepare(platform: &Platform, search_path: &[PathBuf], brought: Option<&File>) -> Result<Emulation, EmulationError> {
    let host = Platform::host();
    if runs_natively(&host.architecture, &platform.architecture) {
        return Ok(Emulation::Native);
    }
    let fail = |reason: String, fix: Option<String>, is_uncertain| {
        let (platform, host) = (platform.to_string(), host.to_string());
        EmulationError { platform, host, reason, fix, is_uncertain }
    };
    let Some(machine) = machine(&platform.architecture) else {
        return Err(fail("no emulator is known for it".into(), None, false));
    };
    // The kernel opens it at once: what the name stands for need not last.
    let by_handle = |file: &File| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let emulator = find_emulator(machine, search_path).or_else(|| brought.map(by_handle));
    let own = match &emulator {
        Some(path) => register(machine, path),
        None => Err(format!("no static qemu-{} in PATH", machine.qemu)),
    };
    match (own, host_has(machine)) {
        (Ok(()), _) => Ok(Emulation::Own),
        (Err(_), Seen::Registered) => Ok(Emulation::Host),
        (Err(reason), seen) => {
            let fix = match emulator {
                None => probe::emulators(),
                Some(_) => "docker run --privileged --rm tonistiigi/binfmt --install all".to_owned(),
            };
            let (why, is_uncertain) = match seen {
                Seen::Missing(why) => (why, false),
                _ => ("whether the host has registered one can't be seen from here".to_owned(), true),
            };
            Err(fail(format!("{reason}, and {why}"), Some(fix), is_uncertain))
        }
    }
}

fn runs_natively(host: &str, wanted: &str) -> bool {
    host == wanted || (host, wanted) == ("amd64", "386")
}

fn machine(architecture: &str) -> Option<Machine> {
    let (qemu, number, wide, big_endian) = match architecture {
        "amd64" => ("x86_64", 62, true, false),
        "386" => ("i386", 3, false, false),
        "arm64" => ("aarch64", 183, true, false),
        "arm" => ("arm", 40, false, false),
        "riscv64" => ("riscv64", 243, true, false),
        "ppc64le" => ("ppc64le", 21, true, false),
        "s390x" => ("s390x", 22, true, true),
        "mips64le" => ("mips64el", 8, true, false),
        "loong64" => ("loongarch64", 258, true, false),
        _ => return None,
    };
    Some(Machine { qemu, number, wide, big_endian })
}

impl Machine {
    /// What its emulator may be called.
    fn emulators(self) -> [String; 2] {
        [format!("qemu-{}-static", self.qemu), format!("qemu-{}", self.qemu)]
    }

    /// The first bytes of its programs and which bits of them count; both kinds of executables match.
    fn magic(self) -> ([u8; 20], [u8; 20]) {
        let mut magic = [0; 20];
        magic[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', if self.wide { 2 } else { 1 }, if self.big_endian { 2 } else { 1 }, 1]);
        let mut mask = [0xff; 20];
        // The ABI byte says GNU for programs with some features.
        mask[7] = 0;
        let half = |value: u16| if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        magic[16..18].copy_from_slice(&half(2));
        mask[16..18].copy_from_slice(&half(0xfffe));
        magic[18..20].copy_from_slice(&half(self.number));
        (magic, mask)
    }

    /// The line for `register`: P keeps argv[0], O and C let set-id programs keep their rights, F opens the emulator now.
    fn registration(self, emulator: &Path) -> String {
        let hex = |bytes: [u8; 20]| bytes.map(|byte| format!("\\x{byte:02x}")).concat();
        let (magic, mask) = self.magic();
        let emulator = emulator.display().to_string();
        let mark = [':', ';', '|', ','].into_iter().find(|mark| !emulator.contains(*mark)).unwrap_or(':');
        ["", &format!("rbuild-{}", self.qemu), "M", "0", &hex(magic), &hex(mask), &emulator, "POCF"].join(&mark.to_string())
    }
}

/// A static emulator: a dynamic one would look for its libraries in the step's root.
fn find_emulator(machine: Machine, search_path: &[PathBuf]) -> Option<PathBuf> {
    let names = machine.emulators();
    let candidates = names.iter().flat_map(|name| search_path.iter().map(move |directory| directory.join(name)));
    candidates.into_iter().find(|path| File::open(path).and_then(|file| is_static(&file)).unwrap_or(false))
}

/// Whether an ELF file has no interpreter.
pub fn is_static(file: &File) -> io::Result<bool> {
    let mut head = vec![0; 4096];
    let length = file.read_at(&mut head, 0)?;
    head.truncate(length);
    if head.len() < 64 || &head[..4] != b"\x7fELF" || head[4] != 2 {
        return Ok(false);
    }
    let half = |at: usize| head.get(at..at + 2).map_or(0, |bytes| usize::from(u16::from_ne_bytes([bytes[0], bytes[1]])));
    const PROGRAM_HEADERS: usize = 64;
    const INTERPRETER: [u8; 4] = 3u32.to_ne_bytes();
    let (size, count) = (half(54), half(56));
    Ok(!(0..count).any(|index| head.get(PROGRAM_HEADERS + index * size..).is_some_and(|header| header.starts_with(&INTERPRETER))))
}

fn register(machine: Machine, emulator: &Path) -> Result<(), String> {
    let own = OWN.get_or_init(|| {
        let mount = mountns::new_filesystem("binfmt_misc", &[], MountAttrFlags::empty());
        mount.map_err(|error| format!("this kernel has no binfmt_misc for user namespaces ({error})"))
    });
    let mount = own.as_ref().map_err(Clone::clone)?;
    let mut registered = REGISTERED.lock().map_err(|_| "registering broke off".to_owned())?;
    if registered.contains(machine.qemu) {
        return Ok(());
    }
    let write = || -> io::Result<()> {
        let file = rustix::fs::openat(mount.as_fd(), "register", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, machine.registration(emulator).as_bytes())?;
        Ok(())
    };
    write().map_err(|error| format!("the kernel does not register {}: {error}", emulator.display()))?;
    registered.insert(machine.qemu);
    Ok(())
}

enum Seen {
    Registered,
    Missing(String),
    /// Not mounted here.
    Nothing,
}

fn host_has(machine: Machine) -> Seen {
    let directory = Path::new("/proc/sys/fs/binfmt_misc");
    if !directory.join("register").exists() {
        return Seen::Nothing;
    }
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let texts: Vec<String> = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
    match texts.iter().find(|text| is_for(machine, text)) {
        None => Seen::Missing("the host has registered no emulator for it".into()),
        Some(text) if !text.starts_with("enabled") => Seen::Missing("the host's emulator for it is disabled".into()),
        Some(text) if !text.lines().any(|line| line.strip_prefix("flags: ").is_some_and(|flags| flags.contains('F'))) => {
            Seen::Missing("the host's emulator for it is registered without the F flag".into())
        }
        Some(_) => Seen::Registered,
    }
}

/// Whether an entry of binfmt_misc takes programs of a machine.
fn is_for(machine: Machine, entry: &str) -> bool {
    let hex = |key: &str| -> Option<Vec<u8>> {
        let text = entry.lines().find_map(|line| line.strip_prefix(key))?.trim();
        (0..text.len() / 2).map(|index| u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()).collect()
    };
    let Some(magic) = hex("magic ") else { return false };
    let mask = hex("mask ").unwrap_or_else(|| vec![0xff; magic.len()]);
    let ours = machine.magic().0;
    magic.len() == ours.len() && magic.iter().zip(&ours).zip(&mask).all(|((theirs, ours), mask)| theirs & mask == ours & mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_registered_is_what_the_kernel_shows() {
        let arm64 = machine("arm64").unwrap();
        let line = arm64.registration(Path::new("/usr/bin/qemu-aarch64-static"));
        let magic = "\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00";
        let mask = "\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff";
        assert_eq!(line, format!(":rbuild-aarch64:M:0:{magic}:{mask}:/usr/bin/qemu-aarch64-static:POCF"));
        assert!(line.len() < 1920);
        let shown = "enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: OCF\noffset 0\n\
            magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";
        assert!(is_for(arm64, shown) && !is_for(machine("riscv64").unwrap(), shown));
        let s390x = machine("s390x").unwrap().magic();
        assert_eq!((&s390x.0[16..], &s390x.1[16..18]), (&[0, 2, 0, 22][..], &[0xff, 0xfe][..]));
    }

    #[test]
    fn a_machine_runs_its_own_and_its_predecessors_programs() {
        assert!(runs_natively("amd64", "386") && runs_natively("arm64", "arm64"));
        assert!(!runs_natively("386", "amd64") && !runs_natively("arm64", "arm"));
        assert!(machine("vax").is_none());
    }
}
