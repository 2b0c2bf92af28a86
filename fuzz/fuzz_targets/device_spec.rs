//! Any text as the spec of a device: what is understood is written so that it reads back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use underpass_drivers::Spec;

fuzz_target!(|text: &str| {
    match text.parse::<Spec>() {
        Ok(spec) => {
            let written = spec.to_string();
            assert_eq!(written.parse(), Ok(spec), "{written:?}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
