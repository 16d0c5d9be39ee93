//! `/metrics` for Prometheus, and what only this program knows.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use kodiak_storage_node::Node;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;

/// Upper bounds of the latency histograms, seconds.
const LATENCIES: [f64; 14] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];
/// Upper bounds of the histogram of writes in a group.
const GROUPS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// How often histograms are gathered in.
const UPKEEP: Duration = Duration::from_secs(5);
/// Time for a request's head.
const HEAD: Duration = Duration::from_secs(10);

/// Makes the process's metrics available.
pub fn install() -> Result<PrometheusHandle> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &LATENCIES)?
        .set_buckets_for_metric(Matcher::Suffix("_group_size".into()), &GROUPS)?
        .install_recorder()
        .context("cannot install the metrics")
}

/// Serves `/metrics` and `/healthz` until the process ends.
pub async fn serve(listener: TcpListener, handle: PrometheusHandle, node: Arc<Node>) {
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (handle, node) = (handle.clone(), node.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, &handle, &node);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "metrics connection ended");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, handle: &PrometheusHandle, node: &Node) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/metrics" => {
            devices(node);
            (200, handle.render())
        }
        "/healthz" => match node.status().iter().find(|device| device.failed) {
            None => (200, "ok\n".to_owned()),
            Some(failed) => (503, format!("device {} takes no more writes\n", failed.name)),
        },
        _ => (404, "see /metrics and /healthz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    response
}

fn devices(node: &Node) {
    for device in node.status() {
        let label = [("device", device.name)];
        metrics::gauge!("kodiak_device_available_bytes", &label).set(device.available as f64);
        metrics::gauge!("kodiak_device_size_bytes", &label).set(device.total as f64);
        metrics::gauge!("kodiak_device_missing_partitions", &label).set(device.missing as f64);
        metrics::gauge!("kodiak_device_failed", &label).set(f64::from(u8::from(device.failed)));
    }
}
