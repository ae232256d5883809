//! Owners and devices that cannot be real here, as extended attributes: what umoci reads (`user.rootlesscontainers`,
//! a protobuf of two numbers) and our own placeholder for devices.
//! Unaware of why they cannot be real.

/// The attribute that holds an owner.
pub const OWNER: &str = "user.rootlesscontainers";
/// The attribute that makes an empty file stand for a device: `c:1:3`, `b:8:0`.
pub const DEVICE: &str = "user.rbuild.device";

/// The value for an owner; zeroes are left out, as protobuf does it.
pub fn encode_owner(uid: u32, gid: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, id) in [(0x08, uid), (0x10, gid)] {
        if id == 0 {
            continue;
        }
        bytes.push(tag);
        let mut rest = id;
        while rest >= 0x80 {
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }
    bytes
}

/// The owner in a value; what is not understood is zero.
pub fn decode_owner(bytes: &[u8]) -> (u32, u32) {
    let (mut uid, mut gid) = (0, 0);
    let mut rest = bytes.iter();
    while let Some(tag) = rest.next() {
        let mut id: u32 = 0;
        for (index, byte) in rest.by_ref().enumerate() {
            id |= u32::from(byte & 0x7f).checked_shl(7 * index as u32).unwrap_or(0);
            if byte & 0x80 == 0 {
                break;
            }
        }
        match tag {
            0x08 => uid = id,
            0x10 => gid = id,
            _ => {}
        }
    }
    (uid, gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_survive_the_attribute() {
        for pair in [(0, 0), (1, 0), (0, 127), (128, 65_534), (70_000, u32::MAX), (u32::MAX, 300)] {
            assert_eq!(decode_owner(&encode_owner(pair.0, pair.1)), pair);
        }
        assert_eq!(encode_owner(1000, 50), [0x08, 0xe8, 0x07, 0x10, 50]);
        assert_eq!(decode_owner(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).1, 0);
    }
}
