"""Methods: one paper, one file, found by looking; no list names them.

`base` has the contract (`Method`, `Batch`, `Trace`, `register`) and the registry (`make_method`, `all_methods`);
`template.py` is the file to copy. What two methods share is in `core/` and `guidance/`, their networks in
`networks/`, their training in `training/`. May import `concord.metrics` and `concord.data`.
"""
