//! How long a connection may keep its place. Where certificates and tokens are wanted, whoever has shown neither has a place
//! for a moment only, and few of one address have one: else anybody could hold them all, and keep the cluster out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Places that are taken, by address.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

impl Places {
    /// A place, unless `max` of this address have one.
    pub(super) fn take(&self, address: IpAddr, max: usize) -> Option<Place> {
        let mut taken = lock(&self.0);
        let count = taken.entry(address).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place {
            places: self.clone(),
            address,
        })
    }
}

/// One place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.0);
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// What the other end of a connection has shown so far. Clones are of the same connection; the default has nothing to show.
#[derive(Clone, Debug, Default)]
pub struct Standing(Option<Arc<Mutex<Option<Place>>>>);

impl Standing {
    /// Of one that still has to show something.
    pub(super) fn unproved(place: Place) -> Self {
        Self(Some(Arc::new(Mutex::new(Some(place)))))
    }

    /// It has shown something that is good: its place is its own from now on.
    pub fn prove(&self) {
        if let Some(place) = &self.0 {
            drop(lock(place).take());
        }
    }

    /// False while it still has to show something.
    pub fn is_proved(&self) -> bool {
        self.0.as_ref().is_none_or(|place| lock(place).is_none())
    }
}

/// Every update is complete when the lock is released, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::{Places, Standing};

    #[test]
    fn an_address_has_so_many_places_and_proof_gives_them_back() {
        let address = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        let places = Places::default();
        let first = Standing::unproved(places.take(address(1), 2).unwrap());
        let _second = places.take(address(1), 2).unwrap();
        assert!(places.take(address(1), 2).is_none());
        assert!(places.take(address(2), 2).is_some());
        assert!(!first.is_proved());
        first.clone().prove();
        assert!(first.is_proved());
        assert!(places.take(address(1), 2).is_some());
        drop(first);
        assert!(places.take(address(1), 2).is_some());
        assert!(Standing::default().is_proved());
    }
}
