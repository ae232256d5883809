//! A file that appears only when it is whole, and never through a link.
//! Unaware of what is written.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::{
    error::{ExportError, IoContext, Result},
    meter::Meter,
    unnamed::Unnamed,
};

/// Where one file of output goes.
#[derive(Debug)]
pub enum FileDestination {
    /// A path. A link there is replaced, not followed; a device or FIFO is written to.
    Path(PathBuf),
    /// Something open, such as standard output.
    Stream(File),
}

/// A destination being written.
#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    kind: Kind,
    meter: Meter,
}

#[derive(Debug)]
enum Kind {
    Unnamed(Unnamed),
    Straight(File),
}

/// Writes a small file like any other output: as a whole, and never through a link.
pub fn write_file(destination: FileDestination, bytes: &[u8]) -> Result<()> {
    let mut output = Output::open(destination, &Meter::default())?;
    output.write_all(bytes).at("write", output.path())?;
    output.finish()
}

impl Output {
    pub(super) fn open(destination: FileDestination, meter: &Meter) -> Result<Self> {
        let meter = meter.clone();
        match destination {
            FileDestination::Stream(file) => Ok(Self { path: "the output stream".into(), kind: Kind::Straight(file), meter }),
            FileDestination::Path(path) if must_be_opened(&path) => {
                let file = File::options().write(true).open(&path).at("open", &path)?;
                Ok(Self { path, kind: Kind::Straight(file), meter })
            }
            FileDestination::Path(path) => {
                if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                    return Err(ExportError::IsDirectory { path });
                }
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
                let parent = rustix::fs::open(parent, flags, Mode::empty()).at("open the directory of", &path)?;
                let Some(name) = path.file_name() else { return Err(ExportError::IsDirectory { path }) };
                let unnamed = Unnamed::create(parent, name).at("create", &path)?;
                Ok(Self { path, kind: Kind::Unnamed(unnamed), meter })
            }
        }
    }

    /// Gives the file its name.
    pub(super) fn finish(mut self) -> Result<()> {
        self.flush().at("write", &self.path)?;
        match self.kind {
            Kind::Straight(_) => Ok(()),
            Kind::Unnamed(unnamed) => unnamed.finish().at("name", self.path),
        }
    }

    /// For messages.
    pub(super) fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.kind {
            Kind::Unnamed(unnamed) => unnamed.file.write(bytes)?,
            Kind::Straight(file) => file.write(bytes)?,
        };
        self.meter.add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Unnamed(unnamed) => unnamed.file.flush(),
            Kind::Straight(file) => file.flush(),
        }
    }
}

/// `/dev/stdout`, a device, a FIFO: things that a file must not replace.
fn must_be_opened(path: &Path) -> bool {
    let is_special = fs::metadata(path).is_ok_and(|metadata| {
        let kind = metadata.file_type();
        kind.is_char_device() || kind.is_block_device() || kind.is_fifo()
    });
    is_special || path.starts_with("/dev") || path.starts_with("/proc")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) -> Result<()> {
        write_file(FileDestination::Path(path.to_owned()), text.as_bytes())
    }

    #[test]
    fn a_link_is_replaced_and_its_target_kept() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("out.tar");
        fs::write(top.path().join("target"), "kept").unwrap();
        std::os::unix::fs::symlink("target", &path).unwrap();
        write(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_to_string(top.path().join("target")).unwrap(), "kept");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn an_unfinished_file_leaves_the_old_one_and_nothing_else() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("out.tar");
        fs::write(&path, "old").unwrap();
        let mut output = Output::open(FileDestination::Path(path.clone()), &Meter::default()).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1);
    }

    #[test]
    fn devices_are_written_to_and_directories_refused() {
        write(Path::new("/dev/null"), "x").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        let top = tempfile::tempdir().unwrap();
        assert!(matches!(write(top.path(), "x"), Err(ExportError::IsDirectory { .. })));
        let missing = top.path().join("no/such");
        assert!(write(&missing, "x").unwrap_err().to_string().ends_with("no/such"));
    }
}
