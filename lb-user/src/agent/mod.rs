//! The agent: reads punted packets, sets connections up, keeps the data path's maps true.
//!
//! - [`nodes`], [`paths`]: backends, how they are reached, what they speak
//! - [`vips`]: what the data path is told of the configuration; [`kernel_setup`]: and so that it can set
//!   up connections by itself
//! - [`kernel`], [`steering`]: the outside world of [`crate::setup`]
//! - [`sweep`]: the end of connections
//! - [`view`]: what the admin interface shows

mod core;
mod kernel;
mod kernel_setup;
mod nodes;
mod paths;
mod steering;
mod sweep;
mod view;
mod vips;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::core::Core;
use crate::admin::Server;
use crate::config::Config;
use crate::dataplane::{self, Lock, Maps};
use crate::net::{self, PacketSocket, Watch, ports};
use kernel::Kernel;
use sweep::Sweeper;
use view::View;

/// Runs in the foreground until SIGINT or SIGTERM. The data path stays when it ends.
///
/// # Errors
/// What kept it from starting; nothing is attached then that wasn't before, as far as the error is
/// found before the attachment (the configuration is valid when it comes here).
pub async fn run(config: Config, kernel_log: bool) -> anyhow::Result<()> {
    let _lock = Lock::take(&config.agent.state_dir)?;
    vips::vips(&config)?;
    // Everything that may fail for reasons outside comes before the programs are attached.
    let server = Server::bind(config.admin.http).await?;
    let handle = net::netlink::open()?;
    let watch = Watch::start(Duration::from_millis(50))?;
    let socket = PacketSocket::open()?;
    if ports::reserve(config.snat.ports.clone())? {
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
    let found = paths::look_at_all(&handle, &addresses).await;

    let mut loaded = dataplane::load(&config)?;
    if kernel_log {
        core::follow_kernel_log(&mut loaded.ebpf);
    }
    let punts = Maps::open_punts(&loaded.dir)?;
    let kernel = Kernel::new(Maps::open(&loaded.dir)?, socket)?;
    let sweeper = Sweeper::new(&loaded.dir, &config.timeouts)?;
    let config = Arc::new(config);
    let mut core = Core::new(config.clone(), kernel, &loaded)?;
    for news in &found {
        core.learn(news)?;
    }
    core.publish()?;

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
        config.clone(),
        &loaded.dir,
        interfaces,
        core.shared(),
        core.tallies(),
    )?);
    let admin = server.address();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(view.clone(), async {
        let _ = stopped.await;
    }));

    let (news_in, news) = mpsc::channel(64);
    let following =
        tokio::spawn(async move { paths::follow(handle, watch, &found, news_in).await });
    tracing::info!(
        "{} {}; the admin interface is at http://{admin}",
        if loaded.adopted {
            "adopted the data path in"
        } else {
            "data path pinned in"
        },
        loaded.dir.display()
    );
    ready()?;

    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let result = tokio::select! {
        result = core.run(punts, news, sweeper) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    following.abort();
    let _ = stop.send(());
    let _ = tokio::time::timeout(Duration::from_secs(1), serving).await;
    core.flush();
    tracing::info!(
        "stopped; sessions go on, the data path stays in {} (`mqlb unload` removes it)",
        loaded.dir.display()
    );
    result
}

/// Says READY, in the log and to systemd.
fn ready() -> anyhow::Result<()> {
    sd_notify::notify(&[sd_notify::NotifyState::Ready])
        .context("cannot tell systemd that we are ready")?;
    tracing::info!("READY");
    Ok(())
}
