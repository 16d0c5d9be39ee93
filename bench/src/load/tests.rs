//! Loads against a server that lies.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use clap::Parser;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::options::Settings;
use super::report::Report;
use super::{Bench, LoadArgs};

/// What the server does wrong with GETs of objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lie {
    Quits,
    None,
    FlipsBit,
    CutsShort,
    SwapsObjects,
    KeepsOld,
    Fails,
    Forgets,
    Unlists,
    Hangs,
}

struct Fake {
    lie: Lie,
    objects: Mutex<BTreeMap<String, Bytes>>,
    quit: Notify,
}

impl Fake {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (method, path) = (request.method().clone(), request.uri().path().to_string());
        let query = request.uri().query().unwrap_or_default().to_string();
        if path == "/auth/v1.0" {
            return login(&request);
        }
        let known = request.headers().get("x-auth-token").is_some_and(|token| token == "secret")
            || request
                .headers()
                .get("authorization")
                .is_some_and(|value| value.as_bytes().starts_with(b"AWS4"));
        if !known {
            return plain(StatusCode::FORBIDDEN, Bytes::new());
        }
        let is_object = path.contains("/load/");
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        if self.lie == Lie::Quits && method == Method::GET {
            self.quit.notify_waiters();
        }
        if self.lie == Lie::Hangs && is_object && method == Method::GET {
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        }
        let mut objects = self.objects.lock().unwrap();
        match (method, is_object) {
            (Method::PUT, false) => plain(StatusCode::OK, Bytes::new()),
            (Method::DELETE, false) => plain(StatusCode::NO_CONTENT, Bytes::new()),
            (Method::PUT, true) => {
                if self.lie != Lie::KeepsOld || !objects.contains_key(&path) {
                    objects.insert(path, body);
                }
                plain(StatusCode::OK, Bytes::new())
            }
            (Method::DELETE, true) => match objects.remove(&path) {
                Some(_) => plain(StatusCode::NO_CONTENT, Bytes::new()),
                None => plain(StatusCode::NOT_FOUND, Bytes::new()),
            },
            (Method::GET, false) => {
                let (_, marker) = query.rsplit_once("%2F").unwrap();
                let names = objects.keys().filter_map(|path| path.rsplit('/').next());
                let skipped = usize::from(self.lie == Lie::Unlists);
                let page: Vec<&str> = names.filter(|name| *name > marker).skip(skipped).take(1000).collect();
                plain(StatusCode::OK, page.join("\n").into())
            }
            _ => self.read(objects.get(&path), &objects),
        }
    }

    fn read(&self, object: Option<&Bytes>, all: &BTreeMap<String, Bytes>) -> Response<Full<Bytes>> {
        let Some(object) = object.filter(|_| self.lie != Lie::Forgets) else {
            return plain(StatusCode::NOT_FOUND, "NoSuchKey".into());
        };
        let mut bytes = object.to_vec();
        match self.lie {
            Lie::FlipsBit => bytes[3000] ^= 4,
            Lie::CutsShort => bytes.truncate(4000),
            Lie::SwapsObjects => bytes = all.values().find(|other| *other != object).unwrap().to_vec(),
            Lie::Fails => return plain(StatusCode::SERVICE_UNAVAILABLE, "Slow down".into()),
            _ => {}
        }
        plain(StatusCode::OK, bytes.into())
    }
}

fn login(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let host = request.headers()["host"].to_str().unwrap();
    let mut response = plain(StatusCode::OK, Bytes::new());
    let url = format!("http://{host}/v1/AUTH_test");
    response.headers_mut().insert("x-storage-url", url.parse().unwrap());
    response.headers_mut().insert("x-auth-token", "secret".parse().unwrap());
    response
}

fn plain(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

async fn serve(lie: Lie) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fake = Arc::new(Fake { lie, objects: Mutex::default(), quit: Notify::new() });
    let served = fake.clone();
    let serving = async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let fake = fake.clone();
            let service = service_fn(move |request| {
                let fake = fake.clone();
                async move { Ok::<_, Infallible>(fake.answer(request).await) }
            });
            connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    };
    // Quitting closes the listener and all connections.
    tokio::spawn(async move {
        tokio::select! {
            () = serving => {}
            () = served.quit.notified() => {}
        }
    });
    address
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    load: LoadArgs,
}

async fn drive(settings: &Settings) -> anyhow::Result<Report> {
    let mut bench = Bench::begin(settings).await?;
    let report = bench.drive(settings).await?;
    bench.fleet.clean_up(4).await?;
    Ok(report)
}

async fn load(lie: Lie, options: &str) -> Report {
    let address = serve(lie).await;
    let s3 = format!("x --s3 http://{address} --access-key a --secret-key s --warmup 0 {options}");
    let line = Line::parse_from(s3.split_whitespace());
    drive(&Settings::of(line.load).unwrap()).await.unwrap()
}

fn failed(report: &Report) -> bool {
    report.exit_code() != ExitCode::SUCCESS
}

#[tokio::test]
async fn an_honest_server_has_no_faults() {
    for options in ["--op put", "--op get", "--op head", "--op delete", "--op list", "--op mixed --overwrite"]
    {
        let report =
            load(Lie::None, &format!("{options} --count 300 --objects 300 --concurrency 1,4 --quickack"))
                .await;
        assert_eq!(report.runs.len(), 2);
        for run in &report.runs {
            assert_eq!((run.operations, run.errors), (300, 0), "{options}: {run:?}");
        }
        assert!(!failed(&report));
    }
}

#[tokio::test]
async fn wrong_bytes_are_corrupt_and_fail_the_command() {
    for lie in [Lie::FlipsBit, Lie::CutsShort, Lie::SwapsObjects] {
        let report = load(lie, "--op get --count 50 --objects 20").await;
        assert_eq!((report.runs[0].corrupt, report.runs[0].operations), (50, 0), "{lie:?}");
        assert!(failed(&report), "{lie:?}");
        assert!(report.explanations().contains("bytes that were never written"));
    }
    let report = load(Lie::CutsShort, "--op head --count 5 --objects 5").await;
    assert_eq!(report.runs[0].corrupt, 5);
}

#[tokio::test]
async fn old_bytes_are_stale() {
    let report =
        load(Lie::KeepsOld, "--op mixed --overwrite --mix put=1,get=1 --count 400 --objects 8").await;
    assert!(report.runs[0].stale > 50 && report.runs[0].corrupt == 0);
}

#[tokio::test]
async fn faults_are_counted_by_status_and_explained() {
    for (lie, options, kind) in [
        (Lie::Fails, "--op get", "503"),
        (Lie::Forgets, "--op get", "404"),
        (Lie::Unlists, "--op list", "unlisted"),
        (Lie::Hangs, "--op get --timeout 50ms", "timeout"),
    ] {
        let report = load(lie, &format!("{options} --count 10 --objects 10 --concurrency 2")).await;
        assert_eq!(report.runs[0].errors, 10, "{kind}");
        assert!(report.explanations().contains(kind), "{}", report.explanations());
        assert!(failed(&report), "nothing succeeded");
    }
}

#[tokio::test]
async fn swift_logs_in_and_uses_its_token() {
    let address = serve(Lie::None).await;
    let line = format!(
        "x --swift http://{address}/auth/v1.0 --user u --key k --op mixed --mix put=1,get=1,list=1 --count 200 --warmup 0"
    );
    let line = Line::parse_from(line.split_whitespace());
    let report = drive(&Settings::of(line.load).unwrap()).await.unwrap();
    assert_eq!((report.runs[0].operations, report.runs[0].errors), (200, 0));
}

#[tokio::test]
async fn a_server_that_quits_leaves_a_report() {
    let address = serve(Lie::Quits).await;
    let line = format!(
        "x --s3 http://{address} --access-key a --secret-key s --op get --warmup 0 --concurrency 2,4"
    );
    let settings = Settings::of(Line::parse_from(line.split_whitespace()).load).unwrap();
    let mut bench = Bench::begin(&settings).await.unwrap();
    let report = bench.drive(&settings).await.unwrap();
    assert_eq!(report.runs.len(), 1, "the second run has no server");
    assert!(report.incomplete && failed(&report));
    bench.clean_up(&settings).await;
}

#[tokio::test]
async fn a_server_that_is_gone_is_an_error() {
    let line = "x --s3 http://127.0.0.1:1 --access-key a --secret-key s";
    let line = Line::parse_from(line.split_whitespace());
    assert!(drive(&Settings::of(line.load).unwrap()).await.is_err());
}
