//! The SQLite file: opened when first needed, shared by many processes, thrown away when it is broken.
//! Everything in it is a cache. Unaware of what the tables mean to a build.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, config::DbConfig};

use super::{
    error::{Result, StoreError},
    lease::{LeaseKind, byte_of},
};
use crate::sys::lock::{LockFile, LockMode};

/// Changes whenever a table does; a file of another version is emptied.
const VERSION: i64 = 2;

const SCHEMA: &str = "
CREATE TABLE steps (key TEXT PRIMARY KEY, payload TEXT NOT NULL, created INTEGER NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE step_blobs (key TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (key, digest)) WITHOUT ROWID;
CREATE INDEX step_blobs_by_digest ON step_blobs (digest);
CREATE TABLE facts (step TEXT NOT NULL, key TEXT NOT NULL, facts TEXT NOT NULL, recorded INTEGER NOT NULL, PRIMARY KEY (step, key)) WITHOUT ROWID;
CREATE TABLE remembered (reference TEXT PRIMARY KEY, descriptor TEXT NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE sizes (path TEXT PRIMARY KEY, bytes INTEGER NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;
";

const TABLES: [&str; 5] = ["steps", "step_blobs", "facts", "remembered", "sizes"];

/// As long as another process may hold the write lock; each holds it for milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);

/// Pages that the log may have before it is copied into the file.
const LOG_PAGES: i64 = 200;

/// One connection per store handle, taken by one thread at a time.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    /// The store's file of locks.
    leases: PathBuf,
    connection: Mutex<Option<Connection>>,
}

impl Database {
    /// Where the file is; it is opened at first use.
    pub(super) fn at(path: PathBuf, leases: PathBuf) -> Self {
        Self { path, leases, connection: Mutex::new(None) }
    }

    /// Reads outside a transaction.
    pub(super) fn read<T>(&self, run: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.with(|connection| run(connection))
    }

    /// Writes all or nothing.
    pub(super) fn write<T>(&self, run: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        self.with(|connection| {
            // IMMEDIATE: a lock that is taken late can't wait its turn, it fails.
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = run(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })
    }

    fn with<T>(&self, run: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        let mut guard = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let fail = |source| StoreError::Database { path: self.path.clone(), source };
        let connection = match guard.take() {
            Some(connection) => guard.insert(connection),
            None => guard.insert(self.open().map_err(fail)?),
        };
        run(connection).map_err(fail)
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        // One at a time: switching a new file to WAL and making its tables don't wait for each other in SQLite.
        let byte = byte_of(LeaseKind::File, "meta.sqlite");
        let lock = LockFile::open(&self.leases).and_then(|file| file.lock(byte, LockMode::Exclusive).map(|()| file));
        match open_file(&self.path) {
            Err(error) if is_broken(&error) => {
                // Without the lock another process might be using what we are about to take away.
                if lock.is_ok() {
                    for suffix in ["", "-wal", "-shm", "-journal"] {
                        let mut name = self.path.clone().into_os_string();
                        name.push(suffix);
                        let _ = fs::remove_file(PathBuf::from(name));
                    }
                }
                open_file(&self.path)
            }
            opened => opened,
        }
    }
}

fn open_file(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let wanted = if is_on_network(path) { "DELETE" } else { "WAL" };
    let set = |mode: &str| connection.pragma_update_and_check(None, "journal_mode", mode, |row| row.get::<_, String>(0));
    if set(wanted).is_ok_and(|mode| mode != wanted.to_ascii_lowercase()) && wanted == "WAL" {
        set("DELETE")?;
    }
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // Each statement is planned once: the values that are looked for say nothing about how.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // The last one out would copy the log into the file and wait for the disk: every build would pay for that.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // But the first one in reads all of the log: what a long one costs, each build that does nothing pays.
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    connection.set_prepared_statement_cache_capacity(32);
    create_tables(&mut connection)?;
    Ok(connection)
}

fn create_tables(connection: &mut Connection) -> rusqlite::Result<()> {
    let version = |connection: &Connection| connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    if version(connection)? == VERSION {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for table in TABLES {
        transaction.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
    }
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

fn is_broken(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

/// WAL shares memory between processes, which a file server can't.
fn is_on_network(path: &Path) -> bool {
    const NFS: u32 = 0x6969;
    const SMB: u32 = 0x517b;
    const SMB2: u32 = 0xfe53_4d42;
    const CIFS: u32 = 0xff53_4d42;
    const FUSE: u32 = 0x6573_5546;
    const V9FS: u32 = 0x0102_1997;
    let directory = path.parent().unwrap_or(Path::new("."));
    rustix::fs::statfs(directory).is_ok_and(|stat| [NFS, SMB, SMB2, CIFS, FUSE, V9FS].contains(&(stat.f_type as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_is_replaced() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("meta.sqlite");
        fs::write(&path, "this is not a database, and long enough to be taken for one".repeat(100)).unwrap();
        let database = Database::at(path, top.path().join("leases"));
        let count = database.read(|connection| connection.query_row("SELECT count(*) FROM steps", [], |row| row.get::<_, i64>(0)));
        assert_eq!(count.unwrap(), 0);
    }

    #[test]
    fn many_open_a_new_file_at_once() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("meta.sqlite");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let database = Database::at(path.clone(), top.path().join("leases"));
                    let insert = "INSERT OR REPLACE INTO remembered VALUES ('a', 'b', 1)";
                    database.write(|transaction| transaction.execute(insert, [])).unwrap();
                });
            }
        });
        let mode = Connection::open(&path).unwrap().pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0)).unwrap();
        assert_eq!(mode, if is_on_network(&path) { "delete" } else { "wal" });
    }
}
