//! The ids that a process believes it has where there is only one: kept by the kernel itself, in three resource limits
//! that it inherits to children and carries through exec but has not enforced since Linux 2.4 (`locks`, `rss`) or only
//! for real-time processes (`rttime`, which need a right that nobody has here).
//!
//! Unlimited, what everybody starts with, means root. Unaware of which calls ask.

use std::io;

use crate::sys::notify::{self, Limit};

const PLACES: [Limit; 3] = [Limit::Locks, Limit::Rss, Limit::RealTime];

/// Real, effective, saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Triple {
    /// Real.
    pub real: u32,
    /// Effective.
    pub effective: u32,
    /// Saved.
    pub saved: u32,
}

/// All ids of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ids {
    /// Of the user.
    pub user: Triple,
    /// Of the group.
    pub group: Triple,
}

impl Triple {
    /// Three times the same.
    pub fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id }
    }

    fn has(self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// `setuid`, `setgid`: root sets all three, others the effective one to one that they have.
    pub fn set(self, id: u32, is_root: bool) -> Option<Self> {
        if is_root {
            return Some(Self::all(id));
        }
        (id == self.real || id == self.saved).then_some(Self { effective: id, ..self })
    }

    /// `setreuid`, `setregid`; `u32::MAX` keeps.
    pub fn set_two(self, real: u32, effective: u32, is_root: bool) -> Option<Self> {
        let allowed_real = keeps(real) || is_root || real == self.real || real == self.effective;
        let allowed_effective = keeps(effective) || is_root || self.has(effective);
        if !allowed_real || !allowed_effective {
            return None;
        }
        let new = Self { real: or(real, self.real), effective: or(effective, self.effective), saved: self.saved };
        let saves = !keeps(real) || (!keeps(effective) && effective != self.real);
        Some(if saves { Self { saved: new.effective, ..new } } else { new })
    }

    /// `setresuid`, `setresgid`; `u32::MAX` keeps.
    pub fn set_three(self, wanted: [u32; 3], is_root: bool) -> Option<Self> {
        let allowed = wanted.iter().all(|id| keeps(*id) || is_root || self.has(*id));
        let [real, effective, saved] = wanted;
        allowed.then(|| Self { real: or(real, self.real), effective: or(effective, self.effective), saved: or(saved, self.saved) })
    }
}

fn keeps(id: u32) -> bool {
    id == u32::MAX
}

fn or(id: u32, old: u32) -> u32 {
    if keeps(id) { old } else { id }
}

impl Ids {
    /// Whether file system and id rules treat the process as root.
    pub fn is_root(&self) -> bool {
        self.user.effective == 0
    }

    /// Reads them off a process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let [first, second, third] = PLACES.map(|limit| notify::soft_limit(pid, limit));
        Ok(Self::unpack([first?, second?, third?]))
    }

    /// Writes them onto a process.
    pub fn give_to(&self, pid: u32) -> io::Result<()> {
        PLACES.into_iter().zip(self.pack()).try_for_each(|(limit, value)| notify::set_soft_limit(pid, limit, value))
    }

    fn pack(&self) -> [u64; 3] {
        let both = |high: u32, low: u32| !(u64::from(high) << 32 | u64::from(low));
        [both(self.user.real, self.user.effective), both(self.user.saved, self.group.real), both(self.group.effective, self.group.saved)]
    }

    fn unpack(packed: [u64; 3]) -> Self {
        let halves = packed.map(|value| ((!value >> 32) as u32, !value as u32));
        let [(user_real, user_effective), (user_saved, group_real), (group_effective, group_saved)] = halves;
        Self {
            user: Triple { real: user_real, effective: user_effective, saved: user_saved },
            group: Triple { real: group_real, effective: group_effective, saved: group_saved },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limits_mean_root_and_ids_survive_packing() {
        assert_eq!(Ids::unpack([u64::MAX; 3]), Ids::default());
        let ids =
            Ids { user: Triple { real: 1, effective: 70_000, saved: 3 }, group: Triple { real: 4, effective: 5, saved: u32::MAX - 1 } };
        assert_eq!(Ids::unpack(ids.pack()), ids);
        ids.give_to(0).unwrap();
        assert_eq!(Ids::of(0).unwrap(), ids);
        Ids::default().give_to(0).unwrap();
    }

    #[test]
    fn ids_change_as_the_kernel_would_have_it() {
        let root = Triple::default();
        let app = Triple::all(1000);
        let keep = u32::MAX;
        assert_eq!(root.set(1000, true), Some(app));
        assert_eq!(app.set(0, false), None);
        assert_eq!(root.set_two(keep, 1000, true), Some(Triple { real: 0, effective: 1000, saved: 1000 }));
        let back = Triple { real: 0, effective: 1000, saved: 0 };
        assert_eq!(back.set(0, false), Some(root));
        assert_eq!(back.set_three([1000, 1000, 1000], false), Some(app));
        assert_eq!(app.set_three([keep, 0, keep], false), None);
        assert_eq!(app.set_two(keep, 5, false), None);
        assert_eq!(Triple { real: 1, effective: 2, saved: 3 }.set_two(2, 1, false), Some(Triple { real: 2, effective: 1, saved: 1 }));
    }
}
