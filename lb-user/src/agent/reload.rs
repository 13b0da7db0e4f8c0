//! Another configuration in a running agent: on a command, on SIGHUP, or because a name leads elsewhere.
//! It takes effect as a whole or not at all, and nothing that is the same in both is touched.

use std::sync::Arc;

use super::core::{Core, settings};
use super::sweep::Spans;
use super::{nodes, proxied, vips};
use crate::admin::control::{Refusal, Reply};
use crate::config::{self, Config, Datapath};
use crate::net::ports;

impl Core {
    /// Puts a configuration in place of the one that is in force.
    ///
    /// # Errors
    /// It asks for what a running data path can't change, or has too many of something; nothing has changed.
    pub(super) fn apply(&mut self, mut new: Config) -> Result<Reply, Refusal> {
        new.settle(self.xdp);
        let mut listeners = new.listeners.iter();
        if let Some(l) = listeners.find(|l| l.datapath == Datapath::Xdp && !self.xdp) {
            return Err(Refusal::Wrong(format!(
                "the listener {} needs XDP, and this agent was started without; nothing was changed: restart it",
                l.name
            )));
        }
        let diff = config::diff(&self.config, &new);
        let refused: Vec<_> = diff
            .refused()
            .into_iter()
            .map(|(change, remedy)| format!("{change}: {}", remedy.advice()))
            .collect();
        if !refused.is_empty() {
            return Err(Refusal::Wrong(format!(
                "a running agent can't change this, and nothing was changed:\n{}",
                refused.join("\n")
            )));
        }
        let wrong =
            |error: anyhow::Error| Refusal::Wrong(format!("{error:#}; nothing was changed"));
        let failed =
            |error: anyhow::Error| Refusal::Failed(format!("{error:#}; nothing was changed"));
        let served = self.vips.iter().map(|v| (v.address, v.index)).collect();
        let vips = vips::vips(&new, &served).map_err(wrong)?;
        let known = self.kernel.backends().map_err(|e| failed(e.into()))?;
        let configured = self.steerer.nodes.iter().filter(|n| n.pool.is_some());
        let earlier: Vec<_> = configured
            .map(|n| (n.pool_name.as_str(), n.name.as_str(), n.number))
            .collect();
        let moved = &self.steerer.bindings.moved;
        let nodes = nodes::number(&new, &known, &earlier, moved).map_err(wrong)?;
        self.drop_orders(&nodes).map_err(failed)?;
        if self.xdp {
            ports::reserve(new.snat.ports.clone()).map_err(|e| failed(e.into()))?;
        }
        let served = proxied::vips(&new, &vips);
        let bound = self.front.bind(&served).map_err(wrong)?;

        for warning in new.warnings() {
            tracing::warn!("{warning}");
        }
        // From here on nothing can be refused.
        self.config = Arc::new(new);
        self.spans.send_replace(Spans::of(&self.config));
        vips::configure(&mut self.secrets, &self.config);
        let written = vips::write_secrets(&mut self.kernel.maps, &self.secrets);
        let settings = settings(&self.config, &self.secrets, self.number);
        self.setups.configure(settings);
        self.front.configure(settings);
        for gone in self
            .vips
            .iter()
            .filter(|old| vips.iter().all(|v| v.index != old.index))
        {
            self.setups.set_listener(gone.index, None);
        }
        self.vips = vips;
        let manned = self.man(nodes);
        let told = written.and(manned).and_then(|()| self.publish());
        self.front.serve(&served, bound);
        if let Err(error) = told {
            return Err(Refusal::Failed(format!(
                "the configuration is in force, but the data path could not be told all of it: {error:#}; restart the agent"
            )));
        }
        let done: Vec<_> = diff.changes.iter().map(ToString::to_string).collect();
        for line in &done {
            tracing::info!("configuration: {line}");
        }
        if done.is_empty() {
            let done = vec!["nothing has changed".to_owned()];
            return Ok(Reply { done });
        }
        Ok(Reply { done })
    }

    /// Forgets orders about backends that are gone, and weights that the file has overruled.
    fn drop_orders(&mut self, nodes: &[nodes::Node]) -> anyhow::Result<()> {
        let there = nodes.iter().filter(|n| n.pool.is_some());
        self.orders.keep(
            there
                .clone()
                .map(|n| (n.pool_name.as_str(), n.name.as_str())),
        )?;
        for node in there {
            let mut old = self.steerer.nodes.iter().filter(|n| n.pool.is_some());
            let old = old.find(|n| (&n.pool_name, &n.name) == (&node.pool_name, &node.name));
            let mut order = self.orders.get(&node.pool_name, &node.name);
            if order.weight.is_some() && old.is_some_and(|old| old.weight != node.weight) {
                order.weight = None;
                self.orders.set(&node.pool_name, &node.name, order)?;
            }
        }
        Ok(())
    }
}
