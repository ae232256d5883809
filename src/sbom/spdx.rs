//! An SPDX 2.3 document in JSON. Sorted, with the time of what it is about: the same content, the same bytes.
//! Unaware of how packages are found.

use serde_json::{Map, Value, json};

use super::{Inventory, Package};

/// SPDX's word for what nobody looked at.
const NO_ASSERTION: &str = "NOASSERTION";

/// What a document is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// A name for people.
    pub name: String,
    /// Digest of the manifest, in hex, where there is one.
    pub sha256: Option<String>,
    /// When it was made: RFC 3339; the beginning of 1970 if that is not known.
    pub created: Option<String>,
}

/// The document. `tool` is what made it, `name-version`.
pub fn document(subject: &Subject, inventory: &Inventory, tool: &str) -> Vec<u8> {
    let packages = inventory.packages();
    let mut ids = vec!["SPDXRef-Image".to_owned()];
    let mut list = vec![image(subject)];
    for (url, package) in &packages {
        let id = id(url, package);
        list.push(entry(&id, url, package));
        ids.push(id);
    }
    let mut relationships = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image")];
    relationships.extend(ids[1..].iter().map(|id| relation("SPDXRef-Image", "CONTAINS", id)));
    let mut root = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject.name,
        "documentNamespace": "",
        "creationInfo": { "created": created(subject), "creators": [format!("Tool: {tool}")] },
    });
    let unreadable = inventory.unreadable();
    if !unreadable.is_empty() {
        let lines: Vec<String> = unreadable.iter().map(|(path, reason)| format!("{path} was not read: {reason}")).collect();
        root["comment"] = json!(lines.join("\n"));
    }
    root["packages"] = json!(list);
    root["relationships"] = json!(relationships);
    // Documents with one namespace must be one document: it is made of all that is in it.
    let hash = blake3::hash(root.to_string().as_bytes()).to_hex();
    root["documentNamespace"] = json!(format!("https://spdx.org/spdxdocs/rbuild-{}", &hash[..40]));
    let mut bytes = serde_json::to_vec_pretty(&root).expect("a JSON value");
    bytes.push(b'\n');
    bytes
}

fn image(subject: &Subject) -> Value {
    let mut map = Map::new();
    map.insert("name".to_owned(), json!(subject.name));
    map.insert("SPDXID".to_owned(), json!("SPDXRef-Image"));
    if let Some(digest) = &subject.sha256 {
        map.insert("versionInfo".to_owned(), json!(format!("sha256:{digest}")));
        map.insert("checksums".to_owned(), json!([{ "algorithm": "SHA256", "checksumValue": digest }]));
    }
    add_unknown(&mut map);
    map.insert("primaryPackagePurpose".to_owned(), json!("CONTAINER"));
    Value::Object(map)
}

fn entry(id: &str, url: &str, package: &Package) -> Value {
    let mut map = Map::new();
    map.insert("name".to_owned(), json!(package.name));
    map.insert("SPDXID".to_owned(), json!(id));
    map.insert("versionInfo".to_owned(), json!(package.version));
    map.insert("supplier".to_owned(), json!(package.supplier.as_deref().unwrap_or(NO_ASSERTION)));
    add_unknown(&mut map);
    if let Some(homepage) = package.homepage.as_ref().filter(|text| is_url(text)) {
        map.insert("homepage".to_owned(), json!(homepage));
    }
    if let Some(sum) = &package.sha256 {
        map.insert("checksums".to_owned(), json!([{ "algorithm": "SHA256", "checksumValue": sum }]));
    }
    match package.license.as_deref().map(|text| (text, expression(text))) {
        Some((_, Some(expression))) => drop(map.insert("licenseDeclared".to_owned(), json!(expression))),
        Some((text, None)) => drop(map.insert("licenseComments".to_owned(), json!(format!("its maker says: {text}")))),
        None => {}
    }
    let files: Vec<&str> = package.found_in.iter().map(String::as_str).collect();
    map.insert("sourceInfo".to_owned(), json!(format!("found in {}", files.join(", "))));
    let reference = json!({ "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": url });
    map.insert("externalRefs".to_owned(), json!([reference]));
    Value::Object(map)
}

fn add_unknown(map: &mut Map<String, Value>) {
    map.insert("downloadLocation".to_owned(), json!(NO_ASSERTION));
    map.insert("filesAnalyzed".to_owned(), json!(false));
    for key in ["licenseConcluded", "licenseDeclared", "copyrightText"] {
        map.insert(key.to_owned(), json!(NO_ASSERTION));
    }
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// Letters, digits, `.` and `-` only; the hash keeps apart what they make equal.
fn id(url: &str, package: &Package) -> String {
    let readable: String = package.name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    let hash = blake3::hash(url.as_bytes()).to_hex();
    format!("SPDXRef-{}-{}-{}", package.ecosystem.name(), readable.trim_matches('-'), &hash[..16])
}

/// A license text that is an expression of known identifiers, in SPDX's spelling.
fn expression(text: &str) -> Option<String> {
    // References need a text in the document, which nobody has.
    if text.contains("Ref-") {
        return None;
    }
    let parsed = spdx::Expression::parse(text).ok()?;
    Some(parsed.to_string())
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| rest.contains('.') && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"{}|\\^`".contains(&byte)))
}

/// To the second, as SPDX wants it.
fn created(subject: &Subject) -> String {
    let parsed = subject.created.as_ref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let seconds = parsed.map_or(0, |time| time.as_second());
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sbom::Format;

    fn inventory(first: &str, second: &str) -> Inventory {
        let mut inventory = Inventory::default();
        for path in [first, second] {
            let text = format!("Package: {}\nVersion: 1+x\nArchitecture: amd64\n", path.rsplit('/').next().unwrap());
            inventory.add(path, Format::Dpkg, text.as_bytes());
        }
        inventory
    }

    #[test]
    fn the_same_files_give_the_same_bytes_in_any_order() {
        let subject = Subject { name: "app".to_owned(), sha256: Some("ab".repeat(32)), created: Some("2024-01-02T03:04:05.6Z".to_owned()) };
        let (a, b) = ("var/lib/dpkg/status.d/a", "var/lib/dpkg/status.d/b");
        let one = document(&subject, &inventory(a, b), "rbuild-1");
        assert_eq!(one, document(&subject, &inventory(b, a), "rbuild-1"));
        let value: Value = serde_json::from_slice(&one).unwrap();
        assert_eq!(value["creationInfo"]["created"], "2024-01-02T03:04:05Z");
        assert_eq!(value["packages"].as_array().unwrap().len(), 3);
        assert_eq!(value["relationships"][2]["relationshipType"], "CONTAINS");
        let other = Subject { created: None, ..subject };
        let value: Value = serde_json::from_slice(&document(&other, &Inventory::default(), "rbuild-1")).unwrap();
        assert_eq!(value["creationInfo"]["created"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn only_expressions_are_declared() {
        assert_eq!(expression("MIT OR Apache-2.0").as_deref(), Some("MIT OR Apache-2.0"));
        for other in ["GPLv2+", "BSD", "see LICENSE", "LicenseRef-own", ""] {
            assert_eq!(expression(other), None, "{other}");
        }
        assert!(is_url("https://a.example/x?y=1") && !is_url("https://a b.c") && !is_url("example.org"));
    }
}
