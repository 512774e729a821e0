"""Datasets, conditions and files: how images, captions, masks and layouts get here, and how they are read.

The lowest floor: imports no other package of Concord. From here come `request` (Request, Conditions), `errors`
(ConcordError), `files` (atomic writes, hashes), `schema` (YAML through pydantic), `lock`, `images`, `labels`,
`device`; of a profile its networks by role (`profile`, `networks`); hashes of files and code (`content`, `code`).
Embedded weights lie in `weights/`, read by `checkpoints`. Manifests of what can be fetched lie in `manifests/`.
"""
