//! The agent: reads punted packets, sets connections up, keeps the data path's maps true.
//!
//! - [`core`]: the loop, which makes all decisions
//! - [`nodes`], [`paths`]: backends, how they are reached, what they speak; [`backends`]: what happens to
//!   them; [`orders`]: what an operator said of them; [`moved`]: those with another address
//! - [`vips`]: what the data path is told of the configuration; [`kernel_setup`]: and so that it can set
//!   up connections by itself; [`turns`]: and choose backends
//! - [`operator`], [`reload`]: commands, and another configuration; [`service`]: what systemd is told
//! - [`fallback`]: which data path; [`proxied`]: what connections of [`crate::proxy`] ask
//! - [`kernel`], [`steering`]: the outside world of [`crate::setup`]
//! - [`sweep`], [`evict`], [`ending`]: the end of connections; [`limits`], [`blocking`]: who may
//!   connect, and how much
//! - [`view`]: what the admin interface shows

mod backends;
mod blocking;
mod core;
pub(crate) mod ending;
mod evict;
mod fallback;
mod kernel;
mod kernel_setup;
pub mod limits;
mod moved;
mod nodes;
mod operator;
mod orders;
mod paths;
mod proxied;
mod reload;
mod service;
mod steering;
pub mod sweep;
mod turns;
mod view;
mod vips;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use self::core::{Core, Parts};
use crate::admin::control::Control;
use crate::admin::{Pages, Server};
use crate::config::File;
use crate::dataplane::{Lock, Maps};
use crate::health;
use crate::net::{self, Watch, ports};
use kernel::Kernel;
use operator::Operator;
use orders::Orders;
use service::Service;
use sweep::{Spans, Sweeper};
use view::View;

/// Runs in the foreground until SIGINT, SIGTERM or `mqlb stop`. The data path stays when it ends.
/// `path` is where `file` was read from.
///
/// # Errors
/// What kept it from starting; nothing is attached then that wasn't before, as far as the error is
/// found before the attachment (the configuration is valid when it comes here).
pub async fn run(path: PathBuf, file: File, kernel_log: bool) -> anyhow::Result<()> {
    let mut config = file.config.clone();
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let _lock = Lock::take(&config.agent.state_dir)?;
    // Before anything takes time: unhandled, the signal would end the process.
    let hangup = signal(SignalKind::hangup())?;
    if let Err(error) = health::raise_descriptor_limit() {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
    vips::vips(&config, &HashMap::new())?;
    // Everything that may fail for reasons outside comes before the programs are attached.
    let server = Server::bind(config.admin.http).await?;
    let control = Control::bind(&config.agent.state_dir)?;
    let orders = Orders::load(&config.agent.state_dir)?;
    let handle = net::netlink::open()?;
    let watch = Watch::start(Duration::from_millis(50))?;
    let mut loaded = fallback::load(&mut config)?;
    let xdp = loaded.home.has_xdp();
    if xdp && ports::reserve(config.snat.ports.clone())? {
        tracing::info!(
            "ports {}-{} are reserved for connections to backends (net.ipv4.ip_local_reserved_ports)",
            config.snat.ports.start(),
            config.snat.ports.end()
        );
    }
    let addresses: Vec<_> = config
        .pools
        .iter()
        .flat_map(|p| &p.backends)
        .flat_map(|b| &b.addresses)
        .map(|a| a.socket)
        .collect();
    let found = if xdp {
        paths::look_at_all(&handle, &addresses).await
    } else {
        Vec::new()
    };
    if kernel_log && let Some(ebpf) = &mut loaded.ebpf {
        core::follow_kernel_log(ebpf);
    }
    let punts = xdp.then(|| Maps::open_punts(&loaded.dir)).transpose()?;
    let (spans, spans_seen) = watch::channel(Spans::of(&config));
    let (addresses, addresses_seen) = watch::channel(addresses);
    let parts = Parts {
        kernel: Kernel::open(&loaded.home)?,
        orders,
        addresses,
        spans,
    };
    let mut core = Core::new(Arc::new(config), parts, &loaded)?;
    let sweeper = Sweeper::new(&loaded.home, spans_seen, core.rules(), core.number())?;
    for news in &found {
        core.learn(news);
    }
    core.first_checks().await;
    core.go()?;

    let mut interfaces = Vec::new();
    for attached in &loaded.attached {
        let link = net::by_index(&handle, attached.ifindex).await?;
        tracing::info!(
            "{}: XDP in {} mode",
            attached.interface,
            if link.xdp_native { "native" } else { "generic" }
        );
        interfaces.push((attached.clone(), link.xdp_native));
    }
    let view = Arc::new(View::new(
        &loaded.home,
        interfaces,
        core.shared(),
        core.tallies(),
    )?);
    let admin = server.address();
    let pages = Pages::new(view, core.stats_password());
    core.show(pages.clone());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(pages, async {
        let _ = stopped.await;
    }));
    let (orders_in, orders) = mpsc::channel(16);
    let (messages_in, messages) = mpsc::channel(16);
    let controlled = tokio::spawn(control.serve(orders_in));
    let operator = Operator::new(path, file, messages_in);
    let operated = tokio::spawn(operator.serve(orders, hangup));
    let (news_in, news) = mpsc::channel(64);
    let following = tokio::spawn(async move {
        if xdp {
            paths::follow(handle, watch, &found, addresses_seen, news_in).await;
        } else {
            // The loop hears nothing then, and keeps the channel.
            news_in.closed().await;
        }
    });
    let place = match (xdp, loaded.adopted) {
        (true, true) => format!("adopted the data path in {}", loaded.dir.display()),
        (true, false) => format!("data path pinned in {}", loaded.dir.display()),
        (false, _) => "no XDP: clients go through the proxy".to_owned(),
    };
    tracing::info!("{place}; the admin interface is at http://{admin}");
    let service = Service::from_environment();
    service.ready();
    tracing::info!("READY");

    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let result = tokio::select! {
        result = core.run(punts, news, messages, sweeper, service.clone().heartbeat()) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    service.stopping();
    following.abort();
    // Whoever sent `stop` gets the answer first.
    let _ = tokio::time::timeout(Duration::from_millis(100), operated).await;
    controlled.abort();
    let _ = stop.send(());
    let _ = tokio::time::timeout(Duration::from_secs(1), serving).await;
    core.flush();
    if xdp {
        tracing::info!(
            "stopped; sessions go on, the data path stays in {} (`mqlb unload` removes it)",
            loaded.dir.display()
        );
    } else {
        tracing::info!("stopped; its sessions are over");
    }
    result
}
