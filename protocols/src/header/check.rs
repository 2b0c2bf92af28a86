//! What holds for every header, tried with bytes.

use super::{Field, Header, HeaderError};

/// Checks with `bytes`, whatever they are, that a header which is emitted is parsed as the same, and the
/// other way round; that every cut of one is refused; and that nothing panics. For fuzzers.
///
/// # Panics
/// Something of this does not hold.
pub fn fuzz_header<H: Header>(bytes: &[u8]) {
    if let Ok((header, payload)) = H::parse(bytes) {
        assert_eq!(payload.len(), bytes.len() - H::LEN, "{}: length of the payload", H::NAME);
        let mut again = bytes.to_vec();
        assert_eq!(header.emit(&mut again), Ok(()), "{header}");
        // Zero has two forms in a checksum (RFC 1071 §1): another stack may send the other one.
        if H::CHECKSUM_AT.is_none_or(|at| bytes[at..at + 2] != [0xff, 0xff]) {
            assert_eq!(again, bytes, "{header}: emitted again, it is another");
        }
    }
    // The same bytes as the fields of a header, and what follows.
    let mut fields = H::new_zeroed();
    let (head, payload) = bytes.split_at(bytes.len().min(H::LEN));
    fields.as_mut_bytes()[..head.len()].copy_from_slice(head);
    let mut packet = fields.as_bytes().to_vec();
    packet.extend_from_slice(payload);
    assert_eq!(fields.emit(&mut packet), Ok(()), "{fields}");
    match H::parse(&packet) {
        Ok((parsed, rest)) => {
            assert_eq!(rest, payload, "{fields}: its payload");
            for field in H::FIELDS {
                let [value, sent] = [parsed, &fields].map(|header| value(header, field));
                let is_checksum = Some(field.offset) == H::CHECKSUM_AT;
                assert!(is_checksum || value == sent, "{fields} is parsed as {parsed}");
            }
        }
        Err(error) => panic!("{fields}: emitted, but {error}"),
    }
    for len in 0..H::LEN {
        assert_eq!(H::parse(&packet[..len]).err(), Some(HeaderError::TooShort), "{len} bytes");
        assert_eq!(fields.emit(&mut packet[..len]), Err(HeaderError::TooShort), "{len} bytes");
    }
}

/// The same with many bytes, the same ones each time: a property test for every header.
///
/// # Panics
/// As [`fuzz_header`], and where the fields have gaps or overlap.
pub fn test_header<H: Header>() {
    let mut end = 0;
    for field in H::FIELDS {
        assert_eq!(
            field.offset,
            end,
            "{}: {} does not follow the field before",
            H::NAME,
            field.name
        );
        end += field.width;
    }
    assert_eq!(end, H::LEN, "{}: the fields are not all of the header", H::NAME);

    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as usize
    };
    for _ in 0..2_000 {
        let len = random() % (H::LEN * 2 + 64);
        let noise = random() % 3;
        let mut bytes: Vec<u8> = (0..len)
            .map(|_| match noise {
                0 => 0,
                1 => 0xff,
                _ => random() as u8,
            })
            .collect();
        fuzz_header::<H>(&bytes);
        // Most bytes fail at the checksum: now they do not.
        if let Some(at) = H::CHECKSUM_AT
            && len >= H::LEN
        {
            bytes[at..at + 2].fill(0);
            let sum = !underpass_devices::checksum::sum(&bytes);
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            fuzz_header::<H>(&bytes);
        }
    }
}

fn value<'a, H: Header>(header: &'a H, field: &Field) -> &'a [u8] {
    &header.as_bytes()[field.offset..field.offset + field.width]
}
