//! How ssh writes numbers and strings (RFC 4251, section 5). Unaware of what they mean.

/// What is left to read. Every reader gives None at the end of the bytes.
pub struct Wire<'a>(pub &'a [u8]);

impl<'a> Wire<'a> {
    pub fn number(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    pub fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number()? as usize;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub fn text(&mut self) -> Option<String> {
        self.string().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A number of any size, big-endian, without the zeros in front of it.
    pub fn big_number(&mut self) -> Option<&'a [u8]> {
        self.string().map(without_zeros)
    }
}

pub fn put_number(out: &mut Vec<u8>, number: u32) {
    out.extend(number.to_be_bytes());
}

pub fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, u32::try_from(bytes.len()).expect("messages are small"));
    out.extend(bytes);
}

/// A number of any size; one whose first bit is set gets a zero in front, else it would be negative.
pub fn put_big_number(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = without_zeros(bytes);
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => put_string(out, &[&[0], bytes].concat()),
        _ => put_string(out, bytes),
    }
}

/// The number without what says nothing.
pub fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}
