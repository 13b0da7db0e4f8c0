//! The properties of a v5 CONNECT and of its will (MQTT 5, sections 3.1.2.11 and 3.1.3.2).

use super::{
    Reject,
    reader::{Reader, Stop},
};

const BAD: Reject = Reject::BadProperties;
const AUTHENTICATION_METHOD: u8 = 0x15;
const AUTHENTICATION_DATA: u8 = 0x16;
const USER_PROPERTY: u8 = 0x26;

/// Whose properties these are: each has a set of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Connect,
    Will,
}

/// What a property holds and which values are allowed.
enum Value {
    /// One byte, 0 or 1; anything else is a Protocol Error.
    Flag,
    TwoBytes,
    /// 0 is a Protocol Error.
    TwoBytesNotZero,
    FourBytes,
    FourBytesNotZero,
    Text,
    TextPair,
    TopicName,
    Binary,
}

/// Reads a property length and walks the properties behind it, as far as they have arrived.
///
/// The length may leave no room for the fields that `reader` has reserved bytes for: that is the packet's
/// fault (`BadRemainingLength`), all others are [`Reject::BadProperties`].
pub(super) fn check(reader: &mut Reader<'_>, owner: Owner) -> Result<(), Stop> {
    let len = reader.variable(BAD)?;
    let mut section = reader.section(len, BAD)?;
    let mut seen = 0u64;
    while section.left() > 0 {
        let identifier = section.u8()?;
        let value = value_of(owner, identifier).ok_or(BAD)?;
        // Every identifier in `value_of` is below 64.
        let bit = 1u64 << (identifier & 63);
        if seen & bit != 0 && identifier != USER_PROPERTY {
            return Err(BAD.into());
        }
        seen |= bit;
        check_value(&mut section, value)?;
    }
    let has = |identifier: u8| seen & (1 << identifier) != 0;
    // Section 3.1.2.11.10: data without a method is a Protocol Error.
    if has(AUTHENTICATION_DATA) && !has(AUTHENTICATION_METHOD) {
        return Err(BAD.into());
    }
    Ok(())
}

/// `None`: not allowed here. Identifiers are variable byte integers, but all of one byte; EMQX and
/// mqttbytes know no longer form either.
fn value_of(owner: Owner, identifier: u8) -> Option<Value> {
    Some(match (owner, identifier) {
        (_, USER_PROPERTY) => Value::TextPair,

        (Owner::Connect, 0x11) => Value::FourBytes, // Session Expiry Interval
        (Owner::Connect, AUTHENTICATION_METHOD) => Value::Text,
        (Owner::Connect, AUTHENTICATION_DATA) => Value::Binary,
        (Owner::Connect, 0x17) => Value::Flag, // Request Problem Information
        (Owner::Connect, 0x19) => Value::Flag, // Request Response Information
        (Owner::Connect, 0x21) => Value::TwoBytesNotZero, // Receive Maximum
        (Owner::Connect, 0x22) => Value::TwoBytes, // Topic Alias Maximum
        (Owner::Connect, 0x27) => Value::FourBytesNotZero, // Maximum Packet Size

        (Owner::Will, 0x01) => Value::Flag, // Payload Format Indicator
        (Owner::Will, 0x02) => Value::FourBytes, // Message Expiry Interval
        (Owner::Will, 0x03) => Value::Text, // Content Type
        (Owner::Will, 0x08) => Value::TopicName, // Response Topic
        (Owner::Will, 0x09) => Value::Binary, // Correlation Data
        (Owner::Will, 0x18) => Value::FourBytes, // Will Delay Interval

        _ => return None,
    })
}

fn check_value(section: &mut Reader<'_>, value: Value) -> Result<(), Stop> {
    let allowed = match value {
        Value::Flag => section.u8()? <= 1,
        Value::TwoBytes => section.u16().map(|_| true)?,
        Value::TwoBytesNotZero => section.u16()? != 0,
        Value::FourBytes => section.u32().map(|_| true)?,
        Value::FourBytesNotZero => section.u32()? != 0,
        Value::Text => section.field()?.string(BAD).map(|_| true)?,
        Value::TextPair => {
            section.field()?.string(BAD)?;
            section.field()?.string(BAD).map(|_| true)?
        }
        Value::TopicName => section.field()?.topic_name(BAD).map(|_| true)?,
        Value::Binary => section.field()?.binary().map(|_| true)?,
    };
    if allowed { Ok(()) } else { Err(BAD.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks `properties`, with their length put in front.
    fn walk(owner: Owner, properties: &[u8]) -> Result<(), Stop> {
        let bytes = [&[u8::try_from(properties.len()).unwrap()], properties].concat();
        check(
            &mut Reader::new(&bytes, 0, bytes.len(), Reject::BadRemainingLength),
            owner,
        )
    }

    /// One sound example of every property, by owner.
    const CONNECT: [&[u8]; 9] = [
        b"\x11\xFF\xFF\xFF\xFF",
        b"\x15\x00\x05SCRAM",
        b"\x16\x00\x02\x00\xFF",
        b"\x17\x00",
        b"\x19\x01",
        b"\x21\x00\x01",
        b"\x22\x00\x00",
        b"\x26\x00\x01k\x00\x01v",
        b"\x27\x00\x00\x00\x01",
    ];
    const WILL: [&[u8]; 7] = [
        b"\x01\x01",
        b"\x02\x00\x00\x00\x00",
        b"\x03\x00\x04text",
        b"\x08\x00\x03a/b",
        b"\x09\x00\x02\x00\xFF",
        b"\x18\x00\x00\x00\x00",
        b"\x26\x00\x00\x00\x00",
    ];

    #[test]
    fn every_property_once() {
        assert_eq!(walk(Owner::Connect, &CONNECT.concat()), Ok(()));
        assert_eq!(walk(Owner::Will, &WILL.concat()), Ok(()));
        assert_eq!(walk(Owner::Connect, b""), Ok(()));
    }

    #[test]
    fn only_user_properties_may_repeat() {
        for (owner, examples) in [(Owner::Connect, &CONNECT[..]), (Owner::Will, &WILL[..])] {
            for example in examples {
                // The method makes the data legal, and is itself there once only.
                let method: &[u8] = if example[0] == AUTHENTICATION_DATA {
                    CONNECT[1]
                } else {
                    b""
                };
                let twice = [method, example, example].concat();
                let expected = if example[0] == USER_PROPERTY {
                    Ok(())
                } else {
                    Err(Stop::Reject(BAD))
                };
                assert_eq!(walk(owner, &twice), expected, "{example:x?}");
            }
        }
    }

    #[test]
    fn identifiers_of_other_packets_are_rejected_on_their_first_byte() {
        for identifier in 0..=255u8 {
            for (owner, examples) in [(Owner::Connect, &CONNECT[..]), (Owner::Will, &WILL[..])] {
                let known = examples.iter().any(|example| example[0] == identifier);
                let bytes = [9, identifier];
                let mut reader = Reader::new(&bytes, 0, 10, Reject::BadRemainingLength);
                let expected = if known {
                    Stop::Incomplete
                } else {
                    Stop::Reject(BAD)
                };
                assert_eq!(
                    check(&mut reader, owner),
                    Err(expected),
                    "{owner:?} {identifier:#x}"
                );
            }
        }
    }

    #[test]
    fn values_out_of_range() {
        for properties in [
            &b"\x17\x02"[..],
            b"\x19\x02",
            b"\x21\x00\x00",
            b"\x27\x00\x00\x00\x00",
            b"\x15\x00\x01\xFF",
            b"\x26\x00\x01k\x00\x01\x00",
            b"\x26\x00\x01\xC0\x00\x01v",
        ] {
            assert_eq!(
                walk(Owner::Connect, properties),
                Err(Stop::Reject(BAD)),
                "{properties:x?}"
            );
        }
        for properties in [
            &b"\x01\x02"[..],
            b"\x03\x00\x01\x80",
            b"\x08\x00\x01#",
            b"\x08\x00\x03a/+",
            b"\x08\x00\x00",
        ] {
            assert_eq!(
                walk(Owner::Will, properties),
                Err(Stop::Reject(BAD)),
                "{properties:x?}"
            );
        }
    }

    #[test]
    fn authentication_data_needs_a_method() {
        assert_eq!(walk(Owner::Connect, CONNECT[2]), Err(Stop::Reject(BAD)));
        assert_eq!(
            walk(Owner::Connect, &[CONNECT[2], CONNECT[1]].concat()),
            Ok(())
        );
    }

    #[test]
    fn a_property_ends_inside_its_section() {
        for properties in [
            &b"\x21\x01"[..],
            b"\x11\x00\x00\x00",
            b"\x15\x00\x02a",
            b"\x26\x00\x01k\x00",
        ] {
            assert_eq!(
                walk(Owner::Connect, properties),
                Err(Stop::Reject(BAD)),
                "{properties:x?}"
            );
        }
    }

    #[test]
    fn a_section_that_cannot_fit_is_rejected_at_once() {
        let mut reader = Reader::new(b"\x06", 0, 6, Reject::BadRemainingLength);
        let rejected = Err(Stop::Reject(Reject::BadRemainingLength));
        assert_eq!(check(&mut reader, Owner::Connect), rejected);
    }

    #[test]
    fn a_length_of_five_bytes_is_malformed() {
        let mut reader = Reader::new(b"\x80\x80\x80\x80\x00", 0, 99, Reject::BadRemainingLength);
        assert_eq!(check(&mut reader, Owner::Connect), Err(Stop::Reject(BAD)));
    }
}
