//! Scheduler, executor, cache look-up, progress events: `Plan` -> `Image`. Unaware of terminals and flags.
