//! Changes of names and their certificates: reserved domains, custom connect names, and the installation's own.

use std::collections::BTreeSet;
use std::sync::Arc;

use ebbgate_model::{CertificateId, CertificateSpec, Changes, Host, ObjectKey};
use rustls::sign::CertifiedKey;

use super::data::Tables;
use super::effects::{Effects, Name};
use super::hosts::{Domain, Ingress, RandomNames};
use crate::net::tls::{CertificateError, parse_certificate};

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    /// It cannot be parsed.
    #[error("{id}: {source}")]
    Broken {
        /// Which.
        id: CertificateId,
        /// What is wrong with it.
        source: Arc<CertificateError>,
    },
    /// It is not here.
    #[error("{0} is not in the Program")]
    Dangling(CertificateId),
}

impl Tables {
    /// Forgets the names and uses of certificates that these changes replace or remove; before the objects change.
    pub(super) fn withdraw_names(&mut self, changes: &Changes, effects: &mut Effects) {
        for id in changes.domains.put.keys().chain(&changes.domains.remove) {
            let Some(old) = self.objects.domains.get(id).cloned() else { continue };
            effects.names.push(Name { host: old.host.clone(), port: None });
            self.release(old.certificate, &ObjectKey::Domain(*id));
            // One that stays where it is keeps its certificate, in case its new version cannot be used.
            let stays = changes.domains.put.get(id).is_some_and(|new| new.0.host == old.host);
            if !stays && self.domains.get(&old.host).is_some_and(|domain| domain.id == *id) {
                self.domains.remove(&old.host);
                self.certificates.remove(&old.host);
                self.name_randomly(&old.host);
            }
        }
        for id in changes.ingresses.put.keys().chain(&changes.ingresses.remove) {
            let Some(old) = self.objects.ingresses.get(id).cloned() else { continue };
            self.release(old.certificate, &ObjectKey::Ingress(*id));
            let stays = changes.ingresses.put.get(id).is_some_and(|new| new.0.host == old.host);
            if !stays && self.connect.ingresses.get(&old.host).is_some_and(|ingress| ingress.id == *id) {
                self.connect.ingresses.remove(&old.host);
            }
        }
        if changes.settings.is_some() {
            let old = Arc::clone(&self.objects.settings);
            for certificate in [old.connect_certificate, old.default_domain_certificate] {
                self.release(certificate, &ObjectKey::Settings);
            }
        }
    }

    /// Parses certificates and gives names theirs; after the objects changed.
    pub(super) fn enter_names(&mut self, changes: &Changes, effects: &mut Effects) {
        let mut concerned = BTreeSet::new();
        for id in &changes.certificates.remove {
            self.parsed.remove(id);
            self.unserved.remove(&ObjectKey::Certificate(*id));
            concerned.extend(self.certificate_users.get(id).cloned());
        }
        for (id, spec) in &changes.certificates.put {
            self.parse(*id, &spec.0, effects);
            concerned.extend(self.certificate_users.get(id).cloned());
        }
        for host in &changes.challenges.remove {
            self.challenges.remove(host);
            self.unserved.remove(&ObjectKey::Challenge(host.clone()));
        }
        for (host, spec) in &changes.challenges.put {
            let key = ObjectKey::Challenge(host.clone());
            match self.challenges.insert(host, &spec.0) {
                Ok(()) => drop(self.unserved.remove(&key)),
                Err(error) => self.refuse(key, &error.to_string(), effects),
            }
        }
        let mut told = BTreeSet::new();
        for (id, spec) in &changes.domains.put {
            effects.names.push(Name { host: spec.0.host.clone(), port: None });
            if self.domains.get(&spec.0.host).is_none_or(|domain| domain.id != *id) {
                // What was shown for the name was not this domain's.
                self.certificates.remove(&spec.0.host);
            }
            self.domains.insert(spec.0.host.clone(), Domain { id: *id, spec: Arc::clone(&spec.0) });
            told.insert(self.hold(spec.0.certificate, ObjectKey::Domain(*id)));
        }
        for (id, spec) in &changes.ingresses.put {
            told.insert(self.hold(spec.0.certificate, ObjectKey::Ingress(*id)));
        }
        if let Some(settings) = &changes.settings {
            self.hold(settings.connect_certificate, ObjectKey::Settings);
            told.insert(self.hold(settings.default_domain_certificate, ObjectKey::Settings));
        }
        for key in concerned.union(&told) {
            self.certify(key, told.contains(key), effects);
        }
    }

    /// One that cannot be parsed leaves the version before in use.
    fn parse(&mut self, id: CertificateId, spec: &CertificateSpec, effects: &mut Effects) {
        let key = ObjectKey::Certificate(id);
        match parse_certificate(&spec.chain_pem, &spec.key_pem) {
            Ok(certificate) => {
                self.parsed.insert(id, Ok(certificate));
                self.unserved.remove(&key);
            }
            Err(error) => {
                self.refuse(key, &error.to_string(), effects);
                if !matches!(self.parsed.get(&id), Some(Ok(_))) {
                    self.parsed.insert(id, Err(Arc::new(error)));
                }
            }
        }
    }

    fn hold(&mut self, certificate: Option<CertificateId>, user: ObjectKey) -> ObjectKey {
        if let Some(id) = certificate {
            self.certificate_users.insert(&id, user.clone());
        }
        user
    }

    fn release(&mut self, certificate: Option<CertificateId>, user: &ObjectKey) {
        if let Some(id) = certificate {
            self.certificate_users.remove(&id, user);
        }
    }

    /// Gives an object the certificate it names. `is_new`: the object itself changed; then one that cannot be used leaves the
    /// one before in use.
    fn certify(&mut self, key: &ObjectKey, is_new: bool, effects: &mut Effects) {
        match key {
            ObjectKey::Domain(id) => {
                let Some(spec) = self.objects.domains.get(id).cloned() else { return };
                if self.domains.get(&spec.host).is_none_or(|domain| domain.id != *id) {
                    return;
                }
                let before = self.certificates.get(&spec.host).filter(|_| is_new);
                let certificate = self.usable(key, &spec.host, spec.certificate, before, effects);
                self.certificates.insert(spec.host.clone(), certificate);
            }
            ObjectKey::Ingress(id) => {
                let Some(spec) = self.objects.ingresses.get(id).cloned() else { return };
                let before =
                    self.connect.ingresses.get(&spec.host).filter(|before| is_new && before.id == *id);
                let before = before.and_then(|before| before.certificate.clone());
                let certificate = self.usable(key, &spec.host, spec.certificate, before, effects);
                let ingress = Ingress { id: *id, account: spec.account, certificate };
                self.connect.ingresses.insert(spec.host.clone(), ingress);
            }
            _ => self.certify_installation(effects),
        }
    }

    fn usable(
        &mut self,
        key: &ObjectKey,
        host: &Host,
        certificate: Option<CertificateId>,
        before: Option<Arc<CertifiedKey>>,
        effects: &mut Effects,
    ) -> Option<Arc<CertifiedKey>> {
        match self.certificate(certificate) {
            Ok(certificate) => {
                self.unserved.remove(key);
                certificate
            }
            Err(reason) => {
                self.refuse(key.clone(), &format!("{host}: {reason}"), effects);
                before
            }
        }
    }

    /// Settings without their certificates leave those before in use.
    fn certify_installation(&mut self, effects: &mut Effects) {
        let told = Arc::clone(&self.objects.settings);
        let connect =
            self.certificate(told.connect_certificate).map_err(|e| format!("the agent listener: {e}"));
        let random = self.certificate(told.default_domain_certificate);
        let random = random.map_err(|e| format!("the default domain: {e}"));
        let (connect, random) = match (connect, random) {
            (Ok(connect), Ok(random)) => (connect, random),
            (Err(reason), _) | (_, Err(reason)) => return self.refuse(ObjectKey::Settings, &reason, effects),
        };
        self.unserved.remove(&ObjectKey::Settings);
        self.connect.default = connect;
        self.connect.hosts = Arc::new(told.connect_hosts.iter().cloned().collect());
        let wildcard = told.default_domain.as_ref().and_then(|domain| format!("*.{domain}").parse().ok());
        let now = random.zip(wildcard).map(|(certificate, wildcard)| RandomNames { wildcard, certificate });
        let before = std::mem::replace(&mut self.random_names, now);
        if let Some(RandomNames { wildcard, .. }) = before
            && self.domains.get(&wildcard).is_none()
        {
            self.certificates.remove(&wildcard);
        }
        if let Some(wildcard) = self.random_names.as_ref().map(|names| names.wildcard.clone()) {
            self.name_randomly(&wildcard);
        }
        effects.settings |= self.settings != told;
        self.settings = told;
    }

    /// A name that no account reserves may be the installation's.
    fn name_randomly(&mut self, host: &Host) {
        if let Some(names) = self.random_names.as_ref().filter(|names| names.wildcard == *host)
            && self.domains.get(host).is_none()
        {
            self.certificates.insert(host.clone(), Some(Arc::clone(&names.certificate)));
        }
    }

    /// None: none is named.
    fn certificate(&self, id: Option<CertificateId>) -> Result<Option<Arc<CertifiedKey>>, Unusable> {
        let Some(id) = id else { return Ok(None) };
        match self.parsed.get(&id) {
            Some(Ok(certificate)) => Ok(Some(Arc::clone(certificate))),
            Some(Err(source)) => Err(Unusable::Broken { id, source: Arc::clone(source) }),
            None => Err(Unusable::Dangling(id)),
        }
    }
}
