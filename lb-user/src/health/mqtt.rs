//! `mqtt`: a broker that answers a CONNECT (MQTT 3.1.1), as a client would find it.
//!
//! The packets are a few fixed bytes, so no codec is linked for them; tests hold them against one.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::check::{Deadline, Failure, Finding, connect, failed, proxy_header};

/// A client identifier of letters and digits, as long as one that every broker must take [MQTT-3.1.3-5].
pub type Identifier = [u8; 23];

/// Protocol name and level, CONNECT flags (clean session only), keep-alive of 10 s (sections 3.1.2.1 to 3.1.2.10).
const VARIABLE_HEADER: [u8; 10] = [0, 4, b'M', b'Q', b'T', b'T', 4, 0b10, 0, 10];
const DISCONNECT: [u8; 2] = [0xe0, 0];

/// Connects to `address` as the client `identifier` and disconnects.
pub async fn check(
    address: SocketAddr,
    proxy_protocol: bool,
    identifier: &Identifier,
    deadline: Deadline,
) -> Result<Finding, Failure> {
    let mut stream = connect(address, deadline).await?;
    let what = format!("CONNECT to :{}", address.port());
    // Header and CONNECT in one segment, as a client's arrive.
    let mut hello = Vec::with_capacity(128);
    if proxy_protocol {
        hello = proxy_header(&stream).map_err(|error| failed(&what, error))?;
    }
    hello.extend(encode_connect(identifier));
    deadline.io(&what, stream.write_all(&hello)).await?;
    let code = deadline.io(&what, read_connack(&mut stream)).await?;
    match judge(code) {
        Ok(meaning) => {
            if code == 0 {
                // The verdict is clear by now, whatever becomes of the good-bye.
                let _ = deadline.io(&what, stream.write_all(&DISCONNECT)).await;
            }
            Ok(Finding::up(format!("{what} answered: {meaning}")))
        }
        Err(meaning) => Err(Failure::Backend(format!("{what} answered: {meaning}"))),
    }
}

/// A CONNECT with clean session, and nothing in it but the identifier.
fn encode_connect(identifier: &Identifier) -> Vec<u8> {
    const PAYLOAD: u8 = 2 + size_of::<Identifier>() as u8;
    let mut packet = vec![0x10, VARIABLE_HEADER.len() as u8 + PAYLOAD];
    packet.extend(VARIABLE_HEADER);
    packet.extend([0, size_of::<Identifier>() as u8]);
    packet.extend(identifier);
    packet
}

/// Reads a whole CONNACK, so that closing the connection doesn't reset it; gives its code.
///
/// A broker that only speaks MQTT 5 may refuse in that version, with properties behind the code.
async fn read_connack(stream: &mut TcpStream) -> io::Result<u8> {
    let garbage = |bytes: &[u8]| {
        let message = format!("no CONNACK but {bytes:02x?}");
        io::Error::new(io::ErrorKind::InvalidData, message)
    };
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [kind, length, flags, code] = head;
    if kind != 0x20 || !(2..128).contains(&length) || flags > 1 {
        return Err(garbage(&head));
    }
    let mut rest = [0; 126];
    stream
        .read_exact(&mut rest[..usize::from(length) - 2])
        .await?;
    Ok(code)
}

/// What a return code (3.1.1, section 3.2.2.3) or reason code (5, section 3.2.2.2) means.
///
/// The check has neither name nor password, so a refusal that is about who it is, or about the version
/// that it speaks, is what a live broker says to it; whether clients get in is between them and the broker.
fn judge(code: u8) -> Result<&'static str, String> {
    match code {
        0 => Ok("accepted"),
        1 | 0x84 => Ok("alive, other protocol versions only"),
        2 | 0x85 => Ok("alive, refuses the check's client identifier"),
        4 | 0x86 => Ok("alive, wants a user name and a password"),
        5 | 0x87 => Ok("alive, doesn't authorize the check"),
        0x8a => Ok("alive, has banned the check"),
        0x8c => Ok("alive, wants another kind of authentication"),
        3 | 0x88 => Err("server unavailable".to_owned()),
        0x89 => Err("server busy".to_owned()),
        other => Err(format!("refused with code {other:#04x}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use lb_common::mqtt::{Sniff, sniff};
    use mqttbytes::{v4, v5};

    #[test]
    fn the_connect_is_what_it_is_meant_to_be() {
        let identifier = "mqlbcheck0123456789abcd";
        let bytes = encode_connect(identifier.as_bytes().try_into().unwrap());
        let read = v4::read(&mut BytesMut::from(&bytes[..]), 256).unwrap();
        let mut expected = v4::Connect::new(identifier);
        expected.keep_alive = 10;
        expected.clean_session = true;
        assert_eq!(read, v4::Packet::Connect(expected));
        assert!(
            matches!(sniff(&bytes), Ok(Sniff::Connect(c)) if c.client_id == identifier.as_bytes())
        );
        let read = v4::read(&mut BytesMut::from(&DISCONNECT[..]), 256).unwrap();
        assert_eq!(read, v4::Packet::Disconnect);
    }

    #[test]
    fn codes_of_both_versions() {
        use v4::ConnectReturnCode as V4;
        use v5::ConnectReturnCode as V5;
        let up = |code: u8| judge(code).is_ok();
        for (code, expected) in [
            (V4::Success, true),
            (V4::RefusedProtocolVersion, true),
            (V4::BadClientId, true),
            (V4::ServiceUnavailable, false),
            (V4::BadUserNamePassword, true),
            (V4::NotAuthorized, true),
        ] {
            assert_eq!(up(code as u8), expected, "{code:?}");
        }
        for (code, expected) in [
            (V5::UnsupportedProtocolVersion, true),
            (V5::NotAuthorized, true),
            (V5::Banned, true),
            (V5::BadAuthenticationMethod, true),
            (V5::ServerUnavailable, false),
            (V5::ServerBusy, false),
            (V5::QuotaExceeded, false),
            (V5::UnspecifiedError, false),
        ] {
            let mut packet = BytesMut::new();
            v5::ConnAck::new(code, false).write(&mut packet).unwrap();
            assert_eq!(up(packet[3]), expected, "{code:?}");
        }
    }
}
