//! A stand-in for an EMQX node, for the docker-compose set-up: it takes the same environment variables as
//! EMQX's image, and answers MQTT, MQTT over WebSocket and the health check's `/api/v5/status`.
//!
//! [`program`] is the node, [`node`] starts it in a namespace of a lab.

mod dashboard;
pub mod node;
pub mod program;
