//! Tasks whose futures are in boxes.

use std::pin::Pin;

use tokio::task::JoinHandle;

/// Spawns a task that stays on this thread. Where each query has a task, tokio's own function saves the box.
///
/// # Panics
/// Outside of a `LocalSet`.
pub(crate) fn spawn_local<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    tokio::task::spawn_local(boxed_local(future))
}

/// A future in a box. tokio's code of a task is compiled for each type of future; without boxes, it is a tenth of nodens.
pub(crate) fn boxed_local<T>(future: impl Future<Output = T> + 'static) -> Pin<Box<dyn Future<Output = T>>> {
    Box::pin(future)
}

/// The same for a task that can run on any thread.
pub(crate) fn boxed<T>(future: impl Future<Output = T> + Send + 'static) -> Pin<Box<dyn Future<Output = T> + Send>> {
    Box::pin(future)
}
