//! apk's database of installed packages: paragraphs of one-letter fields. Unaware of distributions.

use super::package::{Ecosystem, Package, person};

/// The packages that are installed.
pub fn read(text: &str) -> Vec<Package> {
    text.split("\n\n").filter_map(package).collect()
}

fn package(paragraph: &str) -> Option<Package> {
    // File entries (`F:`, `R:`, `Z:`) come after; case tells the fields apart.
    let field = |wanted: &str| {
        paragraph.lines().find_map(|line| line.strip_prefix(wanted)).map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let mut package = Package::new(Ecosystem::Apk, &field("P:")?, &field("V:")?);
    package.architecture = field("A:");
    package.license = field("L:");
    package.homepage = field("U:");
    package.supplier = field("m:").and_then(|text| person(&text));
    package.upstream = field("o:").filter(|origin| *origin != package.name);
    Some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_license_and_origin() {
        let text =
            "C:Q1\nP:libcrypto3\nV:3.3.2-r0\nA:x86_64\nL:Apache-2.0\no:openssl\nm:A <a@b>\nF:lib\nR:x\n\nP:musl\nV:1.2.5-r0\no:musl\n\n";
        let found = read(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].upstream.as_deref(), found[0].license.as_deref()), (Some("openssl"), Some("Apache-2.0")));
        assert_eq!((found[1].name.as_str(), &found[1].upstream), ("musl", &None));
    }
}
