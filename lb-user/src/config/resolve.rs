//! DNS names to addresses. The parser is handed a resolver, so that it touches no network itself.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// Every address of a host, with the port.
pub type Resolver<'a> = &'a dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Asks the system's resolver (`/etc/hosts`, DNS, …); blocks until it answers.
pub fn system(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.collect())
}
