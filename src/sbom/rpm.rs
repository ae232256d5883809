//! rpm's databases: where each keeps the headers of packages, and what a header says. Lengths and offsets come from the
//! file and are not believed. Unaware of distributions.

use rusqlite::Connection;

use super::package::{Ecosystem, Package, clean};

/// More than any header has.
const MAX_ENTRIES: u32 = 65_536;

/// Tags of a header's entries.
mod tag {
    pub const NAME: u32 = 1000;
    pub const VERSION: u32 = 1001;
    pub const RELEASE: u32 = 1002;
    pub const EPOCH: u32 = 1003;
    pub const VENDOR: u32 = 1011;
    pub const LICENSE: u32 = 1014;
    pub const URL: u32 = 1020;
    pub const ARCHITECTURE: u32 = 1022;
    pub const SOURCE_RPM: u32 = 1044;
}

/// `rpmdb.sqlite`.
pub fn read_sqlite(bytes: &[u8]) -> Result<Vec<Package>, String> {
    let fail = |error: rusqlite::Error| error.to_string();
    let mut connection = Connection::open_in_memory().map_err(fail)?;
    // In memory there is no log beside the file; what is in the file itself is whole.
    let mut image = bytes.to_vec();
    if let Some(modes) = image.get_mut(18..20) {
        modes.fill(1);
    }
    connection.deserialize_read_exact("main", &image[..], image.len(), true).map_err(fail)?;
    let mut select = connection.prepare("SELECT blob FROM Packages ORDER BY hnum").map_err(fail)?;
    let blobs = select.query_map([], |row| row.get::<_, Vec<u8>>(0)).map_err(fail)?;
    let mut list = Vec::new();
    for blob in blobs {
        list.extend(package(&blob.map_err(fail)?)?);
    }
    Ok(list)
}

/// `Packages.db`: a table of slots, each of which points at a blob.
pub fn read_ndb(bytes: &[u8]) -> Result<Vec<Package>, String> {
    const SLOT_SIZE: usize = 16;
    const BLOCK_SIZE: usize = 16;
    const PAGE_SIZE: usize = 4096;
    let number = |at: usize| little(bytes, at).ok_or("it ends too early");
    if bytes.get(..4) != Some(b"RpmP") {
        return Err("it is no package database".to_owned());
    }
    let slots_end = (number(12)? as usize).saturating_mul(PAGE_SIZE).min(bytes.len());
    let mut list = Vec::new();
    // The header takes the place of two slots.
    for slot in (2 * SLOT_SIZE..slots_end).step_by(SLOT_SIZE) {
        if bytes.get(slot..slot + 4) != Some(b"Slot") {
            return Err("a slot is damaged".to_owned());
        }
        if number(slot + 4)? == 0 {
            continue;
        }
        let blob = (number(slot + 8)? as usize).saturating_mul(BLOCK_SIZE);
        let length = number(blob.saturating_add(12))? as usize;
        let start = blob + BLOCK_SIZE;
        let header = bytes.get(start..start.saturating_add(length)).ok_or("a header is cut off")?;
        list.extend(package(header)?);
    }
    Ok(list)
}

/// A header: number of entries, length of the data, entries of 16 bytes, data; big-endian.
struct Header<'a> {
    entries: &'a [u8],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, String> {
        let cut = || "a header is cut off".to_owned();
        let count = big(bytes, 0).ok_or_else(cut)?;
        let length = big(bytes, 4).ok_or_else(cut)? as usize;
        if count > MAX_ENTRIES {
            return Err(format!("a header has {count} entries"));
        }
        let end = 8 + 16 * count as usize;
        let entries = bytes.get(8..end).ok_or_else(cut)?;
        let data = bytes.get(end..end.saturating_add(length)).ok_or_else(cut)?;
        Ok(Self { entries, data })
    }

    fn at(&self, tag: u32) -> Option<&'a [u8]> {
        let entry = self.entries.chunks_exact(16).find(|entry| big(entry, 0) == Some(tag))?;
        self.data.get(big(entry, 8)? as usize..)
    }

    /// Strings end with a zero; of a list it is the first.
    fn text(&self, tag: u32) -> Option<String> {
        let text = self.at(tag)?.split(|byte| *byte == 0).next()?;
        let text = String::from_utf8_lossy(text).trim().to_owned();
        (!text.is_empty() && text != "(none)").then_some(text)
    }
}

/// The package of a header; None for what is no package: keys that signatures are checked with.
fn package(bytes: &[u8]) -> Result<Option<Package>, String> {
    let header = Header::of(bytes)?;
    let (Some(name), Some(version)) = (header.text(tag::NAME), header.text(tag::VERSION)) else { return Ok(None) };
    if name == "gpg-pubkey" {
        return Ok(None);
    }
    let version = match header.text(tag::RELEASE) {
        Some(release) => format!("{version}-{release}"),
        None => version,
    };
    let mut package = Package::new(Ecosystem::Rpm, &name, &version);
    package.epoch = header.at(tag::EPOCH).and_then(|data| big(data, 0)).map(|epoch| epoch.to_string());
    package.architecture = header.text(tag::ARCHITECTURE);
    package.license = header.text(tag::LICENSE);
    package.supplier = header.text(tag::VENDOR).map(|vendor| format!("Organization: {}", clean(&vendor)));
    package.homepage = header.text(tag::URL);
    package.upstream = header.text(tag::SOURCE_RPM);
    Ok(Some(package))
}

fn big(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(four.try_into().expect("four bytes")))
}

fn little(bytes: &[u8], at: usize) -> Option<u32> {
    big(bytes, at).map(u32::swap_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(texts: &[(u32, &str)]) -> Vec<u8> {
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        for (tag, text) in texts {
            for number in [*tag, 6, data.len() as u32, 1] {
                entries.extend(number.to_be_bytes());
            }
            data.extend(text.bytes().chain([0]));
        }
        let mut all = (texts.len() as u32).to_be_bytes().to_vec();
        all.extend((data.len() as u32).to_be_bytes());
        [all, entries, data].concat()
    }

    fn bash() -> Vec<u8> {
        let texts = [
            (tag::NAME, "bash"),
            (tag::VERSION, "5.2"),
            (tag::RELEASE, "1.fc40"),
            (tag::ARCHITECTURE, "x86_64"),
            (tag::LICENSE, "GPL-3.0-or-later"),
        ];
        header(&texts)
    }

    #[test]
    fn a_sqlite_database_is_read_from_its_bytes() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)", []).unwrap();
        for blob in [bash(), header(&[(tag::NAME, "gpg-pubkey"), (tag::VERSION, "1")])] {
            connection.execute("INSERT INTO Packages (blob) VALUES (?1)", [blob]).unwrap();
        }
        let bytes = connection.serialize("main").unwrap();
        let found = read_sqlite(&bytes).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].version.as_str()), ("bash", "5.2-1.fc40"));
        assert!(read_sqlite(&bytes[..2000]).is_err());
        assert!(read_sqlite(b"").is_err());
    }

    #[test]
    fn slots_lead_to_headers() {
        let mut bytes = vec![0; 4096];
        bytes[..4].copy_from_slice(b"RpmP");
        bytes[12..16].copy_from_slice(&1_u32.to_le_bytes());
        for slot in (32..4096).step_by(16) {
            bytes[slot..slot + 4].copy_from_slice(b"Slot");
        }
        bytes[36..40].copy_from_slice(&1_u32.to_le_bytes());
        bytes[40..44].copy_from_slice(&256_u32.to_le_bytes());
        let blob = bash();
        bytes.extend(b"BlbS\x01\0\0\0\0\0\0\0");
        bytes.extend((blob.len() as u32).to_le_bytes());
        bytes.extend(&blob);
        assert_eq!(read_ndb(&bytes).unwrap()[0].name, "bash");
        assert!(read_ndb(&bytes[..4200]).is_err());
        assert!(read_ndb(b"other").is_err());
    }

    #[test]
    fn damaged_headers_are_errors_and_never_panics() {
        let whole = bash();
        for length in 0..whole.len() {
            assert!(package(&whole[..length]).is_err(), "{length}");
        }
        assert!(package(&[0xff; 64]).is_err());
    }
}
