"""From a spec to a record: identity, profiles, execution, evaluation, store."""
