//! A cache in a bucket of S3 or of what speaks its protocol: a manifest by name, blobs by digest, under BuildKit's default
//! prefixes. What comes out is verified by whoever asked for it. Unaware of what is in a cache.

use std::{io::Write as _, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use object_store::{
    ClientConfigKey, Error, ObjectStoreExt as _, RetryConfig, WriteMultipart,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    path::Path,
};

use crate::{
    build::chain,
    oci::{Descriptor, Digest},
    store::Store,
};

/// Parts of this size: the smallest that all servers take.
const PART_SIZE: usize = 8 << 20;
/// Parts of one blob under way.
const PARTS_AT_ONCE: usize = 4;
/// How long a bucket may be silent while it is written.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one request may take altogether.
const WHOLE: Duration = Duration::from_secs(3600);
/// How often a request is made again.
const RETRIES: usize = 3;

/// Where in which bucket.
#[derive(Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Bucket {
    pub bucket: String,
    pub region: Option<String>,
    pub endpoint: Option<String>,
    pub is_path_style: bool,
    pub prefix: String,
    pub manifests_prefix: String,
    pub blobs_prefix: String,
    /// The first is read and written, all are written.
    pub names: Vec<String>,
    access_key: Option<String>,
    secret_key: Option<String>,
    session_token: Option<String>,
}

/// Without the keys.
impl std::fmt::Debug for Bucket {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "s3://{}/{}{}{}", self.bucket, self.prefix, self.manifests_prefix, self.names.join(";"))
    }
}

impl Bucket {
    /// Takes its keys out of those of a `--cache-from` or `--cache-to`.
    pub fn take(take: &mut impl FnMut(&str) -> Option<String>, is_path_style: bool) -> Result<Self, String> {
        let names = take("name").unwrap_or_else(|| "rbuild".to_owned());
        Ok(Self {
            bucket: take("bucket").ok_or("bucket is missing")?,
            region: take("region"),
            endpoint: take("endpoint_url"),
            is_path_style,
            prefix: take("prefix").unwrap_or_default(),
            manifests_prefix: take("manifests_prefix").unwrap_or_else(|| "manifests/".to_owned()),
            blobs_prefix: take("blobs_prefix").unwrap_or_else(|| "blobs/".to_owned()),
            names: names.split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            access_key: take("access_key_id"),
            secret_key: take("secret_access_key"),
            session_token: take("session_token"),
        })
    }

    /// The way there. What is not said comes from AWS's variables and, in a cloud, from the machine's role.
    pub fn open(&self, patience: Option<Duration>) -> Result<S3, String> {
        let patience = patience.unwrap_or(PATIENCE);
        let say = |key, time: Duration| (AmazonS3ConfigKey::Client(key), format!("{} ms", time.as_millis()));
        // A large blob takes as long as it takes: only silence counts.
        let (read, whole) = (say(ClientConfigKey::ReadTimeout, patience), say(ClientConfigKey::Timeout, WHOLE));
        let connect = say(ClientConfigKey::ConnectTimeout, patience.min(PATIENCE / 6));
        let mut builder = AmazonS3Builder::from_env()
            .with_config(read.0, read.1)
            .with_config(whole.0, whole.1)
            .with_config(connect.0, connect.1)
            .with_bucket_name(&self.bucket)
            .with_virtual_hosted_style_request(!self.is_path_style)
            .with_retry(RetryConfig { max_retries: RETRIES, retry_timeout: patience * (RETRIES as u32 + 1), ..RetryConfig::default() });
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        if let (Some(access), Some(secret)) = (&self.access_key, &self.secret_key) {
            builder = builder.with_access_key_id(access).with_secret_access_key(secret);
        }
        if let Some(token) = &self.session_token {
            builder = builder.with_token(token);
        }
        let store = builder.build().map_err(|error| chain(&error))?;
        Ok(S3 { bucket: self.clone(), store: Arc::new(store) })
    }
}

/// An open bucket.
#[derive(Clone)]
pub struct S3 {
    bucket: Bucket,
    store: Arc<AmazonS3>,
}

impl S3 {
    fn manifest(&self, name: &str) -> Path {
        key(format!("{}{}{name}", self.bucket.prefix, self.bucket.manifests_prefix))
    }

    fn blob(&self, digest: &Digest) -> Path {
        key(format!("{}{}{digest}", self.bucket.prefix, self.bucket.blobs_prefix))
    }

    /// The manifest of the cache.
    pub async fn read_manifest(&self, limit: u64) -> Result<Vec<u8>, String> {
        self.read(&self.manifest(&self.bucket.names[0]), limit).await
    }

    /// A small blob, verified.
    pub async fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, String> {
        let bytes = self.read(&self.blob(digest), limit).await?;
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(format!("{digest} is damaged")) }
    }

    async fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, String> {
        let found = self.store.get(path).await.map_err(|error| said(&error))?;
        if found.meta.size > limit {
            return Err(format!("{path} has {} bytes", found.meta.size));
        }
        Ok(found.bytes().await.map_err(|error| chain(&error))?.to_vec())
    }

    /// Brings a blob into the store.
    pub async fn fetch(&self, blob: &Descriptor, store: &Store) -> Result<(), String> {
        let found = self.store.get(&self.blob(&blob.digest)).await.map_err(|error| said(&error))?;
        if found.meta.size != blob.size {
            return Err(format!("{} has {} bytes, {} were expected", blob.digest, found.meta.size, blob.size));
        }
        let mut writer = store.blob_writer().map_err(|error| chain(&error))?;
        let mut stream = found.into_stream();
        while let Some(part) = stream.next().await {
            writer.write_all(&part.map_err(|error| chain(&error))?).map_err(|error| error.to_string())?;
        }
        writer.complete_verified_as(&blob.digest, blob.size).map_err(|error| chain(&error))
    }

    /// Whether a blob is there, with its whole size.
    pub async fn has(&self, blob: &Descriptor) -> Result<bool, String> {
        match self.store.head(&self.blob(&blob.digest)).await {
            Ok(found) => Ok(found.size == blob.size),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(said(&error)),
        }
    }

    /// Puts a blob of the store there.
    pub async fn put(&self, blob: &Descriptor, store: &Store) -> Result<(), String> {
        use std::io::Read as _;
        let mut file = store.open_described(blob).map_err(|error| chain(&error))?;
        let path = self.blob(&blob.digest);
        if blob.size <= PART_SIZE as u64 {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            return self.store.put(&path, bytes.into()).await.map(drop).map_err(|error| said(&error));
        }
        let upload = self.store.put_multipart(&path).await.map_err(|error| said(&error))?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART_SIZE);
        let mut buffer = vec![0; 1 << 20];
        loop {
            writer.wait_for_capacity(PARTS_AT_ONCE).await.map_err(|error| chain(&error))?;
            match file.read(&mut buffer).map_err(|error| error.to_string())? {
                0 => break,
                count => writer.write(&buffer[..count]),
            }
        }
        writer.finish().await.map(drop).map_err(|error| chain(&error))
    }

    /// Gives the cache its names: after all its blobs are there.
    pub async fn put_manifest(&self, bytes: &[u8]) -> Result<(), String> {
        for name in &self.bucket.names {
            self.store.put(&self.manifest(name), bytes.to_vec().into()).await.map_err(|error| said(&error))?;
        }
        Ok(())
    }
}

/// An object's name as it is written: `Path::from` would encode what the request encodes again. What is no path as that
/// type has it, such as one with an empty part, is made one.
fn key(text: String) -> Path {
    Path::parse(&text).unwrap_or_else(|_| Path::from(text))
}

/// In one line: servers send a document with every refusal.
fn said(error: &Error) -> String {
    let text = chain(error);
    // Who has been given no keys asks the machine for its role, at this address.
    if text.contains("169.254.169.254") {
        return "no credentials: neither access_key_id and secret_access_key nor AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are given \
                (profiles of ~/.aws are not read), and this machine has no role"
            .to_owned();
    }
    text.split(": <").next().unwrap_or(&text).to_owned()
}
