//! A process and all that it has forked: who they are, signals to all of them, where they listen.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};

/// Returns the descendants of process `pid`, parents before their children.
pub(super) fn below(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut next = 0;
    while next < found.len() {
        let more = children(found[next]);
        found.extend(more);
        next += 1;
    }
    found
}

/// Returns the children of a process. If one ends meanwhile another may be missing.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of_thread = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).ok();
    let texts = threads.filter_map(|thread| of_thread(thread.ok()?));
    texts.flat_map(|text| numbers(&text)).collect()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// Returns whether this kernel tells who the children of a process are.
pub(super) fn is_told() -> bool {
    let own = std::process::id();
    fs::exists(format!("/proc/{own}/task/{own}/children")).unwrap_or(false)
}

/// Sends a signal to processes; those that have ended do not mind.
pub(super) fn signal(pids: &[u32], signal: Signal) -> io::Result<()> {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
        match kill_process(pid, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Stops all that are below process `pid`, and returns them: who is stopped forks no more, so this
/// comes to an end.
pub(super) fn stop(pid: u32) -> io::Result<Vec<u32>> {
    let mut stopped: Vec<u32> = Vec::new();
    loop {
        let running: Vec<u32> = below(pid).into_iter().filter(|p| !stopped.contains(p)).collect();
        if running.is_empty() {
            return Ok(stopped);
        }
        signal(&running, Signal::STOP)?;
        stopped.extend(running);
    }
}

/// Returns true if one of the processes listens at an address of IPv4.
pub(super) fn listens(pids: &[u32], address: SocketAddr) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let Some(inode) = listener(&table, address) else { return false };
    let wanted = format!("socket:[{inode}]");
    let files = pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok());
    let mut links = files.flatten().filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    links.any(|link| link.as_os_str() == wanted.as_str())
}

/// Finds the inode of the socket that listens at `address` in the text of /proc/net/tcp.
fn listener(table: &str, address: SocketAddr) -> Option<&str> {
    const LISTEN: &str = "0A";
    let IpAddr::V4(ip) = address.ip() else { return None };
    // The address is printed as the number that its bytes are in memory, on x86-64 and arm64.
    let [a, b, c, d] = ip.octets();
    let wanted = format!("{d:02X}{c:02X}{b:02X}{a:02X}:{:04X}", address.port());
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut rows = rows.filter(|row| row.len() > 9 && row[1] == wanted && row[3] == LISTEN);
    rows.next().map(|row| row[9])
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, process::Command};

    use super::*;

    /// A server that somebody else's answers are taken for would be measured in its place.
    #[test]
    fn who_listens_is_told_from_who_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(listens(&[std::process::id()], address));
        assert!(!listens(&[1], address));
        drop(listener);
        assert!(!listens(&[std::process::id()], address));
    }

    #[test]
    fn a_row_is_found_by_its_address_and_state() {
        let row = |address: &str, state: &str| {
            format!("   0: {address} 00000000:0000 {state} 00000000:0 00:0 0 0 0 4711 1 0\n")
        };
        let address = "127.0.0.1:8080".parse().unwrap();
        assert_eq!(listener(&row("0100007F:1F90", "0A"), address), Some("4711"));
        assert_eq!(listener(&row("0100007F:1F90", "01"), address), None);
        assert_eq!(listener(&row("0100007F:1F91", "0A"), address), None);
        assert_eq!(listener("sl local_address", address), None);
    }

    #[test]
    fn a_child_is_below_its_parent_until_it_is_gone() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        assert!(is_told() && below(std::process::id()).contains(&child.id()));
        signal(&[child.id()], Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(!below(std::process::id()).contains(&child.id()));
        signal(&[child.id()], Signal::KILL).unwrap();
    }
}
