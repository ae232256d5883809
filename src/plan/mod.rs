//! Tree + args + base configs -> build graph. Pure: same inputs, same `Plan`. Unaware of IO, clock and environment.
