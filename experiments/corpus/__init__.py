"""The data: text sources, tokenizers, token shards on disk, and training batches."""
