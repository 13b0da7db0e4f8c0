//! The one list of verdicts: what became of a packet or of a connection attempt.
//!
//! Numbers are stable for ever: new ones go to the end. The XDP program counts by them, metrics and
//! the command line name them.

/// Packets and bytes of one verdict, per CPU in the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the IP header on.
    pub bytes: u64,
}

macro_rules! verdicts {
    ($($(#[$doc:meta])* $name:ident = $number:literal => $text:literal,)+) => {
        /// See the module.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Verdict { $($(#[$doc])* $name = $number,)+ }

        impl Verdict {
            /// All of them, in order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)+];
            /// One more than the highest number.
            pub const COUNT: u32 = Self::ALL.len() as u32;
            /// Entries of the maps of counters: a new verdict must not change a pinned map's size.
            pub const CAPACITY: u32 = 128;

            /// Name in metrics, status and logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

verdicts! {
    /// Not ours: handed to the host's stack.
    Passed = 0 => "passed",
    /// Rewritten and transmitted.
    Spliced = 1 => "spliced",
    /// SYN answered with a cookie.
    SynAck = 2 => "syn_ack",
    /// ACK that completes a handshake, or any other with nothing in it: dropped.
    BareAck = 3 => "bare_ack",
    /// First data of a client, handed to the agent.
    PuntedNew = 4 => "punted_new",
    /// Further packet of a connection in set-up, handed to the agent.
    PuntedSetup = 5 => "punted_setup",
    /// ICMP error about one of our connections, handed to the agent.
    PuntedIcmp = 6 => "punted_icmp",
    /// The ring buffer was full; the sender retransmits.
    PuntOverflow = 7 => "punt_overflow",
    /// Data with a wrong cookie, or of a connection that we don't know: RST.
    ResetUnknown = 8 => "reset_unknown",
    /// The same, but over the limit of RSTs: dropped.
    ResetLimited = 9 => "reset_limited",
    /// A RST for a connection that we don't know: dropped.
    StrayReset = 10 => "stray_reset",
    /// Later segment of a CONNECT that overtook the first: dropped, the client retransmits.
    EarlySegment = 11 => "early_segment",
    /// SYN of a connection in set-up, a duplicate: dropped.
    DuplicateSyn = 12 => "duplicate_syn",
    /// IP fragment for one of our addresses.
    Fragment = 13 => "fragment",
    /// IPv4 options or IPv6 extension headers on a packet for one of our addresses.
    IpExtension = 14 => "ip_extension",
    /// Lengths that contradict each other.
    Malformed = 15 => "malformed",
    /// TTL or hop limit used up.
    TtlExpired = 16 => "ttl_expired",
    /// The flow map is full: new connection refused.
    FlowsFull = 17 => "flows_full",
    /// Tagged frame for an untagged next hop, or the reverse.
    VlanMismatch = 18 => "vlan_mismatch",
    /// Frame that the driver would not shrink, or a helper's failure.
    HelperFailed = 19 => "helper_failed",
    /// TCP options that can't be walked.
    BadOptions = 20 => "bad_options",
    /// TCP checksum wrong on a punted packet (is transmit offload on at the sender?).
    BadChecksum = 21 => "bad_checksum",
    /// Connection spliced by the agent.
    SteeredAgent = 22 => "steered_agent",
    /// Connection spliced by the kernel alone.
    SteeredKernel = 23 => "steered_kernel",
    /// First byte is not that of a CONNECT.
    RejectNotConnect = 24 => "reject_not_connect",
    /// Remaining length malformed, or at odds with the fields.
    RejectRemainingLength = 25 => "reject_remaining_length",
    /// Protocol name is neither `MQTT` nor `MQIsdp`.
    RejectProtocolName = 26 => "reject_protocol_name",
    /// Protocol level is not 3, 4 or 5, or doesn't fit the name.
    RejectProtocolLevel = 27 => "reject_protocol_level",
    /// CONNECT flags that the standard forbids.
    RejectFlags = 28 => "reject_flags",
    /// MQTT 5 properties malformed.
    RejectProperties = 29 => "reject_properties",
    /// Client identifier is not UTF-8 as MQTT demands.
    RejectClientId = 30 => "reject_client_id",
    /// Client identifier empty where it may not be.
    RejectEmptyClientId = 31 => "reject_empty_client_id",
    /// Client identifier longer than configured.
    RejectOversizedClientId = 32 => "reject_oversized_client_id",
    /// CONNECT longer than configured.
    RejectOversizedPacket = 33 => "reject_oversized_packet",
    /// Will, user name or password malformed.
    RejectPayload = 34 => "reject_payload",
    /// The client closed before its CONNECT was read.
    ClosedEarly = 35 => "closed_early",
    /// The CONNECT didn't come in time.
    SniffTimeout = 36 => "sniff_timeout",
    /// Too many connections in set-up: the oldest was given up.
    SetupEvicted = 37 => "setup_evicted",
    /// A backend refused or did not answer; the next one is tried.
    BackendFailed = 38 => "backend_failed",
    /// No backend was left: refused in MQTT terms.
    NoBackend = 39 => "no_backend",
    /// No SNAT port was free: refused in MQTT terms.
    NoPort = 40 => "no_port",
    /// The backend's TCP options can't carry what was promised to the client.
    OptionMismatch = 41 => "option_mismatch",
    /// Idle longer than its limit: RST to both sides.
    IdleExpired = 42 => "idle_expired",
    /// Client's packets came in by another way: next hop learnt again.
    HopLearnt = 43 => "hop_learnt",
    /// A frame that the agent could not send.
    InjectFailed = 44 => "inject_failed",
    /// ICMP "packet too big" about a spliced packet, passed on to its sender.
    PathMtu = 45 => "path_mtu",
    /// Connection to a backend that went down: RST to both sides.
    ResetDown = 46 => "reset_down",
    /// Connection to a backend that is drained or disabled: RST to both sides.
    ResetDrained = 47 => "reset_drained",
    /// Packet from a source on the block list: dropped.
    SourceBlocked = 48 => "source_blocked",
    /// CONNECT beyond the rate of its source: dropped, the client's retransmission may fit.
    SourceRate = 49 => "source_rate",
    /// New connection of a source that has as many as it may: RST.
    SourceFull = 50 => "source_full",
    /// Copy of a segment that was handed to the agent a moment ago: dropped.
    PuntRepeated = 51 => "punt_repeated",
    /// A source sends more to the agent than one may: dropped, the client retransmits.
    PuntLimited = 52 => "punt_limited",
    /// Client identifier on the block list: refused in MQTT terms.
    ClientBlocked = 53 => "client_blocked",
    /// CONNECT beyond the rate of its client identifier: refused in MQTT terms.
    ClientRate = 54 => "client_rate",
    /// The listener has as many connections as it may: refused in MQTT terms.
    ListenerFull = 55 => "listener_full",
    /// Every backend that is left has as many connections as it may: refused in MQTT terms.
    BackendsFull = 56 => "backends_full",
    /// More refusals than are sent in a second: RST instead.
    RefusalLimited = 57 => "refusal_limited",
    /// CONNECT of a known client, turned into the SYN to its backend by the kernel.
    KernelSyn = 58 => "kernel_syn",
    /// The same CONNECT again, because the backend hasn't answered yet: SYN again.
    KernelSynAgain = 59 => "kernel_syn_again",
    /// First data, handed to the agent because: no client identifier, or one that is bound to no backend and
    /// whose backend the kernel can't choose.
    PuntedUnbound = 60 => "punted_unbound",
    /// …the backend that the client is bound to takes none now, or can't be reached by this client.
    PuntedBackend = 61 => "punted_backend",
    /// …the CONNECT doesn't end in this segment.
    PuntedSplit = 62 => "punted_split",
    /// …the CONNECT has something that the kernel doesn't read, or its segment has.
    PuntedUnusual = 63 => "punted_unusual",
    /// …the segment, or the client identifier in it, is longer than the kernel keeps.
    PuntedOversized = 64 => "punted_oversized",
    /// …no source port was found in a few tries.
    PuntedNoPort = 65 => "punted_no_port",
    /// …its listener or its backend has as many connections as it may, or its client connects too often.
    PuntedFull = 66 => "punted_full",
    /// A connection that the kernel began, and that the agent takes over: the backend refused, stayed
    /// silent, is out of service since, or answered with options that the agent must look at.
    PuntedTakeover = 67 => "punted_takeover",
    /// A backend's SYN-ACK whose frame had no room for the CONNECT: the agent sends it.
    PuntedDelivery = 68 => "punted_delivery",
    /// SYN-ACK answered by the kernel without the CONNECT: that comes from the agent, or from the client
    /// once more.
    KernelAck = 69 => "kernel_ack",
    /// Not an HTTP request, or one whose head is too long.
    RejectHttp = 70 => "reject_http",
    /// A request for a WebSocket that can't be had: wrong path, version or subprotocol.
    RejectWsUpgrade = 71 => "reject_ws_upgrade",
    /// WebSocket frame without a mask.
    RejectWsUnmasked = 72 => "reject_ws_unmasked",
    /// WebSocket frame with reserved bits or a reserved opcode.
    RejectWsReserved = 73 => "reject_ws_reserved",
    /// WebSocket frame whose length isn't minimal.
    RejectWsLength = 74 => "reject_ws_length",
    /// WebSocket control frame that is too long, fragmented, or closes with what it may not.
    RejectWsControl = 75 => "reject_ws_control",
    /// WebSocket messages within each other, or the end of none.
    RejectWsFragment = 76 => "reject_ws_fragment",
    /// WebSocket text message.
    RejectWsText = 77 => "reject_ws_text",
    /// HTTP request passed on to a backend.
    HttpForwarded = 78 => "http_forwarded",
    /// HTTP request that no backend could be found for: 503.
    HttpNoBackend = 79 => "http_no_backend",
    /// HTTP request whose backend broke off or didn't answer: 502 or 504.
    HttpFailed = 80 => "http_failed",
    /// No TLS handshake, or one with mistakes in it.
    TlsMalformed = 81 => "tls_malformed",
    /// Client and listener have no version, cipher suite or protocol (ALPN) of TLS in common.
    TlsIncompatible = 82 => "tls_incompatible",
    /// The client's certificate is missing, not signed by who should, or not valid now.
    TlsClientCertificate = 83 => "tls_client_certificate",
    /// The client gave the handshake up, most likely because it doesn't trust our certificate.
    TlsAlert = 84 => "tls_alert",
    /// The handshake failed for another reason.
    TlsFailed = 85 => "tls_failed",
    /// The handshake didn't end in time.
    TlsTimeout = 86 => "tls_timeout",
    /// The name of the server that a TLS client asks for is no DNS name.
    TlsBadName = 87 => "tls_bad_name",
    /// CONNECT of a client that is bound to no backend, turned into the SYN to the one whose turn it is by
    /// the kernel.
    KernelSynNew = 88 => "kernel_syn_new",
}

const _: () = assert!(Verdict::COUNT <= Verdict::CAPACITY);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions() {
        for (i, v) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*v as usize, i, "{}", v.name());
        }
    }

    #[test]
    fn names_are_unique() {
        for (i, a) in Verdict::ALL.iter().enumerate() {
            for b in &Verdict::ALL[i + 1..] {
                assert_ne!(a.name(), b.name());
            }
        }
    }
}
