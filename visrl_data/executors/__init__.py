"""Where chunks are processed: this process, several processes, a Ray cluster, or the shards of a job array."""
