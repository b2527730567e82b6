"""The corpora that arkasr prepares: speech that it speaks itself, and public recordings in manifests."""
