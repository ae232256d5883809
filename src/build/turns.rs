//! Who works next when more steps are ready than may work at once: those that the longest chain of steps waits for.
//! Unaware of what the work is.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, Mutex},
};

use tokio::sync::oneshot;

use crate::plan::{Op, Plan};

/// A limited number of turns, shared by all who clone it.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: BinaryHeap<Waiting>,
    /// How many have come, so that equals are served in the order in which they came.
    came: u64,
}

/// The right to work; dropped, the next one gets it.
#[derive(Debug)]
pub struct Turn(Turns);

#[derive(Debug)]
struct Waiting {
    urgency: u64,
    came: Reverse<u64>,
    go: oneshot::Sender<Turn>,
}

impl Turns {
    /// As many at once, at least one.
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: at_once.max(1), waiting: BinaryHeap::new(), came: 0 })))
    }

    /// Waits for a turn; the most urgent are served first.
    pub async fn take(&self, urgency: u64) -> Turn {
        let called = {
            let mut state = self.0.lock().expect("no holder panics");
            if state.free > 0 {
                state.free -= 1;
                return Turn(self.clone());
            }
            state.came += 1;
            let (go, called) = oneshot::channel();
            let came = Reverse(state.came);
            state.waiting.push(Waiting { urgency, came, go });
            called
        };
        called.await.expect("whoever waits stays in the queue until it is called")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.0.lock().expect("no holder panics");
            let next = state.waiting.pop();
            state.free += usize::from(next.is_none());
            next
        };
        // One who no longer waits drops the turn, and so passes it on.
        if let Some(next) = next {
            drop(next.go.send(Turn(self.0.clone())));
        }
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.urgency, self.came).cmp(&(other.urgency, other.came))
    }
}

/// For each vertex, how much work there is on the longest way from its start to the end of the build.
pub fn urgencies(plan: &Plan) -> Vec<u64> {
    let mut ahead = vec![0; plan.vertices.len()];
    for (index, vertex) in plan.vertices.iter().enumerate().rev() {
        // Nobody knows how long a command takes; that it takes longer than a copy is a fair guess.
        ahead[index] += match &vertex.op {
            Op::Run(_) => 10,
            Op::Copy(_) => 2,
            Op::Image(_) | Op::Workdir(_) => 1,
        };
        for input in vertex.inputs() {
            ahead[input.0] = ahead[input.0].max(ahead[index]);
        }
    }
    ahead
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_most_urgent_goes_first_and_equals_in_order() {
        let turns = Turns::new(1);
        let first = turns.take(0).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (name, urgency) in [("a", 1), ("b", 3), ("c", 3), ("d", 2)] {
            let (turns, order) = (turns.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let _turn = turns.take(urgency).await;
                order.lock().unwrap().push(name);
            }));
            // The task runs until it waits.
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["b", "c", "d", "a"]);
        assert_eq!(turns.0.lock().unwrap().free, 1);
    }

    #[tokio::test]
    async fn a_turn_for_somebody_who_is_gone_is_passed_on() {
        let turns = Turns::new(1);
        let first = turns.take(0).await;
        let gone = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(9).await }
        });
        tokio::task::yield_now().await;
        gone.abort();
        assert!(gone.await.is_err());
        drop(first);
        turns.take(0).await;
    }
}
