"""Tables: a YAML says which runs make which cell, the store has the runs, `results/printed` what the paper prints."""
