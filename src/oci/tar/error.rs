//! What can be wrong with an archive. Unaware of where its entries go.

use std::io;

/// An archive that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The archive's bytes could not be had: the stream broke off, or its compression is damaged.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The archive is damaged, or asks for something that is refused.
    #[error("bad archive{}: {problem}", place(entry))]
    Archive {
        /// The entry's name, empty where there is none.
        entry: String,
        /// A sentence.
        problem: String,
    },
}

impl ArchiveError {
    /// An entry that is refused.
    pub fn archive(entry: &[u8], problem: impl Into<String>) -> Self {
        Self::Archive { entry: String::from_utf8_lossy(entry).into_owned(), problem: problem.into() }
    }
}

fn place(entry: &str) -> String {
    if entry.is_empty() { String::new() } else { format!(", entry `{}`", entry.escape_debug()) }
}
