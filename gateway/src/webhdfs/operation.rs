//! The operations of WebHDFS: names, methods, and whether they change anything.

use axum::http::Method;

use super::Refusal;

macro_rules! operations {
    ($($variant:ident $method:ident $name:literal $kind:ident;)*) => {
        /// An operation, by method and `op`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Operation {
            $($variant,)*
        }

        impl Operation {
            #[cfg(test)]
            pub(crate) const ALL: &'static [Operation] = &[$(Operation::$variant),*];

            /// Its name, as in `op`.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub(crate) fn method(self) -> Method {
                match self { $(Self::$variant => Method::$method,)* }
            }

            /// Whether it changes files, names or attributes: such requests are in the audit log.
            pub(crate) fn changes(self) -> bool {
                match self { $(Self::$variant => operations!(@changes $kind),)* }
            }

            fn find(method: &Method, name: &str) -> Option<Self> {
                $(if name.eq_ignore_ascii_case($name) && *method == Method::$method {
                    return Some(Self::$variant);
                })*
                None
            }
        }
    };
    (@changes asks) => { false };
    (@changes changes) => { true };
}

operations! {
    Open GET "OPEN" asks;
    GetFileStatus GET "GETFILESTATUS" asks;
    ListStatus GET "LISTSTATUS" asks;
    ListStatusBatch GET "LISTSTATUS_BATCH" asks;
    GetContentSummary GET "GETCONTENTSUMMARY" asks;
    GetQuotaUsage GET "GETQUOTAUSAGE" asks;
    GetFileChecksum GET "GETFILECHECKSUM" asks;
    GetHomeDirectory GET "GETHOMEDIRECTORY" asks;
    GetDelegationToken GET "GETDELEGATIONTOKEN" asks;
    GetTrashRoot GET "GETTRASHROOT" asks;
    GetTrashRoots GET "GETTRASHROOTS" asks;
    GetXattrs GET "GETXATTRS" asks;
    ListXattrs GET "LISTXATTRS" asks;
    CheckAccess GET "CHECKACCESS" asks;
    GetAllStoragePolicy GET "GETALLSTORAGEPOLICY" asks;
    GetStoragePolicy GET "GETSTORAGEPOLICY" asks;
    GetSnapshotDiff GET "GETSNAPSHOTDIFF" asks;
    GetSnapshotDiffListing GET "GETSNAPSHOTDIFFLISTING" asks;
    GetSnapshottableDirectoryList GET "GETSNAPSHOTTABLEDIRECTORYLIST" asks;
    GetSnapshotList GET "GETSNAPSHOTLIST" asks;
    GetFileBlockLocations GET "GETFILEBLOCKLOCATIONS" asks;
    GetBlockLocations GET "GET_BLOCK_LOCATIONS" asks;
    GetErasureCodingPolicy GET "GETECPOLICY" asks;
    GetErasureCodingPolicies GET "GETECPOLICIES" asks;
    GetErasureCodingCodecs GET "GETECCODECS" asks;
    GetServerDefaults GET "GETSERVERDEFAULTS" asks;
    GetLinkTarget GET "GETLINKTARGET" asks;
    GetFileLinkStatus GET "GETFILELINKSTATUS" asks;
    GetStatus GET "GETSTATUS" asks;
    GetAclStatus GET "GETACLSTATUS" asks;
    Create PUT "CREATE" changes;
    Mkdirs PUT "MKDIRS" changes;
    CreateSymlink PUT "CREATESYMLINK" changes;
    Rename PUT "RENAME" changes;
    SetReplication PUT "SETREPLICATION" changes;
    SetOwner PUT "SETOWNER" changes;
    SetPermission PUT "SETPERMISSION" changes;
    SetTimes PUT "SETTIMES" changes;
    RenewDelegationToken PUT "RENEWDELEGATIONTOKEN" changes;
    CancelDelegationToken PUT "CANCELDELEGATIONTOKEN" changes;
    AllowSnapshot PUT "ALLOWSNAPSHOT" changes;
    DisallowSnapshot PUT "DISALLOWSNAPSHOT" changes;
    CreateSnapshot PUT "CREATESNAPSHOT" changes;
    RenameSnapshot PUT "RENAMESNAPSHOT" changes;
    SetXattr PUT "SETXATTR" changes;
    RemoveXattr PUT "REMOVEXATTR" changes;
    SetStoragePolicy PUT "SETSTORAGEPOLICY" changes;
    SatisfyStoragePolicy PUT "SATISFYSTORAGEPOLICY" changes;
    EnableErasureCodingPolicy PUT "ENABLEECPOLICY" changes;
    DisableErasureCodingPolicy PUT "DISABLEECPOLICY" changes;
    SetErasureCodingPolicy PUT "SETECPOLICY" changes;
    SetAcl PUT "SETACL" changes;
    ModifyAclEntries PUT "MODIFYACLENTRIES" changes;
    RemoveAclEntries PUT "REMOVEACLENTRIES" changes;
    RemoveDefaultAcl PUT "REMOVEDEFAULTACL" changes;
    RemoveAcl PUT "REMOVEACL" changes;
    SetQuota PUT "SETQUOTA" changes;
    SetQuotaByStorageType PUT "SETQUOTABYSTORAGETYPE" changes;
    Append POST "APPEND" changes;
    Concat POST "CONCAT" changes;
    Truncate POST "TRUNCATE" changes;
    UnsetStoragePolicy POST "UNSETSTORAGEPOLICY" changes;
    UnsetErasureCodingPolicy POST "UNSETECPOLICY" changes;
    Delete DELETE "DELETE" changes;
    DeleteSnapshot DELETE "DELETESNAPSHOT" changes;
}

impl Operation {
    /// What is asked for. A HEAD is a GET whose body nobody wants.
    pub(crate) fn parse(method: &Method, name: Option<&str>) -> Result<Self, Refusal> {
        let Some(name) = name else {
            return Err(Refusal::parameter(
                "op",
                "it says what to do and is missing",
            ));
        };
        let wanted = if *method == Method::HEAD {
            Method::GET
        } else {
            method.clone()
        };
        Self::find(&wanted, name).ok_or_else(|| {
            let methods = [Method::GET, Method::PUT, Method::POST, Method::DELETE];
            let elsewhere = methods.iter().find_map(|method| Self::find(method, name));
            match elsewhere {
                Some(found) => Refusal::parameter(
                    "op",
                    format!(
                        "{} goes with {}, not {method}",
                        found.name(),
                        found.method()
                    ),
                ),
                None => Refusal::parameter("op", format!("there is no operation {name}")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::Operation;

    #[test]
    fn operations_are_found_by_method_and_name() {
        for &operation in Operation::ALL {
            let name = operation.name().to_lowercase();
            let found = Operation::parse(&operation.method(), Some(&name)).unwrap();
            assert_eq!(found, operation);
            let reads = operation.method() == Method::GET;
            assert_eq!(operation.changes(), !reads, "{name}");
        }
        let head = Operation::parse(&Method::HEAD, Some("OPEN")).unwrap();
        assert_eq!(head, Operation::Open);
        let other = Operation::parse(&Method::GET, Some("CREATE")).unwrap_err();
        assert!(other.message.contains("goes with PUT"), "{other:?}");
        assert!(Operation::parse(&Method::GET, Some("FLY")).is_err());
        assert!(Operation::parse(&Method::GET, None).is_err());
    }
}
