//! The first message of a TLS client, its ClientHello, read as far as the server's name (SNI): TLS 1.0 to 1.3
//! (RFC 8446, section 4.1.2; RFC 6066, section 3), also if it is spread over several records. Nothing is
//! decrypted.

mod name;
mod records;
#[cfg(test)]
mod tests;

pub use name::Name;
use records::{Records, Stop};

/// Longest ClientHello that is read. Those with post-quantum keys have about 1,800 bytes.
pub const MAX_HELLO: usize = 16 << 10;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "without an allocator there is no box, and there is one at a time"
)]
pub enum Sniff {
    /// The beginning of a ClientHello.
    Incomplete,
    /// A ClientHello for this server, or one that names none.
    Hello(Option<Name>),
}

/// Why bytes are no ClientHello that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Not a handshake, or not of TLS.
    NotTls,
    /// The handshake doesn't begin with a ClientHello.
    NotHello,
    /// Lengths contradict each other, or what may not be empty is.
    Malformed,
    /// Longer than [`MAX_HELLO`].
    TooLong,
    /// The server's name is no DNS name.
    BadName,
}

const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const RANDOM: usize = 32;

/// Reads the first bytes of a connection. More bytes never change an answer other than [`Sniff::Incomplete`].
pub fn sniff(bytes: &[u8]) -> Result<Sniff, Reject> {
    match hello(&mut Records::new(bytes)) {
        Ok(name) => Ok(Sniff::Hello(name)),
        Err(Stop::More) => Ok(Sniff::Incomplete),
        Err(Stop::Wrong(reject)) => Err(reject),
    }
}

fn hello(input: &mut Records<'_>) -> Result<Option<Name>, Stop> {
    if input.byte()? != CLIENT_HELLO {
        return Err(Stop::Wrong(Reject::NotHello));
    }
    let length = usize::from(input.byte()?) << 16 | usize::from(input.word()?);
    if length > MAX_HELLO {
        return Err(Stop::Wrong(Reject::TooLong));
    }
    input.limit(length);
    // Version and random.
    input.skip(2 + RANDOM)?;
    let session = usize::from(input.byte()?);
    input.skip(session)?;
    let suites = usize::from(input.word()?);
    if suites < 2 || suites % 2 != 0 || session > 32 {
        return Err(Stop::Wrong(Reject::Malformed));
    }
    input.skip(suites)?;
    let compressions = usize::from(input.byte()?);
    if compressions == 0 {
        return Err(Stop::Wrong(Reject::Malformed));
    }
    input.skip(compressions)?;
    if input.left() == 0 {
        return Ok(None);
    }
    let extensions = usize::from(input.word()?);
    if extensions != input.left() {
        return Err(Stop::Wrong(Reject::Malformed));
    }
    while input.left() > 0 {
        let kind = input.word()?;
        let length = usize::from(input.word()?);
        if kind == SERVER_NAME {
            return server_name(input, length).map(Some);
        }
        input.skip(length)?;
    }
    Ok(None)
}

/// The list of names, of which there may be one of each type, and only one type exists.
fn server_name(input: &mut Records<'_>, length: usize) -> Result<Name, Stop> {
    let list = usize::from(input.word()?);
    let kind = input.byte()?;
    let name = usize::from(input.word()?);
    if list + 2 != length || name + 3 != list || kind != HOST_NAME {
        return Err(Stop::Wrong(Reject::Malformed));
    }
    Name::read(name, || input.byte())
}
