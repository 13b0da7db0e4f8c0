//! `tcp`: something accepts connections.
//!
//! The connection is closed by FIN. A RST would spare this host the TIME_WAIT, but EMQX logs an error for
//! one that comes where it expects a PROXY header, and a broker that has not accepted yet can't tell it from
//! a fault. It takes no more than the kernel of the broker's host to accept, so a broker that hangs is found
//! only once its queue is full: `mqtt` and `http` see it at once.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;

use super::check::{Deadline, Failure, Finding, connect, failed, proxy_header};

/// Connects to `address`, sends the PROXY header if the broker expects one, and closes.
pub async fn check(
    address: SocketAddr,
    proxy_protocol: bool,
    deadline: Deadline,
) -> Result<Finding, Failure> {
    let mut stream = connect(address, deadline).await?;
    let reason = format!(":{} accepts connections", address.port());
    if proxy_protocol {
        let what = format!("PROXY header to :{}", address.port());
        let header = proxy_header(&stream).map_err(|error| failed(&what, error))?;
        deadline.io(&what, stream.write_all(&header)).await?;
    }
    // With nothing unread the drop sends FIN.
    Ok(Finding::up(reason))
}
