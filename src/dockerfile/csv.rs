//! One line of comma-separated fields, as `--mount` and `--device` take them.
//! Unaware of what the fields mean.

/// Splits `a,"b,c",d`. A quote may stand only around a whole field; `""` within is one quote.
pub(super) fn fields(line: &str) -> Result<Vec<String>, String> {
    let line = line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return Err("EOF".to_owned());
    }
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let (field, end) = match line[at..].strip_prefix('"') {
            Some(_) => quoted(line, at + 1)?,
            None => plain(line, at)?,
        };
        fields.push(field);
        if end >= line.len() {
            // A comma at the very end opens one more, empty field, unless a quoted one stood before it.
            if end > line.len() && line.ends_with(',') {
                fields.push(String::new());
            }
            return Ok(fields);
        }
        at = end;
    }
}

/// The field and where the next one begins; one past the end for "nothing follows a last comma".
fn plain(line: &str, at: usize) -> Result<(String, usize), String> {
    let end = line[at..].find(',').map_or(line.len(), |end| at + end);
    let field = &line[at..end];
    if let Some(quote) = field.find('"') {
        return Err(error(at + quote, "bare \" in non-quoted field"));
    }
    let next = if end + 1 == line.len() { line.len() + 1 } else { end + 1 };
    Ok((field.to_owned(), if end == line.len() { end } else { next }))
}

fn quoted(line: &str, start: usize) -> Result<(String, usize), String> {
    let mut field = String::new();
    let mut at = start;
    loop {
        let Some(length) = line[at..].find('"') else {
            return Err(error(at, "extraneous or missing \" in quoted-field"));
        };
        field.push_str(&line[at..at + length]);
        at += length + 1;
        match line[at..].chars().next() {
            None => return Ok((field, at)),
            Some(',') if at + 1 == line.len() => return Ok((field, at + 2)),
            Some(',') => return Ok((field, at + 1)),
            Some('"') => {
                field.push('"');
                at += 1;
            }
            Some(_) => return Err(error(at - 1, "extraneous or missing \" in quoted-field")),
        }
    }
}

fn error(at: usize, what: &str) -> String {
    format!("parse error on line 1, column {}: {what}", at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_fields() {
        for (line, expected) in [
            ("a", &["a"][..]),
            ("type=bind,target=/x", &["type=bind", "target=/x"]),
            ("\"a,b\",c", &["a,b", "c"]),
            ("\"a\"\"b\"", &["a\"b"]),
            ("a,,b", &["a", "", "b"]),
            ("a,", &["a", ""]),
            ("\"a\",", &["a", ""]),
            (",", &["", ""]),
            ("a\r\n", &["a"]),
        ] {
            assert_eq!(fields(line).unwrap(), expected, "{line:?}");
        }
    }

    #[test]
    fn refuses_stray_quotes() {
        for (line, error) in [
            ("", "EOF"),
            ("a\"b", "parse error on line 1, column 2: bare \" in non-quoted field"),
            ("\"a", "parse error on line 1, column 2: extraneous or missing \" in quoted-field"),
            ("\"a\"b", "parse error on line 1, column 3: extraneous or missing \" in quoted-field"),
        ] {
            assert_eq!(fields(line), Err(error.to_owned()), "{line:?}");
        }
    }
}
