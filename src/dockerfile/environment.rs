//! Variables and their values, for lint, outline and plan alike. Unaware of where they come from.

use std::collections::BTreeSet;

use super::expand::Lookup;

/// Build arguments that steer the builder and are no variables.
pub const NOT_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Variables in the order they were set last, as BuildKit's `EnvList` has them: a RUN sees them in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// From pairs; later ones replace earlier ones.
    pub fn new<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut environment = Self::default();
        environment.set_all(pairs);
        environment
    }

    /// Sets or replaces.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        self.remove(&name);
        self.0.push((name, value.into()));
    }

    /// Sets many, in time that grows with their number.
    pub fn set_all<N: Into<String>, V: Into<String>>(&mut self, pairs: impl IntoIterator<Item = (N, V)>) {
        self.0.extend(pairs.into_iter().map(|(name, value)| (name.into(), value.into())));
        let mut seen = BTreeSet::new();
        self.0.reverse();
        self.0.retain(|(name, _)| seen.insert(name.clone()));
        self.0.reverse();
    }

    /// Forgets a variable.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    /// What a variable is worth.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The names, in order.
    pub fn iter_names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Names and values, in order.
    pub fn to_list(&self) -> Vec<(String, String)> {
        self.0.clone()
    }
}

impl Lookup for Environment {
    fn get(&self, name: &str) -> Option<String> {
        self.value(name).map(str::to_owned)
    }

    fn names(&self) -> Vec<String> {
        self.iter_names().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_stands_where_it_was_set_last() {
        let mut environment = Environment::new([("A", "1"), ("B", "2"), ("A", "3")]);
        assert_eq!(environment.to_list(), [("B", "2"), ("A", "3")].map(|(name, value)| (name.to_owned(), value.to_owned())));
        environment.set("B", "4");
        environment.set_all([("C", "5"), ("A", "6"), ("C", "7")]);
        assert_eq!(environment.iter_names().collect::<Vec<_>>(), ["B", "A", "C"]);
        assert_eq!(environment.value("C"), Some("7"));
        environment.remove("A");
        assert_eq!(environment.names(), ["B", "C"]);
    }
}
