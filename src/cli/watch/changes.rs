//! Tells of changes in directories, through inotify. Directories that appear are watched from then on, and what is in them
//! counts as changed: it may have been there before the watch was. Unaware of builds.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use tokio::sync::mpsc;

use super::rules::Rules;

/// Watches what the rules say.
pub struct Changes {
    shared: Arc<Shared>,
    received: mpsc::UnboundedReceiver<PathBuf>,
}

struct Shared {
    inotify: OwnedFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rules: Rules,
    directories: HashMap<i32, PathBuf>,
}

impl Changes {
    /// Watches nothing yet. The thread that listens ends with the program.
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC)?;
        let shared = Arc::new(Shared { inotify, state: Mutex::default() });
        let (tell, received) = mpsc::unbounded_channel();
        let listener = shared.clone();
        std::thread::Builder::new().name("changes".into()).spawn(move || listen(&listener, &tell))?;
        Ok(Self { shared, received })
    }

    /// From now on tells of what matters by these rules. Watches that are no longer of use go.
    pub fn follow(&self, rules: Rules) -> io::Result<()> {
        let mut state = self.shared.state.lock().expect("no listener panics");
        if state.rules == rules {
            return Ok(());
        }
        state.rules = rules;
        let useless: Vec<i32> =
            state.directories.iter().filter(|(_, path)| !state.rules.may_matter_below(path)).map(|(watch, _)| *watch).collect();
        for watch in useless {
            state.directories.remove(&watch);
            // One whose directory is gone has gone with it.
            let _ = inotify::remove_watch(&self.shared.inotify, watch);
        }
        let mut tops: Vec<PathBuf> = state.rules.trees.iter().map(|tree| tree.top.clone()).collect();
        let alone: Vec<PathBuf> = state.rules.files.iter().filter_map(|file| file.parent()).map(Path::to_owned).collect();
        for directory in alone {
            self.shared.watch(&mut state, &directory)?;
        }
        tops.sort();
        tops.dedup();
        for top in tops {
            self.shared.watch_below(&mut state, &top, &mut |_| ())?;
        }
        Ok(())
    }

    /// The next change that matters.
    pub async fn next(&mut self) -> PathBuf {
        match self.received.recv().await {
            Some(path) => path,
            // The listener can't go on: nothing more will be told.
            None => std::future::pending().await,
        }
    }
}

impl Shared {
    fn watch(&self, state: &mut State, directory: &Path) -> io::Result<()> {
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::EXCL_UNLINK
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.inotify, directory, flags) {
            Ok(watch) => drop(state.directories.insert(watch, directory.to_owned())),
            // It came and went.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
            Err(Errno::NOSPC) => {
                return Err(io::Error::other(format!(
                    "no more directories can be watched ({} are): raise fs.inotify.max_user_watches with sysctl, or let .dockerignore keep some out",
                    state.directories.len()
                )));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Watches a directory and those below it that may matter, and tells of everything in them.
    fn watch_below(&self, state: &mut State, top: &Path, found: &mut dyn FnMut(PathBuf)) -> io::Result<()> {
        let mut open = vec![top.to_owned()];
        while let Some(directory) = open.pop() {
            if !state.rules.may_matter_below(&directory) {
                continue;
            }
            // First the watch, then the look: what comes between is seen twice rather than never.
            self.watch(state, &directory)?;
            for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    open.push(entry.path());
                }
                found(entry.path());
            }
        }
        Ok(())
    }
}

fn listen(shared: &Shared, tell: &mpsc::UnboundedSender<PathBuf>) {
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut reader = inotify::Reader::new(&shared.inotify, &mut buffer);
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::INTR) => continue,
            Err(_) => return,
        };
        let (watch, flags) = (event.wd(), event.events());
        let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
        let mut state = shared.state.lock().expect("nobody panics");
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            // Something was lost: all of it is looked at again.
            for top in state.rules.trees.iter().map(|tree| tree.top.clone()).collect::<Vec<_>>() {
                let _ = shared.watch_below(&mut state, &top, &mut |_| ());
                let _ = tell.send(top);
            }
            continue;
        }
        if flags.contains(ReadFlags::IGNORED) {
            state.directories.remove(&watch);
            continue;
        }
        let (Some(directory), Some(name)) = (state.directories.get(&watch).cloned(), name) else { continue };
        let path = directory.join(name);
        let is_new_directory = flags.contains(ReadFlags::ISDIR) && flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
        if is_new_directory {
            let mut inside = Vec::new();
            let _ = shared.watch_below(&mut state, &path, &mut |path| inside.push(path));
            inside.into_iter().filter(|path| state.rules.matter(path)).for_each(|path| drop(tell.send(path)));
        }
        if state.rules.matter(&path) && tell.send(path).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    async fn told(changes: &mut Changes) -> Vec<PathBuf> {
        let mut list = Vec::new();
        while let Ok(path) = tokio::time::timeout(Duration::from_millis(300), changes.next()).await {
            list.push(path);
        }
        list.sort();
        list.dedup();
        list
    }

    #[tokio::test]
    async fn saves_renames_and_new_directories_are_told_and_ignored_ones_are_not() {
        let top = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(top.path()).unwrap();
        fs::create_dir_all(top.join("node_modules")).unwrap();
        fs::create_dir_all(top.join("src")).unwrap();
        fs::write(top.join("src/a"), "1").unwrap();
        let mut changes = Changes::new().unwrap();
        changes.follow(Rules::for_tests(&top, "node_modules\n", &[""])).unwrap();
        assert_eq!(told(&mut changes).await, [] as [PathBuf; 0]);
        // As editors save: a new file in place of the old one.
        fs::write(top.join("src/.a.swp"), "2").unwrap();
        fs::rename(top.join("src/.a.swp"), top.join("src/a")).unwrap();
        fs::write(top.join("node_modules/x"), "x").unwrap();
        assert_eq!(told(&mut changes).await, [top.join("src/.a.swp"), top.join("src/a")]);
        // Directories with files before anybody can watch them.
        fs::create_dir_all(top.join("new/deep")).unwrap();
        fs::write(top.join("new/deep/file"), "1").unwrap();
        assert!(told(&mut changes).await.contains(&top.join("new")));
        fs::write(top.join("new/deep/file"), "2").unwrap();
        assert_eq!(told(&mut changes).await, [top.join("new/deep/file")]);
        fs::rename(top.join("new"), top.join("old")).unwrap();
        told(&mut changes).await;
        fs::write(top.join("old/deep/file"), "3").unwrap();
        assert_eq!(told(&mut changes).await, [top.join("old/deep/file")]);
        fs::remove_dir_all(top.join("old")).unwrap();
        assert!(told(&mut changes).await.contains(&top.join("old")));
    }
}
