//! Variable header and payload of a CONNECT (MQTT 5, sections 3.1.2 and 3.1.3), in the order of the bytes.

use super::{
    Connect, Limits, Protocol, Reject, Sniff, fixed_header,
    flags::Flags,
    properties::{self, Owner},
    reader::{Field, Reader, Stop},
};

/// A string or binary field is at least its length.
const MIN_FIELD: usize = 2;
/// Properties are at least their length.
const MIN_PROPERTIES: usize = 1;

pub(super) fn read<'a>(input: &'a [u8], limits: &Limits) -> Result<Sniff<'a>, Reject> {
    let mut packet = match fixed_header::read(input, limits) {
        Ok(packet) => packet,
        Err(Stop::Incomplete) => return Ok(Sniff::Incomplete),
        Err(Stop::Reject(reject)) => return Err(reject),
    };
    let packet_len = packet.position() + packet.left();
    let head = match head(&mut packet, limits) {
        Ok(head) => head,
        Err(Stop::Incomplete) => return Ok(Sniff::Incomplete),
        Err(Stop::Reject(reject)) => return Err(reject),
    };
    let client_id_end = packet.position();
    let complete = match tail(&mut packet, &head) {
        Ok(()) => true,
        Err(Stop::Incomplete) => false,
        Err(Stop::Reject(reject)) => return Err(reject),
    };
    Ok(Sniff::Connect(Connect {
        protocol: head.protocol,
        bridge: head.bridge,
        clean_start: head.flags.clean_start(),
        keep_alive: head.keep_alive,
        client_id: head.client_id,
        client_id_end,
        packet_len,
        complete,
    }))
}

struct Head<'a> {
    protocol: Protocol,
    bridge: bool,
    flags: Flags,
    keep_alive: u16,
    client_id: &'a [u8],
}

/// Everything up to the client identifier.
fn head<'a>(packet: &mut Reader<'a>, limits: &Limits) -> Result<Head<'a>, Stop> {
    let (protocol, bridge) = protocol(packet)?;
    let flags = Flags::check(packet.u8()?, protocol)?;
    packet.reserve(min_fields(protocol, flags))?;
    let keep_alive = packet.u16()?;
    if protocol == Protocol::V5 {
        packet.release(MIN_PROPERTIES);
        properties::check(packet, Owner::Connect)?;
    }
    let field = payload_field(packet)?;
    if field.len > limits.client_id {
        return Err(Reject::OversizedClientId.into());
    }
    let may_be_empty = match protocol {
        Protocol::V31 => false,
        Protocol::V311 => flags.clean_start(),
        Protocol::V5 => true,
    };
    if field.len == 0 && !may_be_empty {
        return Err(Reject::EmptyClientId.into());
    }
    let client_id = field.string(Reject::BadClientId)?;
    Ok(Head {
        protocol,
        bridge,
        flags,
        keep_alive,
        client_id,
    })
}

/// Name and level, and whether the level has the bridge bit.
fn protocol(packet: &mut Reader<'_>) -> Result<(Protocol, bool), Stop> {
    /// mosquitto's bridges set it (`try_private`); EMQX and mosquitto mask it.
    const BRIDGE: u8 = 0x80;
    /// What follows the name at the least: level, flags, keep alive, client identifier.
    const MIN_REST: usize = 1 + 1 + 2 + MIN_FIELD;

    if packet.u8()? != 0 {
        return Err(Reject::BadProtocolName.into());
    }
    let name: &[u8] = match packet.u8()? {
        4 => b"MQTT",
        6 => b"MQIsdp",
        _ => return Err(Reject::BadProtocolName.into()),
    };
    packet.fits(name.len() + MIN_REST)?;
    for &expected in name {
        if packet.u8()? != expected {
            return Err(Reject::BadProtocolName.into());
        }
    }
    let level = packet.u8()?;
    let protocol = match (name.len(), level & !BRIDGE) {
        (6, 3) => Protocol::V31,
        (4, 4) => Protocol::V311,
        (4, 5) => Protocol::V5,
        _ => return Err(Reject::BadProtocolLevel.into()),
    };
    Ok((protocol, level & BRIDGE != 0))
}

/// Bytes that the fields behind the keep alive need at the least.
fn min_fields(protocol: Protocol, flags: Flags) -> usize {
    let properties = if protocol == Protocol::V5 {
        MIN_PROPERTIES
    } else {
        0
    };
    let will = if flags.will() {
        properties + 2 * MIN_FIELD
    } else {
        0
    };
    let login = usize::from(flags.user_name()) + usize::from(flags.password());
    properties + MIN_FIELD + will + login * MIN_FIELD
}

/// Everything behind the client identifier.
fn tail(packet: &mut Reader<'_>, head: &Head<'_>) -> Result<(), Stop> {
    if head.flags.will() {
        if head.protocol == Protocol::V5 {
            packet.release(MIN_PROPERTIES);
            properties::check(packet, Owner::Will)?;
        }
        payload_field(packet)?.topic_name(Reject::BadPayload)?;
        payload_field(packet)?.binary()?;
    }
    if head.flags.user_name() {
        payload_field(packet)?.string(Reject::BadPayload)?;
    }
    if head.flags.password() {
        payload_field(packet)?.binary()?;
    }
    Ok(())
}

/// The next field that [`min_fields`] counted. The last one ends where the packet ends.
fn payload_field<'a>(packet: &mut Reader<'a>) -> Result<Field<'a>, Stop> {
    let later = packet.release(MIN_FIELD);
    let field = packet.field()?;
    if later == 0 && packet.left() > 0 {
        return Err(Reject::BadPayload.into());
    }
    Ok(field)
}
