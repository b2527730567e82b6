"""Teachers, in the training process or on servers; the map between vocabularies; the teacher's labels."""
