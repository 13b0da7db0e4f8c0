//! Keeps the kernel's hands off the ports that the balancer uses as source ports (SNAT).
//!
//! Ports in `net.ipv4.ip_local_reserved_ports` (it counts for IPv6 too) are never given to a socket
//! that did not ask for one. A program that binds to one of them by number still gets it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::RangeInclusive;

use super::{NetError, Result};

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
const LOCAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// No list is longer: every second port, five digits and a comma each.
const LONGEST: usize = 6 * 65536 / 2;

/// Adds `range` to the reserved ports of the calling thread's network namespace; those of others
/// stay. Whether anything had to be changed.
///
/// The kernel has no way to add atomically: do not run this at the same moment as another program
/// that changes the list.
pub fn reserve(range: RangeInclusive<u16>) -> Result<bool> {
    let before = parse(RESERVED, &read(RESERVED)?)?;
    let after = merge(&before, range);
    if before == after {
        return Ok(false);
    }
    let what =
        format!("cannot write {RESERVED} (needs root, and /proc/sys writable in a container)");
    fs::write(RESERVED, format(&after)).map_err(NetError::io(what))?;
    Ok(true)
}

/// The reserved ports, ascending and disjoint.
pub fn reserved() -> Result<Vec<RangeInclusive<u16>>> {
    parse(RESERVED, &read(RESERVED)?)
}

/// What reserving a range takes from the ports that the host's own connections get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// `net.ipv4.ip_local_port_range`.
    pub local: RangeInclusive<u16>,
    /// Ports that are in both.
    pub shared: u32,
    /// Ports of `local` that neither this range nor any other reservation takes.
    pub left: u32,
}

/// How `range` lies over `net.ipv4.ip_local_port_range`, other reservations considered.
pub fn overlap(range: RangeInclusive<u16>) -> Result<Overlap> {
    let text = read(LOCAL)?;
    let ends: Vec<u16> = text
        .split_whitespace()
        .map_while(|end| end.parse().ok())
        .collect();
    let [first, last] = ends[..] else {
        return Err(NetError::PortList {
            path: LOCAL.to_owned(),
            text,
        });
    };
    Ok(overlap_of(range, first..=last, &reserved()?))
}

fn overlap_of(
    range: RangeInclusive<u16>,
    local: RangeInclusive<u16>,
    others: &[RangeInclusive<u16>],
) -> Overlap {
    let taken = merge(others, range.clone())
        .iter()
        .map(|taken| common(taken, &local))
        .sum::<u32>();
    Overlap {
        shared: common(&range, &local),
        left: size(&local) - taken,
        local,
    }
}

/// `known` and `range` as ascending ranges with a gap between each two.
fn merge(known: &[RangeInclusive<u16>], range: RangeInclusive<u16>) -> Vec<RangeInclusive<u16>> {
    let mut all = known.to_vec();
    all.push(range);
    all.retain(|range| !range.is_empty());
    all.sort_by_key(|range| *range.start());
    let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(all.len());
    for range in all {
        match merged.last_mut() {
            Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Reads the kernel's notation, `8080,9148-9200`; an empty line is an empty list. The result is
/// merged, so that lists that mean the same are equal.
fn parse(path: &str, text: &str) -> Result<Vec<RangeInclusive<u16>>> {
    let port = |text: &str| text.trim().parse::<u16>().ok();
    let mut ranges = Vec::new();
    for item in text.trim().split(',').filter(|item| !item.is_empty()) {
        let range = match item.split_once('-') {
            Some((first, last)) => port(first).zip(port(last)),
            None => port(item).map(|port| (port, port)),
        };
        let Some((first, last)) = range.filter(|(first, last)| first <= last) else {
            return Err(NetError::PortList {
                path: path.to_owned(),
                text: text.to_owned(),
            });
        };
        ranges = merge(&ranges, first..=last);
    }
    Ok(ranges)
}

fn format(ranges: &[RangeInclusive<u16>]) -> String {
    let items = ranges
        .iter()
        .map(|range| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        });
    items.collect::<Vec<_>>().join(",")
}

fn size(range: &RangeInclusive<u16>) -> u32 {
    if range.is_empty() {
        0
    } else {
        u32::from(*range.end()) - u32::from(*range.start()) + 1
    }
}

fn common(a: &RangeInclusive<u16>, b: &RangeInclusive<u16>) -> u32 {
    size(&(*a.start().max(b.start())..=*a.end().min(b.end())))
}

/// The kernel answers the first read of such a file and calls every further one the end of it. The
/// usual reading in growing steps would lose most of a list, and [`reserve`] would then delete it.
fn read(path: &str) -> Result<String> {
    let mut text = vec![0; LONGEST];
    let read = File::open(path).and_then(|mut file| file.read(&mut text));
    let length = read.map_err(NetError::io(format!("cannot read {path}")))?;
    text.truncate(length);
    String::from_utf8(text)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        .map_err(NetError::io(format!("cannot read {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(known: &str, range: RangeInclusive<u16>) -> String {
        format(&merge(&parse("test", known).unwrap(), range))
    }

    #[test]
    fn a_range_is_added_and_the_others_stay() {
        let rows = [
            ("", 20000..=29999, "20000-29999"),
            ("\n", 20000..=20000, "20000"),
            (
                "8080,9148-9200\n",
                20000..=29999,
                "8080,9148-9200,20000-29999",
            ),
            ("30000-30010", 20000..=29999, "20000-30010"),
            ("19999", 20000..=29999, "19999-29999"),
            ("25000,26000-27000", 20000..=29999, "20000-29999"),
            ("15000-25000,29000-40000", 20000..=29999, "15000-40000"),
            ("20000-29999", 20000..=29999, "20000-29999"),
            ("1-65535", 20000..=29999, "1-65535"),
            ("8080", 60000..=65535, "8080,60000-65535"),
            ("65535", 0..=0, "0,65535"),
        ];
        for (known, range, expected) in rows {
            assert_eq!(
                merged(known, range.clone()),
                expected,
                "{known:?} + {range:?}"
            );
        }
    }

    #[test]
    fn an_unreadable_list_is_an_error_not_a_loss() {
        for text in ["80-", "eighty", "90-80", "65536", "1,,x"] {
            assert!(
                matches!(parse("test", text), Err(NetError::PortList { .. })),
                "{text:?}"
            );
        }
    }

    #[test]
    fn overlap_counts_what_the_host_keeps() {
        let local = 32768..=60999;
        let rows = [
            (20000..=29999, &[][..], 0, 28232),
            (20000..=32768, &[], 1, 28231),
            (40000..=49999, &[], 10000, 18232),
            (40000..=49999, &[45000..=50999], 10000, 17232),
            (1024..=65535, &[], 28232, 0),
        ];
        for (range, others, shared, left) in rows {
            let expected = Overlap {
                local: local.clone(),
                shared,
                left,
            };
            assert_eq!(
                overlap_of(range.clone(), local.clone(), others),
                expected,
                "{range:?} beside {others:?}"
            );
        }
    }

    proptest::proptest! {
        /// Against a plain set of ports.
        #[test]
        fn merge_is_the_union(ranges in proptest::collection::vec((0u16..400, 0u16..40), 0..12)) {
            let mut list = Vec::new();
            let mut set = std::collections::BTreeSet::new();
            for (first, more) in ranges {
                list = merge(&list, first..=first + more);
                set.extend(first..=first + more);
            }
            proptest::prop_assert_eq!(list.iter().cloned().flatten().collect::<Vec<_>>(), set.into_iter().collect::<Vec<_>>());
            for pair in list.windows(2) {
                proptest::prop_assert!(pair[0].end() + 1 < *pair[1].start());
            }
            proptest::prop_assert_eq!(parse("test", &format(&list)).unwrap(), list);
        }
    }
}
