//! Counts TCP sockets of a namespace, from `/proc/PID/net/tcp` and `tcp6` (proc(5)).

use std::collections::BTreeSet;

use anyhow::{Context, Result};

/// `st` of an established connection (include/net/tcp_states.h).
const ESTABLISHED: &str = "01";

/// Established connections to local port `port`, in the namespace that process `pid` runs in.
///
/// # Errors
/// The process is gone, or the kernel's table has another form.
pub fn established(pid: u32, port: u16) -> Result<usize> {
    let mut count = 0;
    for family in ["tcp", "tcp6"] {
        let path = format!("/proc/{pid}/net/{family}");
        let table = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        count += count_established(&table, port).with_context(|| format!("read {path}"))?;
    }
    Ok(count)
}

/// The table is no snapshot: where a socket goes while it is read, piece by piece, the kernel may find its place
/// again too early and list others a second time. So connections are counted, not lines.
fn count_established(table: &str, port: u16) -> Result<usize> {
    let mut found = BTreeSet::new();
    for line in table.lines().skip(1) {
        // "sl local_address rem_address st …"; an address is ADDRESS:PORT, the port in hexadecimal.
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().context("a line without local address")?;
        let remote = fields.next().context("a line without remote address")?;
        let state = fields.next().context("a line without state")?;
        let (_, local_port) = local.rsplit_once(':').context("an address without port")?;
        if u16::from_str_radix(local_port, 16)? == port && state == ESTABLISHED {
            found.insert((local, remote));
        }
    }
    Ok(found.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_established_connections_to_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr\n\
             0: 00000000:075B 00000000:0000 0A 00000000:00000000 00:00000000\n\
             1: 0201A84D:075B 0101A84D:C350 01 00000000:00000000 00:00000000\n\
             2: 0201A84D:075B 0101A84D:C351 06 00000000:00000000 00:00000000\n\
             3: 0201A84D:C352 0101A84D:075B 01 00000000:00000000 00:00000000\n";
        assert_eq!(count_established(table, 1883).unwrap(), 1);
    }

    #[test]
    fn a_connection_that_is_listed_twice_is_one() {
        let line = " 1: 0201A84D:075B 0101A84D:C350 01 00000000:00000000 00:00000000\n";
        let other = line.replace("C350", "C351");
        let table = format!("header\n{line}{other}{line}");
        assert_eq!(count_established(&table, 1883).unwrap(), 2);
    }

    #[test]
    fn a_table_of_another_form_is_an_error() {
        assert!(count_established("header\n0: nonsense\n", 1883).is_err());
    }
}
