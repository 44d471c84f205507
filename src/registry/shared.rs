//! Key -> the one living value of that key, made by whoever asks first and freed when its last user lets go.
//! The map holds weak references. A key has a lock of its own, so that values of different keys are made at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, TryLockError, Weak};

use super::lock;
use crate::error::Result;

type Slot<T> = Arc<Mutex<Weak<T>>>;

/// At most one living value for each key.
pub(super) struct Shared<K, T> {
    slots: Mutex<HashMap<K, Slot<T>>>,
}

impl<K, T> Default for Shared<K, T> {
    fn default() -> Self {
        Self { slots: Mutex::default() }
    }
}

impl<K: Eq + Hash, T> Shared<K, T> {
    /// The value, if it lives; `None` also while it is being made.
    pub(super) fn living(&self, key: &K) -> Option<Arc<T>> {
        let slot = lock(&self.slots).get(key).cloned()?;
        match slot.try_lock() {
            Ok(value) => value.upgrade(),
            Err(TryLockError::Poisoned(value)) => value.into_inner().upgrade(),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The living value, else the one that `make` gives. Who comes while it is being made waits, and makes it himself if that fails.
    pub(super) fn get_or_make(&self, key: K, make: impl FnOnce() -> Result<Arc<T>>) -> Result<Arc<T>> {
        let slot = {
            let mut slots = lock(&self.slots);
            // Keys of the dead are dropped here, so that a long-lived map holds no more than what lived since its last new value.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || lock(slot).strong_count() > 0);
            slots.entry(key).or_default().clone()
        };
        let mut value = lock(&slot);
        if let Some(living) = value.upgrade() {
            return Ok(living);
        }
        let made = make()?;
        *value = Arc::downgrade(&made);
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::error::Error;

    #[test]
    fn a_value_lives_as_long_as_its_users() {
        let shared = Shared::<u8, String>::default();
        let make = |text: &str| shared.get_or_make(1, || Ok(Arc::new(text.into()))).unwrap();
        let first = make("a");
        assert!(Arc::ptr_eq(&first, &make("b")));
        assert!(Arc::ptr_eq(&first, &shared.living(&1).unwrap()));
        drop(first);
        assert!(shared.living(&1).is_none());
        assert_eq!(*make("c"), "c");
    }

    #[test]
    fn failure_and_panic_leave_the_key_free() {
        let shared = Shared::<u8, u8>::default();
        let failed = shared.get_or_make(1, || Err(Error::Option("no".into())));
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert!(catch_unwind(AssertUnwindSafe(|| shared.get_or_make(1, || panic!("no")))).is_err());
        assert!(shared.living(&1).is_none());
        assert_eq!(*shared.get_or_make(1, || Ok(Arc::new(7))).unwrap(), 7);
    }

    #[test]
    fn keys_of_the_dead_go() {
        let shared = Shared::<u32, u32>::default();
        let living = shared.get_or_make(0, || Ok(Arc::new(0))).unwrap();
        for key in 1..100 {
            shared.get_or_make(key, || Ok(Arc::new(key))).unwrap();
        }
        assert_eq!(lock(&shared.slots).len(), 2);
        assert!(Arc::ptr_eq(&living, &shared.living(&0).unwrap()));
    }

    #[test]
    fn other_keys_do_not_wait() {
        let shared = Shared::<u8, u8>::default();
        let inner = shared.get_or_make(1, || {
            assert!(shared.living(&1).is_none(), "it is being made");
            shared.get_or_make(2, || Ok(Arc::new(2)))
        });
        assert_eq!(*inner.unwrap(), 2);
    }
}
