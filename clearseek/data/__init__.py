"""From text to batches: sources, tokenizer, shards with a manifest, and a loader addressed by step."""
