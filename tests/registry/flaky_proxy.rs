//! A TCP proxy that breaks a share of the HTTP/1.1 connections: refuses with 503 or 429, resets, stalls, truncates.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

/// Forwards `address` to a registry; `percent` of the requests go wrong, the same ones for a seed.
pub struct FlakyProxy {
    pub address: String,
    /// Bytes that the client sent.
    pub bytes_up: Arc<AtomicU64>,
    /// Bytes forwarded to the client.
    pub bytes_down: Arc<AtomicU64>,
    pub faults: Arc<AtomicU64>,
}

#[derive(Clone, Copy)]
enum Fault {
    None,
    Status(&'static str),
    /// Reset after so many bytes of the request.
    ResetUp(u64),
    /// Reset (or end) after so many bytes of the answer.
    ResetDown(u64),
    /// Say nothing more after so many bytes of the answer.
    StallDown(u64),
}

impl FlakyProxy {
    pub fn start(registry: &str, percent: u64, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let proxy = Self { address, bytes_up: Arc::default(), bytes_down: Arc::default(), faults: Arc::default() };
        let (up, down, faults, registry) = (proxy.bytes_up.clone(), proxy.bytes_down.clone(), proxy.faults.clone(), registry.to_owned());
        thread::spawn(move || {
            let mut random = 0x2545_f491_4f6c_dd1d_u64.wrapping_mul(seed);
            for client in listener.incoming().map_while(Result::ok) {
                let fault = draw(&mut random, percent);
                if !matches!(fault, Fault::None) {
                    faults.fetch_add(1, Relaxed);
                }
                let (up, down, registry) = (up.clone(), down.clone(), registry.clone());
                thread::spawn(move || serve(client, &registry, fault, up, down));
            }
        });
        proxy
    }
}

fn draw(random: &mut u64, percent: u64) -> Fault {
    let mut next = || {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random >> 11
    };
    if next() % 100 >= percent {
        return Fault::None;
    }
    let after = next() % (4 << 20);
    match next() % 5 {
        0 => Fault::Status("503 Service Unavailable"),
        1 => Fault::Status("429 Too Many Requests\r\nRetry-After: 0"),
        2 => Fault::ResetUp(after),
        3 => Fault::ResetDown(after),
        _ => Fault::StallDown(after),
    }
}

/// One connection serves one request: the answer's head is given `Connection: close`, so that each request draws its own fault.
fn serve(mut client: TcpStream, registry: &str, fault: Fault, up: Arc<AtomicU64>, down: Arc<AtomicU64>) {
    let Some(head) = read_head(&mut client) else { return };
    if let Fault::Status(status) = fault {
        let _ = write!(client, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let _ = client.shutdown(Shutdown::Write);
        drain(client, &up);
        return;
    }
    let Ok(mut server) = TcpStream::connect(registry) else { return };
    if server.write_all(&with_close(&head)).is_err() {
        return;
    }
    let (mut client_in, mut server_out) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let cut_up = if let Fault::ResetUp(after) = fault { Some(after) } else { None };
    let sender = thread::spawn(move || {
        let finished = copy(&mut client_in, &mut server_out, cut_up, &up);
        if !finished {
            let _ = server_out.shutdown(Shutdown::Both);
            let _ = client_in.shutdown(Shutdown::Both);
        }
    });
    let cut_down = match fault {
        Fault::ResetDown(after) | Fault::StallDown(after) => Some(after),
        _ => None,
    };
    let finished = copy(&mut server, &mut client, cut_down, &down);
    if !finished && matches!(fault, Fault::StallDown(_)) {
        thread::sleep(Duration::from_secs(3));
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    let _ = sender.join();
}

/// Copies to the end, or to `cut`; false when it was cut.
fn copy(from: &mut TcpStream, to: &mut TcpStream, cut: Option<u64>, count: &AtomicU64) -> bool {
    let mut buffer = [0; 16 << 10];
    let mut copied = 0;
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 {
            break;
        }
        let room = cut.map_or(length as u64, |cut| cut.saturating_sub(copied).min(length as u64)) as usize;
        if to.write_all(&buffer[..room]).is_err() {
            break;
        }
        copied += room as u64;
        count.fetch_add(room as u64, Relaxed);
        if room < length {
            return false;
        }
    }
    true
}

fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        // Not HTTP (a TLS hello): what a plain server does with it.
        if head.len() > 16 << 10 || (head.len() == 1 && !head[0].is_ascii_uppercase()) {
            return None;
        }
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(head)
}

fn with_close(head: &[u8]) -> Vec<u8> {
    let mut head = head[..head.len() - 2].to_vec();
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    head
}

/// Reads a little of what the client still sends, so that it sees the answer and not a reset.
fn drain(mut client: TcpStream, count: &AtomicU64) {
    let _ = client.set_read_timeout(Some(Duration::from_millis(50)));
    let mut buffer = [0; 16 << 10];
    while let Ok(length) = client.read(&mut buffer)
        && length > 0
    {
        count.fetch_add(length as u64, Relaxed);
    }
}
