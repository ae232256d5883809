//! Caches in S3, in a real server.

use crate::support::{Bed, Buckets, KEY};

/// A build whose result is another each time it runs, with a layer that is sent in several parts.
const STAGES: &str =
    "FROM alpine AS base\nRUN head -c 12000000 /dev/urandom > /big\nFROM base\nRUN cat /proc/sys/kernel/random/uuid > /id\n";

fn bucket(bed: &Bed, server: &Buckets) -> (String, String) {
    let name = bed.path("").file_name().unwrap().to_string_lossy().to_lowercase().replace('.', "-");
    server.make(&name);
    let place = format!("type=s3,bucket={name},region=us-east-1,endpoint_url={},use_path_style=true,prefix=ci/", server.door());
    (name, format!("{place},access_key_id={},secret_access_key={}", KEY.0, KEY.1))
}

#[test]
fn another_store_takes_all_steps_from_a_bucket() {
    let Some(server) = Buckets::stand_in() else { return };
    let first = Bed::caller();
    let (name, place) = bucket(&first, server);
    let built = first.dockerfile(STAGES).build(&["-t", "app", "--cache-to", &format!("{place},mode=max,name=a;b")]);
    built.succeeds().does_not_say("0f-us-al0ne");
    let objects = server.objects(&name);
    for prefix in ["ci/manifests/a", "ci/manifests/b", "ci/blobs/sha256:"] {
        assert!(objects.iter().any(|(key, _)| key.starts_with(prefix)), "{prefix} in {objects:?}");
    }
    assert!(objects.iter().any(|(_, size)| *size > 8 << 20), "{objects:?}");
    for second in Bed::each_user() {
        let outcome = second.dockerfile(STAGES).build(&["-t", "app", "--cache-from", &format!("{place},name=b")]);
        outcome.succeeds().says("2 steps").does_not_say("0f-us-al0ne");
        assert_eq!(second.digest("app"), first.digest("app"));
    }
    // What is there is not sent again: a blob that was replaced behind our back keeps what it was replaced by.
    let (blob, size) = objects.iter().find(|(_, size)| *size > 8 << 20).unwrap();
    server.put(&format!("{name}/{blob}"), &vec![0; *size]);
    first.build(&["--cache-to", &format!("{place},mode=max")]).succeeds();
    let third = Bed::caller();
    third.dockerfile(STAGES).build(&["-t", "app", "--cache-from", &place]).succeeds().says("building without it");
    assert_ne!(third.digest("app"), first.digest("app"), "bytes that are wrong are a miss");
}

/// What the door lets through is signed as AWS's own client signs it: whatever the names, and with a session's token.
#[test]
fn what_is_asked_of_a_bucket_is_signed() {
    let Some(server) = Buckets::stand_in() else { return };
    let bed = Bed::caller();
    let (bucket, place) = bucket(&bed, server);
    bed.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    for name in ["plain", "a b+c~d*e(f)=g", "ü%41", "main@1:2/x"] {
        for (number, token) in ["", ",session_token=abc/def+ghi=="].into_iter().enumerate() {
            let place = format!("{place}{token},name={number}{name}");
            bed.build(&["--cache-to", &place]).succeeds();
            bed.build(&["--no-cache", "--cache-from", &place]).succeeds().does_not_say("is not used");
            // Under its own name, not an encoded one.
            let key = format!("ci/manifests/{number}{name}");
            let objects = server.objects(&bucket);
            assert!(objects.iter().any(|(found, _)| *found == key), "{key} in {objects:?}");
        }
    }
    let forged = place.replace(KEY.1, "0f-n0b0dy");
    bed.build(&["--cache-from", &forged]).succeeds().says("is not used").says("privileges").does_not_say("0f-n0b0dy");
    bed.build(&["--cache-to", &forged]).fails().says("privileges").does_not_say("0f-n0b0dy");
}

#[test]
fn a_bucket_that_is_not_there_is_a_miss_to_read_and_an_error_to_write() {
    let Some(server) = Buckets::stand_in() else { return };
    let bed = Bed::caller();
    let place = bucket(&bed, server).1.replace("bucket=", "bucket=no-");
    bed.dockerfile("FROM scratch\nCOPY Dockerfile /\n").build(&["--cache-from", &place]).succeeds().says("is not used");
    bed.build(&["--cache-to", &place]).fails().says("cannot write the cache").does_not_say("0f-us-al0ne");
    bed.build(&["--cache-to", &format!("{place},ignore-error=true")]).succeeds().says("was not written");
}
