//! npm's `package.json` and `package-lock.json`. Unaware of where they are.

use serde_json::Value;

use super::package::{Ecosystem, Package, person};

/// The package that a `package.json` speaks of; None if it has no name or version.
pub fn read_package(bytes: &[u8]) -> Result<Vec<Package>, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let (Some(name), Some(version)) = (text(&value["name"]), text(&value["version"])) else { return Ok(Vec::new()) };
    let mut package = Package::new(Ecosystem::Npm, name, version);
    package.license = license(&value);
    package.homepage = text(&value["homepage"]).map(str::to_owned);
    package.supplier = match &value["author"] {
        Value::String(author) => person(author.split(" (").next().unwrap_or(author)),
        author => {
            let address = text(&author["email"]).map(|email| format!(" <{email}>")).unwrap_or_default();
            text(&author["name"]).and_then(|name| person(&format!("{name}{address}")))
        }
    };
    Ok(vec![package])
}

/// The packages that a lock pins: of its second and third versions by path, of the first by name.
pub fn read_lock(bytes: &[u8]) -> Result<Vec<Package>, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let mut list = Vec::new();
    if let Some(packages) = value["packages"].as_object() {
        // The empty path is the project itself, a path outside of node_modules one of its parts.
        for (path, entry) in packages {
            let Some((_, of_path)) = path.rsplit_once("node_modules/") else { continue };
            list.extend(locked(text(&entry["name"]).unwrap_or(of_path), entry));
        }
    } else {
        add_dependencies(&value, &mut list, 0);
    }
    Ok(list)
}

/// Locks are made by machines; one that nests deeper was made to break something.
const MAX_NESTING: usize = 64;

fn add_dependencies(value: &Value, list: &mut Vec<Package>, depth: usize) {
    for (name, entry) in value["dependencies"].as_object().into_iter().flatten() {
        list.extend(locked(name, entry));
        if depth < MAX_NESTING {
            add_dependencies(entry, list, depth + 1);
        }
    }
}

fn locked(name: &str, entry: &Value) -> Option<Package> {
    // Links stand for directories of the project.
    if entry["link"] == Value::Bool(true) {
        return None;
    }
    let mut package = Package::new(Ecosystem::Npm, name, text(&entry["version"])?);
    package.license = license(entry);
    Some(package)
}

fn license(value: &Value) -> Option<String> {
    let one = |value: &Value| text(value).or_else(|| text(&value["type"])).map(str::to_owned);
    one(&value["license"]).or_else(|| {
        // The old form: a list, of which any may be chosen.
        let list: Vec<String> = value["licenses"].as_array()?.iter().filter_map(one).collect();
        (!list.is_empty()).then(|| list.join(" OR "))
    })
}

fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_says_who_it_is() {
        let found =
            read_package(br#"{"name":"@a/b","version":"1.0.0","license":{"type":"MIT"},"author":"A B <a@b.c> (https://x)"}"#).unwrap();
        assert_eq!((found[0].name.as_str(), found[0].license.as_deref()), ("@a/b", Some("MIT")));
        assert_eq!(found[0].supplier.as_deref(), Some("Person: A B (a@b.c)"));
        assert!(read_package(br#"{"type":"module"}"#).unwrap().is_empty());
        assert!(read_package(b"{").is_err());
    }

    #[test]
    fn locks_of_all_versions_are_read() {
        let names = |text: &str| read_lock(text.as_bytes()).unwrap().into_iter().map(|package| package.name).collect::<Vec<_>>();
        let third = r#"{"lockfileVersion":3,"packages":{"":{"name":"app","version":"1"},"node_modules/a":{"version":"1"},"node_modules/a/node_modules/@s/b":{"version":"2"},"node_modules/own":{"link":true,"resolved":"own"},"own":{"version":"0"}}}"#;
        assert_eq!(names(third), ["a", "@s/b"]);
        let first = r#"{"lockfileVersion":1,"dependencies":{"a":{"version":"1","dependencies":{"c":{"version":"3"}}}}}"#;
        assert_eq!(names(first), ["a", "c"]);
    }
}
