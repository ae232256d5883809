//! A process whose call is held: its strings, and its paths as paths of ours.
//!
//! Paths go through /proc/PID/root, cwd and fd, so that they start where the process would start; the names `self` and
//! the links of /dev that lead there are translated. Only extended attributes and metadata of files that the step may
//! change anyway are touched through them. Unaware of which call is held.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
};

use crate::sys::notify;

/// The thread that made a call.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// In our pid namespace.
    pub pid: u32,
    /// In our /proc, which may be that of a pid namespace further out.
    pub in_proc: u32,
    /// Its absolute paths are ours: half the way that leads through /proc.
    pub has_our_root: bool,
}

impl Target {
    /// The path that a string argument means, below directory descriptor `directory`.
    pub fn path(self, directory: i32, address: u64) -> io::Result<PathBuf> {
        let text = OsString::from_vec(notify::read_string(self.pid, address)?);
        Ok(self.locate(directory, &text))
    }

    /// The open file behind a descriptor.
    pub fn descriptor(self, number: i32) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{number}", self.in_proc))
    }

    fn locate(self, directory: i32, text: &OsStr) -> PathBuf {
        let bytes = text.as_bytes();
        if bytes.first() == Some(&b'/') {
            return self.translate(bytes).unwrap_or_else(|| match self.has_our_root {
                true => PathBuf::from(text),
                false => PathBuf::from(format!("/proc/{}/root", self.in_proc)).join(strip(text)),
            });
        }
        let base = match directory {
            libc::AT_FDCWD => PathBuf::from(format!("/proc/{}/cwd", self.in_proc)),
            number => self.descriptor(number),
        };
        // An empty name is the directory itself; joining it would ask for a directory.
        if bytes.is_empty() { base } else { base.join(text) }
    }

    /// What `self` means to the caller.
    fn translate(self, path: &[u8]) -> Option<PathBuf> {
        const WORDS: [(&[u8], &str); 6] = [
            (b"/proc/self", ""),
            (b"/proc/thread-self", ""),
            (b"/dev/fd", "/fd"),
            (b"/dev/stdin", "/fd/0"),
            (b"/dev/stdout", "/fd/1"),
            (b"/dev/stderr", "/fd/2"),
        ];
        WORDS.iter().find_map(|(word, place)| {
            let rest = path.strip_prefix(*word).filter(|rest| rest.is_empty() || rest[0] == b'/')?;
            let base = PathBuf::from(format!("/proc/{}{place}", self.in_proc));
            Some(if rest.is_empty() { base } else { base.join(strip(OsStr::from_bytes(rest))) })
        })
    }

    /// The mask of modes of new files.
    pub fn umask(self) -> u32 {
        self.status("Umask:").and_then(|mask| u32::from_str_radix(&mask, 8).ok()).unwrap_or(0o022)
    }

    /// What it may do in its user namespace.
    pub fn capabilities(self) -> u64 {
        self.status("CapEff:").and_then(|set| u64::from_str_radix(&set, 16).ok()).unwrap_or(0)
    }

    fn status(self, key: &str) -> Option<String> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.in_proc)).ok()?;
        status.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned())
    }
}

fn strip(path: &OsStr) -> &OsStr {
    let bytes = path.as_bytes();
    let start = bytes.iter().position(|byte| *byte != b'/').unwrap_or(bytes.len());
    OsStr::from_bytes(&bytes[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_start_where_the_caller_would_start() {
        let target = Target { pid: 1, in_proc: 7, has_our_root: false };
        let located = |target: Target, directory, text: &str| target.locate(directory, OsStr::new(text)).display().to_string();
        let locate = |directory, text| located(target, directory, text);
        assert_eq!(locate(libc::AT_FDCWD, "a/b"), "/proc/7/cwd/a/b");
        assert_eq!(locate(5, "a"), "/proc/7/fd/5/a");
        assert_eq!(locate(5, ""), "/proc/7/fd/5");
        assert_eq!(locate(5, "//etc/x"), "/proc/7/root/etc/x");
        assert_eq!(locate(0, "/proc/self/fd/1"), "/proc/7/fd/1");
        assert_eq!(locate(0, "/proc/selfish"), "/proc/7/root/proc/selfish");
        assert_eq!(locate(0, "/dev/stdout"), "/proc/7/fd/1");
        assert_eq!(locate(0, "/"), "/proc/7/root/");
        let target = Target { has_our_root: true, ..target };
        assert_eq!(located(target, 5, "//etc/x"), "//etc/x");
        assert_eq!(located(target, 5, "a"), "/proc/7/fd/5/a");
        assert_eq!(located(target, 0, "/proc/self/fd/1"), "/proc/7/fd/1");
    }
}
