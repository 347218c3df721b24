//! Health, and figures for Prometheus.

use std::fmt::Write;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::{respond, text};
use crate::node::Handle;

/// Well is a node that runs and knows a leader.
pub(super) async fn health(State(node): State<Handle>) -> Response {
    let (status, what) = match node.status().await {
        Some(report) if report.running && report.leader.is_some() => (StatusCode::OK, "ok"),
        Some(report) if report.running => (StatusCode::SERVICE_UNAVAILABLE, "no leader is known"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready yet"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "stopped"),
    };
    text(status, what)
}

pub(super) async fn metrics(State(node): State<Handle>) -> Response {
    let Some(report) = node.status().await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the node has stopped");
    };
    let counts = &report.counts;
    let mut out = String::new();
    let mut one = |name: &str, kind: &str, help: &str, value: f64| {
        // A string takes whatever is written to it.
        let _ = write!(
            out,
            "# HELP quorate_{name} {help}\n# TYPE quorate_{name} {kind}\nquorate_{name} {value}\n"
        );
    };
    let mut gauge = |name, help, value: f64| one(name, "gauge", help, value);
    gauge("is_leader", "1 if this node leads.", f64::from(u8::from(report.role == "leader")));
    let has_leader = f64::from(u8::from(report.leader.is_some()));
    gauge("has_leader", "1 if a leader is known.", has_leader);
    gauge("term", "The newest term.", report.term as f64);
    gauge("commit_index", "The last entry known to be committed.", report.commit as f64);
    gauge("applied_index", "The last entry applied.", report.applied as f64);
    gauge("durable_index", "The last entry that is durable here.", report.durable as f64);
    gauge("snapshot_index", "The last entry that the snapshot covers.", report.snapshot as f64);
    gauge("revision", "The revision of the map.", report.revision as f64);
    gauge("keys", "Keys in the map.", report.keys as f64);
    gauge("map_free_bytes", "Bytes left for keys and values.", f64::from(report.map_bytes_free));
    gauge("log_free_bytes", "Bytes of the log that are free.", f64::from(report.log_bytes_free));
    gauge("up_seconds", "Seconds since the start.", report.up_s);
    let mut counter = |name, help, value: f64| one(name, "counter", help, value);
    counter("commands_applied_total", "Commands applied.", counts.applied as f64);
    counter("writes_done_total", "Writes answered as done.", counts.writes_done as f64);
    counter("writes_refused_total", "Writes refused.", counts.writes_refused as f64);
    counter("writes_unknown_total", "Writes of unknown outcome.", counts.writes_unknown as f64);
    let reads = counts.reads_linearizable as f64;
    counter("reads_linearizable_total", "Linearizable reads answered.", reads);
    counter("reads_local_total", "Local reads answered.", counts.reads_local as f64);
    counter("frames_sent_total", "Frames sent.", counts.frames_sent as f64);
    counter("frames_received_total", "Frames received.", counts.frames_received as f64);
    counter("frames_refused_total", "Frames refused.", counts.frames_refused as f64);
    counter("frames_dropped_total", "Frames that no link took.", counts.frames_dropped as f64);
    let syncs = counts.flash_syncs as f64;
    counter("flash_syncs_total", "Writes and erases, each made durable.", syncs);
    counter("flash_written_bytes_total", "Bytes written to flash.", counts.flash_bytes as f64);
    counter("flash_erases_total", "Erases.", counts.flash_erases as f64);
    counter("flash_seconds_total", "Seconds that flash took.", counts.flash_seconds);
    counter("snapshots_taken_total", "Snapshots taken.", counts.snapshots_taken as f64);
    let installed = counts.snapshots_installed as f64;
    counter("snapshots_installed_total", "Snapshots of a leader restored.", installed);
    let _ = write!(
        out,
        "# HELP quorate_peer_connected 1 if the connection to that peer stands.\n# TYPE quorate_peer_connected gauge\n"
    );
    for peer in &report.peers {
        let up = u8::from(peer.connected);
        let _ = writeln!(out, "quorate_peer_connected{{peer=\"{}\"}} {up}", peer.id);
    }
    let _ = write!(
        out,
        "# HELP quorate_peer_round_trip_seconds The last round trip to that peer.\n# TYPE quorate_peer_round_trip_seconds gauge\n"
    );
    for peer in &report.peers {
        if let Some(ms) = peer.round_trip_ms {
            let seconds = ms / 1e3;
            let id = peer.id;
            let _ = writeln!(out, "quorate_peer_round_trip_seconds{{peer=\"{id}\"}} {seconds}");
        }
    }
    respond(StatusCode::OK, "text/plain; version=0.0.4", out)
}
