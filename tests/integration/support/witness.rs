//! A proxy in front of a registry that writes down what is asked of it, and how much is moved: HTTP/1.1, one request per
//! connection.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::fake::insecure;

/// The proxy. Its threads end with the test process.
pub struct Witness {
    address: String,
    seen: Arc<Mutex<Vec<String>>>,
    moved: Arc<AtomicU64>,
}

/// Counts what is read before it is passed on.
struct Counted<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Witness {
    /// In front of the registry at `address`.
    pub fn of(address: &str) -> Witness {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let witness = Witness { address: listener.local_addr().unwrap().to_string(), seen: Arc::default(), moved: Arc::default() };
        let (registry, seen, moved) = (address.to_owned(), witness.seen.clone(), witness.moved.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (registry, seen, moved) = (registry.clone(), seen.clone(), moved.clone());
                // Whoever breaks off does so on both sides.
                thread::spawn(move || pass_on(client, &registry, &seen, &moved));
            }
        });
        witness
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A registries.conf that allows plain http there.
    pub fn configuration(&self) -> String {
        insecure(&self.address)
    }

    /// What was asked since the last call, as `GET /v2/..`: noted before it was answered.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// Bytes that went either way since the last call, heads included.
    pub fn moved(&self) -> u64 {
        self.moved.swap(0, Ordering::Relaxed)
    }
}

fn pass_on(mut client: TcpStream, registry: &str, seen: &Mutex<Vec<String>>, moved: &Arc<AtomicU64>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
        // No HTTP but a TLS hello: hung up on at once, as a plain server does.
        if !head[0].is_ascii_uppercase() {
            return Ok(());
        }
    }
    let first = String::from_utf8_lossy(&head);
    seen.lock().unwrap().push(first.split(" HTTP/").next().unwrap_or_default().to_owned());
    moved.fetch_add(head.len() as u64, Ordering::Relaxed);
    let mut server = TcpStream::connect(registry)?;
    head.truncate(head.len() - 2);
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    server.write_all(&head)?;
    let (mut from, mut to) = (Counted(client.try_clone()?, moved.clone()), server.try_clone()?);
    let sending = thread::spawn(move || std::io::copy(&mut from, &mut to));
    std::io::copy(&mut Counted(server.try_clone()?, moved.clone()), &mut client)?;
    client.shutdown(Shutdown::Both)?;
    server.shutdown(Shutdown::Both)?;
    let _ = sending.join();
    Ok(())
}
