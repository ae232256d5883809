//! From the text of `--chown` or USER to ids, by the user database of the root filesystem they are for.

use std::{io, path::Path};

use rustix::io::Errno;

use super::{CopyError, error::Context};
use crate::snapshot::layered::LayeredRoot;

/// A larger database is refused, as it comes from an image.
const MAX_DATABASE_SIZE: u64 = 10 << 20;

/// `user[:group]` of `--chown`, each a name or a number: a number alone is the group too, a name alone brings the group of
/// its passwd line, a name that is not found is root. Without a root filesystem there are only numbers.
pub fn resolve_chown(text: &str, root: Option<&LayeredRoot>) -> Result<(u32, u32), CopyError> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let mut ids = match number(user) {
        Some(id) => (id, id),
        None => look_up(root, "/etc/passwd", user, |fields| (id(fields, 2), id(fields, 3)))?,
    };
    if let Some(group) = group {
        ids.1 = match number(group) {
            Some(id) => id,
            None => match look_up(root, "/etc/group", group, |fields| (1, id(fields, 2)))? {
                (1, id) => id,
                // A group that is not found changes nothing.
                _ => ids.1,
            },
        };
    }
    Ok(ids)
}

/// `root` needs no database, and nothing at all is root too.
fn number(text: &str) -> Option<u32> {
    if matches!(text, "root" | "") { Some(0) } else { text.parse::<i32>().ok().map(|id| id as u32) }
}

fn id(fields: &[&str], index: usize) -> u32 {
    fields.get(index).and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// What `read` makes of the line that begins with `name`; zeros if there is none.
fn look_up(root: Option<&LayeredRoot>, path: &str, name: &str, read: impl Fn(&[&str]) -> (u32, u32)) -> Result<(u32, u32), CopyError> {
    let root = root.ok_or(CopyError::NoUserDatabase)?;
    let bytes = match root.read_file(Path::new(path), MAX_DATABASE_SIZE) {
        Err(error) if is_missing(&error) => return Ok((0, 0)),
        result => result.while_doing("read", path)?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(|line| line.trim().split(':').collect::<Vec<_>>());
    let found = lines.into_iter().find(|fields| fields[0] == name && fields.len() > 1);
    Ok(found.map_or((0, 0), |fields| read(&fields)))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR))
}
