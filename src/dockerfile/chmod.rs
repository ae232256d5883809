//! `--chmod`: an octal number or chmod(1)'s symbolic clauses.
//! Unaware of files: a mode goes in, a mode comes out.

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const EXECUTE: u32 = 0o111;
/// What `a` and an absent class stand for where bits are cleared.
const ALL_BUT_STICKY: u32 = 0o6777;

/// What to make of a mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// These bits, whatever they were.
    Octal(u32),
    /// Clause after clause.
    Symbolic(Vec<Step>),
}

/// One change of a symbolic mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Sets bits.
    Set(u32),
    /// Clears bits.
    Clear(u32),
    /// `X`: sets bits on directories and on what somebody may execute.
    SetIfExecutable(u32),
    /// `g=u`: copies one class's bits to others.
    Copy {
        /// Right shift that brings the class's bits down.
        from_shift: u32,
        /// The bits that may change.
        to: u32,
        /// `+`, `-` or `=`.
        operator: char,
    },
}

impl Chmod {
    /// Reads a mode; the messages are BuildKit's.
    pub fn parse(text: &str) -> Result<Self, String> {
        let no_octal = || format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777");
        match super::number::parse_unsigned(text, 8) {
            Some(mode) if mode <= 0o7777 => return Ok(Self::Octal(mode)),
            Some(_) => return Err(no_octal()),
            None => {}
        }
        if text.starts_with(|ch: char| ch.is_ascii_digit()) {
            return Err(no_octal());
        }
        let mut steps = Vec::new();
        for clause in text.split(',') {
            read_clause(clause, &mut steps).ok_or("invalid syntax")?;
        }
        Ok(Self::Symbolic(steps))
    }

    /// The mode (permission, set-id and sticky bits; others pass through) after the change.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let before = mode & 0o7777;
        let after = match self {
            Self::Octal(bits) => *bits,
            Self::Symbolic(steps) => {
                let executable = is_dir || before & EXECUTE != 0;
                steps.iter().fold(before, |mode, step| step.apply(mode, executable))
            }
        };
        (mode & !0o7777) | (after & 0o7777)
    }
}

impl Step {
    fn apply(self, mode: u32, executable: bool) -> u32 {
        match self {
            Self::Set(bits) => mode | bits,
            Self::Clear(bits) => mode & !bits,
            Self::SetIfExecutable(bits) if executable => mode | bits,
            Self::SetIfExecutable(_) => mode,
            Self::Copy { from_shift, to, operator } => {
                let class = mode >> from_shift & 0o7;
                let copied = (class << 6 | class << 3 | class) & to;
                match operator {
                    '+' => mode | copied,
                    '-' => mode & !copied,
                    _ => (mode & !(to & 0o777)) | copied,
                }
            }
        }
    }
}

/// `[ugoa]*` and one or more `[-+=][rwxXst]*` or `[-+=][ugo]`.
fn read_clause(clause: &str, steps: &mut Vec<Step>) -> Option<()> {
    let operators = clause.find(|ch| !matches!(ch, 'u' | 'g' | 'o' | 'a'))?;
    let who = clause[..operators].chars().fold(0, |who, class| {
        who | match class {
            'a' => ALL_BUT_STICKY,
            'u' => SET_UID | 0o700,
            'g' => SET_GID | 0o070,
            _ => 0o007,
        }
    });
    let mut action = Action { who, equal_done: false, steps };
    let mut chars = clause[operators..].chars().peekable();
    while let Some(operator) = chars.next() {
        if !matches!(operator, '+' | '-' | '=') {
            return None;
        }
        action.read(operator, &mut chars);
    }
    Some(())
}

/// What one class is told.
struct Action<'a> {
    who: u32,
    equal_done: bool,
    steps: &'a mut Vec<Step>,
}

impl Action<'_> {
    fn read(&mut self, operator: char, chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
        if operator == '=' {
            self.equal_done = false;
        }
        self.who &= !STICKY;
        let (mut bits, mut conditional) = (0, 0);
        while let Some(letter) = chars.next_if(|ch| matches!(ch, 'r' | 'w' | 'x' | 'X' | 's' | 't' | 'u' | 'g' | 'o')) {
            // Set-id and sticky bits mean nothing to others alone.
            let not_only_others = self.who == 0 || self.who & !0o007 != 0;
            match letter {
                'r' => bits |= 0o444,
                'w' => bits |= 0o222,
                'x' => bits |= EXECUTE,
                'X' if operator == '-' => bits |= EXECUTE,
                'X' => conditional |= EXECUTE,
                's' if not_only_others => bits |= SET_UID | SET_GID,
                't' if not_only_others => {
                    self.who |= STICKY;
                    bits |= STICKY;
                }
                's' | 't' => {}
                class => {
                    self.flush(operator, &mut bits, &mut conditional);
                    self.copy(operator, class);
                }
            }
        }
        self.flush(operator, &mut bits, &mut conditional);
    }

    /// Emits what was gathered; a bare `=` clears.
    fn flush(&mut self, operator: char, bits: &mut u32, conditional: &mut u32) {
        if *bits != 0 || (operator == '=' && !self.equal_done) {
            let allowed = if self.who == 0 { 0o7777 } else { self.who };
            match operator {
                '-' => self.steps.push(Step::Clear(*bits & allowed)),
                '+' => self.steps.push(Step::Set(*bits & allowed)),
                _ => {
                    self.equal_done = true;
                    self.steps.push(Step::Clear(if self.who == 0 { ALL_BUT_STICKY } else { self.who }));
                    self.steps.push(Step::Set(*bits & allowed));
                }
            }
        }
        if *conditional != 0 {
            self.steps.push(Step::SetIfExecutable(*conditional & if self.who == 0 { 0o7777 } else { self.who }));
        }
        (*bits, *conditional) = (0, 0);
    }

    fn copy(&mut self, operator: char, class: char) {
        if operator == '=' {
            self.equal_done = true;
        }
        let from_shift = match class {
            'u' => 6,
            'g' => 3,
            _ => 0,
        };
        let to = if self.who == 0 { 0o777 } else { self.who & 0o777 };
        self.steps.push(Step::Copy { from_shift, to, operator });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_modes_as_chmod_does() {
        for (text, before, is_dir, after) in [
            ("644", 0o4777, false, 0o644),
            ("0", 0o777, false, 0),
            ("07777", 0, false, 0o7777),
            ("go-w", 0o666, false, 0o644),
            ("u=rw,g=r,o=r", 0o777, false, 0o644),
            ("a+X", 0o644, false, 0o644),
            ("a+X", 0o644, true, 0o755),
            ("a+X", 0o744, false, 0o755),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("u+rw,g+r,o-x,o+w", 0o011, false, 0o652),
            ("go=", 0o777, false, 0o700),
            ("go=u-w", 0o700, false, 0o755),
            ("g=u", 0o740, false, 0o770),
            ("o+g", 0o750, false, 0o755),
            ("a-u", 0o754, false, 0),
            ("+x", 0o644, false, 0o755),
            ("u+s,g+s", 0o755, false, 0o6755),
            ("a-s", 0o6755, false, 0o755),
            ("+t", 0o755, true, 0o1755),
            ("o+t", 0o755, true, 0o755),
            ("=r", 0o777, false, 0o444),
            ("u+x", 0o100_644, false, 0o100_744),
            ("u-x+w", 0o500, false, 0o600),
        ] {
            let chmod = Chmod::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(chmod.apply(before, is_dir), after, "{text} of {before:o}: {:o}", chmod.apply(before, is_dir));
        }
    }

    #[test]
    fn refuses_what_is_no_mode() {
        for text in ["64a", "10000", "8", "99999999999999"] {
            let expected = format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777");
            assert_eq!(Chmod::parse(text), Err(expected));
        }
        for text in ["", "u", "rwx", "u+r,", "u+r,,g+r", "u*r", "a+q", "é"] {
            assert_eq!(Chmod::parse(text), Err("invalid syntax".to_owned()), "{text}");
        }
    }
}
