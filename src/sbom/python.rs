//! Metadata of Python packages: headers as in a mail, then a description. Unaware of where it is.

use super::package::{Ecosystem, Package, person};

/// The package it speaks of; None if it has no name or version.
pub fn read(text: &str) -> Option<Package> {
    let headers = text.lines().take_while(|line| !line.trim().is_empty());
    let fields: Vec<(&str, &str)> = headers.filter(|line| !line.starts_with([' ', '\t'])).filter_map(|line| line.split_once(':')).collect();
    let field = |wanted: &str| {
        let found = fields.iter().find(|(name, value)| name.eq_ignore_ascii_case(wanted) && !matches!(value.trim(), "" | "UNKNOWN"));
        found.map(|(_, value)| value.trim().to_owned())
    };
    let mut package = Package::new(Ecosystem::Pypi, &normalised(&field("Name")?), &field("Version")?);
    package.license = field("License-Expression").or_else(|| field("License"));
    package.homepage = field("Home-page");
    let author = match (field("Author"), field("Author-email")) {
        (Some(name), Some(address)) => Some(format!("{name} <{address}>")),
        (name, address) => name.or(address),
    };
    package.supplier = author.and_then(|text| person(&text));
    Some(package)
}

/// Names that differ in case and separators only are one (PEP 503).
fn normalised(name: &str) -> String {
    let parts: Vec<&str> = name.split(['-', '_', '.']).filter(|part| !part.is_empty()).collect();
    parts.join("-").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_count_and_the_description_does_not() {
        let text =
            "Metadata-Version: 2.1\nName: Typing_Extensions\nVersion: 4.1\nLicense: UNKNOWN\nAuthor: G\nAuthor-email: g@x\n\nName: other\n";
        let found = read(text).unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str()), ("typing-extensions", "4.1"));
        assert_eq!((found.license, found.supplier.as_deref()), (None, Some("Person: G (g@x)")));
        assert_eq!(read("nothing"), None);
    }
}
