//! The `OpenAPI` document, generated from the same types and tables the routes are made of.

use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::{ResponseBuilder, ResponsesBuilder};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, PathsBuilder, Ref,
    RefOr, Required,
};
use utoipa::{PartialSchema, ToSchema};

use super::failure::ErrorBody;
use super::resource::Resource;
use super::{
    agent_ingresses, api_keys, certificate_authorities, credentials, endpoints, invitations, ip_policies,
    ip_policy_rules, ip_restrictions, reserved_addrs, reserved_domains, root, service_users,
    tls_certificates, tunnel_sessions, user_sessions, users,
};

/// The API as an `OpenAPI` document; `control/openapi.json` is its checked-in text.
pub fn openapi() -> OpenApi {
    let mut document = Document::default();
    document.resource::<agent_ingresses::AgentIngresses>();
    document.resource::<api_keys::ApiKeys>();
    document.resource::<service_users::ServiceUsers<true>>();
    document.resource::<certificate_authorities::CertificateAuthorities>();
    document.resource::<credentials::Credentials>();
    document.resource::<endpoints::Endpoints>();
    document.resource::<ip_policies::IpPolicies>();
    document.resource::<ip_policy_rules::IpPolicyRules>();
    document.resource::<ip_restrictions::IpRestrictions>();
    document.resource::<reserved_addrs::ReservedAddrs>();
    document.resource::<reserved_domains::ReservedDomains>();
    document.resource::<service_users::ServiceUsers<false>>();
    document.resource::<tls_certificates::TlsCertificates>();
    document.actions("/reserved_domains/{id}/certificate", HttpMethod::Delete, "Detach the certificate");
    document.actions(
        "/reserved_domains/{id}/certificate_management_policy",
        HttpMethod::Delete,
        "Detach the management policy",
    );
    document.live::<tunnel_sessions::View>(tunnel_sessions::PATH);
    document.live::<tunnel_sessions::TunnelView>(tunnel_sessions::TUNNELS_PATH);
    document.listed::<invitations::Invitations>();
    document.creation::<invitations::Invitations>();
    document.removal::<invitations::Invitations>();
    document.listed::<user_sessions::UserSessions>();
    document.removal::<user_sessions::UserSessions>();
    document.listed::<users::Users>();
    document.change::<users::Users>();
    document.removal::<users::Users>();
    for action in ["stop", "restart", "update"] {
        let path = format!("/tunnel_sessions/{{id}}/{action}");
        document.actions(&path, HttpMethod::Post, &format!("Ask the agent to {action}"));
    }
    document.single::<root::Greeting>("/", "Greet");
    document.single::<root::Identity>("/self", "Tell who calls");
    document.finish()
}

#[derive(Default)]
struct Document {
    paths: Vec<(String, HttpMethod, Operation)>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Document {
    /// The five operations of [`super::resource::routes`].
    fn resource<R: Resource>(&mut self) {
        self.listed::<R>();
        self.creation::<R>();
        self.change::<R>();
        self.removal::<R>();
    }

    /// The list and one of it.
    fn listed<R: Resource>(&mut self) {
        let list = self.list_schema::<R::View>(R::LIST_KEY);
        let view = self.schema::<R::View>();
        let listing = operation::<R>("List every").response_of("200", list).page_parameters(R::LIST_FILTERS);
        self.push(&format!("/{}", R::PATH), HttpMethod::Get, listing);
        let read = operation::<R>("Read one").response_of("200", view).id();
        self.push(&format!("/{}/{{id}}", R::PATH), HttpMethod::Get, read);
    }

    fn creation<R: Resource>(&mut self) {
        let (view, create) = (self.schema::<R::View>(), self.schema::<R::Create>());
        let creation = operation::<R>("Create one").response_of("201", view).body(create);
        self.push(&format!("/{}", R::PATH), HttpMethod::Post, creation);
    }

    fn change<R: Resource>(&mut self) {
        let (view, update) = (self.schema::<R::View>(), self.schema::<R::Update>());
        let change = operation::<R>("Change one").response_of("200", view).body(update).id();
        self.push(&format!("/{}/{{id}}", R::PATH), HttpMethod::Patch, change);
    }

    fn removal<R: Resource>(&mut self) {
        let removal = operation::<R>("Delete one").empty().id();
        self.push(&format!("/{}/{{id}}", R::PATH), HttpMethod::Delete, removal);
    }

    /// List and read of what is online.
    fn live<V: ToSchema>(&mut self, path: &str) {
        let list = self.list_schema::<V>(path);
        let view = self.schema::<V>();
        let operation =
            |verb: &str| OperationBuilder::new().tag(path).summary(Some(format!("{verb} of {path}")));
        let collection = format!("/{path}");
        self.push(
            &collection,
            HttpMethod::Get,
            operation("List all").response_of("200", list).page_parameters(&[]),
        );
        self.push(
            &format!("/{path}/{{id}}"),
            HttpMethod::Get,
            operation("Read one").response_of("200", view).id(),
        );
    }

    fn actions(&mut self, path: &str, method: HttpMethod, summary: &str) {
        let tag = path.split('/').nth(1).unwrap_or_default();
        let mut operation = OperationBuilder::new().tag(tag).summary(Some(summary)).empty().id();
        if path.ends_with("/update") {
            operation = operation.body(self.schema::<tunnel_sessions::Update>());
        }
        self.push(path, method, operation);
    }

    fn single<V: ToSchema>(&mut self, path: &str, summary: &str) {
        let view = self.schema::<V>();
        let operation = OperationBuilder::new().tag("root").summary(Some(summary)).response_of("200", view);
        self.push(path, HttpMethod::Get, operation);
    }

    fn push(&mut self, path: &str, method: HttpMethod, operation: OperationBuilder) {
        let verb = serde_json::to_value(&method).ok().and_then(|verb| verb.as_str().map(str::to_lowercase));
        let steps = path.split(['/', '{', '}']).filter(|step| !step.is_empty());
        let name = steps.fold(verb.unwrap_or_default(), |name, step| name + "_" + step);
        self.paths.push((path.to_owned(), method, operation.operation_id(Some(name)).build()));
    }

    /// Registers a type and everything it contains, and gives a reference to it.
    fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        let name = T::name().into_owned();
        T::schemas(&mut self.schemas);
        self.schemas.push((name.clone(), T::schema()));
        RefOr::Ref(Ref::from_schema_name(name))
    }

    fn list_schema<V: ToSchema>(&mut self, key: &str) -> RefOr<Schema> {
        let items = ArrayBuilder::new().items(self.schema::<V>());
        let nullable = ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Null]));
        let list = ObjectBuilder::new()
            .property(key, items)
            .required(key)
            .property("uri", String::schema())
            .required("uri")
            .property("next_page_uri", nullable)
            .required("next_page_uri");
        let name = format!("{}List", V::name());
        self.schemas.push((name.clone(), list.build().into()));
        RefOr::Ref(Ref::from_schema_name(name))
    }

    fn finish(mut self) -> OpenApi {
        self.schema::<ErrorBody>();
        let mut paths = PathsBuilder::new();
        for (path, method, operation) in self.paths {
            paths = paths.path(path, PathItem::new(method, operation));
        }
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        self.schemas.sort_by(|(a, _), (b, _)| a.cmp(b));
        let components = ComponentsBuilder::new()
            .schemas_from_iter(self.schemas)
            .security_scheme("key", SecurityScheme::Http(bearer));
        let info = InfoBuilder::new()
            .title("Ebbgate API")
            .version("2")
            .description(Some("Send `Authorization: Bearer <API key>` and `Ngrok-Version: 2`."));
        OpenApiBuilder::new()
            .info(info)
            .paths(paths)
            .components(Some(components.build()))
            .security(Some([SecurityRequirement::new("key", Vec::<String>::new())]))
            .build()
    }
}

/// An operation on the objects of a resource.
fn operation<R: Resource>(verb: &str) -> OperationBuilder {
    OperationBuilder::new().tag(R::PATH).summary(Some(format!("{verb} {}", R::NOUN)))
}

/// What operations have in common.
trait Common: Sized {
    fn response_of(self, status: &str, schema: RefOr<Schema>) -> Self;
    fn empty(self) -> Self;
    fn body(self, schema: RefOr<Schema>) -> Self;
    fn id(self) -> Self;
    fn page_parameters(self, filters: &[&str]) -> Self;
}

impl Common for OperationBuilder {
    fn response_of(self, status: &str, schema: RefOr<Schema>) -> Self {
        let ok = ResponseBuilder::new().description("Done").content("application/json", content(schema));
        self.responses(ResponsesBuilder::new().response(status, ok).response("default", error()).build())
    }

    fn empty(self) -> Self {
        let ok = ResponseBuilder::new().description("Done");
        self.responses(ResponsesBuilder::new().response("204", ok).response("default", error()).build())
    }

    fn body(self, schema: RefOr<Schema>) -> Self {
        let body = RequestBodyBuilder::new()
            .content("application/json", content(schema))
            .required(Some(Required::True));
        self.request_body(Some(body.build()))
    }

    fn id(self) -> Self {
        self.parameter(parameter("id", ParameterIn::Path, Required::True))
    }

    fn page_parameters(self, filters: &[&str]) -> Self {
        let names = ["limit", "before_id", "filter"].into_iter().chain(filters.iter().copied());
        names.fold(self, |operation, name| {
            operation.parameter(parameter(name, ParameterIn::Query, Required::False))
        })
    }
}

fn parameter(name: &str, place: ParameterIn, required: Required) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .schema(Some(String::schema()))
        .build()
}

fn content(schema: RefOr<Schema>) -> utoipa::openapi::Content {
    ContentBuilder::new().schema(Some(schema)).build()
}

fn error() -> utoipa::openapi::Response {
    let schema = RefOr::Ref(Ref::from_schema_name(ErrorBody::name()));
    ResponseBuilder::new().description("Refused").content("application/json", content(schema)).build()
}
