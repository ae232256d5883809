//! Plain files copied beside the walk that finds them: by the walk's own thread while they are few, by others once there
//! are many. A directory gets its metadata when the last file is in it. Unaware of which files are chosen.

use std::{
    ffi::{OsStr, OsString},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Scope},
};

use crossbeam_channel::{Receiver, Sender};
use nix::sys::resource::{UsageWho, getrusage};

use super::{
    CopyError,
    error::Context,
    files::{Entry, Pen},
    shown,
};
use crate::{
    snapshot::layered::{Directory, Metadata},
    sys::process::processors,
};

/// Files that go to a thread at once: waking one costs as much as copying a few.
const BATCH: usize = 16;

/// Batches that may wait. Each file of theirs keeps its directories open.
const QUEUE: usize = 4;

const MAX_THREADS: usize = 8;

/// A directory of the destination while things are put into it.
pub(crate) struct Filling {
    pub(crate) target: Arc<Directory>,
    finish: OnceLock<Finish>,
}

/// What a directory gets when all is in it.
pub(crate) struct Finish {
    pub(crate) source: Arc<Directory>,
    pub(crate) metadata: Metadata,
    /// Owner, mode and attributes too, not the time alone.
    pub(crate) everything: bool,
}

/// A plain file with one name.
pub(crate) struct Job {
    pub(crate) source: Arc<Directory>,
    pub(crate) name: OsString,
    pub(crate) metadata: Metadata,
    pub(crate) filling: Arc<Filling>,
}

/// User and system time of threads, in microseconds.
pub(crate) type Usage = (u64, u64);

/// Whoever copies the files of one walk.
pub(crate) struct Crew<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    shared: &'env Shared<'env>,
    batch: Vec<Job>,
    jobs: Option<Sender<Vec<Job>>>,
}

struct Shared<'a> {
    pen: &'a Pen<'a>,
    has_failed: AtomicBool,
    error: Mutex<Option<CopyError>>,
    user_us: AtomicU64,
    system_us: AtomicU64,
}

impl Filling {
    pub(crate) fn new(target: Arc<Directory>) -> Arc<Self> {
        Arc::new(Self { target, finish: OnceLock::new() })
    }
}

/// Runs a walk with a crew and waits until all is copied. Gives what the other threads needed.
pub(crate) fn with_crew(pen: &Pen<'_>, walk: impl FnOnce(&mut Crew<'_, '_>) -> Result<(), CopyError>) -> Result<Usage, CopyError> {
    let shared = Shared {
        pen,
        has_failed: AtomicBool::new(false),
        error: Mutex::default(),
        user_us: AtomicU64::new(0),
        system_us: AtomicU64::new(0),
    };
    thread::scope(|scope| {
        let mut crew = Crew { scope, shared: &shared, batch: Vec::new(), jobs: None };
        let walked = walk(&mut crew);
        match &walked {
            Ok(()) => crew.finish(),
            // What waits is not begun.
            Err(_) => shared.has_failed.store(true, Ordering::Relaxed),
        }
        walked
    })?;
    shared.check()?;
    Ok((shared.user_us.into_inner(), shared.system_us.into_inner()))
}

impl Crew<'_, '_> {
    /// Copies the file now or soon.
    pub(crate) fn copy(&mut self, job: Job) -> Result<(), CopyError> {
        self.batch.push(job);
        if self.batch.len() < BATCH {
            return Ok(());
        }
        self.shared.check()?;
        let (scope, shared) = (self.scope, self.shared);
        let jobs = self.jobs.get_or_insert_with(|| {
            let (jobs, queue) = crossbeam_channel::bounded::<Vec<Job>>(QUEUE);
            for _ in 0..processors().min(MAX_THREADS) {
                let queue = queue.clone();
                scope.spawn(move || shared.work(queue));
            }
            jobs
        });
        jobs.send(std::mem::take(&mut self.batch)).expect("the threads listen until the queue is closed");
        Ok(())
    }

    /// Nothing more is put into the directory by the walk itself.
    pub(crate) fn leave(&mut self, filling: Arc<Filling>, finish: Finish) -> Result<(), CopyError> {
        let _ = filling.finish.set(finish);
        self.shared.leave(filling)
    }

    fn finish(&mut self) {
        let rest = std::mem::take(&mut self.batch);
        match self.jobs.take() {
            Some(jobs) => jobs.send(rest).expect("the threads listen until the queue is closed"),
            None => self.shared.copy_all(rest),
        }
    }
}

impl Shared<'_> {
    fn work(&self, queue: Receiver<Vec<Job>>) {
        queue.iter().for_each(|batch| self.copy_all(batch));
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_THREAD) {
            let us = |time: nix::sys::time::TimeVal| u64::try_from(nix::sys::time::TimeValLike::num_microseconds(&time)).unwrap_or(0);
            self.user_us.fetch_add(us(usage.user_time()), Ordering::Relaxed);
            self.system_us.fetch_add(us(usage.system_time()), Ordering::Relaxed);
        }
    }

    fn copy_all(&self, batch: Vec<Job>) {
        for Job { source, name, metadata, filling } in batch {
            if self.has_failed.load(Ordering::Relaxed) {
                return;
            }
            let entry = Entry { source: &source, source_name: &name, metadata: &metadata, target: &filling.target, name: &name };
            let copied = self.pen.copy(entry);
            if let Err(error) = copied.and_then(|()| self.leave(filling)) {
                self.has_failed.store(true, Ordering::Relaxed);
                self.error.lock().expect("no holder panics").get_or_insert(error);
            }
        }
    }

    /// The first error of any thread.
    fn check(&self) -> Result<(), CopyError> {
        if !self.has_failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.error.lock().expect("no holder panics").take().map_or(Ok(()), Err)
    }

    /// Whoever is the last to be done with a directory gives it its metadata.
    fn leave(&self, filling: Arc<Filling>) -> Result<(), CopyError> {
        let Some(Filling { target, finish }) = Arc::into_inner(filling) else { return Ok(()) };
        let Some(Finish { source, metadata, everything }) = finish.into_inner() else { return Ok(()) };
        self.pen.finish_directory(&source, &metadata, &target, everything).while_doing("copy to", shown(&target, OsStr::new("")))
    }
}
