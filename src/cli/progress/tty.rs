//! The screen on a real terminal: drawn a few times a second by a thread of its own, which starts with the first event.
//! Unaware of what a build is.

use std::{
    io::Write,
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{paint::Painter, screen::Screen};
use crate::build::{Event, Progress};

/// Time between two pictures.
const FRAME: Duration = Duration::from_millis(120);

/// Draws on standard error.
pub struct Tty {
    shared: Arc<Shared>,
    drawer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    stopped: Condvar,
}

struct State {
    screen: Screen,
    painter: Painter,
    began: Instant,
    is_over: bool,
}

impl Tty {
    /// Nothing drawn yet.
    pub fn new(colour: bool) -> Self {
        let mut screen = Screen::default();
        screen.colour = colour;
        let state = State { screen, painter: Painter::default(), began: Instant::now(), is_over: false };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), stopped: Condvar::new() }), drawer: Mutex::default() }
    }

    /// Draws what is over, takes the live lines away and stops.
    pub fn finish(&self) {
        self.shared.state.lock().expect("no drawer panics").is_over = true;
        self.shared.stopped.notify_all();
        if let Some(drawer) = self.drawer.lock().expect("no drawer panics").take() {
            let _ = drawer.join();
        }
    }
}

impl Progress for Tty {
    fn event(&self, event: Event<'_>) {
        let mut state = self.shared.state.lock().expect("no drawer panics");
        let now = state.began.elapsed();
        state.screen.event(&event, now);
        drop(state);
        let mut drawer = self.drawer.lock().expect("no drawer panics");
        if drawer.is_none() {
            let shared = self.shared.clone();
            *drawer = std::thread::Builder::new().name("progress".into()).spawn(move || draw(&shared)).ok();
        }
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Draws until it is over; the last picture has no live lines.
fn draw(shared: &Shared) {
    let mut state = shared.state.lock().expect("nobody panics");
    loop {
        let (columns, rows) = terminal_size();
        let (now, at_end) = (state.began.elapsed(), state.is_over);
        let over = state.screen.take_over(columns, now, at_end);
        let live = if at_end { Vec::new() } else { state.screen.live(columns, rows, now) };
        let bytes = state.painter.paint(&over, live, columns);
        // A terminal that is gone ends nothing but the drawing.
        let _ = std::io::stderr().lock().write_all(bytes.as_bytes());
        if at_end {
            return;
        }
        state = shared.stopped.wait_timeout(state, FRAME).expect("nobody panics").0;
    }
}

/// Columns and rows of standard error; 80 by 24 where a pseudo-terminal does not say.
pub fn terminal_size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stderr().as_fd());
    match size {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}
