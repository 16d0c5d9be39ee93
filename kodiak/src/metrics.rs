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
use kodiak_storage_api::jobs::Jobs;
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
pub async fn serve(listener: TcpListener, handle: PrometheusHandle, node: Arc<Node>, jobs: Arc<Jobs>) {
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
        let (handle, node, jobs) = (handle.clone(), node.clone(), jobs.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, &handle, (&node, &jobs));
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

fn answer(
    request: &Request<Incoming>,
    handle: &PrometheusHandle,
    (node, jobs): (&Node, &Jobs),
) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/metrics" => {
            devices(node);
            background(jobs);
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

fn background(jobs: &Jobs) {
    for status in jobs.statuses() {
        let label = [("job", status.kind.name().to_owned()), ("device", status.device)];
        metrics::counter!("kodiak_job_passes_total", &label).absolute(status.passes);
        metrics::counter!("kodiak_job_changed_total", &label).absolute(status.total.changed);
        metrics::counter!("kodiak_job_failed_total", &label).absolute(status.total.failed);
        metrics::counter!("kodiak_job_waiting_total", &label).absolute(status.total.waiting);
        metrics::gauge!("kodiak_job_rate_limit", &label).set(status.rate as f64);
        metrics::gauge!("kodiak_job_running", &label).set(f64::from(u8::from(status.running.is_some())));
        let running = status.running.as_ref();
        let (done, of) = running.map_or((0, 0), |running| (running.done, running.of.unwrap_or(0)));
        metrics::gauge!("kodiak_job_pass_done", &label).set(done as f64);
        metrics::gauge!("kodiak_job_pass_of", &label).set(of as f64);
        let begun = running.map_or(0, |running| running.begun);
        metrics::gauge!("kodiak_job_pass_begun_timestamp", &label).set(begun as f64);
        if let Some(last) = status.last {
            metrics::gauge!("kodiak_job_last_pass_milliseconds", &label).set(last.millis as f64);
            metrics::gauge!("kodiak_job_last_pass_ended_timestamp", &label).set(last.ended as f64);
            metrics::gauge!("kodiak_job_last_pass_failed", &label)
                .set(f64::from(u8::from(last.error.is_some())));
        }
    }
}
