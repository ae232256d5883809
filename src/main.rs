//! The rbuild binary. Unaware of everything but `rbuild::cli`.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    rbuild::cli::main()
}
