//! The broker that needs no installation: the library `rmqtt`, served by `mqlb-lab broker`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use rmqtt::context::ServerContext;
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType, Type};
use rmqtt::net::Builder;
use rmqtt::retain::{DefaultRetainStorage, RetainStorage};
use rmqtt::server::MqttServer;
use rmqtt::types::{Retain, TopicFilter, TopicName};

/// Serves MQTT 3.1, 3.1.1 and 5 at all `addresses`, and over WebSocket at `websockets`, until the process is
/// killed.
///
/// # Errors
/// An address cannot be bound.
pub async fn serve(addresses: &[SocketAddr], websockets: &[SocketAddr]) -> Result<()> {
    // The library refuses clients of a busy machine; a fleet that connects at once makes it busy.
    let context = ServerContext::new().busy_check_enable(false).build().await;
    *context.extends.retain_mut().await = Box::new(Retained::default());
    let hooks = context.extends.hook_mgr().register();
    let takeover = Box::new(Takeover(context.clone()));
    hooks.add(Type::ClientConnect, takeover).await;
    hooks.start().await;

    let mut server = MqttServer::new(context);
    let tcp = addresses.iter().map(|address| (address, false));
    let all = tcp.chain(websockets.iter().map(|address| (address, true)));
    for (number, (address, websocket)) in (0..).zip(all) {
        let listener = Builder::new()
            .name(format!("{address}"))
            .laddr(*address)
            .backlog(4096)
            .nodelay(true)
            .reuseaddr(Some(true))
            .max_handshaking_limit(10_000)
            .handshake_timeout(Duration::from_secs(60))
            // A message lives for five minutes otherwise.
            .message_expiry_interval(Duration::ZERO)
            .bind()
            .and_then(|listener| match websocket {
                true => listener.ws(),
                false => listener.tcp(),
            })
            .map_err(|error| anyhow::anyhow!("{error}"))
            .with_context(|| format!("listen at {address}"))?;
        server = server.listener_by_id(listener, number);
    }
    server
        .build()
        .run()
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))
}

/// The library asks the last session of an identifier to go, and refuses the client ("server unavailable") where
/// that one has closed its connection but is not put away yet. EMQX and mosquitto wait for it, and so does this.
struct Takeover(ServerContext);

#[async_trait]
impl Handler for Takeover {
    async fn hook(&self, event: &Parameter, result: Option<HookResult>) -> ReturnType {
        // A session that goes on is left to the library, which moves its messages while it takes over.
        if let Parameter::ClientConnect(connect) = event
            && connect.clean_start()
        {
            // No longer than the client waits; the library then says what is wrong.
            for _ in 0..500 {
                let session = self.0.extends.shared().await.entry(connect.id().clone());
                if let Ok(mut session) = session.try_lock().await
                    && session.kick(true, true, false).await.is_ok()
                {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        (true, result)
    }
}

/// The library has a store for retained messages but leaves connecting it to its users.
#[derive(Default)]
struct Retained(DefaultRetainStorage);

#[async_trait]
impl RetainStorage for Retained {
    fn enable(&self) -> bool {
        true
    }

    async fn set(
        &self,
        topic: &TopicName,
        retain: Retain,
        expiry: Option<Duration>,
    ) -> rmqtt::Result<()> {
        // To the library's store it is a time like any other; elsewhere in the library it is none.
        let expiry = expiry.filter(|time| !time.is_zero());
        self.0.set_with_timeout(topic, retain, expiry).await
    }

    async fn get(&self, filter: &TopicFilter) -> rmqtt::Result<Vec<(TopicName, Retain)>> {
        self.0.get_message(filter).await
    }

    async fn count(&self) -> isize {
        self.0.count().await
    }

    async fn max(&self) -> isize {
        self.0.max().await
    }
}
