//! Replays the inputs that fuzzing starts from and the ones it once failed on.

use std::fs;
use std::path::Path;

#[test]
fn every_kept_input_holds() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in ebbgate_fuzz::TARGETS {
        let inputs: Vec<_> =
            fs::read_dir(corpora.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!inputs.is_empty(), "no corpus for {name}");
        for path in inputs {
            println!("{name}: {}", path.display());
            target(&fs::read(path).unwrap());
        }
    }
}
