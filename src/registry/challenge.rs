//! `WWW-Authenticate` headers. Pure; unaware of how a challenge is answered.

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A token from `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
    /// User and password with each request.
    Basic,
}

/// Parses one header's value; a value may hold several challenges, unknown schemes are skipped.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let after = after.trim_start_matches(' ');
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = parameter_value(value.trim_start_matches(' '));
            if let Some((_, parameters)) = challenges.last_mut() {
                parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = after;
        } else {
            challenges.push((word.to_ascii_lowercase(), Vec::new()));
            rest = after;
        }
        rest = rest.trim_start_matches([' ', ',']);
    }
    challenges.into_iter().filter_map(|(scheme, parameters)| known(&scheme, parameters)).collect()
}

fn known(scheme: &str, parameters: Vec<(String, String)>) -> Option<Challenge> {
    let find = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer { realm: find("realm")?, service: find("service"), scope: find("scope") }),
        _ => None,
    }
}

/// A token or a quoted string, and what follows it.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[position + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned), scope: scope.map(str::to_owned) }
    }

    #[test]
    fn challenges_are_read() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://a/token",service="a",scope="repository:x:pull,push""#,
                vec![bearer("https://a/token", Some("a"), Some("repository:x:pull,push"))],
            ),
            (r#"Basic realm="Registry Realm""#, vec![Challenge::Basic]),
            (r#"BASIC"#, vec![Challenge::Basic]),
            (
                r#"Negotiate, Bearer realm=https://a/t , service = "b\"c", Basic realm=x"#,
                vec![bearer("https://a/t", Some("b\"c"), None), Challenge::Basic],
            ),
            (r#"Bearer service="no realm""#, vec![]),
            ("", vec![]),
            (r#"Bearer realm="unclosed"#, vec![bearer("unclosed", None, None)]),
        ] {
            assert_eq!(parse(header), expected, "{header}");
        }
    }
}
