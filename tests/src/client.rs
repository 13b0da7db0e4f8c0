//! One MQTT connection of the client library, the same for both protocol versions it speaks.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use rumqttc::{self as v4, v5};

use crate::pace::here;

/// MQTT 3.1.1 or 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    V4,
    V5,
}

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// CONNACK with success.
    Connected,
    Subscribed,
    PublishAcknowledged,
    Message {
        topic: String,
        payload: Vec<u8>,
    },
    /// Our DISCONNECT was sent.
    Disconnected,
    Other,
}

/// A connection that is made by the first call of [`Connection::next`], and lives as long as this does.
pub struct Connection(Inner);

// One of these exists per connection; a box would save nothing.
#[expect(
    clippy::large_enum_variant,
    reason = "both variants are large, and differ by 20 %"
)]
enum Inner {
    V4(v4::AsyncClient, v4::EventLoop),
    V5(v5::AsyncClient, v5::EventLoop),
}

/// Sends requests to a connection from anywhere.
#[derive(Clone, Debug)]
pub enum Handle {
    V4(v4::AsyncClient),
    V5(v5::AsyncClient),
}

/// Requests that may wait for their connection.
const QUEUE: usize = 16;

/// Publishes of a client that may await their acknowledgement. The library keeps a slot for each from the
/// start, by default 65,535 of them with MQTT 5: megabytes for every client.
const IN_FLIGHT: u16 = 16;

/// Longest time from a SYN to a CONNACK, on processors of one's own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

impl Connection {
    pub fn new(
        protocol: Protocol,
        client_id: &str,
        server: SocketAddr,
        keep_alive: Duration,
    ) -> Self {
        // The library joins host and port with a colon.
        let host = match server {
            SocketAddr::V4(server) => server.ip().to_string(),
            SocketAddr::V6(server) => format!("[{}]", server.ip()),
        };
        let timeout = here(CONNECT_TIMEOUT).as_secs();
        Self(match protocol {
            Protocol::V4 => {
                let mut options = v4::MqttOptions::new(client_id, host, server.port());
                options.set_keep_alive(keep_alive).set_inflight(IN_FLIGHT);
                let (client, mut events) = v4::AsyncClient::new(options, QUEUE);
                let mut network = v4::NetworkOptions::new();
                network.set_connection_timeout(timeout);
                events.set_network_options(network);
                Inner::V4(client, events)
            }
            Protocol::V5 => {
                let mut options = v5::MqttOptions::new(client_id, host, server.port());
                options
                    .set_keep_alive(keep_alive)
                    .set_outgoing_inflight_upper_limit(IN_FLIGHT)
                    .set_connection_timeout(timeout);
                let (client, events) = v5::AsyncClient::new(options, QUEUE);
                Inner::V5(client, events)
            }
        })
    }

    pub fn handle(&self) -> Handle {
        match &self.0 {
            Inner::V4(client, _) => Handle::V4(client.clone()),
            Inner::V5(client, _) => Handle::V5(client.clone()),
        }
    }

    /// Waits for what happens next. After an error the library would connect again: don't ask.
    ///
    /// # Errors
    /// The connection could not be made, was refused, or has ended.
    pub async fn next(&mut self) -> Result<Seen> {
        Ok(match &mut self.0 {
            Inner::V4(_, events) => seen_v4(events.poll().await?),
            Inner::V5(_, events) => seen_v5(events.poll().await?),
        })
    }
}

impl Handle {
    /// Subscribes with QoS 1.
    ///
    /// # Errors
    /// The connection has ended, or [`QUEUE`] requests wait.
    pub fn subscribe(&self, filter: &str) -> Result<()> {
        match self {
            Self::V4(client) => client.try_subscribe(filter, v4::QoS::AtLeastOnce)?,
            Self::V5(client) => client.try_subscribe(filter, v5::mqttbytes::QoS::AtLeastOnce)?,
        }
        Ok(())
    }

    /// Publishes with QoS 1.
    ///
    /// # Errors
    /// The connection has ended, or [`QUEUE`] requests wait.
    pub fn publish(&self, topic: &str, payload: &[u8], retain: bool) -> Result<()> {
        match self {
            Self::V4(client) => {
                client.try_publish(topic, v4::QoS::AtLeastOnce, retain, payload)?;
            }
            Self::V5(client) => {
                let payload = payload.to_vec();
                client.try_publish(topic, v5::mqttbytes::QoS::AtLeastOnce, retain, payload)?;
            }
        }
        Ok(())
    }

    /// Sends DISCONNECT; [`Seen::Disconnected`] tells when that is done.
    ///
    /// # Errors
    /// The connection has ended, or [`QUEUE`] requests wait.
    pub fn disconnect(&self) -> Result<()> {
        match self {
            Self::V4(client) => client.try_disconnect()?,
            Self::V5(client) => client.try_disconnect()?,
        }
        Ok(())
    }
}

fn seen_v4(event: v4::Event) -> Seen {
    use v4::{Event, Outgoing, Packet};
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Seen::Connected,
        Event::Incoming(Packet::SubAck(_)) => Seen::Subscribed,
        Event::Incoming(Packet::PubAck(_)) => Seen::PublishAcknowledged,
        Event::Incoming(Packet::Publish(publish)) => Seen::Message {
            topic: publish.topic,
            payload: publish.payload.into(),
        },
        Event::Outgoing(Outgoing::Disconnect) => Seen::Disconnected,
        _ => Seen::Other,
    }
}

fn seen_v5(event: v5::Event) -> Seen {
    use rumqttc::Outgoing;
    use v5::Event;
    use v5::mqttbytes::v5::Packet;
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Seen::Connected,
        Event::Incoming(Packet::SubAck(_)) => Seen::Subscribed,
        Event::Incoming(Packet::PubAck(_)) => Seen::PublishAcknowledged,
        Event::Incoming(Packet::Publish(publish)) => Seen::Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload.into(),
        },
        Event::Outgoing(Outgoing::Disconnect) => Seen::Disconnected,
        _ => Seen::Other,
    }
}
