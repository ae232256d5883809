//! Signal names of STOPSIGNAL.
//! Unaware of the kernel's numbers: the text goes into the config as it stands.

const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT",
    "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    "RTMIN", "RTMAX",
];

/// A number other than 0, or a name with or without `SIG`, in any case. `invalid signal: X` is for the caller to say.
pub fn is_valid(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    NAMES.contains(&name) || real_time(name, "RTMIN+", 15) || real_time(name, "RTMAX-", 14)
}

fn real_time(name: &str, prefix: &str, last: u32) -> bool {
    let number = name.strip_prefix(prefix).filter(|digits| !digits.starts_with(['0', '+']));
    number.and_then(|digits| digits.parse::<u32>().ok()).is_some_and(|number| number <= last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_names_and_numbers() {
        for text in ["SIGTERM", "term", "9", "99", "-1", "sigrtmin+3", "RTMAX-14", "RTMIN"] {
            assert!(is_valid(text), "{text}");
        }
        for text in ["", "0", "SIG", "FOO", "RTMIN+16", "RTMAX-15", "RTMIN+03", "SIGSIGTERM", " 9"] {
            assert!(!is_valid(text), "{text}");
        }
    }
}
