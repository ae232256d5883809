//! dpkg's status file: paragraphs of fields. Unaware of distributions.

use super::package::{Ecosystem, Package, person};

/// The packages that are installed; what was removed and left its configuration is not.
pub fn read(text: &str) -> Vec<Package> {
    paragraphs(text).iter().filter_map(|fields| package(fields)).collect()
}

type Fields<'a> = Vec<(&'a str, &'a str)>;

/// Continuation lines are descriptions and lists of files: nothing for us.
fn paragraphs(text: &str) -> Vec<Fields<'_>> {
    let mut list = vec![Fields::new()];
    for line in text.lines() {
        if line.trim().is_empty() {
            list.push(Fields::new());
        } else if !line.starts_with([' ', '\t'])
            && let Some((name, value)) = line.split_once(':')
        {
            list.last_mut().expect("there is always one").push((name, value.trim()));
        }
    }
    list
}

fn package(fields: &Fields<'_>) -> Option<Package> {
    let field = |wanted: &str| {
        fields.iter().find(|(name, value)| name.eq_ignore_ascii_case(wanted) && !value.is_empty()).map(|(_, value)| (*value).to_owned())
    };
    // Single files of distroless images have no status.
    if field("Status").is_some_and(|status| !status.ends_with(" installed")) {
        return None;
    }
    let mut package = Package::new(Ecosystem::Deb, &field("Package")?, &field("Version")?);
    package.architecture = field("Architecture");
    package.homepage = field("Homepage");
    package.supplier = field("Maintainer").and_then(|text| person(&text));
    // `glibc (2.36-9)`, the version only where it differs.
    package.upstream = field("Source").map(|text| match text.split_once(" (") {
        Some((name, version)) => format!("{name}@{}", version.trim_end_matches(')')),
        None => text,
    });
    Some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_found_and_removed_ones_not() {
        let text = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc (2.36-8)\nVersion: 2.36-9\nMaintainer: GNU Libc <l@d.o>\nDescription: x\n more: text\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: half\nStatus: install ok half-configured\nVersion: 1\n";
        let found = read(text);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].version.as_str()), ("libc6", "2.36-9"));
        assert_eq!(found[0].upstream.as_deref(), Some("glibc@2.36-8"));
        assert_eq!(found[0].supplier.as_deref(), Some("Person: GNU Libc (l@d.o)"));
        assert_eq!(read("Package: base-files\nVersion: 12\n").len(), 1);
    }
}
