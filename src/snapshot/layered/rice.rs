//! Sorted numbers that are spread evenly, in as few bits as they can be told: what each differs from the one before is told
//! as as many ones as its upper part is large, a zero, and its lower part (Rice's code). Unaware of what they are.

use super::outline::ODDS;

/// Bits of the lower part: the numbers are spread this thinly.
const LOWER: u32 = ODDS.ilog2();

/// Sorted numbers as bytes.
pub(super) fn pack(numbers: &[u64]) -> Vec<u8> {
    let mut bits = Bits::default();
    let mut before = 0;
    for number in numbers {
        bits.push(number - before);
        before = *number;
    }
    bits.finish()
}

/// Reads as many numbers back; None once the bytes have no more.
pub(super) fn unpack(bytes: &[u8], count: u64) -> Option<Vec<u64>> {
    let mut at = 0;
    let mut bit = || {
        let bit = bytes.get(at / 8)? >> (at % 8) & 1;
        at += 1;
        Some(u64::from(bit))
    };
    // Each takes more than a byte, so that there are no more than bytes.
    let mut numbers = Vec::with_capacity(usize::try_from(count).ok().filter(|count| *count <= bytes.len())?);
    let mut before: u64 = 0;
    for _ in 0..count {
        let mut number = 0;
        while bit()? == 1 {
            number += ODDS;
        }
        for position in 0..LOWER {
            number |= bit()? << position;
        }
        before = before.checked_add(number)?;
        numbers.push(before);
    }
    Some(numbers)
}

/// Bits on their way into bytes, the lowest first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// Bits that are not in a byte yet, and how many.
    pending: u64,
    count: u32,
}

impl Bits {
    fn push(&mut self, number: u64) {
        for _ in 0..number >> LOWER {
            self.put(1, 1);
        }
        self.put(0, 1);
        self.put(number & (ODDS - 1), LOWER);
    }

    fn put(&mut self, bits: u64, count: u32) {
        self.pending |= bits << self.count;
        self.count += count;
        while self.count >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.count -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.bytes.push(self.pending as u8);
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for numbers in [vec![], vec![0], vec![7, 7, 1023, 1024, 5000, 1_000_000], (0..500).map(|number| number * 997).collect()] {
            let bytes = pack(&numbers);
            assert_eq!(unpack(&bytes, numbers.len() as u64).unwrap(), numbers);
            assert_eq!(unpack(&bytes, numbers.len() as u64 + 1), None);
        }
        assert!(pack(&(0..500).map(|number| number * 1024).collect::<Vec<_>>()).len() <= 500 * 12 / 8);
        assert_eq!(unpack(&[], u64::MAX), None);
    }
}
