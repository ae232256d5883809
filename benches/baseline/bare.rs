//! What the kernel alone takes for what a build has to do: the yardstick that `benches/compare` holds rbuild to.
//!
//!     bare steps ROOT WORK COUNT   COUNT times: namespaces, an overlay over ROOT, pivot_root, `/bin/sh -c true`
//!     bare scan CONTEXT            enters the user namespace and looks at each file that `.dockerignore` leaves
//!
//! Nothing is kept, captured, hashed or cleaned up beyond what the kernel does by itself.

use std::{
    error::Error,
    ffi::CString,
    fs::{self, File},
    os::fd::AsFd,
    path::Path,
};

use nix::sched::CloneFlags;
use rbuild::{
    context::LocalContext,
    dockerfile::ignore::IgnoreFile,
    sandbox,
    sys::{
        mountns::{self, Upper},
        process,
        walk::{Decision, WalkError, walk},
    },
};
use rustix::{fs::FileType, mount::MountAttrFlags};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["steps", root, work, count] => steps(Path::new(root), Path::new(work), count.parse()?),
        ["scan", context] => scan(Path::new(context)),
        _ => Err("usage: bare steps ROOT WORK COUNT | bare scan CONTEXT".into()),
    }
}

fn steps(root: &Path, work: &Path, count: usize) -> Result<(), Box<dyn Error>> {
    sandbox::enter(&sandbox::Options::default())?;
    for number in 0..count {
        let top = work.join(number.to_string());
        for name in ["upper", "work"] {
            fs::create_dir_all(top.join(name))?;
        }
        let child = process::fork(|| told(step(root, &top)))?;
        if process::wait_for(Some(child))?.code != Some(0) {
            return Err("a step failed".into());
        }
    }
    Ok(())
}

fn step(root: &Path, top: &Path) -> Result<i32, Box<dyn Error>> {
    let kinds = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWCGROUP;
    nix::sched::unshare(kinds | CloneFlags::CLONE_NEWPID)?;
    mountns::make_all_private()?;
    let (lower, staging) = (File::open(root)?, File::open(top.join("work"))?);
    let upper = Upper { upper: &top.join("upper"), work: &top.join("work"), volatile: true };
    let mount = mountns::overlay(&[lower.as_fd()], Some(upper), MountAttrFlags::empty())?;
    mountns::attach(&mount, staging)?;
    let program = process::fork(|| told(become_program(mount.as_fd())))?;
    Ok(process::wait_for(Some(program))?.code.unwrap_or(1))
}

fn become_program(root: std::os::fd::BorrowedFd<'_>) -> Result<i32, Box<dyn Error>> {
    mountns::pivot_into(root)?;
    let args = ["/bin/sh", "-c", "true"].map(|text| CString::new(text).expect("no zero in it"));
    Err(process::exec(&args[0], &args, &[]).into())
}

fn told(result: Result<i32, Box<dyn Error>>) -> i32 {
    result.unwrap_or_else(|error| {
        eprintln!("bare: {error}");
        1
    })
}

fn scan(path: &Path) -> Result<(), Box<dyn Error>> {
    sandbox::enter(&sandbox::Options::default())?;
    let context = LocalContext::open(path)?;
    let ignore = context.read_ignore_file()?.map(|file| IgnoreFile::parse(&file.text)).transpose()?;
    let (mut entries, mut bytes) = (0_u64, 0_i64);
    let mut decide = |path: &Path, kind: FileType| {
        let text = path.to_string_lossy();
        let Some(matcher) = ignore.as_ref().map(IgnoreFile::matcher) else { return Decision::Take };
        match matcher.matches(&text) {
            false => Decision::Take,
            true if kind == FileType::Directory && !matcher.can_skip_directory(&text) => Decision::Descend,
            true => Decision::Skip,
        }
    };
    walk(context.root().as_fd(), &mut decide, &mut |entry| {
        entries += 1;
        bytes += entry.stat.st_size;
        Ok::<_, WalkError>(())
    })?;
    println!("{entries} entries, {bytes} bytes");
    Ok(())
}
