"""Pure rules of sessions and commits: change sets, manifests, conflicts; no I/O."""
