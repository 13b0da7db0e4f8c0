//! DNS names to addresses. The parser is handed a resolver, so that it touches no network itself.

use std::io;
use std::net::SocketAddr;

/// Every address of a host, with the port.
pub type Resolver<'a> = &'a dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>>;
