//! The configuration file.

mod model;

pub use model::{
    Admin, Agent, Backend, BackendAddress, Bindings, Check, Config, Datapath, Health, Limits,
    Listener, Mode, Policy, Pool, PoolId, Snat, Source, Timeouts, Xdp,
};
