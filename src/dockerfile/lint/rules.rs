//! The rules: names, what they are about, where to read more.
//! Unaware of how violations are found.

use serde::Serialize;

/// One rule.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// As users write it in `skip=`.
    pub name: &'static str,
    /// What the rule wants.
    pub description: &'static str,
    /// A page about it; None for the one that has none and for our own.
    pub url: Option<&'static str>,
    /// Runs only when asked for.
    pub experimental: bool,
}

macro_rules! rules {
    ($($constant:ident $name:literal, $page:expr, $description:literal;)*) => {
        $(#[doc = $description] pub const $constant: Rule =
            Rule { name: $name, description: $description, url: $page, experimental: matches!($name.as_bytes(), b"InvalidDefinitionDescription") };)*
        /// All rules.
        pub const ALL: &[&Rule] = &[$(&$constant),*];
    };
}

macro_rules! page {
    ($name:literal) => {
        Some(concat!("https://docs.docker.com/go/dockerfile/rule/", $name, "/"))
    };
}

rules! {
    STAGE_NAME_CASING "StageNameCasing", page!("stage-name-casing"), "Stage names should be lowercase";
    FROM_AS_CASING "FromAsCasing", page!("from-as-casing"), "The 'as' keyword should match the case of the 'from' keyword";
    NO_EMPTY_CONTINUATION "NoEmptyContinuation", page!("no-empty-continuation"), "Empty continuation lines will become errors in a future release";
    CONSISTENT_INSTRUCTION_CASING "ConsistentInstructionCasing", page!("consistent-instruction-casing"), "All commands within the Dockerfile should use the same casing (either upper or lower)";
    DUPLICATE_STAGE_NAME "DuplicateStageName", page!("duplicate-stage-name"), "Stage names should be unique";
    RESERVED_STAGE_NAME "ReservedStageName", page!("reserved-stage-name"), "Reserved words should not be used as stage names";
    JSON_ARGS_RECOMMENDED "JSONArgsRecommended", page!("json-args-recommended"), "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals";
    MAINTAINER_DEPRECATED "MaintainerDeprecated", page!("maintainer-deprecated"), "The MAINTAINER instruction is deprecated, use a label instead to define an image author";
    UNDEFINED_ARG_IN_FROM "UndefinedArgInFrom", page!("undefined-arg-in-from"), "FROM command must use declared ARGs";
    WORKDIR_RELATIVE_PATH "WorkdirRelativePath", page!("workdir-relative-path"), "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes";
    UNDEFINED_VAR "UndefinedVar", page!("undefined-var"), "Variables should be defined before their use";
    MULTIPLE_INSTRUCTIONS_DISALLOWED "MultipleInstructionsDisallowed", page!("multiple-instructions-disallowed"), "Multiple instructions of the same type should not be used in the same stage";
    LEGACY_KEY_VALUE_FORMAT "LegacyKeyValueFormat", page!("legacy-key-value-format"), "Legacy key/value format with whitespace separator should not be used";
    INVALID_BASE_IMAGE_PLATFORM "InvalidBaseImagePlatform", None, "Base image platform does not match expected target platform";
    REDUNDANT_TARGET_PLATFORM "RedundantTargetPlatform", page!("redundant-target-platform"), "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior";
    SECRETS_USED_IN_ARG_OR_ENV "SecretsUsedInArgOrEnv", page!("secrets-used-in-arg-or-env"), "Sensitive data should not be used in the ARG or ENV commands";
    INVALID_DEFAULT_ARG_IN_FROM "InvalidDefaultArgInFrom", page!("invalid-default-arg-in-from"), "Default value for global ARG results in an empty or invalid base image name";
    FROM_PLATFORM_FLAG_CONST_DISALLOWED "FromPlatformFlagConstDisallowed", page!("from-platform-flag-const-disallowed"), "FROM --platform flag should not use a constant value";
    COPY_IGNORED_FILE "CopyIgnoredFile", page!("copy-ignored-file"), "Attempting to Copy file that is excluded by .dockerignore";
    INVALID_DEFINITION_DESCRIPTION "InvalidDefinitionDescription", page!("invalid-definition-description"), "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.";
    EXPOSE_PROTO_CASING "ExposeProtoCasing", page!("expose-proto-casing"), "Protocol in EXPOSE instruction should be lowercase";
    EXPOSE_INVALID_FORMAT "ExposeInvalidFormat", page!("expose-invalid-format"), "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release";
    SHADOWED_PLATFORM_ARG "ShadowedPlatformArg", None, "A default value of a platform ARG hides the value that the builder sets";
    COPY_SENSITIVE_FILE "CopySensitiveFile", None, "Version control data, .env files and private keys should not be copied into an image";
}
