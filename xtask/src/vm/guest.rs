//! A guest: a QEMU that emulates in software, and what is said on its serial console. `vm/init` is
//! the other side.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use crate::Failure;

/// What a guest is started with.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    pub(super) image: PathBuf,
    /// What `vm/init` does.
    pub(super) job: &'a str,
    pub(super) drives: &'a [Drive],
    /// What is said on the console is added to this file.
    pub(super) log: PathBuf,
}

/// A medium, kept in a file of the host.
#[derive(Debug)]
pub(super) enum Drive {
    /// Persistent memory with labels, so that several namespaces can be made in it.
    Nvdimm(PathBuf),
    /// Persistent memory as one namespace, raw until it is made anew.
    RawNvdimm(PathBuf),
    /// Memory of the host, which has to be asked to make it durable.
    VirtioPmem(PathBuf),
    /// A disk.
    Disk(PathBuf),
}

/// A guest that runs. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Guest {
    qemu: Child,
    told: ChildStdin,
    lines: Receiver<String>,
    log: PathBuf,
    /// The host's ports that lead to the guest's.
    ports: [u16; PORTS.len()],
    /// What commands said, behind their names.
    said: Vec<(String, String)>,
}

/// What the guest says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A server listens.
    Ready(String),
    /// A command has ended, with this code.
    Ended(String, i32),
    /// All was done.
    Done,
}

/// Ports of the guest that the host can reach.
const PORTS: [u16; 2] = [8080, 8081];
/// Longer than anything takes, on a busy machine as well.
const PATIENCE: Duration = Duration::from_secs(120);
pub(super) const DRIVE_BYTES: u64 = 512 << 20;

impl Guest {
    /// Starts QEMU.
    pub(super) fn boot(machine: &Machine<'_>) -> Result<Self, Failure> {
        let ports = free_ports()?;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(arguments(machine, ports));
        let mut qemu = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| format!("qemu-system-x86_64: {error}"))?;
        let told = qemu.stdin.take().expect("it was asked for");
        let console = qemu.stdout.take().expect("it was asked for");
        let mut log = File::options().create(true).append(true).open(&machine.log)?;
        writeln!(log, "== {} {}", machine.job, machine.kernel.display())?;
        let (sender, lines) = mpsc::channel();
        // Ends with QEMU.
        thread::spawn(move || listen(BufReader::new(console), log, &sender));
        let (log, said) = (machine.log.clone(), Vec::new());
        Ok(Self { qemu, told, lines, log, ports, said })
    }

    /// Returns the ports of the host that lead to the guest's.
    pub(super) const fn ports(&self) -> [u16; PORTS.len()] {
        self.ports
    }

    /// Returns what was said by the command `name`.
    pub(super) fn said(&self, name: &str) -> String {
        let lines = self.said.iter().filter(|(other, _)| other == name);
        lines.map(|(_, line)| format!("{line}\n")).collect()
    }

    /// Waits for what the guest says next of itself.
    pub(super) fn next(&mut self) -> Result<Event, Failure> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => return Err(self.failed("says nothing more")),
                Err(RecvTimeoutError::Disconnected) => return Err(self.failed("has ended")),
            };
            if line.contains("Kernel panic") {
                return Err(self.failed(&line));
            }
            if let Some(what) = line.strip_prefix("vm: failed ") {
                return Err(self.failed(&format!("failed: {what}")));
            }
            if let Some(event) = event(&line) {
                return Ok(event);
            }
            if let Some((name, text)) = line.split_once("| ") {
                self.said.push((name.to_owned(), text.to_owned()));
            }
        }
    }

    /// Waits until the servers `names` listen.
    pub(super) fn ready(&mut self, names: &[&str]) -> Result<(), Failure> {
        let mut missing = names.to_vec();
        while !missing.is_empty() {
            match self.next()? {
                Event::Ready(name) => missing.retain(|other| *other != name),
                Event::Ended(name, code) => {
                    let said = self.said(&name);
                    return Err(self.failed(&format!("{name} has ended with {code}:\n{said}")));
                }
                Event::Done => return Err(self.failed("went without having served")),
            }
        }
        Ok(())
    }

    /// Says a word that `vm/init` knows.
    pub(super) fn tell(&mut self, word: &str) -> Result<(), Failure> {
        Ok(writeln!(self.told, "{word}")?)
    }

    /// Ends QEMU by SIGKILL, as if power had failed.
    pub(super) fn kill(mut self) -> Result<(), Failure> {
        self.qemu.kill()?;
        self.qemu.wait()?;
        Ok(())
    }

    /// Waits for the end of a guest that was done.
    pub(super) fn end(mut self) -> Result<(), Failure> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err(self.failed("does not go")),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.qemu.wait()?;
        if status.success() { Ok(()) } else { Err(self.failed(&format!("ended: {status}"))) }
    }

    /// Returns what went wrong, with the place to look for more.
    pub(super) fn failed(&self, what: &str) -> Failure {
        format!("the guest {what}; its console is in {}", self.log.display()).into()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Of one that has ended there is nothing left to kill; not an error.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn arguments(machine: &Machine<'_>, ports: [u16; PORTS.len()]) -> Vec<String> {
    let mut args = Vec::new();
    let mut add = |name: &str, value: &str| args.extend([name.to_owned(), value.to_owned()]);
    // Of the instructions that flush, `max` has all. Software emulates them on any host.
    add("-accel", "tcg,thread=multi");
    add("-cpu", "max");
    add("-smp", "2");
    add("-machine", "q35,nvdimm=on,nvdimm-persistence=mem-ctrl");
    add("-m", "1G,slots=2,maxmem=4G");
    for (number, drive) in machine.drives.iter().enumerate() {
        let file = |path: &Path| {
            let memory = format!("memory-backend-file,id=m{number},share=on");
            format!("{memory},mem-path={},size={DRIVE_BYTES}", path.display())
        };
        match drive {
            Drive::Nvdimm(path) => {
                add("-object", &file(path));
                add("-device", &format!("nvdimm,memdev=m{number},label-size=128K"));
            }
            Drive::RawNvdimm(path) => {
                add("-object", &file(path));
                add("-device", &format!("nvdimm,memdev=m{number}"));
            }
            Drive::VirtioPmem(path) => {
                add("-object", &file(path));
                add("-device", &format!("virtio-pmem-pci,memdev=m{number},id=v{number}"));
            }
            Drive::Disk(path) => {
                let path = path.display();
                add("-drive", &format!("file={path},format=raw,if=none,id=d{number}"));
                add("-device", &format!("virtio-blk-pci,drive=d{number}"));
            }
        }
    }
    let forward = |(host, guest)| format!(",hostfwd=tcp:127.0.0.1:{host}-10.0.2.15:{guest}");
    let forwards: String = ports.into_iter().zip(PORTS).map(forward).collect();
    add("-netdev", &format!("user,id=n0,restrict=on{forwards}"));
    // Without its boot ROM, which would look for an image on the network first.
    add("-device", "virtio-net-pci,netdev=n0,romfile=");
    add("-kernel", &machine.kernel.to_string_lossy());
    add("-initrd", &machine.image.to_string_lossy());
    let job = machine.job;
    add("-append", &format!("console=ttyS0 quiet panic=-1 mitigations=off job={job}"));
    add("-display", "none");
    add("-monitor", "none");
    add("-serial", "stdio");
    args.extend(["-nodefaults", "-no-reboot"].map(str::to_owned));
    args
}

/// Returns ports that nobody listens on at present.
fn free_ports() -> io::Result<[u16; PORTS.len()]> {
    let mut ports = [0; PORTS.len()];
    // All at once, so that none comes twice.
    let mut taken = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        taken.push(listener);
    }
    Ok(ports)
}

/// Copies the console to the log, and its lines to who waits for them.
fn listen(mut console: impl BufRead, mut log: impl Write, lines: &Sender<String>) {
    let (start, mut line) = (Instant::now(), Vec::new());
    while console.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        let text = plain(&String::from_utf8_lossy(&line));
        // A log that cannot be written does not end the test.
        let _ = writeln!(log, "{:8.3} {text}", start.elapsed().as_secs_f64());
        if lines.send(text).is_err() {
            return;
        }
        line.clear();
    }
}

/// Returns a line of the console without what moves a terminal's cursor.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            '\x1b' => {
                // A sequence ends with its first letter.
                chars.find(char::is_ascii_alphabetic);
            }
            char if char.is_control() => {}
            char => text.push(char),
        }
    }
    text
}

fn event(line: &str) -> Option<Event> {
    let words: Vec<&str> = line.strip_prefix("vm: ")?.split(' ').collect();
    match words.as_slice() {
        ["ready", name] => Some(Event::Ready((*name).to_owned())),
        ["ended", name, code] => Some(Event::Ended((*name).to_owned(), code.parse().ok()?)),
        ["done"] => Some(Event::Done),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_from_what_commands_say() {
        assert_eq!(event("vm: ready fs"), Some(Event::Ready("fs".to_owned())));
        assert_eq!(event("vm: ended fs 143"), Some(Event::Ended("fs".to_owned(), 143)));
        assert_eq!(event("vm: done"), Some(Event::Done));
        for other in ["fs| vm: done", "vm: ended fs", "vm: booted 6.12 in 3 s", ""] {
            assert_eq!(event(other), None, "{other}");
        }
    }

    /// The firmware clears a screen that is not there, in front of the first line.
    #[test]
    fn lines_come_without_a_terminals_sequences() {
        assert_eq!(plain("\x1bc\x1b[?7l\x1b[2J\x1b[0mvm: done\r\n"), "vm: done");
    }
}
