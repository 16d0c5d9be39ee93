//! The command line of `load`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use super::endpoint::{Endpoint, EndpointsFile, S3Entry, SwiftEntry};
use super::mix::{Mix, OperationArg};
use crate::units::{Sizes, parse_duration, parse_size};

/// An API.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Api {
    /// Signature Version 4, path-style
    S3,
    /// v1 login and token
    Swift,
}

/// What `load` takes.
#[derive(Args, Clone, Debug)]
#[command(args_override_self = true)]
pub struct LoadArgs {
    /// S3 service, such as http://127.0.0.1:8080
    #[arg(long, value_name = "URL", help_heading = "Endpoint", conflicts_with_all = ["swift", "endpoints"])]
    s3: Option<String>,
    #[arg(long, help_heading = "Endpoint", requires = "s3", env = "AWS_ACCESS_KEY_ID")]
    access_key: Option<String>,
    #[arg(long, help_heading = "Endpoint", env = "AWS_SECRET_ACCESS_KEY", hide_env_values = true)]
    secret_key: Option<String>,
    #[arg(long, help_heading = "Endpoint", default_value = "us-east-1")]
    region: String,
    /// Sign the SHA-256 of bodies in place of UNSIGNED-PAYLOAD
    #[arg(long, help_heading = "Endpoint")]
    signed_payload: bool,
    /// Swift login, such as http://127.0.0.1:8080/auth/v1.0
    #[arg(long, value_name = "AUTH_URL", help_heading = "Endpoint", conflicts_with = "endpoints")]
    swift: Option<String>,
    #[arg(long, help_heading = "Endpoint", env = "ST_USER")]
    user: Option<String>,
    #[arg(long, help_heading = "Endpoint", env = "ST_KEY", hide_env_values = true)]
    key: Option<String>,
    /// The endpoints.json that `kodiak up` writes
    #[arg(long, value_name = "FILE", help_heading = "Endpoint")]
    endpoints: Option<PathBuf>,
    /// Which API of --endpoints
    #[arg(long, value_enum, help_heading = "Endpoint", default_value = "s3")]
    api: Api,
    /// Bucket or container; made if it is not there
    #[arg(long, help_heading = "Endpoint", default_value = "kodiak-bench")]
    bucket: String,
    /// Names of objects begin with it and a slash
    #[arg(long, help_heading = "Endpoint", default_value = "load")]
    prefix: String,

    #[arg(long, value_enum, help_heading = "Work", default_value = "mixed")]
    op: OperationArg,
    /// Weights of --op mixed
    #[arg(long, help_heading = "Work", default_value = "put=30,get=60,delete=5,head=5")]
    mix: String,
    /// Size of every object
    #[arg(long, help_heading = "Work", default_value = "4KiB", conflicts_with = "sizes")]
    size: String,
    /// Sizes with weights, such as 4KiB:80,1MiB:20
    #[arg(long, help_heading = "Work")]
    sizes: Option<String>,
    /// Workers, each with its own connection; a list makes several runs
    #[arg(long, help_heading = "Work", default_value = "8", value_delimiter = ',')]
    concurrency: Vec<usize>,
    /// Runs so long before it counts
    #[arg(long, help_heading = "Work", default_value = "2s")]
    warmup: String,
    /// Counts at most so long; 10s without --count
    #[arg(long, help_heading = "Work")]
    duration: Option<String>,
    /// Counts at most so many operations
    #[arg(long, help_heading = "Work")]
    count: Option<u64>,
    /// Objects that are prepared for every operation but put
    #[arg(long, help_heading = "Work", default_value = "1000")]
    objects: usize,
    /// Put writes prepared objects again, in place of new ones
    #[arg(long, help_heading = "Work")]
    overwrite: bool,
    /// Names on a page of list
    #[arg(long, help_heading = "Work", default_value = "1000")]
    page: usize,
    /// Makes content and choices repeat
    #[arg(long, help_heading = "Work", default_value = "1")]
    seed: u64,
    /// An answer may take so long
    #[arg(long, help_heading = "Work", default_value = "60s")]
    timeout: String,
    /// Acknowledge every segment at once (TCP_QUICKACK); some peers stall 40 ms otherwise
    #[arg(long, help_heading = "Work")]
    quickack: bool,
    /// Threads of the client
    #[arg(long, help_heading = "Work", default_value = "1")]
    threads: usize,

    /// Process whose processor time is divided by operations, with its children; may be repeated
    #[arg(long, value_name = "PID", help_heading = "Report")]
    server_pid: Vec<u32>,
    /// Write everything here
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    json: Option<PathBuf>,
    /// Draw throughput against concurrency here
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    svg: Option<PathBuf>,
    /// Leave the objects there
    #[arg(long, help_heading = "Report")]
    keep: bool,
}

/// The same, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where requests go.
    pub endpoint: Endpoint,
    /// Which API it is.
    pub api: Api,
    /// Bucket or container.
    pub bucket: String,
    /// Names begin with it.
    pub prefix: String,
    /// Operations.
    pub mix: Arc<Mix>,
    /// Operations as text.
    pub operation: String,
    /// Sizes of objects.
    pub sizes: Sizes,
    /// Of each run.
    pub concurrency: Vec<usize>,
    /// Before it counts.
    pub warmup: Duration,
    /// How long it counts, at most.
    pub duration: Option<Duration>,
    /// How many operations it counts, at most.
    pub count: Option<u64>,
    /// That are prepared.
    pub objects: usize,
    /// Names on a page.
    pub page: usize,
    /// Of content and choices.
    pub seed: u64,
    /// Of an answer.
    pub timeout: Duration,
    /// Whether to acknowledge at once.
    pub quickack: bool,
    /// Of the client.
    pub threads: usize,
    /// Of the server.
    pub server_pids: Vec<u32>,
    /// For the report.
    pub json: Option<PathBuf>,
    /// For the picture.
    pub svg: Option<PathBuf>,
    /// Whether objects stay.
    pub keep: bool,
}

impl Settings {
    /// Checks the command line.
    pub fn of(args: LoadArgs) -> anyhow::Result<Settings> {
        let mut server_pids = args.server_pid.clone();
        let (endpoint, api) = endpoint(&args, &mut server_pids)?;
        if args.concurrency.contains(&0) || args.threads == 0 || args.page == 0 || args.prefix.is_empty() {
            bail!("--concurrency, --threads, --page and --prefix must not be empty or 0");
        }
        let mut mix = Mix::of(args.op, &args.mix)?;
        mix.overwrite = args.overwrite;
        let operation = match args.op {
            OperationArg::Mixed => format!("mixed {}", args.mix),
            OperationArg::Put if args.overwrite => "put (overwriting)".into(),
            op => format!("{op:?}").to_lowercase(),
        };
        let sizes = match &args.sizes {
            Some(sizes) => Sizes::parse(sizes)?,
            None => Sizes::one(parse_size(&args.size)?),
        };
        let default = args.count.is_none().then(|| "10s".to_string());
        Ok(Settings {
            endpoint,
            api,
            bucket: args.bucket,
            prefix: args.prefix,
            mix: Arc::new(mix),
            operation,
            sizes,
            concurrency: args.concurrency,
            warmup: parse_duration(&args.warmup)?,
            duration: args.duration.or(default).as_deref().map(parse_duration).transpose()?,
            count: args.count,
            objects: args.objects,
            page: args.page,
            seed: args.seed,
            timeout: parse_duration(&args.timeout)?,
            quickack: args.quickack,
            threads: args.threads,
            server_pids,
            json: args.json,
            svg: args.svg,
            keep: args.keep,
        })
    }

    /// Workers for preparing and cleaning up.
    pub fn most_concurrent(&self) -> usize {
        self.concurrency.iter().copied().max().unwrap_or(1).max(16)
    }
}

fn endpoint(args: &LoadArgs, pids: &mut Vec<u32>) -> anyhow::Result<(Endpoint, Api)> {
    if let Some(path) = &args.endpoints {
        let file = EndpointsFile::read(path)?;
        if pids.is_empty() {
            pids.extend(file.pid.into_iter().chain(file.pids));
        }
        let missing = || format!("{} names no {:?} endpoint", path.display(), args.api);
        return Ok(match args.api {
            Api::S3 => (Endpoint::of_s3(file.s3.with_context(missing)?, args.signed_payload), Api::S3),
            Api::Swift => (Endpoint::of_swift(file.swift.with_context(missing)?), Api::Swift),
        });
    }
    if let Some(url) = args.s3.clone() {
        let access_key = args.access_key.clone().context("--s3 needs --access-key")?;
        let secret_key = args.secret_key.clone().context("--s3 needs --secret-key")?;
        let entry = S3Entry { url, access_key, secret_key, region: args.region.clone() };
        return Ok((Endpoint::of_s3(entry, args.signed_payload), Api::S3));
    }
    let auth_url = args.swift.clone().context("name an endpoint: --s3, --swift or --endpoints")?;
    let user = args.user.clone().context("--swift needs --user")?;
    let key = args.key.clone().context("--swift needs --key")?;
    Ok((Endpoint::of_swift(SwiftEntry { auth_url, user, key }), Api::Swift))
}
