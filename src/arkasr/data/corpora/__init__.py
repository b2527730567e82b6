"""Corpora that arkasr prepares: its built-in synthetic speech, and manifests of public recordings."""
