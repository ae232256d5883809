//! Distribution client: auth, mirrors, pull, push, resume, retry. Unaware of the store and its disk layout.
