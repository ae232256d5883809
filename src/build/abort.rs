//! The first failure ends the whole build: steps that run are cancelled, steps that wait don't begin.
//! Unaware of what a step is.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    build::{BuildError, Kind},
    sandbox::Cancel,
};

/// Shared by all steps of a build.
pub struct Abort {
    first: Mutex<Option<BuildError>>,
    cancel: Arc<Cancel>,
}

impl Abort {
    pub fn new(cancel: Arc<Cancel>) -> Self {
        Self { first: Mutex::default(), cancel }
    }

    /// Notes a failure. Only the first is the cause; what follows from it is not told.
    pub fn fail(&self, error: &BuildError) {
        let mut first = self.first.lock().expect("no holder panics");
        if first.is_none() {
            *first = Some(error.clone());
            self.cancel.cancel();
        }
    }

    /// An error once something has failed: nothing new is to begin.
    pub fn check(&self) -> Result<(), BuildError> {
        match *self.first.lock().expect("no holder panics") {
            None => Ok(()),
            Some(_) => Err(BuildError::new(Kind::Cancelled, "cancelled")),
        }
    }

    /// The cause behind an error that may only be a consequence.
    pub fn cause_of(&self, error: BuildError) -> BuildError {
        self.first.lock().expect("no holder panics").clone().unwrap_or(error)
    }
}

/// Bytes that flow until the build is given up: nothing else ends a thread that packs or unpacks.
pub struct UntilCancelled<T> {
    inner: T,
    cancelled: Arc<AtomicBool>,
}

impl<T> UntilCancelled<T> {
    pub fn new(inner: T, cancel: &Cancel) -> Self {
        Self { inner, cancelled: cancel.flag() }
    }

    fn check(&self) -> io::Result<()> {
        if self.cancelled.load(Ordering::Relaxed) { Err(io::Error::other("cancelled")) } else { Ok(()) }
    }
}

impl<T: Read> Read for UntilCancelled<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.read(buffer)
    }
}

impl<T: Write> Write for UntilCancelled<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
