//! The REST API (surface.md section 1): the router and what all resources have in common.

use axum::Router;

use crate::App;

/// The whole API.
pub fn router(app: App) -> Router {
    Router::new().with_state(app)
}
