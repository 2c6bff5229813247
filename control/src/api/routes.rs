//! `Routes`: handlers together with what the `OpenAPI` document says of them, so that no route is without its document and
//! no document without its route. Nothing else in the API makes an axum router.
//!
//! `utoipa-axum` ties the two together by an attribute on each handler. The five operations of a resource are generic
//! functions, and their documents come from [`super::resource::Resource`]; an attribute cannot say those. Knows no resource.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use utoipa::openapi::path::HttpMethod;
use utoipa::openapi::{OpenApi, RefOr, Schema};

use super::operation::Operation;
use super::schema;
use crate::app::App;

/// Routes and their operations, in the order in which they were added.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<App>,
    operations: Vec<Described>,
}

/// One operation at its place.
struct Described {
    path: String,
    method: HttpMethod,
    operation: Operation,
}

impl Routes {
    /// No route yet.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds one method of a path.
    pub(super) fn add<H, T>(
        mut self,
        method: HttpMethod,
        path: &str,
        handler: H,
        operation: Operation,
    ) -> Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        let filter = match method {
            HttpMethod::Get => MethodFilter::GET,
            HttpMethod::Post => MethodFilter::POST,
            HttpMethod::Patch => MethodFilter::PATCH,
            HttpMethod::Put => MethodFilter::PUT,
            HttpMethod::Delete => MethodFilter::DELETE,
            _ => unreachable!("the API has no other method"),
        };
        self.router = self.router.route(path, on(filter, handler));
        self.operations.push(Described { path: path.to_owned(), method, operation });
        self
    }

    /// Adds all of `other` behind its own.
    pub(super) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    /// What serves the routes.
    pub(super) fn into_router(self) -> Router<App> {
        self.router
    }

    /// What the document says of them.
    pub(super) fn into_document(self) -> OpenApi {
        let mut schemas: Vec<(String, RefOr<Schema>)> = Vec::new();
        let mut operations = Vec::new();
        for Described { path, method, operation } in self.operations {
            let (operation, used) = operation.finish();
            schemas.extend(used);
            operations.push((path, method, operation));
        }
        schema::document(operations, schemas)
    }
}
