//! Who a step runs as: `USER` resolved against the image's /etc/passwd and /etc/group.
//!
//! | USER | uid | gid | supplementary groups |
//! |---|---|---|---|
//! | empty | 0 | as for `0` | as for `0` |
//! | `uid:gid` | as said | as said | none |
//! | `name`, `uid` | first passwd entry | its gid, 0 without entry | groups that list the name |
//! | `name:group`, `name:gid` | first passwd entry | as said | none |
//!
//! The primary gid is always among the supplementary ones. Unaware of how ids are changed.

use std::{io, path::Path};

use crate::sys::root::RootDir;

/// The most that is read of a user database of an image.
const MAX_DATABASE_BYTES: u64 = 10 << 20;

/// Ids and home of the user of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, the primary one first.
    pub groups: Vec<u32>,
    /// Home directory, `/` when nothing says.
    pub home: String,
}

#[derive(Debug)]
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

#[derive(Debug)]
struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: Vec<&'a str>,
}

/// Resolves `USER` in a root filesystem; the error is the sentence for the user.
pub fn resolve(spec: &str, root: &RootDir) -> Result<User, String> {
    let passwd = read_database(root, "etc/passwd")?;
    let group = read_database(root, "etc/group")?;
    resolve_in(spec, &passwd, &group)
}

/// A missing database is an empty one.
fn read_database(root: &RootDir, path: &str) -> Result<String, String> {
    match root.read_in(Path::new(path), MAX_DATABASE_BYTES) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(String::new()),
        Err(error) => Err(format!("cannot read /{path}: {error}")),
    }
}

/// Resolves `USER` against the text of the two databases.
pub fn resolve_in(spec: &str, passwd: &str, group: &str) -> Result<User, String> {
    let spec = if spec.is_empty() { "0" } else { spec };
    let (user, wanted_group) = spec.split_once(':').unwrap_or((spec, ""));
    let users: Vec<PasswdEntry> = passwd.lines().filter_map(passwd_entry).collect();
    let home_of = |uid: u32| users.iter().find(|entry| entry.uid == uid).map(|entry| entry.home).filter(|home| !home.is_empty());
    let finish = |uid: u32, gid: u32, mut groups: Vec<u32>| {
        groups.retain(|other| *other != gid);
        groups.insert(0, gid);
        User { uid, gid, groups, home: home_of(uid).unwrap_or("/").to_owned() }
    };
    if let (Ok(uid), Ok(gid)) = (user.parse(), wanted_group.parse()) {
        return Ok(finish(uid, gid, Vec::new()));
    }
    let number: Option<u32> = user.parse().ok();
    let entry = match user {
        "" => users.iter().find(|entry| entry.uid == 0),
        _ => users.iter().find(|entry| entry.name == user || Some(entry.uid) == number),
    };
    let (uid, gid) = match (entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Some(number)) => (number, 0),
        (None, None) if user.is_empty() => (0, 0),
        (None, None) => return Err(format!("unable to find user {user}: no matching entries in passwd file")),
    };
    let mut groups = group.lines().filter_map(group_entry);
    if wanted_group.is_empty() {
        let name = entry.map(|entry| entry.name);
        let listed = groups.filter(|group| name.is_some_and(|name| group.members.contains(&name)));
        return Ok(finish(uid, gid, listed.map(|group| group.gid).collect()));
    }
    let number: Option<u32> = wanted_group.parse().ok();
    match groups.find(|group| group.name == wanted_group || Some(group.gid) == number).map(|group| group.gid).or(number) {
        Some(gid) => Ok(finish(uid, gid, Vec::new())),
        None => Err(format!("unable to find group {wanted_group}: no matching entries in group file")),
    }
}

fn passwd_entry(line: &str) -> Option<PasswdEntry<'_>> {
    let mut fields = line.trim().split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(PasswdEntry { name, uid, gid, home: fields.nth(1).unwrap_or("") })
}

fn group_entry(line: &str) -> Option<GroupEntry<'_>> {
    let mut fields = line.trim().split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    let gid = fields.next()?.parse().ok()?;
    Some(GroupEntry { name, gid, members: fields.next().unwrap_or("").split(',').filter(|member| !member.is_empty()).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\napp:x:1000:1000:app:/home/app:/bin/sh\nbad line\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root\nwww-data:x:33:app\nstaff:x:50:app\napp:x:1000:\n";

    /// uid, groups, home; or the sentence.
    type Expected = Result<(u32, &'static [u32], &'static str), &'static str>;

    #[test]
    fn users_resolve_as_in_buildkit() {
        let cases: [(&str, Expected); 13] = [
            ("", Ok((0, &[0, 10], "/root"))),
            ("root", Ok((0, &[0, 10], "/root"))),
            ("0", Ok((0, &[0, 10], "/root"))),
            ("app", Ok((1000, &[1000, 33, 50], "/home/app"))),
            ("1000", Ok((1000, &[1000, 33, 50], "/home/app"))),
            ("app:staff", Ok((1000, &[50], "/home/app"))),
            ("app:50", Ok((1000, &[50], "/home/app"))),
            ("app:777", Ok((1000, &[777], "/home/app"))),
            ("1000:1000", Ok((1000, &[1000], "/home/app"))),
            ("4242", Ok((4242, &[0], "/"))),
            ("www-data", Ok((33, &[33], "/var/www"))),
            ("nosuch", Err("unable to find user nosuch: no matching entries in passwd file")),
            ("app:nosuch", Err("unable to find group nosuch: no matching entries in group file")),
        ];
        for (spec, expected) in cases {
            let found = resolve_in(spec, PASSWD, GROUP);
            let found = found.as_ref().map(|user| (user.uid, user.groups.as_slice(), user.home.as_str())).map_err(String::as_str);
            assert_eq!(found, expected, "USER {spec}");
        }
    }

    #[test]
    fn an_image_without_databases_knows_numbers_only() {
        assert_eq!(resolve_in("", "", "").unwrap().groups, [0]);
        assert_eq!(resolve_in("7:8", "", "").unwrap().gid, 8);
        assert!(resolve_in("root", "", "").is_err());
    }
}
