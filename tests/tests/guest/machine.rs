//! A virtual machine whose power can be cut.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kodiak_tests::{Endpoints, program};

/// How long a guest may take to boot and its store to become healthy, on a busy machine without KVM.
const PATIENCE: Duration = Duration::from_secs(180);
/// Where the store listens inside of the guest.
const INSIDE: &str = "0.0.0.0:8080";
/// Bytes of the disk.
const DISK: u64 = 4 << 30;

/// What a machine boots from, and its disk.
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// Makes kernel, first file system and an empty disk in a folder.
    pub fn make(folder: &Path) -> Result<Image> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/make");
        succeed(Command::new(script).arg(folder).arg(program()?))?;
        let disk = folder.join("disk");
        File::create(&disk)?.set_len(DISK)?;
        succeed(Command::new("/sbin/mkfs.ext4").args(["-q", "-F"]).arg(&disk))?;
        Ok(Image { folder: folder.to_owned() })
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Whether the store's syncs reach the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Syncs {
    /// As they should.
    Done,
    /// They succeed and do nothing.
    Skipped,
}

/// A machine that runs a store. Dropped, it loses its power.
pub struct Machine {
    qemu: Child,
    endpoints: Endpoints,
}

impl Machine {
    /// Boots the image's disk and waits until the store in it is healthy.
    pub fn boot(image: &Image, syncs: Syncs) -> Result<Machine> {
        let folder = &image.folder;
        let console = folder.join("console");
        // The last boot's says where that was reached.
        std::fs::write(&console, "")?;
        // Freed again before QEMU takes it: somebody else would have to be quick.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let outside = format!("127.0.0.1:{port}");
        let mode = if syncs == Syncs::Skipped { "nosync" } else { "" };
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "768"])
            .args(["-nodefaults", "-display", "none", "-no-reboot", "-serial"])
            .arg(format!("file:{}", console.display()))
            .arg("-kernel")
            .arg(folder.join("kernel"))
            .arg("-initrd")
            .arg(folder.join("initrd"))
            .args(["-append", &format!("console=ttyS0 quiet panic=-1 no_timer_check {mode}"), "-drive"])
            .arg(format!("file={},if=virtio,format=raw,cache=writeback", folder.join("disk").display()))
            .args(["-netdev", &format!("user,id=net,restrict=on,hostfwd=tcp:{outside}-:8080")])
            .args(["-device", "virtio-net-pci,netdev=net,romfile="])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start QEMU")?;
        let mut guard = Guard(Some(qemu));
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let text = String::from_utf8_lossy(&std::fs::read(&console).unwrap_or_default()).into_owned();
            let lines = || text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(json) = lines().find_map(|line| line.trim().strip_prefix("GUEST-ENDPOINTS ")) {
                let endpoints = serde_json::from_str(&json.replace(INSIDE, &outside))?;
                let qemu = guard.0.take().context("no process")?;
                return Ok(Machine { qemu, endpoints });
            }
            let ended = guard.0.as_mut().and_then(|qemu| qemu.try_wait().ok().flatten());
            if ended.is_some() || lines().any(|line| line.contains("GUEST-FAILED")) {
                bail!("the guest did not come up:\n{text}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the guest is not up after {PATIENCE:?}; see {}", console.display())
    }

    /// How the store in it is reached.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// What the guest has not written to its disk is gone.
    pub fn cut_power(mut self) -> Result<()> {
        self.qemu.kill()?;
        self.qemu.wait()?;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        end(&mut self.qemu);
    }
}

/// Ends a machine that did not come up.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(end);
    }
}

fn end(qemu: &mut Child) {
    // It may be dead already.
    let _ = qemu.kill();
    let _ = qemu.wait();
}
