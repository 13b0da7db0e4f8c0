//! Connections that the XDP program began by itself and can't finish: the backend refused, stayed
//! silent, went out of service, or answered with something that must be looked at. From here on they are
//! like those that were begun here.
//!
//! Also CONNECTs for which the program's ACK had no room.

use super::connect::{Attempt, proxy_header};
use super::connection::{Client, Connect, Connection, Phase};
use super::interface::{Datapath, Steering};
use super::open::ToBackend;
use super::reassembly::Reassembly;
use super::splice::hop;
use super::{Setups, World};
use lb_common::cookie::ClientOptions;
use lb_common::layout::{Connecting, Flow, FlowKey, Pending, State, flags, ticks};
use lb_common::options::{Timestamps, offered};
use lb_common::window::rescale;
use lb_common::wire::Packet;

/// Both entries of a connection that the XDP program is working on.
struct Begun {
    key: FlowKey,
    client: Flow,
    backend_key: FlowKey,
    backend: Flow,
}

/// The entries of the client `key`, if both say `Connecting`.
fn begun(datapath: &mut impl Datapath, key: &FlowKey) -> Option<Begun> {
    let connecting = |flow: &Flow| flow.state == State::Connecting as u8;
    let client = datapath.get(key).filter(connecting)?;
    let backend_key = client.pair();
    let backend = datapath.get(&backend_key).filter(connecting)?;
    (client.flags & flags::FROM_CLIENT != 0 && backend.leads_to(key)).then_some(Begun {
        key: *key,
        client,
        backend_key,
        backend,
    })
}

impl Begun {
    /// Makes the entries say what those of the agent say. The backend's first: once it isn't `Connecting`,
    /// the program opens nothing.
    fn claim(&self, datapath: &mut impl Datapath) -> bool {
        let backend = Flow {
            state: State::Setup as u8,
            ..self.backend
        };
        let client = to_be_read(&self.client);
        for (key, flow) in [(&self.backend_key, &backend), (&self.key, &client)] {
            if let Err(error) = datapath.replace(key, flow) {
                tracing::warn!(%error, "a connection that the kernel began could not be taken over");
                return false;
            }
        }
        // The program may have opened the connection between our reading and our writing.
        datapath.get(&self.backend_key) == Some(backend) && datapath.get(&self.key) == Some(client)
    }
}

/// The entry of a client whose CONNECT the agent reads.
fn to_be_read(client: &Flow) -> Flow {
    Flow {
        state: State::Sniff as u8,
        flags: flags::FROM_CLIENT,
        listener: client.listener,
        next_seq: client.next_seq,
        last_ack: client.last_ack,
        last_seen: client.last_seen,
        ..Flow::ZERO
    }
}

/// A client whose entry says `Connecting` while no backend's does: an agent died while it took the connection
/// over. Its CONNECT is read once more; what is left on the backend's side goes with the sweep.
pub(super) fn read_again(datapath: &mut impl Datapath, key: &FlowKey) {
    let connecting =
        |f: &Flow| f.state == State::Connecting as u8 && f.flags & flags::FROM_CLIENT != 0;
    if let Some(client) = datapath.get(key).filter(connecting)
        && begun(datapath, key).is_none()
        && let Err(error) = datapath.replace(key, &to_be_read(&client))
    {
        tracing::warn!(%error, "a connection that an agent left half taken over stays so until the sweep");
    }
}

impl Setups {
    /// Takes the connection of the client `key` over, if the XDP program has begun it. Gives its number
    /// here.
    pub(super) fn take_over<D: Datapath, S: Steering>(
        &mut self,
        key: &FlowKey,
        world: &mut World<'_, D, S>,
    ) -> Option<u64> {
        let begun = begun(world.datapath, key)?;
        let full = self.connections.len() >= self.settings.connections && !self.make_room(world);
        let listener = self.listeners.get(&begun.client.listener).copied();
        let settings = listener.filter(|_| !full)?;
        if !begun.claim(world.datapath) {
            return None;
        }
        let (client, seen) = (&begun.client, Connecting::load(&begun.client));
        let cookie = client.last_ack.wrapping_sub(1);
        let mut connection = Connection {
            key: begun.key,
            listener: client.listener,
            settings,
            isn: client.next_seq,
            cookie,
            options: ClientOptions::from_byte(cookie.to_be_bytes()[3]),
            client: Client {
                hop: hop(&begun.backend),
                ingress: client.ingress,
                window: seen.window,
                tsval: seen.timestamps.then_some(seen.tsval),
            },
            tsval: seen.echo,
            received: Reassembly::default(),
            acknowledged: 0,
            connect: None,
            proxy: if client.flags & flags::HEADED == 0 {
                Vec::new()
            } else {
                proxy_header(&begun.key)
            },
            tried: Vec::new(),
            no_port: false,
            deadline: world.now + self.settings.sniff_timeout,
            phase: Phase::Sniff,
        };
        let kept = world.datapath.pending(seen.ticket);
        let kept = kept.as_ref().and_then(|p| p.payload(seen.ticket, key));
        if let Some(payload) = kept {
            connection
                .received
                .insert(0, payload, self.settings.sniff_bytes);
            // The XDP program only keeps those that are whole and sound.
            connection.connect = Connect::read(&self.settings, payload).ok().flatten();
        }
        let choice = world.steering.known(client.backend, begun.key.is_v4());
        let id = self.next;
        self.next += 1;
        let now = world.now;
        let mut cx = world.context(&self.settings, &mut self.rng, &mut self.refusals);
        match (choice, connection.connect) {
            // What was begun goes on.
            (Some(choice), Some(_)) => {
                let age = ticks::since(ticks::from_ns(now), client.last_seen);
                let begun_at = now.saturating_sub(ticks::to_ns(age));
                let give_up = begun_at + cx.settings.connect_timeout;
                let isn = connection.first_isn();
                let attempt = Attempt::taken(choice, begun.backend_key, isn, give_up);
                connection.deadline = attempt.next(now);
                connection.phase = Phase::Connect(attempt);
            }
            // The backend takes no clients any more, or nothing is known of the CONNECT: it comes again.
            (_, connect) => {
                let seq = connection.first_isn().wrapping_add(1);
                cx.reset(&hop(client), begun.backend_key.reversed(), seq);
                cx.datapath.remove(&begun.backend_key);
                if connect.is_some() {
                    connection.tried.push(client.backend);
                    connection.next_backend(&mut cx);
                }
            }
        }
        self.file(id, Box::new(connection));
        Some(id)
    }

    /// A SYN-ACK that the XDP program has answered without the CONNECT: that is sent here. If it can't be,
    /// the client sends it once more, through the splice.
    pub(super) fn deliver<D: Datapath, S: Steering>(
        &mut self,
        packet: &Packet<'_>,
        ticket: u32,
        world: &mut World<'_, D, S>,
    ) {
        let open = |flow: &Flow| flow.state == State::Open as u8;
        let Some(backend) = world.datapath.get(&packet.key).filter(open) else {
            return;
        };
        let key = backend.pair();
        let client = world.datapath.get(&key).filter(open);
        let Some(client) = client.filter(|client| client.leads_to(&packet.key)) else {
            return;
        };
        // Ours is late: the backend has acknowledged something by now.
        if backend.last_ack != packet.tcp.ack() {
            return;
        }
        let Some(kept) = world.datapath.pending(ticket) else {
            return;
        };
        let Some(payload) = kept.payload(ticket, &key) else {
            return;
        };
        let segment = to_backend(packet, &client, &kept);
        let mut bytes = Vec::new();
        if client.flags & flags::HEADED != 0 {
            bytes = proxy_header(&key);
        }
        bytes.extend_from_slice(payload);
        let mut cx = world.context(&self.settings, &mut self.rng, &mut self.refusals);
        segment.send(&mut cx, &client, packet.tcp.ack(), &bytes);
    }
}

/// What the CONNECT's segments have in common.
fn to_backend(syn_ack: &Packet<'_>, client: &Flow, kept: &Pending) -> ToBackend {
    let offered = offered(syn_ack.options);
    let timestamps = offered.timestamps.map(|t| Timestamps {
        value: kept.tsval,
        echo: t.value,
    });
    let default_mss = if syn_ack.key.is_v4() { 536 } else { 1220 };
    let options_len = if timestamps.is_some() { 12 } else { 0 };
    ToBackend {
        key: client.outgoing(),
        ack: syn_ack.tcp.seq().wrapping_add(1),
        window: rescale(kept.window, client.window_shift),
        timestamps,
        room: usize::from(offered.mss.unwrap_or(default_mss).max(88)) - options_len,
    }
}
