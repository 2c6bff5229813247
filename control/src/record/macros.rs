//! `records!`: one struct a kind of stored object, with its identifier, its owner and its age.

macro_rules! records {
    ($($(#[$doc:meta])* $name:ident($id:ty) = $collection:literal { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// Identifier.
            pub id: $id,
            /// Owner.
            pub account: AccountId,
            $($(#[$field_doc])* pub $field: $ty,)*
            /// When it was created.
            pub created_at: UnixSecs,
        }

        impl Record for $name {
            const COLLECTION: &'static str = $collection;
            type Id = $id;
            fn account(&self) -> AccountId { self.account }
            fn id(&self) -> $id { self.id }
        }
    )*};
}
