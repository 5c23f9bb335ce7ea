"""Text sources, the tokenizer, token shards on disk, and batches of tokens."""
