//! What was measured, shown.

/// A row of the table; figures in nanoseconds a packet.
pub struct Row {
    pub name: String,
    /// Packets a call.
    pub packets: u32,
    pub calls: u32,
    /// Flows in the map that packets walk through.
    pub flows: u32,
    /// Least of the calls: what it costs when nobody else is on the CPU.
    pub least: f64,
    /// Median over the calls.
    pub median: f64,
    /// The empty program's least under the same conditions.
    pub empty: f64,
}

/// Name, translated instructions, bytes of machine code, instructions that the verifier walked.
pub struct Size {
    pub name: String,
    pub instructions: u32,
    pub jited: u32,
    pub walked: u32,
}

pub fn print(rows: &[Row], sizes: &[Size]) {
    println!(
        "{:<56}{:>8}{:>8}{:>8}{:>8}{:>8}",
        "ns per packet", "flows", "least", "median", "empty", "net"
    );
    for r in rows {
        let mark = if r.packets == 1 { " *" } else { "" };
        println!(
            "{:<56}{:>8}{:>8.0}{:>8.0}{:>8.0}{:>8.0}",
            format!("{}{mark}", r.name),
            r.flows,
            r.least,
            r.median,
            r.empty,
            r.least - r.empty
        );
    }
    println!("* one packet a call, with cold caches: the clock's own cost is in \"empty\"");
    println!();
    println!(
        "{:<16}{:>14}{:>14}{:>14}",
        "program", "instructions", "jited bytes", "walked"
    );
    for s in sizes {
        println!(
            "{:<16}{:>14}{:>14}{:>14}",
            s.name, s.instructions, s.jited, s.walked
        );
    }
}

pub fn print_json(rows: &[Row], sizes: &[Size]) -> anyhow::Result<()> {
    let rows: Vec<_> = rows
        .iter()
        .map(|r| {
            serde_json::json!({
                "name": r.name, "flows": r.flows, "packets_per_call": r.packets, "calls": r.calls,
                "least_ns": r.least, "median_ns": r.median, "empty_ns": r.empty,
            })
        })
        .collect();
    let programs: Vec<_> = sizes
        .iter()
        .map(|s| {
            serde_json::json!({
                "name": s.name, "instructions": s.instructions,
                "jited_bytes": s.jited, "verifier_walked": s.walked,
            })
        })
        .collect();
    let all = serde_json::json!({ "rows": rows, "programs": programs });
    println!("{}", serde_json::to_string_pretty(&all)?);
    Ok(())
}
